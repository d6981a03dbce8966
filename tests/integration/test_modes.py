"""Every kind of job and its compositions, from the shell to the picture in the bucket and back."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image

from farm import keys
from farm.bucket.results import JobResult
from farm.client import FarmClient
from tests.integration.conftest import Worker, trace_numbers
from tests.waiting import eventually
from worker.results.png import read_spec

pytestmark = pytest.mark.usefixtures("worker")

Shell = Callable[..., Any]

COMMANDS: dict[str, list[str]] = {
    "txt2img": ["txt2img", "an otter in the red"],
    "img2img by step": ["img2img", "a cat", "--init", "PICTURE", "--start-step", "12", "--steps", "30"],
    "img2img by strength": ["img2img", "a cat", "--init", "PICTURE", "--strength", "0.5", "--sampler", "euler"],
    "mix": ["mix", "a giraffe", "a cat", "--mix", "0.5"],
    "mix of three": ["mix", "a giraffe", "a cat", "an otter", "--weights", "0.2,0.3,0.5"],
    "guided": ["guided", "a cat", "--loss", "blue", "--loss-scale", "100", "--loss-every", "2"],
    "all at once": [
        *["mix", "a giraffe", "a cat", "--init", "PICTURE", "--start-step", "2", "--steps", "8"],
        *["--loss", "color:red=0.1,green=0.2,blue=0.9", "--loss", "contrast", "--negative", "a red apple"],
    ],
    "txt2img with everything": [
        "txt2img",
        "a cat",
        "--init",
        "PICTURE",
        "--mix-with",
        "an otter:0.4",
        "--loss",
        "blue",
    ],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_job_comes_back_as_a_picture(name: str, shell: Shell, picture: Path, tmp_path: Path) -> None:
    command = [str(picture) if word == "PICTURE" else word for word in COMMANDS[name]]
    out = tmp_path / "renders"

    answer = shell("submit", *command, "--model", "tiny", "--seed", "7", "--out", str(out), "--json")

    [job] = json.loads(answer.stdout.splitlines()[0])["jobs"]
    with Image.open(out / f"{job}.png") as image:
        assert image.size == (64, 64)
        assert "parameters" in image.info
    spec = read_spec((out / f"{job}.png").read_bytes())
    assert spec is not None
    assert (spec.mode, spec.seed, spec.model) == (command[0], 7, "tiny")


@pytest.mark.parametrize(
    ("fit", "size", "said"),
    [
        ((), (64, 64), "50% of the init picture's width was cut off to make 192×96 fit 64×64"),
        (("--fit", "pad"), (64, 64), None),
        (("--fit", "stretch", "--width", "72"), (72, 64), None),
        (("--fit", "init"), (64, 64), "50% of the init picture's width was cut off to make 192×96 fit 64×64"),
    ],
)
def test_an_init_picture_of_another_shape(
    fit: tuple[str, ...], size: tuple[int, int], said: str | None, shell: Shell, tmp_path: Path
) -> None:
    """The model's pictures have 64×64 pixels, and no side may be shorter: so even a job of its shape is a square."""
    Image.new("RGB", (192, 96), "teal").save(tmp_path / "wide.png")
    answer = shell(
        *["submit", "img2img", "a cat", "--init", str(tmp_path / "wide.png"), "--model", "tiny", "--steps", "4"],
        *[*fit, "--out", str(tmp_path / "out")],
    )
    [picture] = (tmp_path / "out").glob("*.png")
    with Image.open(picture) as image:
        assert image.size == size
    assert ("was cut off" in answer.stderr) == (said is not None)
    assert (said or "") in answer.stderr


def test_the_bucket_holds_what_the_result_names(client: FarmClient, submit: Any, finish: Any) -> None:
    [job] = submit(trace="frames", steps=4)
    [status] = finish([job])
    assert status.state == "done", status.error

    result = client.result(job)

    assert set(result.objects) == {"image.png", "trace.jsonl", *(f"trace/{n:04d}.jpeg" for n in range(4))}
    for stored in result.objects.values():
        data = client.storage.get(stored.key)
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (stored.sha256, stored.size)
        assert stored.key.startswith(f"jobs/{job}/{status.attempt}/")
    eventually(lambda: client.storage.exists(keys.result(job)), "the worker has copied it, after the job was done")
    promoted = JobResult.from_json(client.storage.get(keys.result(job)), key=keys.result(job))
    assert promoted == result
    assert (result.spec.width, result.spec.height) == (64, 64)


def test_a_video_trace_plays_and_its_numbers_fall(shell: Shell, tmp_path: Path) -> None:
    answer = shell(
        *["submit", "guided", "a cat", "--loss", "blue", "--steps", "10", "--model", "tiny"],
        *["--trace", "video", "--wait", "--json"],
    )
    [job] = json.loads(answer.stdout.splitlines()[0])["jobs"]
    shell("fetch", job, "--all", "--out", str(tmp_path / "out"))
    folder = tmp_path / "out" / job

    numbers = trace_numbers(folder / "trace.jsonl")
    assert [line["step"] for line in numbers] == list(range(10))
    assert [line["sigma"] for line in numbers] == sorted((line["sigma"] for line in numbers), reverse=True)
    assert [sorted(line["losses"]) for line in numbers] == [["blue"] if n % 5 == 0 else [] for n in range(10)]
    with av.open(str(folder / "trace.mp4")) as video:
        stream = video.streams.video[0]
        assert (stream.codec_context.name, stream.average_rate) == ("h264", 12)
        assert (stream.width, stream.height) == (128, 64)
        assert sum(1 for _ in video.decode(stream)) == 10
    with Image.open(folder / "trace" / "0009.jpeg") as frame:
        assert frame.size == (128, 64)


def test_the_same_seed_gives_the_same_pixels(client: FarmClient, submit: Any, finish: Any) -> None:
    jobs = [*submit(seed=5), *submit(seed=5), *submit(seed=6)]
    finish(jobs)

    first, second, other = (_pixels(client, job) for job in jobs)

    assert first == second
    assert first != other


def test_a_batch_file_makes_its_jobs(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "batch.yaml").write_text(
        """
        defaults: {model: tiny, steps: 3}
        jobs:
          - prompt: a cat
            product: {seed: [1, 2], guidance: [1, 5]}
          - mode: mix
            prompt: [a cat, an otter]
            zip: {mix: [0.2, 0.8], seed: [8, 9]}
        """,
        encoding="utf-8",
    )
    answer = json.loads(shell("submit", "batch", "batch.yaml", "--wait", "--json").stdout.splitlines()[0])

    assert len(answer["jobs"]) == 6
    listed = json.loads(shell("status", answer["batch"], "--json").stdout)
    assert [status["state"] for status in listed] == ["done"] * 6


def test_count_makes_consecutive_seeds(client: FarmClient, submit: Any, finish: Any) -> None:
    jobs = submit(seed=40, count=3)
    finish(jobs)

    assert [client.result(job).spec.seed for job in jobs] == [40, 41, 42]


def test_no_word_of_a_long_prompt_is_dropped_unless_it_is_plain(shell: Shell, client: FarmClient) -> None:
    fields = ["submit", "txt2img", "(cat:1.2) " * 90 + "otter", "--model", "tiny", "--steps", "2", "--wait"]
    answer = shell(*fields, "--json")
    result = client.result(json.loads(answer.stdout.splitlines()[0])["jobs"][0])
    assert result.warnings == ()
    assert [read.chunks for read in result.prompts] == [(75, 16), (0,)]
    assert [token.weight for token in result.prompts[0].tokens] == [1.2] * 90 + [1.0]

    answer = shell(*fields, "--plain-prompt")
    assert "did not see" in answer.stdout + answer.stderr


def test_a_job_that_nobody_serves_is_warned_of(shell: Shell) -> None:
    answer = shell("submit", "txt2img", "a cat", "--model", "nobody-has-this")

    assert "no live worker serves the model 'nobody-has-this'" in answer.stderr


def test_the_worker_tells_what_it_is(shell: Shell, worker: Worker) -> None:
    workers = json.loads(shell("workers", "--json").stdout)

    [ours] = [one for one in workers if one["id"].startswith(worker.name)]
    assert (ours["state"], ours["models"], ours["warm"]) == ("ready", ["tiny"], ["tiny"])


def _pixels(client: FarmClient, job: str) -> bytes:
    with Image.open(io.BytesIO(client.storage.get(client.result(job).objects["image.png"].key))) as image:
        return image.tobytes()


def test_a_prompt_may_name_an_embedding_that_its_worker_knows(client: FarmClient, submit: Any, finish: Any) -> None:
    [worker] = [worker for worker in client.workers() if worker.id.startswith("shared-")]
    assert set(worker.embeddings) == {"scribble", "large", "oversized"}

    [job] = submit(prompt="a (Scribble:1.2) cat")
    assert [status.state for status in finish([job])] == ["done"]
    tokens = client.result(job).prompts[0].tokens
    assert [(token.piece, token.vector, token.weight) for token in tokens] == [
        *(("a</w>", None, 1.0), ("scribble", 0, 1.2), ("scribble", 1, 1.2), ("cat</w>", None, 1.0)),
    ]

    [job] = submit(prompt="an oversized cat")
    [status] = finish([job])
    assert status.error is not None and (status.state, status.error.kind) == ("failed", "invalid")
    assert "the embedding 'oversized' is not for this model: its vectors have 48 numbers" in status.error.message
