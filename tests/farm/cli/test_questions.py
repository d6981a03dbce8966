"""`farm tokens` and `farm similar` on real servers, with a stand-in for the worker; and answers in other commands."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from farm.cli.main import farm
from farm.client import FarmClient
from farm.errors import InvalidInput, ObjectDamaged, ObjectMissing, RenderError
from farm.jobs.answers import Channel, Noised, Norms, Roundtrip, Similar, TokenRead, Tokens
from farm.jobs.request import JobRequest
from farm.ledger.ledger import Ledger
from tests.farm.rendering import render

CAT = JobRequest(mode="tokens", prompt="a cat", model="emoji")


def tokens_of(prompt: str, *, padding: int = 3, cut: tuple[str, ...] = ()) -> Tokens:
    words = ["<start>", *(f"{word}</w>" for word in prompt.split()), *["<end>"] * (1 + padding)]
    roles = ["start", *["text"] * (len(words) - padding - 2), "end", *["padding"] * padding]
    norms = Norms(token=1.5, position=0.25, output=12)
    tokens: Any = [
        TokenRead(position=n, id=n, piece=piece, role=role, norms=norms)  # type: ignore[arg-type]
        for n, (piece, role) in enumerate(zip(words, roles, strict=True))
    ]
    return Tokens(prompt=prompt, tokens=tuple(tokens), cut=cut, width=32)


TOKENS = {
    "answer.json": tokens_of("a cat", cut=("and", "\x1b[31mmore")).model_dump_json().encode(),
    "arrays.npz": b"PK",
}


@pytest.fixture(autouse=True)
def _this_farm(client: FarmClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    servers = client.settings
    assert servers.s3_endpoint and servers.s3_access_key and servers.s3_secret_key
    monkeypatch.setenv("FARM_REDIS_URL", servers.redis_url)
    monkeypatch.setenv("FARM_S3_ENDPOINT", servers.s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", servers.s3_access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", servers.s3_secret_key)
    monkeypatch.delenv("FARM_MODEL", raising=False)
    monkeypatch.chdir(tmp_path)


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(farm, arguments, prog_name="farm")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    return result


@contextmanager
def answering(client: FarmClient, answer: Mapping[str, bytes]) -> Iterator[None]:
    """The first job that is queued meanwhile is answered so."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(0.01):
            for status in client.list(state="queued"):
                render(client, status.id, answer=answer)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield
    finally:
        over.set()
        worker.join()


def test_tokens_are_shown_by_position_without_the_padding(client: FarmClient) -> None:
    with answering(client, TOKENS):
        shown = run("tokens", "a cat", "--npz", "cat.npz")
    assert [line.split() for line in shown.stdout.splitlines()] == [
        ["position", "id", "piece", "|token|", "|position|", "|output|"],
        ["0", "0", "<start>", "1.500", "0.250", "12.000"],
        ["1", "1", "a</w>", "1.500", "0.250", "12.000"],
        ["2", "2", "cat</w>", "1.500", "0.250", "12.000"],
        ["3", "3", "<end>", "1.500", "0.250", "12.000"],
        ["4", "of", "7", "positions,", "then", "3", "times", "<end>", "(4)", "as", "padding;", "vectors", "of", "32"],
        ["cut:", "and", "[31mmore"],
    ]
    assert "\x1b" not in shown.stdout
    assert "warning: no live worker serves the model 'emoji'" in shown.stderr
    assert Path("cat.npz").read_bytes() == b"PK"


def test_tokens_as_json_are_the_answer(client: FarmClient) -> None:
    with answering(client, TOKENS):
        told = json.loads(run("tokens", "a cat", "--json").stdout)
    assert told.keys() == {"study", "prompt", "tokens", "cut", "width"}
    assert told["tokens"][1] == {
        **{"id": 1, "piece": "a</w>", "position": 1, "role": "text"},
        "norms": {"token": 1.5, "position": 0.25, "output": 12},
    }


def test_similar_is_shown_as_a_matrix(client: FarmClient) -> None:
    prompts = ("a cat", "a very long prompt of many words, which are cut here")
    answer = Similar(prompts=prompts, cosines=((1, 0.25), (0.25, 1)), cut=((), ("here",)))
    with answering(client, {"answer.json": answer.model_dump_json().encode()}):
        shown = run("similar", *prompts)
    assert shown.stdout.splitlines() == [
        "   prompt                                        1      2",
        "1  a cat                                     1.000  0.250",
        "2  a very long prompt of many words, which…  0.250  1.000",
        "cut from 2  here",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("tokens", "z" * 4_001), "farm: PROMPT: 'zzz"),
        (("similar", "a cat"), "farm: similar compares two prompts or more"),
        (("similar", *["a cat"] * 17), "farm: PROMPT: there are 17; at most 16 are taken, and at least one"),
        (("tokens", "a", "--npz", "a.txt"), "farm: --npz: a.txt does not end in .npz"),
        (("tokens", "a", "--npz", "no/where/a.npz"), "farm: --npz: "),
        (("tokens", "a", "--model", "A B"), "farm: --model: 'A B' cannot name a model"),
    ],
)
def test_what_cannot_be_asked_is_told_in_a_line(
    arguments: tuple[str, ...], said: str, client: FarmClient, tmp_path: Path
) -> None:
    (tmp_path / "no").write_bytes(b"")  # no folder
    told = run(*arguments, code=2).stderr.splitlines()
    assert told[0].startswith(said) and len(told[0]) < 160, told
    assert len(told) <= 2
    assert client.list() == []


def test_answers_are_fetched_and_are_no_pictures(client: FarmClient, tmp_path: Path) -> None:
    (job,) = client.submit([CAT]).jobs
    render(client, job, answer=TOKENS)

    run("fetch", job, "--out", "here")
    assert (tmp_path / "here" / f"{job}.json").read_bytes() == TOKENS["answer.json"]
    run("fetch", job, "--all", "--out", "here")
    assert sorted(path.name for path in (tmp_path / "here" / job).iterdir()) == ["arrays.npz", "result.json"]
    (other,) = client.submit([CAT]).jobs
    render(client, other, answer=TOKENS)
    for command in (("sheet", job), ("film", job), ("trace", job), ("compare", job, other), ("rerun", job)):
        told = run(*command, code=1).stderr.splitlines()
        assert told[0] == f"farm: job {job} answers 'tokens' and has no picture", command
    assert "settings   tokens" in run("status", job).stdout
    assert list(tmp_path.glob("*.*")) == []


def test_a_sheet_with_axes_says_which_cell_has_no_picture(client: FarmClient, tmp_path: Path) -> None:
    batch = client.submit([CAT, JobRequest(prompt="a cat", model="emoji")])
    render(client, batch.jobs[0], answer=TOKENS)
    render(client, batch.jobs[1])
    assert "1 picture in 2 cells" in run("sheet", batch.batch, "--x", "mode").stdout


def test_what_is_not_an_answer_is_told(client: FarmClient) -> None:
    for data in (b"{}", b"not json", Similar(prompts=(), cosines=(), cut=()).model_dump_json().encode()):
        with answering(client, {"answer.json": data}), pytest.raises(ObjectDamaged, match="does not answer 'tokens'"):
            client.ask(CAT)
    with answering(client, {"answer.json": TOKENS["answer.json"]}):
        assert "has no arrays" in run("tokens", "a cat", "--npz", "a.npz", code=1).stderr
    assert not Path("a.npz").exists()


def test_what_is_no_study_cannot_be_asked(client: FarmClient) -> None:
    with pytest.raises(InvalidInput, match="'txt2img' cannot be asked"):
        client.ask(JobRequest(prompt="a cat"))
    (job,) = client.submit([JobRequest(prompt="a cat", model="emoji")]).jobs
    render(client, job)
    from farm.client.asking import answer_of

    with pytest.raises(ObjectMissing, match="is a picture, and answers nothing"):
        answer_of(client.storage, client.result(job))


def test_a_question_that_is_cancelled_has_no_answer(client: FarmClient, monkeypatch: pytest.MonkeyPatch) -> None:
    created = Ledger.create

    def cancelled(self: Ledger, batch: str, jobs: Any) -> list[str]:
        made = created(self, batch, jobs)
        self.cancel_many(made)
        return made

    monkeypatch.setattr(Ledger, "create", cancelled)
    with pytest.raises(RenderError, match=r"has no answer: it is cancelled") as told:
        client.ask(CAT)
    assert told.value.kind == "cancelled"


def test_a_question_that_is_interrupted_is_cancelled(client: FarmClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: FarmClient, jobs: Any, **__: Any) -> Iterator[Any]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(FarmClient, "watch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        client.ask(CAT)
    assert [status.state for status in client.list()] == ["cancelled"]


ROUNDTRIP = Roundtrip(
    encode="sample",
    pixels=(64, 64),
    latents=(4, 8, 8),
    numbers=(12_288, 256),
    psnr=27.314,
    amplified=8,
    channels=(Channel(low=0, high=1, mean=0, deviation=1),) * 4,
    sampler="lms",
    steps=15,
    noised=(Noised(step=10, timestep=285, alpha=1, sigma=2.125, psnr=None),),
)


def test_a_round_trip_tells_its_numbers_and_brings_all_it_made(client: FarmClient, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "teal").save("photo.png")
    objects = {"image.png": b"a", "answer.json": ROUNDTRIP.model_dump_json().encode(), "original.png": b"b"}
    with answering(client, objects):
        shown = run("submit", "roundtrip", "--init", "photo.png", "--noise-step", "10", "--steps", "15", "--out", "out")
    assert shown.stdout.splitlines()[-2:] == [
        "PSNR 27.31 dB · 12,288 numbers became 256, 48 times fewer",
        "  step 10 of 15  sigma 2.125 · no pixel differs",
    ]
    (status,) = client.list()
    assert (status.priority, status.prompt) == (9, "(roundtrip)")
    assert (tmp_path / "out" / f"{status.id}.png").read_bytes() == b"a"
    assert (tmp_path / "out" / status.id / "original.png").read_bytes() == b"b"
    assert f"farm trace {status.batch}" in shown.stderr
    assert "roundtrip · sample · noise of step 10 of 15 · lms · seed" in run("status", status.id).stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--init", "photo.txt"), "farm: --init: photo.txt is not a PNG, JPEG or WebP image"),
        (("--init", "nowhere.png"), "farm: --init: nowhere.png cannot be read: No such file or directory"),
        (
            ("--init", "photo.png", "--noise-step", "15", "--steps", "15"),
            "farm: the noise step 15 is not one of the 15",
        ),
        (("--init", "photo.png", *(["--noise-step", "1"] * 17)), "farm: --noise-step: there are more than 16"),
        (("--init", "photo.png", "--noise-step", "-1"), "farm: --noise-step: -1: input should be greater"),
    ],
)
def test_a_round_trip_that_cannot_be_is_told_in_a_line(arguments: tuple[str, ...], said: str) -> None:
    Image.new("RGB", (64, 64), "teal").save("photo.png")
    Path("photo.txt").write_text("x", encoding="utf-8")
    assert run("submit", "roundtrip", *arguments, code=2).stderr.startswith(said)


def test_a_batch_file_has_round_trips_beside_pictures(client: FarmClient) -> None:
    Image.new("RGB", (64, 64), "teal").save("photo.png")
    jobs = [
        {"prompt": "a cat"},
        {
            "mode": "roundtrip",
            "init": "photo.png",
            "product": {"encode": ["mean", "sample"], "noise_steps": [[4], [10]]},
        },
    ]
    Path("jobs.json").write_text(json.dumps({"defaults": {"steps": 15}, "jobs": jobs}), encoding="utf-8")
    run("submit", "batch", "jobs.json")
    specs = [client.ledger.spec(status.id) for status in reversed(client.list())]
    assert [(spec.mode, spec.start.encode, spec.noise_steps, spec.steps) for spec in specs] == [
        ("txt2img", "sample", (), 15),
        *(("roundtrip", encode, (step,), 15) for encode in ("mean", "sample") for step in (4, 10)),
    ]
    assert [status.priority for status in reversed(client.list())] == [5, 9, 9, 9, 9]
    bad = {"jobs": [{"mode": "roundtrip", "init": "photo.png", "prompt": "a cat"}]}
    Path("bad.json").write_text(json.dumps(bad), encoding="utf-8")
    assert "job 1: roundtrip has no use for 'prompt'" in run("submit", "batch", "bad.json", code=2).stderr
