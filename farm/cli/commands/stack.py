"""`farm up`, `farm down`, `farm doctor`: the local farm, and a look over any."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from farm.cli.options.parsing import Seconds
from farm.cli.view.output import json_option, note, print_json, say

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from farm.settings import Settings
    from farm.stack.verdict import Check

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@click.option("--workers", type=click.IntRange(0, 64), default=1, show_default=True, help="How many workers to run.")
@click.option("--model", "models", multiple=True, metavar="NAME[=SOURCE]", help="A model to serve; repeatable.")
@click.option("--detach", is_flag=True, help="Return when the farm is ready, and leave it running.")
@click.option("--web/--no-web", default=True, help="With its site, or without.  [with it]")
def up(workers: int, models: tuple[str, ...], detach: bool, web: bool) -> None:
    """Start a farm on this machine: Redis, an S3 server, workers, and the site of 'farm web'.

    Without --detach it runs until Ctrl-C. What was stored stays for the next start. The site's address lets one browser
    in; 'farm web --address' tells another.
    """
    from farm import settings, stack
    from farm.stack import site

    home, began = settings.home(), time.monotonic()
    lacks = site.missing() if web else []
    web = web and not lacks
    if detach:
        started = stack.start_detached(home, workers, models, web=web)
        loading = "" if stack.wait_for_workers(home, started) else ", still loading"
        _tell_ready(home, started, f"{workers}{loading}", began, ending="farm down")
        door = stack.wait_for_door(home) if web else None
        _tell_door(door, lacks)
        if web and door is None:
            note("its site has not started so far: 'farm web --address' tells when it has, or where its log is")
        _tell_refused(started)
        return
    _log_to_terminal()

    def ready(started: Settings) -> None:
        # Its workers say in the ledger when they are ready; the supervisor cannot wait for that and watch them.
        _tell_ready(home, started, f"{workers}, starting" if workers else "0", began, ending="Ctrl-C")
        _tell_door(None, lacks)

    stack.up(home, workers, models, web=web, ready=ready, open_door=lambda door: _tell_door(door, []))
    say("stopped")


@click.command()
@click.option("--timeout", type=Seconds(), default=60.0, show_default=True, help="Seconds to wait before killing.")
def down(timeout: float) -> None:
    """Stop this machine's farm. Workers hand their jobs back first; everything stored is kept."""
    from farm import settings, stack

    home = settings.home()
    say("stopped" if stack.stop(home, timeout) else f"no farm is running in {home}")


@click.command()
@json_option
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """Check the farm that commands talk to, and say how to mend what is wrong. Exit code 1 if anything failed.

    With --json: {"ok": BOOL, "checks": [{"name", "verdict", "detail", "mend"}]}; a verdict is ok, warn or fail.
    """
    from farm.stack.doctor import examine

    checks: list[Check] = []
    for check in examine():
        checks.append(check)
        if not as_json:
            _tell(check)
    failed = sum(check.verdict == "fail" for check in checks)
    if as_json:
        _tell_json(checks)
    elif failed:
        say(f"{failed} of {len(checks)} checks failed")
    context.exit(1 if failed else 0)


def _tell_ready(home: Path, settings: Settings, workers: str, began: float, *, ending: str) -> None:
    import os

    from farm import variables
    from farm.stack.layout import Layout

    say(f"The farm is ready in {time.monotonic() - began:.1f} s.")
    say(f"  Redis    {settings.redis_address}")
    say(f"  S3       {settings.s3_endpoint}, bucket {settings.s3_bucket}")
    say(f"  workers  {workers}")
    say(f"  home     {home}")
    say(f"  logs     {Layout(home).logs}")
    say('Next: farm submit txt2img "a watercolor painting of an otter" --wait')
    say(f"      farm doctor looks it over, {ending} stops it")
    if os.environ.get(variables.REDIS_URL.name):
        note("FARM_REDIS_URL is set: other commands talk to that farm, and not to this one")


def _tell_door(door: str | None, lacks: Sequence[str]) -> None:
    """Say how a browser comes in to the farm's site, or what that lacks."""
    if door:
        say(f"In a browser: {door}")
    elif lacks:
        note(f"without its site, for {', '.join(lacks)} missing: pip install -c constraints.txt '.[web]' brings it")


def _tell_refused(settings: Settings) -> None:
    from contextlib import closing

    from farm.ledger.ledger import Ledger

    with closing(Ledger(settings)) as ledger:
        for worker in ledger.workers():
            for model, reason in worker.refused.items():
                note(f"{worker.id} does not serve {model}: {reason}")


def _tell(check: Check) -> None:
    verdict = click.style(f"{check.verdict:<4}", fg=_COLOURS[check.verdict], bold=check.verdict == "fail")
    click.echo(verdict, nl=False)
    say(f"  {check.name}: {check.detail}")
    if check.mend:
        say(f"      to mend: {check.mend}")


def _tell_json(checks: list[Check]) -> None:
    from dataclasses import asdict

    well = all(check.verdict != "fail" for check in checks)
    print_json({"ok": well, "checks": [asdict(check) for check in checks]})


def _log_to_terminal() -> None:
    import logging

    from farm.host.loglines import log_to_stderr

    log_to_stderr(logging.WARNING, "%(message)s")
