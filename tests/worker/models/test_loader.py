from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from farm.errors import InvalidInput, ModelError, StorageError
from farm.spec import SAMPLERS
from tests.tiny import LMS_CONFIG, PNDM_CONFIG, build_tiny_model
from tests.worker.models.original_layout import write_original_checkpoint
from worker.diffusion.preview import PreviewMap
from worker.diffusion.schedules import read_schedule
from worker.diffusion.solvers import plan
from worker.models import loader as loader_module
from worker.models.device import place
from worker.models.loader import ModelLoader
from worker.models.registry import (
    HUB_FILES,
    STABLE_DIFFUSION_1_4,
    Bucket,
    Hub,
    LocalDirectory,
    SingleFile,
    parse_source,
)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("built"))


@pytest.fixture
def model(built: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to be spoiled."""
    return shutil.copytree(built, tmp_path / "model")


@pytest.fixture
def loader(tmp_path: Path) -> ModelLoader:
    return ModelLoader(place("cpu"), cache=tmp_path / "cache")


def test_a_local_model(loader: ModelLoader, model: Path) -> None:
    loaded = loader.load("tiny", LocalDirectory(model))
    assert (loaded.name, loaded.source, loaded.revision) == ("tiny", str(model), None)
    assert (loaded.default_width, loaded.default_height, loaded.vae_factor) == (64, 64, 8)
    assert loaded.default_guidance == 7.5
    assert loaded.scheduler_config == {**LMS_CONFIG, "prediction_type": "epsilon"}
    assert loaded.dtype == loaded.unet.dtype == loaded.vae.dtype == loaded.text_encoder.dtype == torch.float32
    assert loaded.prompts.tokens == 77
    assert loaded.preview.kernel.shape == (3, 4, 3, 3)
    weights = sum(path.stat().st_size for path in model.rglob("*.safetensors"))
    assert loaded.size == pytest.approx(weights, rel=0.02)
    for module in (loaded.unet, loaded.vae, loaded.text_encoder):
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())


def test_the_tiny_model_is_the_same_every_time(built: Path, tmp_path: Path) -> None:
    again = build_tiny_model(tmp_path / "again")
    other = build_tiny_model(tmp_path / "other", seed=1)
    weights = Path("unet") / "diffusion_pytorch_model.safetensors"
    assert (again / weights).read_bytes() == (built / weights).read_bytes()
    assert (other / weights).read_bytes() != (built / weights).read_bytes()


def test_a_model_says_what_suits_it(loader: ModelLoader, model: Path) -> None:
    (model / "farm.json").write_text('{"guidance": 4.0}', encoding="utf-8")
    preview = PreviewMap(torch.ones(3, 4, 3, 3), torch.zeros(3))
    (model / "preview.json").write_text(preview.to_json(), encoding="utf-8")
    loaded = loader.load("tiny", LocalDirectory(model))
    assert loaded.default_guidance == 4.0
    assert torch.equal(loaded.preview.kernel, preview.kernel)


def test_a_half_precision_model_is_computed_in_float32_on_a_cpu(loader: ModelLoader, model: Path) -> None:
    for path in model.rglob("*.safetensors"):
        save_file({key: value.half() for key, value in load_file(path).items()}, path, {"format": "pt"})
    loaded = loader.load("tiny", LocalDirectory(model))
    assert loaded.unet.dtype == loaded.vae.dtype == loaded.text_encoder.dtype == torch.float32


def write_config(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def empty(model: Path) -> None:
    shutil.rmtree(model)
    model.mkdir()


def pickle_weights(model: Path) -> None:
    (model / "vae" / "diffusion_pytorch_model.safetensors").rename(model / "vae" / "diffusion_pytorch_model.bin")


def drop_a_weight(model: Path) -> None:
    path = model / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    del weights["conv_out.bias"]
    save_file(weights, path, {"format": "pt"})


def truncate(model: Path) -> None:
    path = model / "text_encoder" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def endless(model: Path) -> None:
    (model / "unet" / "config.json").unlink()
    (model / "unet" / "config.json").symlink_to("/dev/zero")


SPOILT: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty": (empty, r"'tiny' has no .*model_index\.json .*diffusers' layout"),
    "index is no JSON": (lambda m: (m / "model_index.json").write_text("{", encoding="utf-8"), "cannot be read"),
    "index is a list": (lambda m: (m / "model_index.json").write_text("[]", encoding="utf-8"), "is not a JSON object"),
    "no scheduler": (lambda m: shutil.rmtree(m / "scheduler"), r"has no .*scheduler_config\.json"),
    "no vae": (lambda m: shutil.rmtree(m / "vae"), r"has no .*vae/config\.json"),
    "pickled": (pickle_weights, r"only pickled weights in .*vae \(diffusion_pytorch_model\.bin\), which can run code"),
    "no weights": (
        lambda m: (m / "unet" / "diffusion_pytorch_model.safetensors").unlink(),
        r"has no \.safetensors weights in .*unet",
    ),
    "truncated weights": (truncate, r"cannot be loaded"),
    "a weight too few": (drop_a_weight, r"unet lacks 1 weights, such as conv_out\.bias"),
    "another shape": (lambda m: write_config(m / "unet" / "config.json", cross_attention_dim=48), "cannot be loaded"),
    "other pipeline": (
        lambda m: write_config(m / "model_index.json", unet=["diffusers", "FluxTransformer2DModel"]),
        "the unet of the model 'tiny' is FluxTransformer2DModel, not UNet2DConditionModel",
    ),
    "code of its own": (
        lambda m: write_config(m / "model_index.json", unet=["my_unet", "MyUNet"]),
        "the unet of the model 'tiny' is MyUNet",
    ),
    "other class in the component": (
        lambda m: write_config(m / "vae" / "config.json", _class_name="AutoencoderTiny"),
        "the vae of the model 'tiny' is AutoencoderTiny, not AutoencoderKL",
    ),
    "no text encoder": (
        lambda m: write_config(m / "model_index.json", text_encoder=None),
        "the text_encoder of the model 'tiny' is missing",
    ),
    "farm.json": (
        lambda m: (m / "farm.json").write_text('{"guidance": "high"}', encoding="utf-8"),
        r"farm\.json is malformed",
    ),
    "no number": (
        lambda m: (m / "farm.json").write_text('{"guidance": NaN}', encoding="utf-8"),
        r"a guidance of nan is not from 0",
    ),
    "preview.json": (
        lambda m: (m / "preview.json").write_text("{}", encoding="utf-8"),
        r"preview\.json is not a preview map",
    ),
    "another model's preview": (
        lambda m: (m / "preview.json").write_text(
            PreviewMap(torch.ones(3, 3, 3, 3), torch.zeros(3)).to_json(), encoding="utf-8"
        ),
        r"preview\.json is not a preview map of this model",
    ),
    "a preview of no numbers": (
        lambda m: (m / "preview.json").write_text(
            PreviewMap(torch.full((3, 4, 3, 3), torch.nan), torch.zeros(3)).to_json(), encoding="utf-8"
        ),
        r"preview\.json is not a preview map",
    ),
    "nested without end": (
        lambda m: (m / "unet" / "config.json").write_text("[" * 200_000, encoding="utf-8"),
        "nested too deeply",
    ),
    "nested guidance": (
        lambda m: (m / "farm.json").write_text('{"guidance": ' + "[" * 200_000, encoding="utf-8"),
        "nested too deeply",
    ),
    "an enormous guidance": (
        lambda m: (m / "farm.json").write_text('{"guidance": 1' + "0" * 400 + "}", encoding="utf-8"),
        r"farm\.json is malformed",
    ),
    "a configuration without end": (endless, r"config\.json of the model 'tiny' cannot be read: .*more than 4 MiB"),
    "enormous pictures": (
        lambda m: write_config(m / "unet" / "config.json", sample_size=10**6),
        "a sample_size of 1000000, .*64 to 2048 pixels",
    ),
    "pictures of no size": (lambda m: write_config(m / "unet" / "config.json", sample_size=[8, 8]), "a sample_size of"),
    "enormous layers": (
        lambda m: write_config(m / "unet" / "config.json", block_out_channels=[10**7, 10**7]),
        "cannot be loaded",
    ),
    "enormous schedule": (
        lambda m: write_config(m / "scheduler" / "scheduler_config.json", num_train_timesteps=10**12),
        "trained on 1000000000000 noise levels",
    ),
    "no scaling": (lambda m: write_config(m / "vae" / "config.json", scaling_factor="x"), "the scaling_factor 'x'"),
    "an architecture that is a number": (
        lambda m: write_config(m / "text_encoder" / "config.json", architectures=5),
        "text_encoder of the model 'tiny' is missing",
    ),
    "heads of no width": (
        lambda m: write_config(m / "unet" / "config.json", attention_head_dim=0),
        "cannot be loaded",
    ),
    "a header without end": (
        lambda m: (m / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(
            (2**62).to_bytes(8, "little") + b"{}"
        ),
        "cannot be loaded",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_spoilt_model_is_refused(loader: ModelLoader, model: Path, case: str) -> None:
    spoil, message = SPOILT[case]
    spoil(model)
    with pytest.raises(ModelError, match=message):
        loader.load("tiny", LocalDirectory(model))


def test_a_model_that_has_no_room_to_render_says_so(
    loader: ModelLoader, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: Any) -> None:
        torch.empty(2**60, dtype=torch.uint8)

    monkeypatch.setattr(loader_module.AutoencoderKL, "decode", no_room)
    monkeypatch.setattr(loader_module, "fit_preview_map", lambda _: PreviewMap(torch.zeros(3, 4, 3, 3), torch.zeros(3)))
    with pytest.raises(ModelError, match=r"the model 'tiny' cannot render a picture on cpu: .*can't allocate memory"):
        loader.load("tiny", LocalDirectory(model))


class Opened:
    """Pickled, it makes a folder when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


ASKING_FOR_CODE: dict[str, Callable[[Path], Any]] = {
    "text encoder": lambda m: write_config(m / "text_encoder" / "config.json", auto_map={"AutoModel": "evil.Evil"}),
    "tokenizer": lambda m: write_config(
        m / "tokenizer" / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]}
    ),
    "kernels of the hub": lambda m: write_config(
        m / "text_encoder" / "config.json", _attn_implementation="evil/kernel"
    ),
    "quantization": lambda m: write_config(m / "unet" / "config.json", quantization_config={"quant_method": "evil"}),
    "adapter": lambda m: (m / "text_encoder" / "adapter_config.json").write_text(
        '{"peft_type": "LORA"}', encoding="utf-8"
    ),
}


@pytest.mark.parametrize("case", ASKING_FOR_CODE)
def test_a_model_that_asks_for_code_is_refused(loader: ModelLoader, model: Path, tmp_path: Path, case: str) -> None:
    mark = tmp_path / "ran"
    for folder in (model, *(folder for folder in model.iterdir() if folder.is_dir())):
        (folder / "evil.py").write_text(f"import os\nos.mkdir({str(mark)!r})\nclass Evil: ...\n", encoding="utf-8")
    ASKING_FOR_CODE[case](model)
    with pytest.raises(ModelError, match=r"asks for .*, which is not loaded here"):
        loader.load("tiny", LocalDirectory(model))
    assert not mark.exists()


def test_pickled_weights_beside_the_others_are_never_opened(loader: ModelLoader, model: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    for name in (
        "unet/diffusion_pytorch_model.bin",
        "vae/diffusion_pytorch_model.bin",
        "text_encoder/pytorch_model.bin",
    ):
        (model / name).write_bytes(pickle.dumps(Opened(mark)))
    assert loader.load("tiny", LocalDirectory(model)).name == "tiny"
    assert not mark.exists()


def test_a_pickle_by_another_name_is_never_opened(loader: ModelLoader, built: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    pickled, disguised, linked = (tmp_path / name for name in ("a.ckpt", "b.safetensors", "c.safetensors"))
    pickled.write_bytes(pickle.dumps(Opened(mark)))
    disguised.write_bytes(pickled.read_bytes())
    linked.symlink_to(pickled)
    with pytest.raises(InvalidInput, match="is no model source"):
        parse_source(str(pickled))
    for file in (disguised, linked):
        with pytest.raises(ModelError, match="cannot be loaded"):
            loader.load("one", parse_source(f"{file}#config={built}"))
    assert not mark.exists()


@pytest.mark.parametrize("component", ["scheduler", "unet", "tokenizer", "safety_checker"])
def test_a_checkpoints_configuration_cannot_import_a_module(
    loader: ModelLoader, built: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, component: str
) -> None:
    mark = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"import os\nos.mkdir({str(mark)!r})\nclass Evil: ...\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    file = write_original_checkpoint(built, tmp_path / "one.safetensors")
    write_config(model / "model_index.json", **{component: ["evil", "Evil"]})
    for source in (SingleFile(file, model), LocalDirectory(model)):
        with pytest.raises(ModelError, match=f"the {component} of the model 'one' is "):
            loader.load("one", source)
    assert not mark.exists()


def test_a_checkpoint_is_read_through_a_link(loader: ModelLoader, tmp_path: Path) -> None:
    """As the hub's cache keeps files: the name is a link to a blob without one."""
    directory = build_tiny_model(tmp_path / "model", scheduler_config=PNDM_CONFIG)
    write_original_checkpoint(directory, tmp_path / "blob.safetensors").rename(tmp_path / "blob")
    (tmp_path / "one.safetensors").symlink_to(tmp_path / "blob")
    assert loader.load("one", parse_source(f"{tmp_path / 'one.safetensors'}#config={directory}")).name == "one"


def test_a_hub_model_is_asked_for_by_revision_and_files(
    loader: ModelLoader, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def snapshot_download(repository: str, **options: Any) -> str:
        asked.update(options, repository=repository)
        return str(model)

    monkeypatch.setattr(loader_module, "snapshot_download", snapshot_download)
    loaded = loader.load("mine", Hub("owner/name", "abc123"))
    assert asked == {"repository": "owner/name", "revision": "abc123", "allow_patterns": list(HUB_FILES)}
    assert (loaded.source, loaded.revision) == ("hub:owner/name@abc123", "abc123")


def test_without_a_network_the_hub_is_named(loader: ModelLoader, monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(*_args: Any, **_options: Any) -> str:
        raise LocalEntryNotFoundError("Cannot find an appropriate cached snapshot folder\nand more")

    monkeypatch.setattr(loader_module, "snapshot_download", snapshot_download)
    with pytest.raises(ModelError, match=r"v1-4@133a\w* cannot be downloaded .*snapshot folder \(.*sd14=DIRECTORY\)"):
        loader.load("sd14", STABLE_DIFFUSION_1_4)
    with pytest.raises(ModelError, match=r"cannot be downloaded .*mine=/m\.safetensors#config=DIRECTORY"):
        loader.load("mine", SingleFile(Path("/m.safetensors"), None))


def test_a_model_in_a_bucket_is_fetched_once(built: Path, tmp_path: Path) -> None:
    fetched: list[str] = []

    def fetch(url: str, directory: Path) -> None:
        fetched.append(url)
        shutil.copytree(built, directory, dirs_exist_ok=True)

    loader = ModelLoader(place("cpu"), cache=tmp_path / "cache", fetch=fetch)
    for _ in range(2):
        assert loader.load("mine", Bucket("s3://models/mine")).source == "s3://models/mine"
    assert fetched == ["s3://models/mine"]


def test_a_fetch_that_fails_is_tried_again(built: Path, tmp_path: Path) -> None:
    failures = [StorageError("the bucket does not answer")]

    def fetch(_url: str, directory: Path) -> None:
        if failures:
            raise failures.pop()
        shutil.copytree(built, directory, dirs_exist_ok=True)

    loader = ModelLoader(place("cpu"), cache=tmp_path / "cache", fetch=fetch)
    with pytest.raises(StorageError):
        loader.load("mine", Bucket("s3://models/mine"))
    assert loader.load("mine", Bucket("s3://models/mine")).name == "mine"


def test_without_a_bucket_client_a_bucket_is_refused(loader: ModelLoader) -> None:
    with pytest.raises(ModelError, match="this worker has no access to buckets"):
        loader.load("mine", Bucket("s3://models/mine"))


def test_a_checkpoint_in_the_original_layout_is_the_same_model(loader: ModelLoader, tmp_path: Path) -> None:
    directory = build_tiny_model(tmp_path / "as published", scheduler_config=PNDM_CONFIG)
    file = write_original_checkpoint(directory, tmp_path / "one.safetensors")
    expected = loader.load("tiny", LocalDirectory(directory))
    loaded = loader.load("one", SingleFile(file, directory))
    for component in ("unet", "vae", "text_encoder"):
        weights = getattr(loaded, component).state_dict()
        for key, value in getattr(expected, component).state_dict().items():
            assert torch.equal(weights[key], value), f"{component}.{key}"
    prompt = "a red cat"
    assert torch.equal(loaded.prompts.encode(prompt).embedding, expected.prompts.encode(prompt).embedding)
    for sampler in SAMPLERS:
        left, right = (read_schedule(model.scheduler_config, sampler, 20) for model in (loaded, expected))
        np.testing.assert_array_equal(plan(left).table, plan(right).table)


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("model.diffusion_model.out.2.bias", "weights of the unet"),
        ("first_stage_model.decoder.conv_out.bias", "weights of the vae"),
        ("cond_stage_model.transformer.text_model.final_layer_norm.weight", "weights of the text_encoder"),
        ("cond_stage_model.transformer.text_model.embeddings.position_embedding.weight", "cannot be loaded"),
        ("model.diffusion_model.input_blocks.0.0.weight", "cannot be loaded"),
    ],
)
def test_an_incomplete_checkpoint_is_refused(
    loader: ModelLoader, built: Path, tmp_path: Path, lost: str, message: str
) -> None:
    file = write_original_checkpoint(built, tmp_path / "one.safetensors")
    weights = load_file(file)
    del weights[lost]
    save_file(weights, file)
    with pytest.raises(ModelError, match=message):
        loader.load("one", SingleFile(file, built))


def test_what_is_no_checkpoint_is_refused(loader: ModelLoader, built: Path, tmp_path: Path) -> None:
    file = tmp_path / "text.safetensors"
    file.write_text("not weights at all", encoding="utf-8")
    with pytest.raises(ModelError, match=r"text\.safetensors cannot be loaded"):
        loader.load("one", SingleFile(file, built))
