"""The command line against real servers, with a stand-in for the worker."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from farm import keys
from farm.bucket.job_log import AttemptLog, LogLine, write_log
from farm.cli.main import farm
from farm.client import FarmClient, waits
from farm.jobs.request import JobRequest
from farm.jobs.status import MemoryUse
from farm.ledger.ledger import Ledger
from farm.ledger.records import Event
from farm.pictures import images
from farm.pictures.sheet import Tile
from tests.farm.pages import made_up
from tests.farm.rendering import render
from tests.ledgers import a_worker
from tests.waiting import eventually

OTTER = ("submit", "txt2img", "a watercolor otter", "--seed", "7")


@pytest.fixture(autouse=True)
def _this_farm(client: FarmClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The environment names the empty farm of `client`; commands run in a folder of their own."""
    servers = client.settings
    assert servers.s3_endpoint and servers.s3_access_key and servers.s3_secret_key
    monkeypatch.setenv("FARM_REDIS_URL", servers.redis_url)
    monkeypatch.setenv("FARM_S3_ENDPOINT", servers.s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", servers.s3_access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", servers.s3_secret_key)
    monkeypatch.delenv("FARM_MODEL", raising=False)
    monkeypatch.chdir(tmp_path)


def run(*arguments: str, code: int = 0, input: str | None = None) -> Result:
    result = CliRunner().invoke(farm, arguments, prog_name="farm", input=input)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    return result


def submitted(count: int = 1) -> tuple[str, list[str]]:
    told = json.loads(run(*OTTER, "--count", str(count), "--json").stdout)
    return told["batch"], told["jobs"]


@contextmanager
def rendering(client: FarmClient, *, cancelled: str = "never") -> Iterator[None]:
    """Whatever is queued meanwhile is done; jobs whose id ends in `cancelled` are cancelled."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(0.01):
            for status in client.list(state="queued"):
                if status.id.endswith(cancelled):
                    client.ledger.cancel(status.id)
                else:
                    render(client, status.id)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield
    finally:
        over.set()
        worker.join()


def test_submit_says_what_was_made_and_what_to_type_next() -> None:
    result = run(*OTTER, "--count", "3")
    batch = result.stdout.split()[0]
    assert result.stdout == f"{batch}  3 jobs · model emoji · seeds 7 to 9\n"
    assert "warning: no live worker serves the model 'emoji'" in result.stderr
    assert f"farm watch {batch}" in result.stderr


def test_submit_as_json_has_the_documented_fields() -> None:
    told = json.loads(run(*OTTER, "--count", "2", "--json").stdout)
    assert told.keys() == {"batch", "jobs", "seeds", "warnings"}
    assert told["jobs"] == [f"{told['batch']}-0000", f"{told['batch']}-0001"]
    assert told["seeds"] == [7, 8]


@pytest.mark.parametrize("dry", [(), ("--dry-run",)], ids=["for real", "dry run"])
@pytest.mark.parametrize("command", ["img2img", "batch"])
def test_requests_are_planned_and_a_picture_is_decoded_once(
    command: str, dry: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (64, 64), "teal").save("a.png")
    jobs = [{"prompt": "x", "init": "a.png"}, {"prompt": "y", "init": "a.png", "zip": {"steps": [20, 30]}}]
    Path("jobs.json").write_text(json.dumps({"jobs": jobs}), encoding="utf-8")
    done: list[str] = []
    noted(monkeypatch, images, "_decoded", done)
    noted(monkeypatch, JobRequest, "specs", done)

    run("submit", *{"img2img": ("img2img", "x", "--init", "a.png"), "batch": ("batch", "jobs.json")}[command], *dry)

    assert done.count("_decoded") == 1
    assert done.count("specs") == {"img2img": 1, "batch": 3}[command]


def noted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, done: list[str]) -> None:
    """Let every call of what `owner` has under this name be noted."""
    real = getattr(owner, name)

    def call(*arguments: Any, **keywords: Any) -> Any:
        done.append(name)
        return real(*arguments, **keywords)

    monkeypatch.setattr(owner, name, call)


def test_status_as_json_has_the_documented_fields(client: FarmClient) -> None:
    batch, (job,) = submitted()
    render(client, job)
    (status,) = json.loads(run("status", job, "--json").stdout)
    fields = "id batch state step steps attempt worker model priority submitted started finished error result"
    assert set(fields.split()) <= status.keys()
    assert (status["id"], status["batch"], status["state"], status["step"]) == (job, batch, "done", 30)


def test_status_and_list_for_people() -> None:
    batch, (job, _) = submitted(2)
    shown = run("status", job).stdout
    assert f"{job}  queued" in shown
    assert "prompt     a watercolor otter\n  settings   txt2img · seed 7 · 30 steps · lms\n" in shown
    listed = run("list")
    assert listed.stdout.count(batch) == 2
    assert listed.stderr == "2 queued\n"
    assert [job["id"] for job in json.loads(run("list", "--json", "--limit", "1", "--page", "2").stdout)]
    assert json.loads(run("list", "--state", "done", "--json").stdout) == []


def test_list_shows_priorities_that_are_not_usual() -> None:
    _, (job, _) = submitted(2)
    assert "priority" not in run("list").stdout
    run("priority", job, "--set", "8")
    heading, *rows = run("list").stdout.splitlines()
    assert heading.split()[3] == "priority"
    assert {row.split()[0]: row.split()[3] for row in rows}[job] == "8"


def test_what_a_job_took_is_counted_from_its_last_attempt(client: FarmClient) -> None:
    _, (job, plain) = submitted(2)
    claim = client.ledger.claim(job, "w0")
    assert claim is not None and client.ledger.release(claim, "w0")
    render(client, job)
    render(client, plain)
    told, other = run("status", job).stdout, run("status", plain).stdout
    assert re.search(r"started    [^\n]* \(attempt 2\)\n  finished   [^\n]*, after [0-9.]+ s \(attempt 2\)\n", told)
    assert re.search(r"finished   [^\n]*, after [0-9.]+ s\n", other)


def test_status_tells_where_a_job_starts_and_what_pulls_it() -> None:
    Image.new("RGB", (64, 64), "teal").save("a.png")
    told = run(
        *("submit", "mix", "a giraffe", "a cat", "--mix", "0.7", "--init", "a.png", "--start-step", "12"),
        *("--guidance", "3", "--seed", "7", "--json"),
    )
    shown = run("status", json.loads(told.stdout)["batch"]).stdout
    assert "settings   mix · shares 0.7 + 0.3 · seed 7 · 30 steps from step 12 · lms · guidance 3\n" in shown
    assert "step       0 of 18\n" in shown


def test_a_hostile_prompt_cannot_steer_the_terminal() -> None:
    run("submit", "txt2img", "\x1b[2J[red]x[/nope]\n\x07", "--json")
    for command in (["list"], ["status", submitted()[0]]):
        assert "\x1b[2J" not in run(*command).stdout
    assert "[red]x[/nope]" in run("list").stdout


def test_watch_prints_lines_and_exits_with_3_unless_all_is_done(client: FarmClient) -> None:
    batch, (first, second) = submitted(2)
    work = threading.Timer(0.1, lambda: (render(client, first), client.cancel([second])))
    work.start()
    result = run("watch", batch, code=3)
    work.join()
    assert result.stdout.splitlines()[:2] == [f"{first}  queued", f"{second}  queued"]
    assert f"{first}  done" in result.stdout
    assert "1 done · 1 cancelled in" in result.stderr


def test_watch_as_json_prints_a_line_for_each_change(client: FarmClient) -> None:
    _, (job,) = submitted()
    render(client, job)
    lines = [json.loads(line) for line in run("watch", job, "--json").stdout.splitlines()]
    assert [(line["id"], line["state"]) for line in lines] == [(job, "done")]


def nobody_renders(client: FarmClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever follows looks often, hears nothing for a while, and then that all was cancelled."""
    reads = iter(range(3))

    def events(*_: object, **__: object) -> list[Event]:
        if next(reads, None) is None:
            return [Event("0-1", job, "cancelled", None) for job in client.cancel_all()]
        return []

    monkeypatch.setattr(Ledger, "events", events)
    monkeypatch.setattr(waits, "LOOK_SECONDS", 0.0)


def test_who_watches_hears_once_why_jobs_wait(client: FarmClient, monkeypatch: pytest.MonkeyPatch) -> None:
    _, [job] = submitted()
    refusing = a_worker("w1-0a1b", models=[], refused={"emoji": "the disk is full"})
    client.ledger.announce(refusing)
    why = "no live worker serves the model 'emoji'; its jobs wait until one does (w1-0a1b: the disk is full)"
    assert f"  waits      {why}\n" in run("status", job).stdout

    nobody_renders(client, monkeypatch)
    told = run("watch", job, code=3).stderr
    assert told.count("warning:") == told.count(f"warning: {why}\n") == 1


def test_what_the_submission_said_is_not_said_again_by_following(
    client: FarmClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody_renders(client, monkeypatch)
    told = run(*OTTER, "--wait", code=3).stderr
    assert told.count("no live worker serves the model 'emoji'") == 1


def test_cancel_and_retry() -> None:
    batch, _ = submitted(2)
    assert run("cancel", batch).stdout == "2 jobs cancelled\n"
    assert run("cancel", batch).stdout == "0 jobs cancelled (2 cancelled already)\n"
    assert run("retry", batch).stdout == "2 jobs queued again\n"
    assert "nothing to retry: queued" in run("retry", batch, code=1).stderr


def test_a_priority_is_set_raised_and_lowered(client: FarmClient) -> None:
    batch, (first, second) = submitted(2)
    assert run("priority", batch, "--set", "8").stdout == "2 jobs with priority 8\n"
    client.cancel([second])
    told = run("priority", batch, "--by", "-1")
    assert (told.stdout, told.stderr) == ("1 job with priority 7\n", "left as they are: 1 cancelled\n")
    assert json.loads(run("priority", batch, "--set", "0", "--json").stdout) == {
        first: {"state": "queued", "before": 7, "priority": 0},
        second: {"state": "cancelled", "before": 8, "priority": 8},
    }
    client.cancel([first])
    assert "nothing to change: 2 cancelled" in run("priority", batch, "--set", "9", code=1).stderr
    told = run("priority", batch, "--set", "9", "--json", code=1)
    assert json.loads(told.stdout)["error"]["message"] == "nothing to change: 2 cancelled"


def test_cancel_all_asks_first(client: FarmClient) -> None:
    submitted(2)
    run("cancel", "--all", input="n\n", code=1)
    assert client.ledger.counts()["queued"] == 2
    assert run("cancel", "--all", "--yes").stdout == "2 jobs cancelled\n"


def test_cancel_all_of_a_farm_at_rest_asks_nothing() -> None:
    assert run("cancel", "--all").stdout == "nothing to cancel: no job is queued or running\n"
    assert json.loads(run("cancel", "--all", "--json").stdout) == {}


def test_a_narrow_terminal_shows_whole_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    _, jobs = submitted(2)
    monkeypatch.setattr("farm.cli.view.output._PIPE_WIDTH", 40)
    listed = run("list").stdout
    assert all(job in listed for job in jobs)
    assert max(map(len, listed.splitlines())) <= 40


@pytest.mark.parametrize("encoding", ["latin-1", "gbk"])
def test_a_prompt_that_the_terminal_cannot_show_is_listed_all_the_same(encoding: str) -> None:
    submitted = json.loads(run("submit", "txt2img", "水獺 é", "--json").stdout)
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-m", "farm", "list"]
    done = subprocess.run(command, env=os.environ | locale, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr.decode(encoding).splitlines()) == (0, ["1 queued"])
    shown = done.stdout.decode(encoding)
    assert submitted["jobs"][0] in shown
    assert "水獺 é".encode(encoding, "replace").decode(encoding) in shown


def test_the_words_of_an_error_forge_no_line(client: FarmClient) -> None:
    _, (job,) = submitted()
    claim = client.ledger.claim(job, "w1")
    assert claim is not None
    error = json.dumps({"kind": "nan", "message": "lost\nfarm: all is well\x1b[2J"})
    assert client.ledger.finish(claim, "w1", "failed", {"error": error})
    for command, code in (("status", 0), ("watch", 3), ("fetch", 3)):
        result = run(command, job, code=code)
        said = result.stdout + result.stderr
        assert "lost farm: all is well [2J" in said
        assert not any(line.startswith("farm: all is well") for line in said.splitlines())


def test_a_done_job_cannot_be_cancelled(client: FarmClient) -> None:
    _, (job,) = submitted()
    render(client, job)
    assert "nothing to cancel: 1 done already" in run("cancel", job, code=1).stderr


def test_fetch_brings_what_is_done_and_names_the_rest(client: FarmClient) -> None:
    batch, (first, second) = submitted(2)
    picture = render(client, first).picture
    result = run("fetch", batch, "--out", "the renders", code=3)
    assert f"{second} is queued" in result.stderr
    assert Path("the renders", f"{first}.png").read_bytes() == picture
    render(client, second)
    again = run("fetch", batch, "--out", "the renders", "--all")
    assert "fetched 5 files" in again.stderr
    assert "1 file was already there" in again.stderr


@pytest.mark.parametrize("options", [(), ("--wait",), ("--json",), ("--wait", "--json")], ids=" ".join)
def test_fetch_tells_what_the_jobs_were_warned_of_once(client: FarmClient, options: tuple[str, ...]) -> None:
    batch, jobs = submitted(2)
    for job in jobs:
        render(client, job, warnings=("the prompt was cut before: whiskers",))
    assert run("fetch", batch, *options).stderr.count("warning: the prompt was cut before: whiskers (2 jobs)") == 1


def test_fetch_as_json_lists_the_files(client: FarmClient) -> None:
    _, (job,) = submitted()
    picture = render(client, job).picture
    (file,) = json.loads(run("fetch", job, "--wait", "--json").stdout)
    expected = {"job": job, "name": "image.png", "path": f"{job}.png", "size": len(picture), "already_there": False}
    assert file == expected


def test_one_refused_file_does_not_stop_the_others(client: FarmClient) -> None:
    batch, jobs = submitted(3)
    for job in jobs:
        render(client, job)
    Path(f"{jobs[0]}.png").write_bytes(b"mine")
    result = run("fetch", batch, code=1)
    assert f"{jobs[0]}.png already exists and differs" in result.stderr
    assert Path(f"{jobs[0]}.png").read_bytes() == b"mine"
    assert all(Path(f"{job}.png").exists() for job in jobs[1:])


def test_a_folder_into_which_nothing_could_be_fetched_is_not_left(client: FarmClient) -> None:
    batch, (job, _) = submitted(2)
    made = render(client, job)
    client.storage.put(made.key("image.png"), b"damaged", "image/png")
    run("fetch", batch, "--out", "new/renders", code=1)
    assert not Path("new").exists()


def test_a_sheet_of_a_batch_and_of_files(client: FarmClient) -> None:
    batch, jobs = submitted(3)
    for job in jobs:
        render(client, job)
    assert "3 pictures" in run("sheet", batch, "--columns", "3").stdout
    with Image.open("sheet.png") as page:
        assert page.width == 80 + 3 * 256 + 2 * 24
    assert "already exists" in run("sheet", batch, code=2).stderr
    assert "1 picture," in run("sheet", "sheet.png", "--out", "of/sheets.png").stdout


def test_a_sheet_keeps_the_order_of_files_and_jobs(client: FarmClient, monkeypatch: pytest.MonkeyPatch) -> None:
    _, jobs = submitted(2)
    for job in jobs:
        render(client, job)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8)).save(name)
    seen: list[str] = []

    def tile(_: bytes, *, name: str) -> Tile:
        seen.append(name)
        return Tile(Image.new("RGB", (8, 8)))

    monkeypatch.setattr("farm.pictures.sheet.tile_of", tile)
    run("sheet", "b.png", jobs[1], jobs[0], "a.png")
    assert seen == ["b.png", f"{jobs[1]}.png", f"{jobs[0]}.png", "a.png"]


GRID = ("submit", "grid", "a red apple", "--x", "guidance=1,7.5", "--y", "prompt=apple,rose", "--seed", "7")


def a_grid(*more: str) -> tuple[str, list[str]]:
    told = json.loads(run(*GRID, *more, "--json").stdout)
    return told["batch"], told["jobs"]


def test_a_grid_says_how_to_lay_it_out() -> None:
    result = run(*GRID)
    batch = result.stdout.split()[0]
    assert result.stdout == f"{batch}  4 jobs · model emoji · seed 7 for each\n"
    assert f"  sheet   farm sheet {batch}\n" in result.stderr


def test_a_sheet_of_a_grid_needs_no_options(client: FarmClient) -> None:
    batch, jobs = a_grid()
    for job in jobs:
        render(client, job)
    result = run("sheet", batch, "--html", "sheet.html")
    assert result.stderr == ""
    with Image.open("sheet.png") as page:
        assert result.stdout.startswith(f"sheet.png  4 pictures, {page.width}×{page.height} pixels\nsheet.html  4 pict")
        assert page.width == 2 * 40 + 168 + 2 * (256 + 24)
    text = Path("sheet.html").read_text(encoding="utf-8")
    for words in ("a red …", "txt2img · seed 7 · 30 steps · lms", "guidance 7.5, rose", jobs[3]):
        assert words in text
    plain = run("sheet", batch, "--columns", "4", "--out", "plain.png")
    assert "4 pictures" in plain.stdout
    with Image.open("plain.png") as page:
        assert page.width == 80 + 4 * 256 + 3 * 24


def test_what_is_missing_in_a_grid_has_a_cell_that_says_why(client: FarmClient) -> None:
    batch, (first, second, third, fourth) = a_grid()
    result = run("sheet", batch, code=1)
    assert result.stderr == "farm: none of these jobs is done\n  'farm watch' follows them\n"
    render(client, first)
    client.ledger.cancel(third)
    gone = render(client, fourth)
    client.storage.delete(gone.key("image.png"))
    claim = client.ledger.claim(second, "w1")
    assert claim
    error = json.dumps({"kind": "memory", "message": "it needs <more> memory"})
    assert client.ledger.finish(claim, "w1", "failed", {"error": error})

    result = run("sheet", batch, "--html", "sheet.html")

    assert "sheet.png  1 picture in 4 cells, " in result.stdout
    page = Path("sheet.html").read_text(encoding="utf-8")
    for words in ("failed: it needs &lt;more&gt; memory", "cancelled", "there is no such object"):
        assert f"{words}</td>" in page
    client.ledger.redis.delete(f"farm:job:{first}")
    assert "1 job not shown" in run("sheet", batch, "--overwrite").stderr


def test_a_sheet_by_fields_of_any_batch(client: FarmClient) -> None:
    jobs = [{"prompt": "x", "product": {"steps": [20, 9], "sampler": ["lms", "euler"], "seed": [1, 2]}}]
    Path("jobs.json").write_text(json.dumps({"jobs": jobs}), encoding="utf-8")
    batch = json.loads(run("submit", "batch", "jobs.json", "--json").stdout)["batch"]
    for job in client.resolve([batch]):
        render(client, job)

    result = run("sheet", batch, "--x", "sampler", "--y", "steps", "--html", "sheet.html")

    assert result.stderr.splitlines() == [
        "4 cells with several jobs, of which the first is shown",
        "  they differ in seed: --z seed shows them all",
    ]
    assert "4 pictures" in result.stdout
    page = Path("sheet.html").read_text(encoding="utf-8")
    assert page.index("steps 9</th>") < page.index("steps 20</th>")
    result = run("sheet", batch, "--x", "sampler", "--y", "steps", "--z", "seed", "--overwrite")
    assert result.stderr == "" and "8 pictures" in result.stdout
    assert "8 pictures" in run("sheet", batch, "--overwrite").stdout
    assert (
        "what a job had in 'priority' is not kept"
        in run("sheet", batch, "--x", "priority", "--overwrite", code=2).stderr
    )
    assert "they differ in steps, seed" in run("sheet", batch, "--x", "sampler", "--overwrite").stderr


def test_a_sheet_knows_what_was_left_to_the_model(client: FarmClient) -> None:
    jobs = [{"prompt": "x", "seed": 1, "guidance": 7.5}, {"prompt": "x", "seed": 1}, {"prompt": "x", "guidance": 3}]
    Path("jobs.json").write_text(json.dumps({"jobs": jobs}), encoding="utf-8")
    batch = json.loads(run("submit", "batch", "jobs.json", "--json").stdout)["batch"]
    for job in client.resolve([batch]):
        render(client, job, scale=7.5)
    result = run("sheet", batch, "--x", "guidance", "--html", "sheet.html")
    assert "1 cell with several jobs" in result.stderr and "2 pictures" in result.stdout
    assert "the model" not in Path("sheet.html").read_text(encoding="utf-8")


def test_of_several_jobs_in_a_cell_one_that_is_done_is_shown(client: FarmClient) -> None:
    batch, (first, second) = submitted(2)
    client.ledger.cancel(first)
    render(client, second)
    result = run("sheet", batch, "--x", "steps", "--html", "sheet.html")
    assert "1 picture, " in result.stdout
    assert f'data-name="{second}"' in Path("sheet.html").read_text(encoding="utf-8")


def test_a_grid_with_out_comes_back_with_its_sheet(client: FarmClient) -> None:
    with rendering(client):
        result = run(*GRID, "--out", "renders")
    batch = result.stdout.split()[0]
    assert f"sheet: renders/{batch}.sheet.png  4 pictures, " in result.stderr
    assert len(list(Path("renders").iterdir())) == 5


def test_a_grid_that_is_too_large_for_a_sheet_is_fetched_all_the_same(client: FarmClient) -> None:
    with rendering(client):
        result = run("submit", "grid", "x", "--x", f"seed={','.join(map(str, range(101)))}", "--out", "renders")
    assert "no sheet: 101 columns are more than 100 (give the longer axis to --y)" in result.stderr
    assert len(list(Path("renders").iterdir())) == 101


def test_a_morph_with_out_comes_back_with_its_film_and_a_strip(client: FarmClient) -> None:
    with rendering(client):
        result = run("morph", "a giraffe", "a cat", "--frames", "3", "--out", "renders")
    batch = result.stdout.split()[0]
    assert f"film:  renders/{batch}.mp4\nstrip: renders/{batch}.strip.png\n" in result.stderr
    assert Path("renders", f"{batch}.mp4").read_bytes()[4:8] == b"ftyp"
    with Image.open(f"renders/{batch}.strip.png") as strip:
        assert strip.size == (3 * 256, 256)
    again = run("film", batch)
    assert again.stdout == "film.mp4  3 frames, 64×64 pixels\n"
    assert Path("film.mp4").read_bytes() == Path("renders", f"{batch}.mp4").read_bytes()


def test_a_morph_that_lacks_a_frame_has_no_film(client: FarmClient) -> None:
    with rendering(client, cancelled="-0001"):
        result = run("morph", "a giraffe", "a cat", "--frames", "3", "--out", "renders", code=3)
    batch = result.stdout.split()[0]
    assert f"no film: 1 of 3 frames is missing\n  farm retry {batch}, then farm film {batch}\n" in result.stderr
    assert not list(Path("renders").glob("*.mp4"))


def test_a_morph_says_how_to_make_its_film() -> None:
    result = run("morph", "a giraffe", "a cat", "--frames", "2")
    assert f"  film    farm film {result.stdout.split()[0]}\n" in result.stderr


def test_nothing_is_submitted_whose_pictures_have_no_place(client: FarmClient) -> None:
    Path("file").touch()
    result = run(*OTTER, "--out", "file/renders", code=2)
    assert result.stderr.startswith("farm: --out: file/renders cannot be made: ")
    assert client.list() == []


def test_an_unknown_loss_in_a_batch_file_is_known_by_its_entry(client: FarmClient) -> None:
    announced = {"name": "stripes", "help": "", "arguments": [], "default_scale": 1.0}
    client.ledger.announce(a_worker(losses=(announced,)))
    Path("jobs.yaml").write_text("jobs:\n- {prompt: x, losses: [{name: stripes}]}\n", encoding="utf-8")
    run("submit", "batch", "jobs.yaml")
    Path("jobs.yaml").write_text("jobs:\n- prompt: x\n- {prompt: x, losses: [{name: strips}]}\n", encoding="utf-8")
    result = run("submit", "batch", "jobs.yaml", code=2)
    assert result.stderr == ("farm: jobs.yaml: job 2: loss: there is no loss 'strips'\n  did you mean 'stripes'?\n")


def test_submit_with_out_waits_and_fetches(client: FarmClient) -> None:
    with rendering(client):
        result = run(*OTTER, "--count", "2", "--out", "renders")
    assert "2 done in" in result.stderr
    assert len(list(Path("renders").iterdir())) == 2


def test_models_and_workers_of_a_farm_at_rest() -> None:
    submitted()
    [emoji] = json.loads(run("models", "--json").stdout)
    assert (emoji["name"], emoji["workers"], emoji["warm"], emoji["waiting"]) == ("emoji", [], [], 1)
    assert "none" in run("models").stdout
    assert run("workers").stderr == "no live workers; start one with 'farm worker'\n"


@pytest.mark.parametrize("arguments", [("status", "zzzzz"), ("watch", "0" * 16), ("fetch", f"{'0' * 16}-0000")])
def test_unknown_names_are_said(arguments: tuple[str, ...]) -> None:
    assert run(*arguments, code=1).stderr.startswith("farm: ")


@pytest.mark.parametrize(
    ("name", "meant"),
    [("renders/0kz3mw7c9d2f4g5h-0003.png", "did you mean '0kz3mw7c9d2f4g5h-0003'?"), ("a.png", "list")],
)
def test_the_file_of_a_picture_is_not_taken_for_a_job(name: str, meant: str) -> None:
    told = run("status", name, code=1).stderr
    assert f"farm: '{name}' is no id of a job or a batch" in told and meant in told


def test_ctrl_c_leaves_the_jobs_and_says_so(client: FarmClient) -> None:
    batch, _ = submitted(2)
    command = [sys.executable, "-u", "-m", "farm.cli.main", "watch", batch]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    ) as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline().endswith("queued\n")  # it watches now
        watching.send_signal(signal.SIGINT)
        try:
            _, said = watching.communicate(timeout=60)
        finally:
            watching.kill()
    assert watching.returncode == 130
    commands = (
        f"  follow  farm watch {batch}\n  fetch   farm fetch {batch} --out renders\n  cancel  farm cancel {batch}\n"
    )
    assert f"the 2 jobs go on\n{commands}" in said
    assert client.ledger.counts()["queued"] == 2


@pytest.mark.parametrize("command", [("list",), ("status", "BATCH"), ("fetch", "BATCH"), ("watch", "BATCH")])
def test_a_deleted_record_hides_no_other(client: FarmClient, command: tuple[str, ...]) -> None:
    batch, jobs = submitted(3)
    render(client, jobs[1])
    client.ledger.cancel(jobs[2])
    client.ledger.redis.delete(f"farm:job:{jobs[0]}")

    code = 0 if command[0] in ("list", "status") else 3
    result = run(*(batch if word == "BATCH" else word for word in command), code=code)

    assert jobs[2] in result.output
    assert "1 job not shown: the record is gone or damaged" in result.stderr


def test_who_follows_jobs_of_which_one_is_not_known_is_not_told_that_all_is_well(client: FarmClient) -> None:
    batch, (kept, lost) = submitted(2)
    render(client, kept)
    assert "1 done" in run("watch", batch, code=3 if client.ledger.redis.delete(f"farm:job:{lost}") else -1).output


def test_a_damaged_picture_is_told_by_its_checksum_and_hides_no_other(client: FarmClient) -> None:
    batch, (kept, damaged) = submitted(2)
    render(client, kept)
    made = render(client, damaged)
    client.storage.put(made.key("image.png"), b"damaged", "image/png")
    differs = "does not match the checksum in its result"
    assert differs in run("sheet", batch, code=1).stderr
    run("sheet", batch, "--x", "seed", "--html", "sheet.html")
    assert differs in Path("sheet.html").read_text(encoding="utf-8")
    assert differs in run("rerun", damaged, "--dry-run", code=1).stderr


def done(client: FarmClient, **fields: Any) -> str:
    """A job that is done, with all that a traced one leaves; `fields` are those of its result."""
    _, (job,) = submitted()
    claim = client.ledger.claim(job, "w1")
    assert claim is not None
    result = made_up.put(client.storage, made_up.spec(steps=12), job=job, **fields)
    assert client.ledger.finish(claim, "w1", "done", {"result": keys.attempt_result(job, result.attempt)})
    return job


def opener(monkeypatch: pytest.MonkeyPatch, *, code: int = 0) -> Path:
    """A system that opens files by noting them down. Returns where."""
    noted, programs = Path("opened").absolute(), Path("programs").absolute()
    programs.mkdir()
    for name in ("xdg-open", "open"):
        (programs / name).write_text(f'#!/bin/sh\nprintf "%s" "$1" > "{noted}"\nexit {code}\n', encoding="utf-8")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    return noted


def test_trace_writes_one_page(client: FarmClient) -> None:
    job = done(client)
    told = run("trace", job, "--out", "the pages")
    path = Path("the pages", f"{job}.trace.html")
    assert told.stdout.startswith(f"{path}  12 steps, 12 frames, ")
    assert told.stderr == ""
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert "</html>" in path.read_text(encoding="utf-8")
    run("trace", job, "--out", "the pages")  # a page of before is replaced


def test_trace_as_json_has_the_documented_fields(client: FarmClient) -> None:
    job = done(client, changed={"trace/0003.jpeg": b"<svg/>"})
    told = run("trace", job, "--json")
    path = Path(f"{job}.trace.html")
    why = "trace/0003.jpeg is left out: it is no JPEG picture."
    assert json.loads(told.stdout) == {
        **{"job": job, "path": str(path), "size": path.stat().st_size},
        **{"frames": 11, "frames_kept": 12, "steps": 12, "video": False, "left_out": [why]},
    }
    assert told.stderr == f"warning: {why}\n"


def test_a_page_of_hostile_words_steers_no_terminal(client: FarmClient) -> None:
    job = done(client, device="\x1b[2J", changed={"trace.jsonl": b"\x1b]0;x\x07"})
    told = run("trace", job)
    assert "\x1b" not in told.output
    assert told.stderr == "warning: 1 line of trace.jsonl cannot be read as a step of this job.\n"
    assert "\x1b" not in Path(f"{job}.trace.html").read_text(encoding="utf-8")


def test_a_result_that_makes_no_sense_has_no_page(client: FarmClient) -> None:
    job = done(client)
    key = client.ledger.get(job).result
    assert key
    forged = json.loads(client.storage.get(key)) | {"losses": {"\x1b]0;x\x07": 5}}
    client.storage.put(key, json.dumps(forged).encode(), "application/json")
    told = run("trace", job, code=1)
    assert told.stderr.startswith(f"farm: {key} is not a result that this version can read: ")
    assert "\x1b" not in told.output and told.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [("trace",), ("open",), ("open", "--trace")], ids=" ".join)
def test_what_is_not_done_or_not_one_job_has_no_page(client: FarmClient, command: tuple[str, ...]) -> None:
    batch, jobs = submitted(2)
    assert f"JOB: '{batch}' means 2 jobs" in run(*command, batch, code=2).stderr
    assert f"job {jobs[0]} is queued, so it has no result" in run(*command, jobs[0], code=1).stderr
    assert not list(Path().iterdir())


def test_a_page_that_cannot_be_written_is_told_of(client: FarmClient) -> None:
    job = done(client)
    Path(f"{job}.trace.html").mkdir()
    assert "it is not a plain file" in run("trace", job, code=2).stderr


def test_compare_writes_one_page_of_several_jobs(client: FarmClient) -> None:
    first, second = done(client), done(client, changed={"trace/0003.jpeg": b"<svg/>"})
    told = run("compare", first, second.partition("-")[0], "--out", "the pages/two.html", "--json")
    path, why = Path("the pages", "two.html"), "B: trace/0003.jpeg is left out: it is no JPEG picture."
    assert json.loads(told.stdout) == {
        **{"path": str(path), "size": path.stat().st_size, "left_out": [why]},
        "jobs": [
            {"job": job, "letter": letter, "frames": frames, "frames_kept": 12, "steps": 12}
            for job, letter, frames in ((first, "A", 12), (second, "B", 11))
        ],
    }
    assert told.stderr == f"warning: {why}\n"
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    told = run("compare", second, first)
    assert told.stdout.startswith("compare.html  2 jobs, 23 frames, ")
    assert "</html>" in Path("compare.html").read_text(encoding="utf-8")


def test_what_cannot_be_compared_has_no_page(client: FarmClient) -> None:
    batch, jobs = submitted(9)
    assert "JOB: a comparison takes 2 to 8 jobs, not 9" in run("compare", batch, code=2).stderr
    assert "JOB: a comparison takes 2 to 8 jobs, not 1" in run("compare", jobs[0], jobs[0], code=2).stderr
    assert f"job {jobs[0]} is queued, so it has no result" in run("compare", *jobs[:2], code=1).stderr
    assert "two.png does not end in .html" in run("compare", *jobs[:2], "--out", "two.png", code=2).stderr
    assert not list(Path().iterdir())


def test_open_shows_the_picture_or_the_page(client: FarmClient, monkeypatch: pytest.MonkeyPatch) -> None:
    job, noted = done(client), opener(monkeypatch)
    for command, ending in ((["open", job], ".png"), (["open", job, "--trace"], ".trace.html")):
        told = run(*command)
        path = Path(noted.read_text(encoding="utf-8"))
        assert told.stdout == f"{path}\n"
        assert path.name == job + ending
        assert path.is_file() and path.parent.stat().st_mode & 0o777 == 0o700
        shutil.rmtree(path.parent)
    assert run("trace", job, "--open").exit_code == 0
    assert noted.read_text(encoding="utf-8") == str(Path(f"{job}.trace.html").absolute())


def test_without_a_viewer_the_file_is_named(client: FarmClient, monkeypatch: pytest.MonkeyPatch) -> None:
    job = done(client)
    opener(monkeypatch, code=3)
    told = run("trace", job, "--open", code=1)
    assert told.stderr.startswith(f"farm: nothing here shows {job}.trace.html (")
    assert Path(f"{job}.trace.html").exists()
    monkeypatch.setenv("PATH", "/nowhere")
    assert "nothing here shows" in run("trace", job, "--open", code=1).stderr


def test_workers_are_drained_and_resumed_by_id_or_name(client: FarmClient) -> None:
    for id, jobs in (("gpu-0-0a1b", 2), ("gpu-1-0a1b", 0)):
        client.ledger.announce(a_worker(id, jobs=jobs, drained=True))
    assert run("workers", "drain", "gpu-0-0a1b").stdout == "gpu-0-0a1b takes no more jobs, and finishes 2 jobs\n"
    assert run("workers", "drain", "gpu-1", "--hand-back").stdout == "gpu-1-0a1b takes no more jobs\n"
    assert [(one.name, one.wish) for one in client.ledger.drained()] == [("gpu-0", "finish"), ("gpu-1", "hand-back")]

    told = run("workers", "drain", "gpu-0-ffff", "gpu-1", code=1)
    assert told.stderr == (
        "farm: no live worker is called 'gpu-0-ffff'\n  there is another process of that name: name it 'gpu-0'\n"
    )
    near = run("workers", "drain", "gpu0", code=1).stderr
    assert near.endswith("did you mean 'gpu-0' or 'gpu-1'? 'farm workers' lists them\n")
    assert run("workers", "resume", "nobody", code=1).stderr.startswith("farm: no live worker is called 'nobody'\n")
    client.ledger.depart("gpu-1-0a1b")
    assert run("workers", "drain", "gpu-1", code=1).stderr.startswith("farm: no live worker is called 'gpu-1'\n")
    assert "gpu-1 does not live, and is drained: 'farm workers resume gpu-1'\n" in run("workers").stderr
    assert json.loads(run("workers", "resume", "gpu-0", "--json").stdout) == {
        "names": ["gpu-0"],
        "workers": ["gpu-0-0a1b"],
    }
    assert run("workers", "resume", "gpu-1").stdout == (
        "gpu-1 takes jobs once it is started; no worker of that name lives now\n"
    )
    assert client.ledger.drained() == []


def test_drain_tells_what_a_worker_says_that_has_heard_it(client: FarmClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it said before may be from before it took its job."""
    worker = "gpu-0a1b"
    client.ledger.announce(a_worker(worker, jobs=0))
    with ThreadPoolExecutor(1) as pool:
        told = pool.submit(run, "workers", "drain", "gpu")
        eventually(client.ledger.drained, "it is told")
        client.ledger.announce(a_worker(worker, drained=True, jobs=1))
        assert told.result(30).stdout == "gpu-0a1b takes no more jobs, and finishes 1 job\n"

    client.ledger.announce(a_worker(worker))
    monkeypatch.setattr("farm.cli.commands.workers._HEARD_SECONDS", 0)
    assert run("workers", "drain", "gpu").stdout == (
        "gpu-0a1b takes no more jobs once it hears of it: it has not answered yet\n"
    )


def test_drain_waits_until_its_workers_have_heard_it_and_have_no_job(client: FarmClient) -> None:
    """Other workers of the name that start meanwhile are not waited for."""
    worker = "gpu-0a1b"
    client.ledger.announce(a_worker(worker))
    with ThreadPoolExecutor(1) as pool:
        told = pool.submit(run, "workers", "drain", "gpu", "--wait")
        eventually(client.ledger.drained, "it is told")
        client.ledger.announce(a_worker(worker, drained=True, jobs=1))
        with pytest.raises(TimeoutError):
            told.result(1.2)
        client.ledger.announce(a_worker(worker, drained=True, jobs=0))
        assert told.result(30).stdout.endswith("gpu-0a1b: no job is left\n")


def test_workers_for_people_say_who_is_drained_and_submit_warns_of_it(client: FarmClient) -> None:
    client.ledger.announce(a_worker("gpu-0a1b", drained=True, paused="drained by an operator"))
    told = run("workers")
    assert "gpu-0a1b  drained" in told.stdout
    assert "gpu-0a1b takes no jobs: drained by an operator\n" in told.stderr
    assert "every worker that serves the model 'emoji' is drained by an operator" in run(*OTTER).stderr
    client.ledger.announce(a_worker("other-0a1b"))
    assert "drained" not in run(*OTTER).stderr


def test_workers_say_what_memory_and_how_many_rows_they_have(client: FarmClient) -> None:
    host = MemoryUse(total=64 * 2**30, used=32 * 2**30, own=3 * 2**30)
    device = MemoryUse(total=80 * 2**30, used=50 * 2**30, own=40 * 2**30)
    client.ledger.announce(a_worker("cpu", rows=6, max_rows=32, host_memory=host))
    client.ledger.announce(a_worker("gpu", rows=0, max_rows=32, host_memory=host, device_memory=device))
    client.ledger.announce(a_worker("old"))
    head, *rows = (line.split("  ") for line in run("workers").stdout.splitlines())
    names = [name.strip() for name in head if name]
    shown = {row[0]: dict(zip(names, [cell.strip() for cell in row if cell.strip()], strict=True)) for row in rows}
    assert {id: (row["rows"], row["memory"]) for id, row in shown.items()} == {
        "cpu": ("6/32", "3.0 GiB of 64.0 GiB"),
        "gpu": ("0/32", "40.0 GiB of 80.0 GiB"),
        "old": ("–", "–"),
    }
    told = {worker["id"]: worker for worker in json.loads(run("workers", "--json").stdout)}
    assert told["gpu"]["device_memory"] == {"total": 80 * 2**30, "used": 50 * 2**30, "own": 40 * 2**30}
    assert (told["cpu"]["device_memory"], told["cpu"]["rows"], told["old"]["rows"]) == (None, 6, None)


def test_status_has_what_workers_logged_where_that_is_wanted(client: FarmClient) -> None:
    _, (told, quiet) = submitted(2)
    claim = client.ledger.claim(told, "w1")
    assert claim is not None
    lines = (
        LogLine(at=datetime(2026, 1, 2, tzinfo=UTC), level="warning", text="out of memory\x1b[2J"),
        LogLine(at=None, level="info", text="handed back"),
    )
    client.check_bucket()
    write_log(client.storage, AttemptLog(job=told, attempt=1, worker="w1", lines=lines, left_out=2))

    shown = run("status", told, quiet, "--log").stdout
    first, second = shown.split("\n\n")
    assert "  log        attempt 1, by w1\n    2 earlier lines left out\n" in first
    assert " WARNING out of memory" in first and first.endswith("    INFO    handed back") and "\x1b" not in first
    assert second.endswith("  log        none: it waits to be rendered\n")
    assert "attempt 1, by w1" not in run("status", told).stdout
    [one] = json.loads(run("status", told, "--log", "--json").stdout)
    assert [line["level"] for line in one["log"][0]["lines"]] == ["warning", "info"]
    assert "log" not in json.loads(run("status", told, "--json").stdout)[0]
