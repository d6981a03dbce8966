"""Looking at jobs that are being rendered, from the shell and from Python, and nothing that is left of it."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

import pytest
from PIL import Image

from farm import keys
from farm.bucket.preview import Preview
from farm.client import FarmClient
from farm.jobs.status import JobStatus
from tests.integration.conftest import LONG, Worker
from tests.waiting import eventually

Launch = Callable[..., Worker]
Submit = Callable[..., list[str]]
Finish = Callable[[list[str]], list[JobStatus]]
Watch = Callable[..., subprocess.Popen[str]]


TO_WATCH = {**LONG, "steps": 200}
"""Long enough for a command to start meanwhile; cancelled when it was seen."""


def seen(client: FarmClient, job: str, *, after: tuple[int, int] = (0, 0)) -> Preview:
    """Look until there is a preview that is newer than `after`."""

    def newer() -> Preview | None:
        found = client.previews([job]).get(job)
        return found if found and found.moment > after else None

    preview: Preview = eventually(newer, f"there is a preview of {job}")
    return preview


def is_gone(client: FarmClient, job: str) -> bool:
    return not client.storage.exists(keys.preview(job))


@pytest.mark.usefixtures("worker")
def test_who_looks_sees_a_job_come_about(client: FarmClient, submit: Submit) -> None:
    [job] = submit(width=96, height=64, **LONG)

    first = seen(client, job)
    later = seen(client, job, after=first.moment)

    assert (first.job, first.attempt) == (job, 1)
    assert 0 < first.step < later.step < LONG["steps"]
    assert first.picture.size == (96 // 8, 64 // 8)
    assert first.enlarged().size == (96, 64)
    client.cancel([job])
    eventually(lambda: is_gone(client, job), "nothing is left of a cancelled job's")


@pytest.mark.usefixtures("worker")
def test_a_finished_job_leaves_no_preview(client: FarmClient, submit: Submit, finish: Finish) -> None:
    [job] = submit(**LONG)
    seen(client, job)

    [status] = finish([job])

    assert status.state == "done"
    eventually(lambda: is_gone(client, job), "the preview is removed")
    assert client.previews([job]) == {}


def test_the_preview_of_a_killed_worker_is_followed_by_its_heirs_and_removed(
    client: FarmClient, launch: Launch, submit: Submit, finish: Finish
) -> None:
    victim = launch("shower", model="shown")
    [job] = submit(model="shown", **LONG)
    seen(client, job)
    victim.kill()
    assert not is_gone(client, job)
    launch("shows-on", model="shown")

    finish([job])

    eventually(lambda: is_gone(client, job), "the heir has removed it")


def test_a_job_that_is_handed_on_is_shown_by_whoever_has_it(
    client: FarmClient, launch: Launch, submit: Submit, finish: Finish
) -> None:
    leaving = launch("goes", model="handed-on")
    [job] = submit(model="handed-on", **LONG)
    first = seen(client, job)
    leaving.ask_to_leave()
    assert leaving.process.wait(60) == 0
    launch("stays", model="handed-on")

    second = seen(client, job, after=(1, LONG["steps"]))  # whatever else the first one had still to show

    assert second.attempt == 2
    assert second.step > first.step, "it goes on from where it was"
    finish([job])
    eventually(lambda: is_gone(client, job), "the preview is removed")


@pytest.fixture
def watching(environment: dict[str, str], tmp_path: Path) -> Iterator[Watch]:
    """Starts `farm …`, in an empty folder, and ends what is left of it."""
    started: list[subprocess.Popen[str]] = []

    def watch(*arguments: str, stdout: int | IO[Any] = subprocess.PIPE, **variables: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "farm", *arguments]
        process = subprocess.Popen(
            command,
            env={**environment, **variables},
            cwd=tmp_path,
            stdout=stdout,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )
        started.append(process)
        return process

    yield watch
    for process in started:
        process.kill()
        process.communicate()


def picture_in(folder: Path, job: str) -> Image.Image | None:
    """The preview of a job that is there now, whole."""
    with contextlib.suppress(FileNotFoundError):
        picture = Image.open(io.BytesIO((folder / f"{job}.preview.png").read_bytes()))
        picture.load()
        return picture
    return None


def shows_another(folder: Path, job: str, *, than: Image.Image) -> bool:
    now = picture_in(folder, job)
    return now is not None and now.tobytes() != than.tobytes()


@pytest.mark.usefixtures("worker")
def test_a_folder_has_the_newest_previews_while_jobs_run(
    client: FarmClient, submit: Submit, watching: Watch, tmp_path: Path
) -> None:
    jobs = submit(count=2, **TO_WATCH)
    process = watching("watch", *jobs, "--previews-to", "live", "--json")
    folder = tmp_path / "live"

    for job in jobs:
        first = eventually(partial(picture_in, folder, job), f"{job} is shown")
        assert first.size == (64, 64)
        eventually(partial(shows_another, folder, job, than=first), f"{job} is shown anew")
    assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == {
        f"{job}.preview.png" for job in jobs
    }

    client.cancel(jobs)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 3
    assert not folder.exists(), "they go with the jobs"
    assert out.count('"state":"cancelled"') == 2
    assert errors == ""


@pytest.mark.usefixtures("worker")
def test_ctrl_c_leaves_no_preview_in_the_folder(
    client: FarmClient, submit: Submit, watching: Watch, tmp_path: Path
) -> None:
    [job] = submit(**TO_WATCH)
    process = watching("watch", job, "--previews-to", "live")
    eventually(lambda: picture_in(tmp_path / "live", job), "the job is shown")

    process.send_signal(signal.SIGINT)

    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the job goes on" in errors
    assert not (tmp_path / "live").exists()
    client.cancel([job])


@pytest.mark.usefixtures("worker")
def test_a_terminal_shows_pictures(client: FarmClient, submit: Submit, watching: Watch) -> None:
    [job] = submit(**TO_WATCH)
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as screen:
        try:
            terminal = {"TERM": "xterm-256color", "COLORTERM": "truecolor", "LINES": "40", "COLUMNS": "100"}
            process = watching("watch", job, "--previews", stdout=theirs, **terminal)
        finally:
            os.close(theirs)
        written = bytearray()

        def half_blocks() -> int:
            written.extend(screen.read(2**16))
            return written.count("▀".encode())

        eventually(lambda: half_blocks() >= 32 * 16, "the picture is drawn")
        client.cancel([job])
        with contextlib.suppress(OSError):  # how a terminal says that nobody writes to it any more
            while screen.read(2**16):
                pass
    assert process.wait(60) == 3


def test_what_cannot_be_shown_is_refused_before_anything_is_submitted(
    client: FarmClient, shell: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    before = sum(client.ledger.counts().values())
    (tmp_path / "file").touch()

    in_a_pipe = shell("submit", "txt2img", "a cat", "--previews", code=2)
    with_json = shell("submit", "txt2img", "a cat", "--previews", "--json", code=2)
    no_folder = shell("submit", "txt2img", "a cat", "--previews-to", "file/live", code=2)

    assert "--previews: pictures need a terminal with colours" in in_a_pipe.stderr
    assert "--previews-to DIR keeps them as files" in in_a_pipe.stderr
    assert "--previews: pictures are not JSON" in with_json.stderr
    assert "--previews-to: file/live cannot be made" in no_folder.stderr
    assert sum(client.ledger.counts().values()) == before


@pytest.mark.usefixtures("worker")
def test_looking_at_a_submission_is_waiting_for_it(
    shell: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = shell("submit", "txt2img", "a cat", "--model", "tiny", "--steps", "4", "--previews-to", "live")

    assert "1 done" in done.stderr
    assert not (tmp_path / "live").exists()
