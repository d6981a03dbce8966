"""LoRAs that the farm keeps: added once by content, meant by name in jobs, and not removed while jobs wait for them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from farm import keys
from farm.bucket.loras import LORAS
from farm.bucket.manifest import read_manifest
from farm.cli.main import farm as command
from farm.client import FarmClient, models
from farm.client.lora_names import with_files
from farm.client.loras import FileBefore, RemovedLora, add, remove
from farm.client.planning import dry_run
from farm.client.rerun import Made, draft_again
from farm.errors import InvalidInput, ModelError, ObjectDamaged, WrongState
from farm.jobs.request import JobRequest
from farm.jobs.spec import JobSpec
from farm.ledger.records import NewJob
from farm.settings import Settings
from tests.environments import naming
from tests.fakes.ledger import FakeLedger
from tests.fakes.storage import FakeStorage
from tests.models_on_disk import write_folder, write_weights

BATCH = "0" * 16
LAYER = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"


def a_file(path: Path, *, fill: int = 0, width: int = 768) -> Path:
    shapes = {f"{LAYER}.lora_down.weight": (4, width), f"{LAYER}.lora_up.weight": (320, 4), f"{LAYER}.alpha": ()}
    return write_weights(path, shapes, fill=fill, metadata={"ss_output_name": "more detail"})


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def jobs(**fields: Any) -> list[NewJob]:
    asked = JobRequest.parse({"prompt": "a cat", "seed": 1, "model": "unknown", **fields})
    specs = asked.specs(None, default_model="unknown")
    return [NewJob(keys.job_in_batch(BATCH, index), spec, 5, {}) for index, spec in enumerate(specs)]


@pytest.fixture
def ledger() -> FakeLedger:
    return FakeLedger()


@pytest.fixture
def bucket() -> FakeStorage:
    return FakeStorage()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return a_file(tmp_path / "detail.safetensors")


def blobs(bucket: FakeStorage) -> set[str]:
    return {key for key in bucket.objects if key.startswith(keys.LORA_BLOBS)}


# Keeping


def test_a_lora_is_kept_by_what_is_in_its_file_and_told_by_its_header(
    ledger: FakeLedger, bucket: FakeStorage, file: Path
) -> None:
    added = add(ledger, bucket, "Detail_v1.5", str(file))

    lora = added.lora
    assert lora == LORAS.read(bucket, "Detail_v1.5")
    assert (lora.kind, lora.ranks, lora.unet, lora.text, lora.title) == ("sd1", (4,), True, False, "more detail")
    assert (lora.file.sha256, lora.file.size, lora.source) == (sha256(file), file.stat().st_size, str(file))
    assert len(lora.short_hash) == 12 and not lora.file.sha256.startswith(lora.short_hash)
    assert bucket.put_order == [f"loras/blobs/{sha256(file)}", "loras/Detail_v1.5.json"], "the manifest last"
    assert add(ledger, bucket, "Detail_v1.5", str(file)).sent == 0
    assert add(ledger, bucket, "the-same", str(file)).sent == 0


def test_what_is_no_lora_is_refused(ledger: FakeLedger, bucket: FakeStorage, tmp_path: Path) -> None:
    no_lora = write_weights(tmp_path / "x.safetensors", {"text_model.embeddings.token_embedding.weight": (2, 2)})
    with pytest.raises(InvalidInput, match=r"FILE: .* is a text encoder, and no LoRA"):
        add(ledger, bucket, "x", str(no_lora))
    with pytest.raises(InvalidInput, match=r"'../x' cannot name a LoRA"):
        add(ledger, bucket, "../x", str(no_lora))
    assert not bucket.objects


def test_the_file_that_jobs_wait_for_stays_when_another_takes_its_name(
    ledger: FakeLedger, bucket: FakeStorage, file: Path, tmp_path: Path
) -> None:
    other = a_file(tmp_path / "other.safetensors", fill=1)
    add(ledger, bucket, "a", str(file))
    with pytest.raises(WrongState, match="the farm has another LoRA 'a'"):
        add(ledger, bucket, "a", str(other))
    ledger.create(BATCH, with_files(bucket, jobs(loras=[{"name": "a"}])))

    assert add(ledger, bucket, "a", str(other), replace=True).before == FileBefore(sha256(file), deleted=False)
    assert blobs(bucket) == {keys.lora_blob(sha256(file)), keys.lora_blob(sha256(other))}

    add(ledger, bucket, "third", str(a_file(tmp_path / "third.safetensors", fill=2)))
    bucket.modified[keys.lora_blob(sha256(file))] -= timedelta(days=2)
    remove(ledger, bucket, "third")
    assert blobs(bucket) == {keys.lora_blob(sha256(file)), keys.lora_blob(sha256(other))}, "it is waited for still"

    ledger.cancel(f"{BATCH}-0000")
    assert add(ledger, bucket, "a", str(file), replace=True).before == FileBefore(sha256(other), deleted=True)
    assert blobs(bucket) == {keys.lora_blob(sha256(file))}, "nobody waits for the other"


def test_one_that_jobs_wait_for_or_are_rendered_with_is_not_removed(
    ledger: FakeLedger, bucket: FakeStorage, file: Path
) -> None:
    add(ledger, bucket, "a", str(file))
    add(ledger, bucket, "other-name", str(file))
    first, second = with_files(bucket, jobs(loras=[{"name": "a"}], count=2))
    ledger.create(BATCH, [first, second])
    assert ledger.claim(first.id, "w1")

    kept = FileBefore(sha256(file), deleted=False, names=("other-name",))
    assert remove(ledger, bucket, "a") == RemovedLora("a", 0, kept, waiting=0), "what jobs wait for stays"
    with pytest.raises(WrongState, match=r"^2 jobs wait for the LoRA 'other-name' \("):
        remove(ledger, bucket, "other-name")
    ledger.cancel(second.id)
    with pytest.raises(WrongState, match=r"^1 job waits for the LoRA 'other-name' \("):
        remove(ledger, bucket, "other-name")
    gone = FileBefore(sha256(file), deleted=True)
    assert remove(ledger, bucket, "other-name", force=True) == RemovedLora("other-name", file.stat().st_size, gone, 1)
    assert not blobs(bucket)
    with pytest.raises(ModelError, match=r"the farm keeps no LoRA 'a' .*farm loras add a=FILE"):
        remove(ledger, bucket, "a")


def test_a_manifest_that_is_none_is_told(bucket: FakeStorage, ledger: FakeLedger, file: Path) -> None:
    manifest = json.loads(add(ledger, bucket, "a", str(file)).lora.model_dump_json())
    manifest["files"] = {"another.bin": manifest["files"]["lora.safetensors"]}
    bucket.put("loras/a.json", json.dumps(manifest).encode(), "application/json")
    with pytest.raises(ObjectDamaged, match=r"loras/a.json is not a LoRA's manifest: it is not of one file"):
        LORAS.read(bucket, "a")


# Names in jobs


def test_names_become_files_as_jobs_are_submitted(ledger: FakeLedger, bucket: FakeStorage, file: Path) -> None:
    lora = add(ledger, bucket, "a", str(file)).lora
    first, second = with_files(bucket, [*jobs(prompt="a cat <lora:a:0.5>"), *jobs()])

    [use] = first.spec.loras
    assert (use.sha256, use.short_hash, use.unet, use.text) == (sha256(file), lora.short_hash, 0.5, 0.5)
    assert second == jobs()[0]


def test_unknown_names_are_told_together_with_those_that_may_be_meant(
    ledger: FakeLedger, bucket: FakeStorage, file: Path
) -> None:
    for name in ("add_detail", "Pastel-Style"):
        add(ledger, bucket, name, str(file))
    with pytest.raises(InvalidInput) as caught:
        with_files(bucket, jobs(loras=[{"name": name} for name in ("detail", "pastel_style", "add_detail", "zzz")]))
    assert caught.value.message == "loras: the farm keeps no LoRA 'detail', 'pastel_style', 'zzz'"
    assert caught.value.hint and caught.value.hint.startswith(
        "did you mean 'add_detail' or 'Pastel-Style'? 'farm loras'"
    )


def test_whoever_names_a_lora_that_cannot_be_had_is_told(
    shell: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(*arguments: str) -> str:
        refused = shell("submit", *arguments, "--json")
        assert refused.exit_code == 2
        return str(json.loads(refused.stdout)["error"]["message"])

    shell("loras", "add", f"sd1={a_file(tmp_path / 'sd1.safetensors')}")
    other = "'sd1' is for Stable Diffusion 1, and the model 'emoji' is of another size"
    tagged = ("a cat <lora:x:0.5><lora:z>", "--lora", "y", "--model", "emoji")
    assert said("txt2img", *tagged[:1]) == "PROMPT: the farm keeps no LoRA 'x', 'z'"
    assert said("txt2img", *tagged) == "--lora: the farm keeps no LoRA 'y'", "what comes first, first"
    assert said("txt2img", "a cat", "--mix-with", "a <lora:x>:0.5") == "--mix-with: the farm keeps no LoRA 'x'"
    assert said("grid", "a cat <lora:x>", "--x", "steps=1,2") == "PROMPT: the farm keeps no LoRA 'x'"
    assert said("txt2img", "a <lora:sd1>", "--model", "emoji") == f"PROMPT: {other}"

    monkeypatch.chdir(tmp_path)
    entries = [{"prompt": "a cat", "count": 2}, {"prompt": "a <lora:x>"}, {"prompt": "a cat", "loras": [{"name": "y"}]}]
    Path("sweep.json").write_text(json.dumps({"jobs": entries}))
    assert said("batch", "sweep.json") == "sweep.json: job 2: prompt: the farm keeps no LoRA 'x'"
    Path("sweep.json").write_text(json.dumps({"jobs": [entries[0], entries[2]]}))
    assert said("batch", "sweep.json") == "sweep.json: job 2: loras: the farm keeps no LoRA 'y'"
    fits = {"prompt": "a <lora:sd1>", "model": "unknown"}
    Path("sweep.json").write_text(json.dumps({"jobs": [fits, {**fits, "model": "emoji"}]}))
    assert said("batch", "sweep.json") == f"sweep.json: job 2: prompt: {other}"


def test_a_lora_for_other_models_is_refused_where_that_is_known(
    ledger: FakeLedger, bucket: FakeStorage, file: Path, tmp_path: Path
) -> None:
    add(ledger, bucket, "sd1", str(file))
    add(ledger, bucket, "xl", str(a_file(tmp_path / "xl.safetensors", width=2048)))
    add(ledger, bucket, "small", str(a_file(tmp_path / "small.safetensors", width=160)))
    models.add(ledger, bucket, "mine", str(write_folder(tmp_path / "model")))
    fits = {
        (model, name)
        for model in ("mine", "sd14", "emoji", "unknown")
        for name in ("sd1", "xl", "small")
        if _is_taken(bucket, model, name)
    }
    assert fits == {
        *[("mine", "sd1"), ("mine", "small"), ("sd14", "sd1"), ("sd14", "small")],
        *[("emoji", "small"), ("unknown", "sd1"), ("unknown", "xl"), ("unknown", "small")],
    }
    with pytest.raises(InvalidInput, match="'xl' is for SDXL, and the model 'mine' is Stable Diffusion 1"):
        with_files(bucket, jobs(loras=[{"name": "xl"}], model="mine"))
    with pytest.raises(InvalidInput, match="'sd1' is for Stable Diffusion 1, and the model 'emoji' is of another size"):
        with_files(bucket, jobs(loras=[{"name": "sd1"}], model="emoji"))


def _is_taken(bucket: FakeStorage, model: str, name: str) -> bool:
    try:
        with_files(bucket, jobs(loras=[{"name": name}], model=model))
    except InvalidInput:
        return False
    return True


def test_a_dry_run_looks_up_no_file(away_from_any_farm: None) -> None:
    [job] = dry_run([JobRequest(prompt="a cat <lora:a:0.5>", seed=1)])
    assert [(use.name, use.sha256) for use in job.spec.loras] == [("a", None)]


# Again


def rendered(bucket: FakeStorage, **fields: Any) -> JobSpec:
    return JobSpec.from_json(with_files(bucket, jobs(**fields))[0].spec.to_json())


def again(spec: JobSpec, bucket: FakeStorage, **changes: Any) -> JobSpec:
    draft = draft_again(Made(b"", spec), None, {name.replace("__", "."): value for name, value in changes.items()})
    assert draft.specs is not None
    return with_files(bucket, [NewJob(f"{BATCH}-0000", draft.specs[0], 5, {})])[0].spec


def test_a_picture_made_again_has_the_same_file_whatever_its_name_means_by_now(
    ledger: FakeLedger, bucket: FakeStorage, file: Path, tmp_path: Path
) -> None:
    add(ledger, bucket, "a", str(file))
    add(ledger, bucket, "kept-as", str(file))
    spec = rendered(bucket, prompt="a cat <lora:a:0.5:0.25>", loras=[{"name": "kept-as", "weight": -1}])
    add(ledger, bucket, "a", str(a_file(tmp_path / "other.safetensors", fill=1)), replace=True)

    assert again(spec, bucket) == spec
    changed = again(spec, bucket, loras__0__weight=0.5, steps=40)
    assert [(use.unet, use.text) for use in changed.loras] == [(0.5, 0.5), (0.25, 0.5)]
    assert {use.sha256 for use in changed.loras} == {sha256(file)}
    renamed = again(rendered(bucket, loras=[{"name": "kept-as"}]), bucket, loras__0__name="a")
    assert renamed.loras[0].sha256 == sha256(tmp_path / "other.safetensors"), "another name is another file"


def test_a_file_that_the_farm_has_no_longer_is_told(ledger: FakeLedger, bucket: FakeStorage, file: Path) -> None:
    add(ledger, bucket, "a", str(file))
    spec = rendered(bucket, loras=[{"name": "a"}])
    remove(ledger, bucket, "a")
    with pytest.raises(InvalidInput, match=f"the farm keeps the file of the LoRA 'a' no longer, .* {sha256(file)} "):
        again(spec, bucket)


def test_words_of_an_old_spec_that_look_like_a_tag_stay_words(bucket: FakeStorage) -> None:
    old = jobs()[0].spec
    prompts = (old.conditioning.prompts[0].model_copy(update={"text": "a <lora:a:1> sign"}),)
    old = old.model_copy(update={"conditioning": old.conditioning.model_copy(update={"prompts": prompts})})

    assert again(old, bucket) == old
    assert again(old, bucket, steps=40).loras == ()


# On real servers, and as commands


@pytest.fixture
def shell(client: FarmClient, servers: Settings) -> Callable[..., Result]:
    for name in LORAS.manifests(client.storage):
        remove(client.ledger, client.storage, name, force=True)
    return lambda *arguments: CliRunner().invoke(command, arguments, env=naming(servers))


def test_loras_are_added_listed_shown_named_and_removed(
    shell: Callable[..., Result], client: FarmClient, tmp_path: Path
) -> None:
    file = a_file(tmp_path / "detail.safetensors", width=160)
    assert "the farm has no LoRAs" in shell("loras").stderr
    assert shell("loras", "add", "detail").exit_code == 2

    added = json.loads(shell("loras", "add", f"detail={file}", "--json").stdout)
    assert added.pop("before") is None
    assert (added.pop("sent"), added["sha256"]) == (file.stat().st_size, sha256(file))
    assert json.loads(shell("loras", "--json").stdout) == [added]
    assert json.loads(shell("loras", "show", "detail", "--json").stdout) == added
    said = shell("loras", "add", f"detail={file}").stdout
    assert said == "detail: for Stable Diffusion, rank 4, 2.4 KiB, all of which was there\n"
    assert "its trainer calls it more detail" in shell("loras", "show", "detail").stdout
    assert "rank 4" in shell("loras").stdout

    for order in ("show", "remove"):
        assert "did you mean 'detail'? 'farm loras add detial=FILE' adds it" in shell("loras", order, "detial").stderr
    unknown = shell("submit", "txt2img", "a cat", "--lora", "detial:0.5", "--json")
    assert unknown.exit_code == 2
    assert json.loads(unknown.stdout)["error"]["hint"].startswith("did you mean 'detail'?")
    assert client.ledger.counts()["queued"] == 0
    told = json.loads(shell("submit", "txt2img", "a cat <lora:detail:0.5>", "--lora", "detail:text=0", "--json").stdout)
    [job] = read_manifest(client.storage, told["batch"]).jobs
    assert [(use.sha256, use.unet, use.text) for use in job.spec.loras] == [(sha256(file), 1.5, 0.5)]
    assert "lora detail unet 1.5, text 0.5" in shell("status", told["batch"]).stdout

    refused = shell("loras", "remove", "detail", "--json")
    assert json.loads(refused.stdout)["error"]["message"] == "1 job waits for the LoRA 'detail'"
    assert shell("cancel", told["batch"]).exit_code == 0
    assert json.loads(shell("loras", "remove", "detail", "--json").stdout) == {
        **{"name": "detail", "freed": added["size"], "waiting": 0},
        "before": {"sha256": sha256(file), "deleted": True, "names": []},
    }
    assert not list(client.storage.list(keys.LORA_BLOBS))


def test_what_becomes_of_a_file_that_is_taken_out_of_use_is_told(shell: Callable[..., Result], tmp_path: Path) -> None:
    old, new = (a_file(tmp_path / f"{fill}.safetensors", fill=fill, width=160) for fill in (0, 1))
    was, now = (f"({sha256(file)[:12]}…)" for file in (old, new))
    lost = "pictures made with it cannot be made again"
    for name in ("a", "b"):
        assert "…" not in shell("loras", "add", f"{name}={old}").stdout
    assert f"the file before {was} stays: 'b' has it too\n" in shell("loras", "add", f"a={new}", "--replace").stdout
    assert f"the file before {was} was deleted: {lost}\n" in shell("loras", "add", f"b={new}", "--replace").stdout
    batch = json.loads(shell("submit", "txt2img", "a cat <lora:b>", "--count", "2", "--json").stdout)["batch"]

    assert f"its file {now} stays: 'b' has it too\n" in shell("loras", "remove", "a", "--force").stdout
    replaced = shell("loras", "add", f"b={old}", "--replace").stdout
    assert f"the file before {now} stays while jobs wait for it; after that, {lost}\n" in replaced
    shell("loras", "add", f"b={new}", "--replace")
    removed = shell("loras", "remove", "b", "--force")
    assert f"its file {now} was deleted: {lost}\n" in removed.stdout
    assert re.search(r"\b2 jobs wait for it and fail\b", removed.stderr)
    shell("cancel", batch)
