"""Submitting, following, retrying and fetching through `FarmClient`, on real servers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from farm import keys
from farm.bucket.job_log import AttemptLog, LogLine, write_log
from farm.bucket.manifest import read_manifest
from farm.client import FarmClient, loras
from farm.client import models as keeping
from farm.client.forget import forget
from farm.client.planning import Pictures, draft
from farm.errors import FetchRefused, InvalidInput, JobNotFound, LedgerUnavailable, WrongState
from farm.jobs.limits import Limits
from farm.jobs.request import JobRequest, LossRequest
from farm.jobs.spec import Corner
from farm.ledger.records import Prioritised
from farm.queue import lists
from tests.farm.client.test_loras import a_file
from tests.farm.rendering import Rendering, render
from tests.ledgers import a_worker
from tests.models_on_disk import write_folder, write_weights


def otter(**fields: object) -> JobRequest:
    return JobRequest.parse({"prompt": "an otter", "seed": 1, **fields})


@pytest.fixture
def rendered(client: FarmClient) -> Rendering:
    return render(client, client.submit([otter()]).jobs[0])


def test_a_submission_is_in_the_ledger_the_queue_and_the_bucket(client: FarmClient) -> None:
    submission = client.submit([otter(count=3, labels={"a": "b"}), otter(priority=9, model="other")])

    assert submission.jobs == tuple(f"{submission.batch}-{index:04d}" for index in range(4))
    assert [status.state for status in client.status([submission.batch])] == ["queued"] * 4
    assert client.queue.depth("emoji") == 3
    assert client.queue.depth("other") == 1
    manifest = read_manifest(client.storage, submission.batch)
    assert [job.spec.seed for job in manifest.jobs] == [1, 2, 3, 1]
    assert manifest.jobs[0].labels == {"a": "b"}
    assert "no live worker serves the model 'other'" in submission.warnings[1]


def test_jobs_that_every_worker_would_refuse_are_told(client: FarmClient) -> None:
    for name, side in (("w1", 512), ("w2", 256)):
        client.ledger.announce(a_worker(name, models=["emoji"], limits=Limits(side=side, steps=100)))

    asked = [otter(width=768), otter(width=384), otter(), otter(steps=101, count=3), otter(width=768, model="other")]
    warnings = client.submit(asked).warnings

    assert list(warnings[1:]) == [
        "a job that asks for 101 steps will fail: w1 does at most 100 (--max-steps), and the other refuses it",
        "a job that asks for 768 pixels a side will fail: w1 does at most 512 (--max-side), and the other refuses it",
    ]
    assert len(warnings) == 3 and "no live worker serves the model 'other'" in warnings[0]


def test_a_model_that_is_not_told_how_a_picture_was_framed_is_not_asked_for_that(
    client: FarmClient, tmp_path: Path
) -> None:
    keeping.add(client.ledger, client.storage, "sd", str(write_folder(tmp_path / "sd")))
    said = r"^crop: the model '{}' is Stable Diffusion{}, and only models of SDXL are told that .*leave it out"
    for model, kind in (("emoji", ""), ("sd14", " 1"), ("sd", " 1")):
        with pytest.raises(InvalidInput, match=said.format(model, kind)):
            client.submit([otter(model=model), otter(model=model, crop="0,0")])
    placed = replace(draft(otter(crop="8,0"), Pictures()), place="sweep.yaml: job 3")
    with pytest.raises(InvalidInput, match=r"^sweep\.yaml: job 3: crop: the model 'emoji' is Stable Diffusion, and"):
        client.submit([placed])
    assert client.list() == []

    xl = write_folder(tmp_path / "xl", width=2048)
    write_weights(xl / "unet" / "diffusion_pytorch_model.safetensors", {"add_embedding.linear_1.weight": (2, 8)})
    keeping.add(client.ledger, client.storage, "xl", str(xl))
    for model in ("xl", "of-a-worker"):
        [spec] = client.submit([otter(model=model, crop="8,0")]).specs
        assert spec.crop == Corner(x=8)


def test_every_priority_has_its_own_list(client: FarmClient) -> None:
    for priority in range(10):
        client.submit([otter(priority=priority)])
    assert client.queue.depth("emoji") == 10
    assert client.ledger.redis.llen(lists("emoji")[0]) == 1  # priority 9: what Celery calls 0


def test_a_page_is_of_so_many_and_of_a_state_that_there_is(client: FarmClient) -> None:
    jobs = client.submit([otter(count=3)]).jobs
    assert [status.id for status in client.list(limit=2)] == [*jobs[::-1]][:2] and client.list(limit=0) == []
    wrong: list[dict[str, Any]] = [{"limit": -1}, {"offset": -1}, {"state": "over"}]
    for fields in wrong:
        with pytest.raises(InvalidInput, match=r"is less than 0|there is no state 'over' \(known: queued, "):
            client.list(**fields)


def test_the_same_batch_submitted_twice_is_one(client: FarmClient) -> None:
    batch = keys.new_batch_id()
    first = client.submit([otter(count=2)], batch=batch)
    second = client.submit([otter(count=2)], batch=batch)

    assert first.jobs == second.jobs
    assert len(client.list()) == 2
    # A message is only a wake-up: the second for a job finds it claimed.
    claims = [client.ledger.claim(job, "w1") for job in (*first.jobs, *second.jobs)]
    assert sum(claim is not None for claim in claims) == 2


def test_an_init_image_is_stored_once_by_its_content(client: FarmClient, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (64, 64), "teal").save(tmp_path / name)
    submission = client.submit([otter(init=str(tmp_path / name), strength=0.5) for name in ("a.png", "b.png")])

    first, second = (client.ledger.spec(job).start.image for job in submission.jobs)
    assert first == second
    assert first is not None
    assert client.storage.get(first.key) == (tmp_path / "a.png").read_bytes()


def test_an_init_image_may_be_bytes(client: FarmClient, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (64, 64), "navy").save(path)
    submission = client.submit([otter(init=init, strength=0.5) for init in (path, path.read_bytes())])

    of_a_file, of_bytes = (client.ledger.spec(job).start.image for job in submission.jobs)
    assert of_bytes == of_a_file
    assert of_bytes is not None
    assert client.storage.get(of_bytes.key) == path.read_bytes()


def test_what_is_wrong_with_an_init_image_is_told_once(client: FarmClient, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (64, 32), "teal").save(path, icc_profile=b"nonsense")
    submission = client.submit([otter(init=str(path), strength=0.5), otter(init=str(path), strength=0.7)])

    told = [warning for warning in submission.warnings if "profile" in warning]
    assert told == [f"the colour profile of {path} is damaged: its colours are taken as sRGB"]
    image = client.ledger.spec(submission.jobs[0]).start.image
    assert image is not None
    assert (image.width, image.height) == (64, 32)


@pytest.mark.parametrize(
    "request_",
    [
        otter(losses=[{"name": "blue", "arguments": {"red": 1}}]),
        otter(losses=[{"name": "bleu"}]),
        otter(init="/nothing.png", strength=0.5),
    ],
)
def test_wrong_input_leaves_no_trace(client: FarmClient, request_: JobRequest) -> None:
    with pytest.raises(InvalidInput):
        client.submit([otter(), request_])
    assert client.list() == []
    assert client.queue.depth("emoji") == 0


def test_nothing_cannot_be_submitted(client: FarmClient) -> None:
    with pytest.raises(InvalidInput, match="there is nothing to submit"):
        client.submit([])


def test_watching_ends_when_all_is_over(client: FarmClient) -> None:
    submission = client.submit([otter(count=2)])
    first, second = submission.jobs
    changes = client.watch(submission.jobs)
    assert [next(changes).state, next(changes).state] == ["queued", "queued"]

    work = threading.Timer(0.05, lambda: (render(client, first), client.cancel([second])))
    work.start()
    final = {status.id: status.state for status in changes}
    work.join()
    assert final == {first: "done", second: "cancelled"}


def test_watching_outlasts_a_short_outage(client: FarmClient, monkeypatch: pytest.MonkeyPatch) -> None:
    [job] = client.submit([otter()]).jobs
    changes = client.watch([job])
    assert next(changes).state == "queued"
    events, outages = client.ledger.events, iter([LedgerUnavailable("gone"), LedgerUnavailable("gone")])

    def with_an_outage(cursor: str, *, wait: float) -> Any:
        if outage := next(outages, None):
            client.cancel([job])
            raise outage
        return events(cursor, wait=wait)

    monkeypatch.setattr(client.ledger, "events", with_an_outage)

    assert [status.state for status in changes] == ["cancelled"]


def test_watching_does_not_outlast_a_long_outage(client: FarmClient, monkeypatch: pytest.MonkeyPatch) -> None:
    [job] = client.submit([otter()]).jobs
    changes = client.watch([job])
    next(changes)

    def gone(cursor: str, *, wait: float) -> Any:
        raise LedgerUnavailable("gone")

    monkeypatch.setattr(client.ledger, "events", gone)
    monkeypatch.setattr("farm.client.watching._OUTAGE_SECONDS", 0.0)

    with pytest.raises(LedgerUnavailable, match="gone"):
        next(changes)


def test_cancelled_jobs_can_be_retried_and_done_ones_not(client: FarmClient, rendered: Rendering) -> None:
    batch = client.submit([otter(count=2)]).batch
    client.cancel([batch])
    assert list(client.retry([batch])) == client.resolve([batch])
    assert {status.state for status in client.status([batch])} == {"queued"}
    with pytest.raises(WrongState, match="nothing to retry: done"):
        client.retry([rendered.job])


def test_a_job_whose_lora_is_kept_no_longer_is_not_retried(client: FarmClient, tmp_path: Path) -> None:
    client.check_bucket()
    loras.add(client.ledger, client.storage, "gone", str(a_file(tmp_path / "gone.safetensors")))
    lost, plain = client.submit([otter(loras=[{"name": "gone"}], model="any"), otter()]).jobs
    client.cancel([lost, plain])
    assert client.asks_the_bucket([lost]) and not client.asks_the_bucket([plain])
    sha256 = loras.remove(client.ledger, client.storage, "gone").before
    assert sha256 and sha256.deleted

    with pytest.raises(WrongState) as caught:
        client.retry([lost, plain])

    assert caught.value.message.startswith(f"{lost}: the farm keeps the file of the LoRA 'gone' no longer, whose SHA-")
    assert caught.value.hint == "'farm loras add' brings it back; without it, name the jobs to retry that have another"
    assert {status.state for status in client.status([lost, plain])} == {"cancelled"}, "nothing is queued"
    assert client.retry([plain]) == [plain]
    loras.add(client.ledger, client.storage, "other-name", str(tmp_path / "gone.safetensors"))
    assert client.retry([lost]) == [lost], "its file is there again, whatever it is called"
    loras.remove(client.ledger, client.storage, "other-name", force=True)


def test_words_that_look_like_tags_of_loras_are_told(client: FarmClient) -> None:
    asked = [
        otter(prompt="a cat <LORA:detail:0.8>", negative="<lora:bad:1> blurred"),
        otter(prompt="<lora detail>", count=2),
        otter(prompt="<lora detail>", reading="plain"),
        otter(prompt=r"<\lora:detail:1> an otter"),
    ]
    assert [line for line in client.submit(asked).warnings if "lora" in line] == [
        "'<LORA:detail:0.8>' is read as words, for a LoRA is named so: <lora:detail:0.8>",
        "'<lora:bad:1>' in the negative prompt is read as words, for LoRAs are named in the prompt",
        "'<lora detail>' is read as words, for a LoRA is named so: <lora:detail:1>",
    ]


def fetch(made: Rendering, out: Path, *, everything: bool = False, overwrite: bool = False) -> Iterator[Path]:
    files = made.client.fetch(made.job, out, everything=everything, overwrite=overwrite)
    return (file.path for file in files if not file.already_there)


def test_fetching_brings_the_picture_or_everything(rendered: Rendering, tmp_path: Path) -> None:
    picture, folder = tmp_path / f"{rendered.job}.png", tmp_path / rendered.job
    assert list(fetch(rendered, tmp_path)) == [picture]
    assert picture.read_bytes() == rendered.picture
    assert list(fetch(rendered, tmp_path, everything=True)) == [folder / "trace.jsonl", folder / "result.json"]
    assert list(fetch(rendered, tmp_path, everything=True)) == []


def test_another_file_is_not_overwritten_unless_meant(rendered: Rendering, tmp_path: Path) -> None:
    picture = tmp_path / f"{rendered.job}.png"
    picture.write_bytes(b"mine")
    with pytest.raises(FetchRefused, match="already exists and differs"):
        list(fetch(rendered, tmp_path))
    assert picture.read_bytes() == b"mine"
    assert list(fetch(rendered, tmp_path, overwrite=True)) == [picture]
    assert picture.read_bytes() == rendered.picture


def test_another_result_is_not_overwritten_either(rendered: Rendering, tmp_path: Path) -> None:
    description = tmp_path / rendered.job / "result.json"
    description.parent.mkdir()
    description.write_text("mine", encoding="utf-8")
    with pytest.raises(FetchRefused, match="already exists and differs"):
        list(fetch(rendered, tmp_path, everything=True))
    assert description.read_text(encoding="utf-8") == "mine"


def test_a_folder_that_cannot_be_written_is_said(rendered: Rendering, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FetchRefused, match=r"cannot be written: Not a directory"):
        list(fetch(rendered, tmp_path / "file" / "deeper"))


def test_a_changed_object_is_not_kept(rendered: Rendering, tmp_path: Path) -> None:
    rendered.client.storage.put(rendered.key("image.png"), b"changed", "image/png")
    with pytest.raises(FetchRefused, match="does not match the checksum"):
        list(fetch(rendered, tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_done_cannot_be_fetched(client: FarmClient, tmp_path: Path) -> None:
    job = client.submit([otter()]).jobs[0]
    with pytest.raises(WrongState, match="is queued, so it has no result"):
        list(client.fetch(job, tmp_path))


def test_losses_and_models_are_known_without_workers(client: FarmClient) -> None:
    client.submit([JobRequest(mode="guided", prompt=("x",), losses=(LossRequest(name="blue"),), model="mine")])
    assert [loss.name for loss in client.losses()][:2] == ["blue", "color"]
    assert [(model.name, model.workers, model.waiting) for model in client.models()] == [("mine", (), 1)]


def test_cancelling_all_leaves_no_message_and_ends_where_indexes_lie(client: FarmClient) -> None:
    jobs = client.submit([JobRequest(prompt="an otter", model="emoji", count=3)]).jobs
    client.ledger.redis.hset(f"farm:job:{jobs[0]}", "state", "done")
    client.ledger.redis.delete(f"farm:job:{jobs[1]}")

    assert client.cancel_all() == {jobs[2]: "queued"}

    assert client.queue.depth("emoji") == 0
    assert client.cancel_all() == {}


def test_another_priority_is_given_or_added_and_touches_no_message(client: FarmClient) -> None:
    batch, other = (client.submit([otter(count=2)]) for _ in range(2))
    first, second = batch.jobs
    client.ledger.claim(second, "w")
    messages = client.queue.entries("emoji")

    assert client.prioritise([batch.batch], 8) == {
        first: Prioritised("queued", 5, 8),
        second: Prioritised("running", 5, 5),
    }
    assert [one.priority for one in client.prioritise([first, other.batch], by=3).values()] == [9, 8, 8]
    assert [one.priority for one in client.prioritise([first, other.batch], by=-9).values()] == [0, 0, 0]

    assert client.queue.entries("emoji") == messages


def test_a_priority_that_is_none_is_refused(client: FarmClient) -> None:
    [job] = client.submit([otter()]).jobs
    for wrong in (-1, 10):
        with pytest.raises(InvalidInput, match=f"priority: {wrong} is not from 0 to 9"):
            client.prioritise([job], wrong)
    with pytest.raises(InvalidInput, match="say which priority"):
        client.prioritise([job])
    with pytest.raises(JobNotFound):
        client.prioritise(["0000000000000000-0000"], 1)
    assert client.ledger.get(job).priority == 5


def test_messages_stay_while_a_job_waits(client: FarmClient) -> None:
    cancelled, waiting = (client.submit([JobRequest(prompt="an otter", model="emoji")]).jobs for _ in range(2))

    client.cancel(cancelled)

    assert client.queue.depth("emoji") == 2
    assert client.ledger.claim(cancelled[0], "w", instead=["emoji"]).job == waiting[0]  # type: ignore[union-attr]


def test_following_ends_though_a_record_is_lost_on_the_way(client: FarmClient) -> None:
    jobs = client.submit([JobRequest(prompt="an otter", model="emoji", count=2)]).jobs
    statuses = client.watch(jobs)
    assert {next(statuses).id, next(statuses).id} == set(jobs)
    client.ledger.redis.delete(f"farm:job:{jobs[0]}")
    client.ledger.redis.xadd("farm:events", {"job": jobs[0], "state": "queued"})
    client.ledger.cancel(jobs[1])

    assert [status.state for status in statuses] == ["cancelled"]


def test_what_was_logged_of_a_job_is_told_by_attempt_and_of_the_dead_what_is_known(client: FarmClient) -> None:
    [job] = client.submit([otter()]).jobs
    assert client.logs(job) == []
    claim = client.ledger.claim(job, "w1", lease=-1.0)
    assert claim is not None and client.ledger.reap()
    client.ledger.note_death("w1", "ended with: Segmentation fault")
    for attempt in range(2, 9):
        claim = client.ledger.claim(job, "w2")
        assert claim is not None and claim.attempt == attempt
        client.ledger.release(claim, "w2")
    now = datetime.now(UTC)
    told = AttemptLog(
        job=job, attempt=7, worker="w2", lines=(LogLine(at=now, level="warning", text="it\nwaits"),), left_out=3
    )
    write_log(client.storage, told)
    for attempt, junk in ((4, b"{}"), (5, b"x" * 10**6), (6, told.model_dump_json().encode())):
        client.storage.put(keys.attempt_log(job, attempt), junk, "application/json")

    dead, seventh = client.logs(job)
    assert seventh == told and seventh.lines[0].text == "it waits"
    assert (dead.attempt, dead.worker) == (1, "w1")
    assert [line.text for line in dead.lines] == [
        "its lease lapsed: the worker fell silent",
        "w1 ended with: Segmentation fault",
    ]
    assert dead.lines[0].at and dead.lines[0].at <= client.ledger.time() and dead.lines[1].at is None
    client.cancel([job])
    forget(client.ledger, client.storage, [job], objects=True)
    assert not list(client.storage.list(keys.job_prefix(job))), "it is forgotten with what else the job left"
    with pytest.raises(JobNotFound):
        client.logs(job)
