"""Options that are refused a second time, where the first one would be lost without a word.

Of most options the last counts, as everywhere in a shell: whoever adds one to what a script or an alias says means to
overrule it. But nobody means that with what adds up: axes, texts, sides, lists, files, states.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from farm.jobs.faults import quoted

AXIS = "the columns' is --x, the rows' --y, the pages' --z"
"""What to do `instead`: of a second axis."""
PICTURE = "a job starts from one picture, and has one mask"


class Once(click.Option):
    """An option that may be there once. `instead` says what to do where it is there twice."""

    def __init__(self, *names: Any, instead: str, **settings: Any) -> None:
        super().__init__(*names, **settings)
        self._instead = instead

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:  # noqa: ARG002 - click's signature
        parser.add_option(obj=self, opts=self.opts, dest=self.name, action="append", nargs=self.nargs)

    def handle_parse_result(
        self, ctx: click.Context, opts: Mapping[str, Any], args: list[str]
    ) -> tuple[Any, list[str]]:
        given = opts.get(self.name or "", ())
        if len(given) > 1 and not ctx.resilient_parsing:
            first, second, *_ = map(quoted, given)
            raise click.UsageError(f"{self.opts[0]} is there twice, {first} and {second}: {self._instead}", ctx=ctx)
        return super().handle_parse_result(ctx, {**opts, self.name or "": given[-1]} if given else opts, args)
