"""`farm token`: what programs come in with at `farm web`."""

from __future__ import annotations

from dataclasses import asdict

import click

from farm.cli.view.output import console, json_option, note, print_json, say
from farm.web.tokens import ROLES, Role, Tokens


@click.group()
def token() -> None:
    """Tokens with which programs come in at 'farm web'.

    They are kept in $FARM_HOME, hashed; a running 'farm web' with the same home goes by a change at once.
    """


@token.command(
    epilog="""\b
    Examples:
      farm token add gallery --role view
      TOKEN=$(farm token add ci --role submit)
      curl -H "Authorization: Bearer $TOKEN" http://127.0.0.1:8170/api/v1/jobs
    """
)
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice(ROLES),
    required=True,
    help="What it may do: look; submit, cancel, prioritise and retry too; or everything.",
)
@json_option
def add(name: str, role: Role, as_json: bool) -> None:
    """Make a token called NAME, and print it: it is shown this once.

    With --json: {name, role, token}.
    """
    secret = _tokens().add(name, role)
    if as_json:
        return print_json({"name": name, "role": role, "token": secret})
    say(secret)
    note("keep it: it is not shown again")


@token.command("list")
@json_option
def list_tokens(as_json: bool) -> None:
    """List the tokens: their names, what they may do, and when they were made.

    With --json: a list of {name, role, made}.
    """
    known = _tokens().all()
    if as_json:
        told = ({**asdict(one)} for one in known)
        return print_json([{name: one[name] for name in ("name", "role", "made")} for one in told])
    if not known:
        return note("no token yet; 'farm token add NAME --role ROLE' makes one")
    from farm.cli.view.columns import Columns

    rows = Columns("token", "role", "made", right=(), elastic="token", dropped=("made",))
    for one in known:
        rows.add(one.name, one.role, one.made)
    console().print(rows)


@token.command()
@click.argument("name")
def remove(name: str) -> None:
    """Remove the token called NAME. Whoever came in with it is shut out at once."""
    _tokens().remove(name)
    say(f"the token {name} is removed")


def _tokens() -> Tokens:
    from farm import settings
    from farm.host import homes

    home = settings.home()
    homes.check(home)
    return Tokens(home)
