"""The site of a local farm: it runs beside the workers, lets one browser in with each code, and comes back."""

from __future__ import annotations

import os
import signal
import stat
import sys
from collections.abc import Callable
from contextlib import closing
from urllib.parse import urlsplit

import httpx2
import pytest
from click.testing import CliRunner

from farm import stack
from farm.cli.main import farm as command
from farm.stack import doctor, site
from farm.web.server import bound
from tests import launching
from tests.environments import of_a_shell
from tests.stack.farms import TALKATIVE_WORKER, Farm
from tests.waiting import eventually

pytestmark = pytest.mark.farm

PATIENCE = 120.0
"""Seconds for what a busy machine takes longer for than people would wait."""


def run(*arguments: str, home: Farm) -> tuple[int, str]:
    done = CliRunner().invoke(command, arguments, env={"FARM_HOME": str(home.home)})
    return done.exit_code, done.output


def said_of_the_site(farm: Farm) -> tuple[str, str]:
    """What `farm doctor` finds, and says up to what helps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FARM_HOME", str(farm.home))
        patch.setattr(site, "_LOOK_SECONDS", 1.0)
        [check] = [check for check in doctor.examine() if check.name == "site"]
    return check.verdict, check.detail.removesuffix("'farm web --address' tells how a browser comes in")


def enters(door: str) -> bool:
    """Whether a browser comes in by this address, to the first page."""
    with httpx2.Client(follow_redirects=True, headers={"Accept": "text/html"}) as browser:
        return browser.get(door).status_code == 200


def test_it_runs_with_the_farm_and_lets_one_browser_in_with_each_code(farm: Farm) -> None:
    stack.start_detached(farm.home, 1, worker_command=(sys.executable, "-c", TALKATIVE_WORKER), web=True)
    first = stack.wait_for_door(farm.home, PATIENCE)
    assert first is not None and first.startswith("http://127.0.0.1:")
    assert stat.S_IMODE(farm.layout.door.stat().st_mode) == 0o600
    assert first.partition("code=")[2] not in farm.layout.log("web").read_text(encoding="utf-8")

    assert enters(first) and not enters(first)
    second = eventually(lambda: (now := site.door(farm.home)) != first and now, "there is another code")
    assert run("web", "--address", home=farm) == (0, f"{second}\n")

    os.kill(farm.pid("web"), signal.SIGKILL)
    third = eventually(lambda: (now := site.door(farm.home)) != second and now, "it runs again, with another code")
    assert enters(third)
    assert urlsplit(third).port == urlsplit(first).port, "pages that are open find it again"
    code, said = run("web", home=farm)
    assert code == 1 and "has its site already" in said and "--address" in said
    code, said = run("web", "--address", "--port", "80", home=farm)
    assert code == 2 and "--address: has no use for --port" in said

    assert said_of_the_site(farm) == ("ok", f"{urlsplit(third).scheme}://{urlsplit(third).netloc} answers; ")
    os.kill(farm.pid("web"), signal.SIGSTOP)
    verdict, detail = said_of_the_site(farm)
    os.kill(farm.pid("web"), signal.SIGCONT)
    assert verdict == "fail" and "does not answer (timed out)" in detail

    stack.stop(farm.home)
    assert not farm.layout.door.exists()
    code, said = run("web", "--address", home=farm)
    assert code == 1 and "no farm is running" in said


def test_it_keeps_its_port_from_one_start_to_the_next_unless_that_is_taken(farm: Farm) -> None:
    def port() -> int | None:
        launching.start_detached(farm.home, 0, environment=of_a_shell(farm.home), web=True)
        return urlsplit(stack.wait_for_door(farm.home, PATIENCE) or "").port

    with closing(bound("127.0.0.1", 0)) as taken:
        farm.layout.create()
        farm.layout.door.with_suffix(".port").write_text(f"{taken.getsockname()[1]}\n", encoding="utf-8")
        taken.listen()
        first = port()
        assert first and first != taken.getsockname()[1]
    stack.stop(farm.home)
    assert port() == first


def test_a_farm_without_it_says_so(farm: Farm) -> None:
    farm.start()
    assert stack.wait_for_door(farm.home, PATIENCE) is None
    code, said = run("web", "--address", home=farm)
    assert code == 1 and "runs without its site" in said and "farm web" in said


@pytest.fixture
def nothing_starts(monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, object]]:
    """Lets `farm up` start nothing; returns what it would have started."""
    asked: dict[str, object] = {}
    monkeypatch.setattr(stack, "up", lambda *_, **options: asked.update(options))
    return lambda: asked


def test_it_is_started_unless_that_is_not_wanted_or_cannot_be(
    farm: Farm, nothing_starts: Callable[[], dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run("up", home=farm)
    assert nothing_starts()["web"] is True
    run("up", "--no-web", home=farm)
    assert nothing_starts()["web"] is False
    monkeypatch.setattr(site, "find_spec", lambda name: None if name == "fastapi" else object())
    run("up", home=farm)
    assert nothing_starts()["web"] is False
