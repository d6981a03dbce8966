"""SDXL's folders: loaded whole, or refused with what does not fit together."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from farm import layouts
from farm.client.model_files import look_at
from farm.errors import ModelError
from farm.jobs.defaults import Defaults
from farm.jobs.spec import PixelSize
from tests.tiny import build_tiny_xl
from worker.families.every import FAMILIES
from worker.families.sdxl import SDXL
from worker.models.device import Placement, place
from worker.models.loader import ModelLoader
from worker.models.registry import LocalDirectory


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_xl(tmp_path_factory.mktemp("xl"))


@pytest.fixture
def folder(built: Path, tmp_path: Path) -> Path:
    shutil.copytree(built, tmp_path / "xl")
    return tmp_path / "xl"


def load(folder: Path, placement: Placement | None = None) -> Any:
    loader = ModelLoader(placement or place("cpu"), cache=folder / "cache")
    return loader.load("xl", LocalDirectory(folder))


def config(part: str, **changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / part
        content = {**json.loads(path.read_text(encoding="utf-8")), **changes}
        path.write_text(json.dumps(content), encoding="utf-8")

    return change


def gone(part: str) -> Callable[[Path], None]:
    return lambda folder: shutil.rmtree(folder / part)


def half(folder: Path) -> None:
    """As it is published with `variant="fp16"`, and the encoder that is large in shards."""
    for path in folder.glob("*/*.safetensors"):
        path.rename(path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")))


def test_what_is_looked_for_in_folders_is_what_families_read() -> None:
    """What adds models, without PyTorch, and what loads them go by one table."""
    for family in FAMILIES:
        tokenizers = {encoder.tokenizer for encoder in family.encoders}
        assert {*layouts.parts_of(family.asks)} == {*family.parts, *tokenizers, "scheduler"}
        assert {part: layouts.PARTS[part].kinds for part in family.parts} == {
            part: (kind.__name__,) for part, kind in family.parts.items()
        }


@pytest.mark.long
def test_every_part_is_loaded_and_counted(folder: Path) -> None:
    half(folder)
    model = load(folder)
    modules = (model.unet, model.vae, *(encoder.module for encoder in model.encoders))
    assert model.family is SDXL
    assert model.size == sum(t.nbytes for module in modules for t in (*module.parameters(), *module.buffers()))
    assert all(not parameter.requires_grad for module in modules for parameter in module.parameters())
    assert model.recorded is not None, "it runs on all cores as others do"


def test_in_half_precision_only_the_autoencoder_is_not_half(folder: Path) -> None:
    """SDXL's overflows in float16."""
    cpu = place("cpu")
    placement = Placement(cpu.device, torch.bfloat16, torch.float32, False, vae_channels_last=False)
    model = load(folder, placement)
    assert {model.unet.dtype, *(encoder.module.dtype for encoder in model.encoders)} == {torch.bfloat16}
    assert model.vae.dtype == torch.float32
    conditioning = model.conditioned(model.prompts.encode("a cat"))
    assert [tensor.dtype for tensor in conditioning.tensors] == [torch.bfloat16, torch.bfloat16, torch.float32]


@pytest.mark.long
def test_a_model_says_how_its_pictures_are_framed(folder: Path) -> None:
    said = {"original_size": "4096x4096", "target_size": {"width": 1024, "height": 512}, "guidance": 3}
    (folder / "farm.json").write_text(json.dumps(said), encoding="utf-8")
    framing = {"original_size": PixelSize(width=4096, height=4096), "target_size": PixelSize(width=1024, height=512)}
    assert load(folder).defaults == Defaults(guidance=3, framing=framing)
    (folder / "farm.json").write_text('{"crop": "128"}', encoding="utf-8")
    with pytest.raises(ModelError, match=r"farm\.json is malformed: crop: '128' is not X,Y"):
        load(folder)


@pytest.mark.long
def test_its_second_tokenizer_pads_as_it_was_trained(folder: Path) -> None:
    first, second = load(folder).encoders
    assert first.tokenizer.pad_token_id != second.tokenizer.pad_token_id == second.tokenizer.get_vocab()["!"]
    tokens = first.tokenizer("a cat", add_special_tokens=False).input_ids
    ids = torch.tensor([second.tokenizer("a cat", padding="max_length", max_length=77).input_ids])
    assert torch.equal(second.embed(tokens).states, second.module(ids, output_hidden_states=True).hidden_states[-2])


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "no second encoder": (gone("text_encoder_2"), r"in \S+/xl has no text_encoder_2/config\.json"),
    "no second tokenizer": (gone("tokenizer_2"), r"in \S+/xl has no tokenizer_2/tokenizer.json \(or vocab"),
    "an encoder that does not project": (
        config("text_encoder_2/config.json", architectures=["CLIPTextModel"]),
        "has as its text_encoder_2 CLIPTextModel, not CLIPTextModelWithProjection",
    ),
    "another encoder by the index": (
        config("model_index.json", text_encoder_2=["transformers", "T5EncoderModel"]),
        "has as its text_encoder_2 T5EncoderModel, not",
    ),
    "fewer sizes": (
        config("unet/config.json", projection_class_embeddings_input_dim=24 + 5 * 8),
        r"xl.* cannot be loaded: .*",
    ),
    "no number of sizes": (
        config("unet/config.json", projection_class_embeddings_input_dim=None),
        r"xl.* cannot be loaded: .*",
    ),
    "an aesthetic score, and fewer sizes": (
        lambda folder: (
            config("model_index.json", requires_aesthetics_score=True)(folder),
            config("unet/config.json", projection_class_embeddings_input_dim=24 + 5 * 8)(folder),
        )[-1],
        r"xl.* cannot be loaded: .*",
    ),
    "shifted latents": (config("vae/config.json", latents_mean=[0.0] * 4), "the autoencoder of 'xl' has latents_mean"),
    "no weights of one part": (
        lambda folder: next((folder / "text_encoder_2").glob("*.safetensors")).unlink(),
        r"has no \.safetensors weights in text_encoder_2",
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_together_is_refused(folder: Path, case: str) -> None:
    spoil, message = REFUSED[case]
    spoil(folder)
    with pytest.raises(ModelError, match=message):
        load(folder)


def test_an_encoder_that_gives_another_width_is_refused(folder: Path, tmp_path: Path) -> None:
    other = build_tiny_xl(tmp_path / "other", seed=1, pooled=16)
    for part in ("text_encoder_2", "tokenizer_2"):
        shutil.rmtree(folder / part)
        shutil.copytree(other / part, folder / part)
    with pytest.raises(
        ModelError, match="reads 72 numbers besides the prompt's words, but its second text encoder give"
    ):
        load(folder)


def test_a_client_tells_it_by_its_weights(folder: Path) -> None:
    assert look_at(str(folder)).kind == "sdxl"
