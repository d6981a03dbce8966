"""`farm web`: the site and its HTTP APIs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click
from click.core import ParameterSource

from farm import variables
from farm.cli.view.output import note, say
from farm.errors import FarmError, InvalidInput, StackError

if TYPE_CHECKING:
    from farm.web.server import Serving

USUAL_PORT = 8170
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(
    epilog="""\b
    Examples:
      farm web
      farm web --bind 0.0.0.0 --name farm.example.org --tls-cert farm.pem --tls-key farm.key
      farm web --bind 10.0.0.5 --trust 10.0.0.1
      farm web --address
    """
)
@click.option("--host", metavar="ADDRESS", help="Of this machine, which only it reaches.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65_535), help="0 takes any.  [default: 8170]")
@click.option("--bind", metavar="ADDRESS", help="Let other machines in, at this address; needs tokens.")
@click.option("--name", "names", multiple=True, metavar="NAME", help="A name that it is called by; repeatable.")
@click.option("--trust", multiple=True, metavar="ADDRESS", help="A proxy whose X-Forwarded-* is believed; repeatable.")
@click.option("--no-auth", is_flag=True, help="Let every user and program of this machine do everything.")
@click.option("--tls-cert", type=_FILE, metavar="FILE", help="The certificate, and those between, as PEM.")
@click.option("--tls-key", type=_FILE, metavar="FILE", help="Its key, as PEM.")
@click.option("--reindex", is_flag=True, help="Make the gallery's index anew, from the bucket.")
@click.option("--address", is_flag=True, help="Only tell how a browser comes in to the site that 'farm up' runs.")
@click.option("--door", type=_FILE, hidden=True, help="Write how a browser comes in to this file, and do not tell it.")
def web(
    host: str | None,
    port: int | None,
    bind: str | None,
    names: tuple[str, ...],
    trust: tuple[str, ...],
    no_auth: bool,
    tls_cert: Path | None,
    tls_key: Path | None,
    reindex: bool,
    address: bool,
    door: Path | None,
) -> None:
    """Serve the farm to browsers and programs until Ctrl-C: /api/v1, for all that the other commands do.

    The address that it prints lets one browser in. Programs come in with a token: see 'farm token'. On a farm of this
    machine 'farm up' runs it already.
    """
    if address:
        _refuse_others("address")
        return _tell_door()
    check_installed()
    from farm.web.server import Serving

    where = _address(host, bind)
    if door is not None:
        return _serve_inside(Serving(where, _kept_port(door) or USUAL_PORT, or_another=True), door)
    if port is None:
        _refuse_second()
    _serve(Serving(where, USUAL_PORT if port is None else port, names, trust, no_auth, tls_cert, tls_key, reindex))


def _serve_inside(how: Serving, door: Path) -> None:
    """Serve as a part of a local farm: how a browser comes in is written to a file, and the port kept for next time."""

    def opened(address: str) -> None:
        from farm.host.private import write_private

        write_private(_port_file(door), f"{urlsplit(address).port}\n")
        write_private(door, json.dumps({"door": address}) + "\n")

    _serve(how, ready=lambda _, address: opened(address), reopened=opened)


def _port_file(door: Path) -> Path:
    return door.with_suffix(".port")


def _kept_port(door: Path) -> int | None:
    """The port that the site had last, so that addresses which people keep stay right."""
    try:
        port = int(_port_file(door).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return port if 0 < port < 65_536 else None


def _refuse_second() -> None:
    """Raise `StackError` if this machine's farm, which is meant, has its site already."""
    from farm import settings, stack
    from farm.stack import site

    home = settings.home()
    if os.environ.get(variables.REDIS_URL.name) or (farm := stack.status(home)) is None:
        return
    if any(child.name == site.NAME and child.runs for child in farm.children):
        raise StackError(
            f"the farm in {home} has its site already",
            hint="'farm web --address' tells how a browser comes in; --port N runs another beside it",
        )


def _serve(
    how: Serving,
    ready: Callable[[str, str], None] | None = None,
    reopened: Callable[[str], None] | None = None,
) -> None:
    """Serve until Ctrl-C, and tell how a browser comes in."""
    import logging

    from farm import settings
    from farm.bucket.shelf import MAX_FILE_BYTES
    from farm.cli.commands.forms import SubmitForms
    from farm.host import homes
    from farm.host.loglines import log_to_stderr
    from farm.web.limits import Limits
    from farm.web.server import serve

    where, home = settings.load(), settings.home()
    homes.check(home)
    told = variables.WEB_MODEL_GB.of(os.environ)
    limits = Limits() if told is None else Limits(model=min(int(told * 10**9), MAX_FILE_BYTES))
    log_to_stderr(logging.INFO, "%(asctime)s %(levelname)s %(message)s")

    tell = ready or partial(_tell, how)
    is_done = serve(where, home, how, forms=SubmitForms(), ready=tell, reopened=reopened, limits=limits)
    say("stopped")
    if not is_done:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _address(host: str | None, bind: str | None) -> str:
    """Where it listens. Raises `InvalidInput` if both are given, or a host that others reach."""
    from farm.web.names import is_loopback

    if host is not None and bind is not None:
        raise InvalidInput("says the same as --bind", field="--host", hint="give one of them")
    if host is not None and not is_loopback(host):
        raise InvalidInput(
            f"{host!r:.60} is not an address of this machine alone", field="--host", hint="to let others in: --bind"
        )
    address = bind or host or "127.0.0.1"
    return "127.0.0.1" if address == "localhost" else address


def _tell(how: Serving, address: str, door: str) -> None:
    """Say where the site is, how to come in, and what is open."""
    from farm.web.names import is_loopback

    say(f"The farm is at {address}")
    if how.open_to_all:
        note("--no-auth: every user and program of this machine can submit, look at and cancel everybody's jobs")
    else:
        say(f"  to come in, once: {door}")
    if not is_loopback(how.address) and how.certificate is None:
        note("without --tls-cert everything is sent in the clear, tokens too: put a proxy with TLS before it")
    say("Ctrl-C stops it")


def _refuse_others(alone: str) -> None:
    """Raise `InvalidInput` if an option is given besides the one that has no use for others."""
    context = click.get_current_context()
    given = [
        param.opts[-1]
        for param in context.command.params
        if param.name != alone and context.get_parameter_source(param.name or "") is ParameterSource.COMMANDLINE
    ]
    if given:
        raise InvalidInput(f"has no use for {', '.join(given)}", field=f"--{alone}", hint="give it by itself")


def _tell_door() -> None:
    """Say how a browser comes in to this machine's farm. Raises `StackError` if there is no site of it."""
    from farm import settings, stack
    from farm.stack import site

    home = settings.home()
    if (farm := stack.status(home)) is None:
        raise StackError(f"no farm is running in {home}", hint="'farm up' starts one; 'farm web' serves another farm")
    if (door := site.door(home)) is None:
        began = any(child.name == site.NAME for child in farm.children)
        logs = next((child.log for child in farm.children if child.name == site.NAME), None)
        raise StackError(
            f"the site of the farm in {home} is not running" if began else f"the farm in {home} runs without its site",
            hint=f"its log is {logs}" if began else "'farm web' serves it",
        )
    say(door)


def check_installed() -> None:
    """Raise `FarmError` unless what the site needs is installed too."""
    from farm.stack import site

    if missing := site.missing():
        raise FarmError(
            f"this installation cannot serve: {', '.join(missing)} missing",
            hint="in a clone of the farm: pip install -c constraints.txt '.[web]'",
        )
