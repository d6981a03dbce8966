"""`farm losses`: what can guide a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from farm.cli.view.output import console, json_option, note, print_json
from farm.errors import LedgerUnavailable, NotConfigured
from farm.jobs.losses import BUILTIN, LossDeclaration
from farm.words import one_line

if TYPE_CHECKING:
    from farm.cli.view.columns import Columns


@click.command(
    epilog="""\b
    Examples:
      farm losses
      farm submit guided "a puppy" --loss color:red=0.1,blue=0.9,scale=100,every=2
    """
)
@json_option
def losses(as_json: bool) -> None:
    """List the losses that can guide a picture, with their arguments.

    The built-in ones, and those that live workers add. With --json: a list of {name, help, arguments: [{name, default,
    minimum, maximum, help}], default_scale}.
    """
    known = known_losses()
    if as_json:
        return print_json([asdict(loss) for loss in known])
    console().print(_table_of_losses(known))


def known_losses() -> Sequence[LossDeclaration]:
    """Those of the farm; the built-in ones where there is no farm, or none that answers."""
    from farm.client import FarmClient

    try:
        with FarmClient.connect() as farm:
            return farm.losses()
    except NotConfigured:
        return BUILTIN
    except LedgerUnavailable as error:
        note(f"farm: {error.message}; these are the built-in losses")
        return BUILTIN


def _table_of_losses(known: Sequence[LossDeclaration]) -> Columns:
    from rich.text import Text

    from farm.cli.view.columns import Columns

    rows = Columns(
        *("loss", "argument", "default", "range", "scale", "meaning"),
        right=("default", "scale"),
        elastic="meaning",
        wrapped=True,
        dropped=("range", "scale", "meaning"),
    )
    for loss in known:
        rows.add(Text(loss.name, style="bold"), "", "", "", f"{loss.default_scale:g}", loss.help)
        for argument in loss.arguments:
            limits = f"{argument.minimum:g} to {argument.maximum:g}"
            meaning = Text(one_line(argument.help), style="dim")
            rows.add("", argument.name, f"{argument.default:g}", limits, "", meaning)
    return rows
