"""What is said with a source: an autoencoder of its own, what is predicted, zero terminal SNR."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from farm.errors import ModelError
from tests.tiny import build_tiny_model, build_tiny_xl
from tests.worker.models.original_layout import original_vae, read_config, write_original_checkpoint
from tests.worker.models.test_single_files import with_weights
from worker.models.components import read_checkpoint, read_directory
from worker.models.device import place
from worker.models.loader import ModelLoader
from worker.models.registry import Bucket, LocalDirectory, Options, SingleFile, parse_source

Named = dict[str, Tensor]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with another autoencoder."""
    return build_tiny_model(tmp_path_factory.mktemp("other"), seed=7)


@pytest.fixture(scope="module")
def checkpoint(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_original_checkpoint(built, tmp_path_factory.mktemp("checkpoint") / "one.safetensors")


@pytest.fixture
def loader(tmp_path: Path) -> ModelLoader:
    return ModelLoader(place("cpu"), cache=tmp_path / "cache", fetch=lambda url, to: fetch(url, to))


def fetch(url: str, directory: Path) -> None:
    shutil.copytree(url.removeprefix("s3://"), directory, dirs_exist_ok=True)


def of_diffusers(model: Path) -> Named:
    return load_file(model / "vae" / "diffusion_pytorch_model.safetensors")


def of_2022(model: Path) -> Named:
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = of_diffusers(model)
    for new, name in old.items():
        weights = {key.replace(f"attentions.0.{new}", f"attentions.0.{name}"): value for key, value in weights.items()}
    return weights


def of_the_original(model: Path) -> Named:
    named = original_vae(of_diffusers(model), read_config(model, "vae"), prefix="")
    return {**named, "loss.logvar": torch.zeros(()), "model_ema.decay": torch.zeros(())}


def in_half(model: Path) -> Named:
    return {key: value.half() for key, value in of_the_original(model).items()}


def of_a_whole_checkpoint(model: Path) -> Named:
    return load_file(write_original_checkpoint(model, model / "whole.safetensors"))


def write(weights: Named, file: Path) -> Path:
    save_file({key: value.contiguous() for key, value in weights.items()}, file)
    return file


@pytest.mark.long
@pytest.mark.parametrize("written", [of_diffusers, of_2022, of_the_original, in_half, of_a_whole_checkpoint])
def test_an_autoencoder_in_a_file_of_any_layout(
    built: Path, other: Path, tmp_path: Path, written: Callable[[Path], Named]
) -> None:
    file = write(written(other), tmp_path / "better.safetensors")
    weights = read_directory("mine", built, place("cpu"), Options(vae=file)).vae.state_dict()
    for key, value in of_diffusers(other).items():
        assert torch.equal(weights[key], value.half().float() if written is in_half else value), key


@pytest.mark.long
def test_an_autoencoder_takes_the_place_of_any_models(
    loader: ModelLoader, built: Path, other: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """Of a folder's, a bucket's and a file's, which need have none of their own."""
    file = write(of_the_original(other), tmp_path / "better.safetensors")
    lacking = Path(shutil.copytree(built, tmp_path / "lacking"))
    (lacking / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    without = {key: None for key in load_file(checkpoint) if key.startswith("first_stage_model.")}
    options = Options(vae=file)
    sources = (
        LocalDirectory(lacking, options),
        Bucket(f"s3://{built}", options),
        SingleFile(with_weights(checkpoint, tmp_path / "less.safetensors", dict(without)), built, options),
    )
    for source in sources:
        model = loader.load("mine", source)
        weights = model.vae.state_dict()
        assert all(torch.equal(weights[key], value) for key, value in of_diffusers(other).items())
        assert (model.vae_file, model.vae_sha256) == (file.name, hashlib.sha256(file.read_bytes()).hexdigest())
        assert model.source == str(source)
        assert model.source.endswith(f"#vae={file}")
    plain = loader.load("mine", LocalDirectory(built))
    assert (plain.vae_file, plain.vae_sha256) == (None, None)


WRONG: dict[str, tuple[Callable[[Path], Named], str]] = {
    "a LoRA": (lambda _: {"lora_unet_mid.lora_down.weight": torch.zeros(1)}, "is a LoRA, not an autoencoder .*#vae="),
    "a UNet": (lambda _: {"input_blocks.0.0.weight": torch.zeros(1, 2, 3)}, "is only a UNet, not an autoencoder"),
    "nothing": (lambda _: {}, "is a file without any weights, not an autoencoder"),
    "16 channels": (
        lambda model: {**of_the_original(model), "decoder.conv_in.weight": torch.zeros(16, 16, 3, 3)},
        r"decoder\.conv_in\.weight of the autoencoder is 16×16×3×3, but by its configuration 16×4×3×3 .*are others",
    ),
    "an attention of another rank": (
        lambda model: {**of_the_original(model), "encoder.mid.attn_1.q.weight": torch.zeros(4)},
        "cannot be loaded: ",
    ),
    "half of one": (
        lambda model: {key: value for key, value in of_diffusers(model).items() if not key.startswith("encoder.")},
        r"cannot be loaded: it lacks \d+ weights of the autoencoder, such as encoder\.",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_file_that_is_no_autoencoder_of_this_kind_is_told(
    loader: ModelLoader, built: Path, tmp_path: Path, case: str
) -> None:
    make, message = WRONG[case]
    write(make(built), tmp_path / "wrong.safetensors")
    with pytest.raises(ModelError, match=rf"wrong\.safetensors .*{message}"):
        loader.load("mine", LocalDirectory(built, Options(vae=tmp_path / "wrong.safetensors")))


def test_what_is_no_autoencoder_is_told_before_anything_is_downloaded(tmp_path: Path) -> None:
    loader = ModelLoader(place("cpu"), cache=tmp_path, fetch=lambda *_: pytest.fail("the bucket was asked"))
    (tmp_path / "page.safetensors").write_text("<!doctype html>")
    with pytest.raises(ModelError, match="it is a web page"):
        loader.load("mine", Bucket("s3://models/mine", Options(vae=tmp_path / "page.safetensors")))


@pytest.mark.long
@pytest.mark.parametrize("build", [build_tiny_model, build_tiny_xl])
def test_what_is_predicted_may_be_said(tmp_path: Path, build: Callable[[Path], Path]) -> None:
    """Of a folder, and of a file whose marks say otherwise."""
    model = build(tmp_path / "model")
    file = write_original_checkpoint(model, tmp_path / "one.safetensors")
    marked = with_weights(file, tmp_path / "v.safetensors", {"v_pred": torch.empty(0), "ztsnr": torch.empty(0)})
    zero = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}

    def schedule(text: str) -> dict[str, object]:
        source = parse_source(text)
        if isinstance(source, SingleFile):
            return dict(read_checkpoint("mine", source.path, model, place("cpu"), source.options).scheduler_config)
        return dict(read_directory("mine", model, place("cpu"), source.options).scheduler_config)

    plain = schedule(str(model))
    assert plain["prediction_type"] == "epsilon"
    assert schedule(f"{model}#prediction=v") == plain | {"prediction_type": "v_prediction"}
    assert schedule(f"{model}#prediction=v&ztsnr") == plain | {"prediction_type": "v_prediction"} | zero
    assert schedule(f"{file}#config={model}#prediction=v#ztsnr") == plain | {"prediction_type": "v_prediction"} | zero
    assert schedule(f"{marked}#config={model}") == plain | {"prediction_type": "v_prediction"} | zero
    assert schedule(f"{marked}#config={model}#prediction=epsilon") == plain


@pytest.mark.long
def test_zero_snr_is_refused_without_v(built: Path, tmp_path: Path) -> None:
    def schedule(model: Path, options: Options) -> Mapping[str, object]:
        return read_directory("mine", model, place("cpu"), options).scheduler_config

    message = r"'mine' cannot begin at a signal-to-noise ratio of zero, .* \(add #prediction=v if it predicts v"
    with pytest.raises(ModelError, match=message):
        schedule(built, Options(zero_snr=True))
    v = build_tiny_model(tmp_path / "v", prediction_type="v_prediction")
    assert schedule(v, Options(zero_snr=True))["rescale_betas_zero_snr"] is True
    config = json.loads((v / "scheduler" / "scheduler_config.json").read_text()) | {"rescale_betas_zero_snr": True}
    (v / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    assert schedule(v, Options())["rescale_betas_zero_snr"] is True
    assert schedule(v, Options(predicts="epsilon"))["rescale_betas_zero_snr"] is False
