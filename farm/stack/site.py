"""The site of a local farm: `farm web`, run as one of its processes, and how a browser comes in."""

from __future__ import annotations

import json
import sys
from http.client import HTTPConnection, HTTPException
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from farm.stack.layout import Layout
from farm.stack.plan import PACKAGES, FarmPlan, environment_of
from farm.stack.process import Program

NAME = "web"
_GRACE_SECONDS = 10.0
_LOOK_SECONDS = 5.0
_NEEDS = {"fastapi": "fastapi", "uvicorn": "uvicorn", "python_multipart": "python-multipart"}


def missing() -> list[str]:
    """The packages that the site needs and this installation lacks."""
    return [name for module, name in _NEEDS.items() if find_spec(module) is None]


def site_program(plan: FarmPlan) -> Program:
    """The site of the farm of the plan's home. It keeps its port, and takes another only where that is taken."""
    layout = Layout(plan.home)
    return Program(
        name=NAME,
        command=(sys.executable, "-m", "farm", "web", "--door", str(layout.door)),
        directory=PACKAGES,
        log=layout.log(NAME),
        environment=environment_of(plan),
        grace=_GRACE_SECONDS,
        hopeless=frozenset({2}),
    )


def door(home: Path) -> str | None:
    """The address that lets one browser in, as the site wrote it down last; None if there is none."""
    try:
        written = json.loads(Layout(home).door.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    found = written.get("door") if isinstance(written, dict) else None
    return found if isinstance(found, str) else None


def looked_at(home: Path) -> tuple[str | None, str | None]:
    """The site's address, and why nobody can come in there; None of either that there is not."""
    if (told := door(home)) is None:
        return None, "has not begun to serve"
    at = urlsplit(told)
    address = f"{at.scheme}://{at.netloc}"
    connection = HTTPConnection(at.hostname or "", at.port, timeout=_LOOK_SECONDS)  # by no proxy that is set
    try:
        connection.request("GET", "/login")
        status = connection.getresponse().status
    except (OSError, HTTPException) as error:
        return address, f"does not answer ({error or type(error).__name__})"
    finally:
        connection.close()
    return address, None if status == 200 else f"answers with HTTP status {status}"
