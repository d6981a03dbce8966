from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from farm.errors import InvalidInput, ModelError, ModelUnavailable, StorageError
from farm.jobs.defaults import Defaults
from tests.tiny import LMS_CONFIG, PNDM_CONFIG, build_tiny_model
from tests.worker.models.original_layout import write_original_checkpoint
from worker.diffusion.preview import PreviewMap
from worker.diffusion.schedules import read_schedule
from worker.models import loader as loader_module
from worker.models.device import place
from worker.models.loader import ModelLoader
from worker.models.registry import Bucket, LocalDirectory, SingleFile, parse_source


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


@pytest.mark.long
def test_a_local_model(loader: ModelLoader, model: Path) -> None:
    loaded = loader.load("tiny", LocalDirectory(model))
    assert (loaded.name, loaded.source, loaded.revision) == ("tiny", str(model), None)
    assert (loaded.default_width, loaded.default_height, loaded.vae_factor) == (64, 64, 8)
    assert loaded.defaults.guidance == 7.5
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
    (model / "farm.json").write_text('{"guidance": 4.0, "loss_scale": 0.5}', encoding="utf-8")
    preview = PreviewMap(torch.ones(3, 4, 3, 3), torch.zeros(3))
    (model / "preview.json").write_text(preview.to_json(), encoding="utf-8")
    loaded = loader.load("tiny", LocalDirectory(model))
    assert loaded.defaults == Defaults(guidance=4.0, losses=0.5)
    assert torch.equal(loaded.preview.kernel, preview.kernel)


def test_a_model_that_is_not_told_of_frames_says_none(loader: ModelLoader, model: Path) -> None:
    (model / "farm.json").write_text('{"original_size": "4096x4096"}', encoding="utf-8")
    with pytest.raises(ModelError, match="says original_size, which models of Stable Diffusion are not told"):
        loader.load("tiny", LocalDirectory(model))


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


def spoil_a_weight(file: str, value: float = torch.nan) -> Callable[[Path], None]:
    def spoil(model: Path) -> None:
        path = model / f"{file}.safetensors"
        weights = load_file(path)
        weights[min(weights)].view(-1)[-1] = value
        save_file(weights, path, {"format": "pt"})

    return spoil


def overflow(model: Path) -> None:
    """Weights that are numbers, and make none of a picture."""
    path = model / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    weights["encoder.conv_out.weight"].fill_(1e38)
    save_file(weights, path, {"format": "pt"})


def add_tokens(directory: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(directory)
    tokenizer.add_tokens([f"<token-{number}>" for number in range(100)])
    tokenizer.save_pretrained(directory)


def shrink_vocabulary(directory: Path) -> None:
    CLIPTokenizer(vocab={"<|startoftext|>": 0, "<|endoftext|>": 1}, merges=[], model_max_length=77).save_pretrained(
        directory
    )


LFS_POINTER = """version https://git-lfs.github.com/spec/v1
oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393
size 12345
"""

SPOILT: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty": (empty, r"'tiny' has no .*model_index\.json .*diffusers' layout"),
    "index is no JSON": (lambda m: (m / "model_index.json").write_text("{", encoding="utf-8"), "cannot be read"),
    "index is a list": (lambda m: (m / "model_index.json").write_text("[]", encoding="utf-8"), "is not a JSON object"),
    "no scheduler": (
        lambda m: shutil.rmtree(m / "scheduler"),
        r"the model 'tiny' in \S+ has no scheduler/scheduler_config\.json \(fetch it again",
    ),
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
        "the model 'tiny' in .* has as its unet FluxTransformer2DModel, not UNet2DConditionModel",
    ),
    "code of its own": (
        lambda m: write_config(m / "model_index.json", unet=["my_unet", "MyUNet"]),
        "has as its unet MyUNet, not",
    ),
    "other class in the component": (
        lambda m: write_config(m / "vae" / "config.json", _class_name="AutoencoderTiny"),
        "has as its vae AutoencoderTiny, not AutoencoderKL",
    ),
    "no text encoder": (
        lambda m: write_config(m / "model_index.json", text_encoder=None),
        r"has no text_encoder in its model_index\.json",
    ),
    "farm.json": (
        lambda m: (m / "farm.json").write_text('{"guidance": "high"}', encoding="utf-8"),
        r"farm\.json is malformed",
    ),
    "no number": (
        lambda m: (m / "farm.json").write_text('{"guidance": NaN}', encoding="utf-8"),
        r"a guidance of nan is not between 0",
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
    "a configuration without end": (endless, r"'tiny' in .* has no unet/config\.json"),
    "enormous pictures": (
        lambda m: write_config(m / "unet" / "config.json", sample_size=10**6),
        "a sample_size of 1000000, .*64 to 2048 pixels",
    ),
    "pictures of no size": (lambda m: write_config(m / "unet" / "config.json", sample_size=[8, 8]), "a sample_size of"),
    "enormous layers": (
        lambda m: write_config(m / "unet" / "config.json", block_out_channels=[10**7, 10**7]),
        r"the unet of the model 'tiny' says block_out_channels = 10000000 \(models have 1 to 8,192\)",
    ),
    "layers without end": (
        lambda m: write_config(m / "unet" / "config.json", layers_per_block=10**9),
        "the unet of the model 'tiny' says layers_per_block = 1000000000",
    ),
    "levels without end": (
        lambda m: write_config(m / "vae" / "config.json", down_block_types=["DownEncoderBlock2D"] * 10_000),
        "the vae of the model 'tiny' has 10,000 down_block_types",
    ),
    "transformers without end": (
        lambda m: write_config(m / "unet" / "config.json", transformer_layers_per_block=[[1, 10**8]]),
        "says transformer_layers_per_block = 100000000",
    ),
    "a vocabulary without end": (
        lambda m: write_config(m / "text_encoder" / "config.json", vocab_size=10**12),
        "the text_encoder of the model 'tiny' says vocab_size = 1000000000000",
    ),
    "a number of many digits": (
        lambda m: write_config(m / "text_encoder" / "config.json", num_hidden_layers=10**400),
        "says num_hidden_layers = 1000000",
    ),
    "no number in a configuration": (
        lambda m: write_config(m / "vae" / "config.json", norm_num_groups=float("nan")),
        "says norm_num_groups = nan",
    ),
    "more layers than weights": (
        lambda m: write_config(m / "unet" / "config.json", block_out_channels=[4096, 8192]),
        r"cannot be loaded: it has [\d,]+ of the [\d,]+ weights of the unet",
    ),
    "enormous schedule": (
        lambda m: write_config(m / "scheduler" / "scheduler_config.json", num_train_timesteps=10**12),
        "trained on 1000000000000 noise levels",
    ),
    "another prediction": (
        lambda m: write_config(m / "scheduler" / "scheduler_config.json", prediction_type="sample"),
        "the model 'tiny' cannot be sampled: the model predicts 'sample'",
    ),
    "a schedule of words": (
        lambda m: write_config(m / "scheduler" / "scheduler_config.json", beta_end="big"),
        r"the model 'tiny' cannot be sampled: the model's scheduler_config\.json makes no schedule for 'lms'",
    ),
    "levels that are true": (
        lambda m: write_config(m / "scheduler" / "scheduler_config.json", num_train_timesteps=True),
        "trained on True noise levels",
    ),
    "no scaling": (lambda m: write_config(m / "vae" / "config.json", scaling_factor="x"), "the scaling_factor 'x'"),
    "an architecture that is a number": (
        lambda m: write_config(m / "text_encoder" / "config.json", architectures=5),
        r"says no class in text_encoder/config\.json",
    ),
    "heads of no width": (
        lambda m: write_config(m / "unet" / "config.json", attention_head_dim=0),
        r"says attention_head_dim = 0 \(models have 1 to 1,024\)",
    ),
    "an autoencoder of what is no number": (spoil_a_weight("vae/diffusion_pytorch_model"), "the vae of .* not finite"),
    "a UNet of infinity": (
        spoil_a_weight("unet/diffusion_pytorch_model", torch.inf),
        r"the unet of the model 'tiny' has weights that are not finite numbers, in \S+ \(the file is damaged",
    ),
    "a text encoder of what is no number": (spoil_a_weight("text_encoder/model"), "the text_encoder of .* not finite"),
    "an autoencoder that overflows": (
        overflow,
        "the model's autoencoder turns pictures into values that are not numbers",
    ),
    "another model's tokenizer": (
        lambda m: add_tokens(m / "tokenizer"),
        "the tokenizer of the model 'tiny' has 647 tokens, numbered up to 646, but its text encoder knows 547",
    ),
    "a tokenizer of few words": (
        lambda m: shrink_vocabulary(m / "tokenizer"),
        r"has [\d,]+ tokens, numbered up to [\d,]+, but its text encoder knows 547 \(they belong to different",
    ),
    "no tokenizer": (
        lambda m: (m / "tokenizer" / "tokenizer.json").unlink(),
        r"has no tokenizer/tokenizer\.json \(or vocab\.json and merges\.txt\)",
    ),
    "no room for a prompt": (
        lambda m: write_config(m / "tokenizer" / "tokenizer_config.json", model_max_length=2),
        "a model_max_length of 2",
    ),
    "a pointer in place of weights": (
        lambda m: (m / "vae" / "diffusion_pytorch_model.safetensors").write_text(LFS_POINTER),
        r"cannot be loaded: it is a pointer of Git LFS, not the file itself \('git lfs pull' in its repository",
    ),
    "a pointer in place of a configuration": (
        lambda m: (m / "vae" / "config.json").write_text(LFS_POINTER),
        "cannot be read: it is a pointer of Git LFS",
    ),
    "a header without end": (
        lambda m: (m / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(
            (2**62).to_bytes(8, "little") + b"{}"
        ),
        "cannot be loaded",
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("case", SPOILT)
def test_a_spoilt_model_is_refused(loader: ModelLoader, model: Path, case: str) -> None:
    spoil, message = SPOILT[case]
    spoil(model)
    with pytest.raises(ModelError, match=message):
        loader.load("tiny", LocalDirectory(model))


_THRESHOLDED = ("ddim", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m_sde", "unipc", "deis", "ddpm", "lcm")


def test_a_sampler_that_cannot_follow_the_schedule_is_told(
    loader: ModelLoader, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_config(model / "scheduler" / "scheduler_config.json", interpolation_type="cubic", thresholding=True)
    loaded = loader.load("tiny", LocalDirectory(model))
    warned = {record.getMessage().split(" will fail")[0] for record in caplog.records}
    expected = {f"jobs of the model 'tiny' with the sampler '{name}'" for name in ("euler", *_THRESHOLDED)}
    assert expected == {words for words in warned if words.startswith("jobs of the model")}
    assert read_schedule(loaded.scheduler_config, "lms", 20).steps == 20
    with pytest.raises(ModelError, match="asks 'ddim' for thresholding: true"):
        read_schedule(loaded.scheduler_config, "ddim", 20)


def test_an_offset_is_set_right_as_diffusers_pipelines_do(loader: ModelLoader, model: Path) -> None:
    write_config(model / "scheduler" / "scheduler_config.json", steps_offset=0)
    assert loader.load("tiny", LocalDirectory(model)).scheduler_config["steps_offset"] == 1


def test_a_model_that_has_no_room_to_render_says_so(
    loader: ModelLoader, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: Any) -> None:
        torch.empty(2**60, dtype=torch.uint8)

    monkeypatch.setattr(AutoencoderKL, "decode", no_room)
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
    with pytest.raises(InvalidInput, match="is pickled, which can run code, and is never opened"):
        parse_source(str(pickled))
    for file in (disguised, linked):
        with pytest.raises(ModelError, match="cannot be loaded: it is pickled whatever its name says"):
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
        with pytest.raises(
            ModelError,
            match=rf"has as its {component} Evil, not|the {component} of the model 'one' is of 'evil', and",
        ):
            loader.load("one", source)
    assert not mark.exists()


@pytest.mark.long
def test_a_checkpoint_is_read_through_a_link(loader: ModelLoader, tmp_path: Path) -> None:
    """As the hub's cache keeps files: the name is a link to a blob without one."""
    directory = build_tiny_model(tmp_path / "model", scheduler_config=PNDM_CONFIG)
    write_original_checkpoint(directory, tmp_path / "blob.safetensors").rename(tmp_path / "blob")
    (tmp_path / "one.safetensors").symlink_to(tmp_path / "blob")
    assert loader.load("one", parse_source(f"{tmp_path / 'one.safetensors'}#config={directory}")).name == "one"


@pytest.mark.long
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


def test_a_model_that_was_fetched_half_uploaded_is_fetched_anew(built: Path, tmp_path: Path) -> None:
    fetched: list[str] = []

    def fetch(url: str, directory: Path) -> None:
        shutil.copytree(built, directory, dirs_exist_ok=True)
        if not fetched:
            (directory / "vae" / "diffusion_pytorch_model.safetensors").unlink()
        fetched.append(url)

    loader = ModelLoader(place("cpu"), cache=tmp_path / "cache", fetch=fetch)
    with pytest.raises(ModelError, match="vae"):
        loader.load("mine", Bucket("s3://models/mine"))
    assert loader.load("mine", Bucket("s3://models/mine")).name == "mine"


def test_where_nothing_can_be_kept_a_model_in_a_bucket_may_come_later(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be", encoding="utf-8")
    loader = ModelLoader(place("cpu"), cache=tmp_path / "cache", fetch=lambda *_: None)
    with pytest.raises(ModelUnavailable, match=r"s3://models/mine cannot be kept in .*cache: "):
        loader.load("mine", Bucket("s3://models/mine"))


def test_without_a_bucket_client_a_bucket_is_refused(loader: ModelLoader) -> None:
    with pytest.raises(ModelError, match="this worker has no access to buckets"):
        loader.load("mine", Bucket("s3://models/mine"))
