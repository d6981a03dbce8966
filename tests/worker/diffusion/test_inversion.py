"""Prompts that name embeddings of textual inversion."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from farm.errors import InvalidInput
from farm.jobs.report import Token
from worker.diffusion.inversion import Embedding
from worker.diffusion.prompts import How, PromptEncoder
from worker.diffusion.text import TextEncoder
from worker.models.embeddings import read_embedding
from worker.models.model import LoadedModel

WIDTH = 32
WEIGHTED = How("weighted")


def numbers(count: int, width: int = WIDTH, *, seed: int = 0) -> Tensor:
    return torch.randn((count, width), generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def encoder(tiny_model: LoadedModel) -> PromptEncoder:
    return PromptEncoder([TextEncoder(tiny_model.tokenizer, tiny_model.text_encoder)])


def told(encoder: PromptEncoder, prompt: str) -> list[str]:
    return [token.piece.removesuffix("</w>") for token in encoder.read(prompt, "weighted").tokens]


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        ("a style cat", ["a", "style", "style", "cat"]),
        ("a <style> cat", ["a", "style", "style", "cat"]),
        ("STYLE,Style", ["style", "style", ",", "style", "style"]),
        ("(style:1.3)", ["style", "style"]),
        ("red-style-cat", ["red", "-", "style", "style", "-", "cat"]),
        ("my-red style", ["my-red", "style", "style"]),
        ("a <my-red>.", ["a", "my-red", "."]),
        ("cat<style>otter", ["cat", "style", "style", "otter"]),
        ("a cat", ["a", "cat"]),
    ],
)
def test_an_embedding_is_named_as_a_word_or_in_marks(encoder: PromptEncoder, prompt: str, pieces: list[str]) -> None:
    assert not encoder.learn([Embedding("style", (numbers(2),)), Embedding("my-red", (numbers(1),))])
    assert told(encoder, prompt) == pieces


def test_a_part_of_a_word_is_no_embedding(encoder: PromptEncoder) -> None:
    encoder.learn([Embedding("cat", (numbers(2),))])
    assert told(encoder, "bobcat cats cat_ cat")[-2:] == ["cat", "cat"]
    assert sum(token.vector is not None for token in encoder.read("bobcat cats cat_ cat", "weighted").tokens) == 2
    assert all(token.vector is None for token in encoder.read("cat <cat>", "plain").tokens), "as diffusers reads it"


def test_the_report_says_its_name_and_which_of_its_vectors(encoder: PromptEncoder) -> None:
    encoder.learn([Embedding("Style", (numbers(2),))])
    tokens = encoder.read("red (style:1.5)", "weighted").tokens
    assert tokens[1:] == tuple(Token(piece="Style", vector=number, weight=1.5) for number in (0, 1))
    assert tokens[1].model_dump() == {"piece": "Style", "vector": 0, "weight": 1.5}
    assert Token.model_validate_json(tokens[1].model_dump_json()) == tokens[1]


def test_one_of_another_width_is_refused_for_that_model(encoder: PromptEncoder) -> None:
    wide, of_sdxl = Embedding("wide", (numbers(1, 48),)), Embedding("xl", (numbers(1), numbers(1, 48)))
    refused = encoder.learn([wide, of_sdxl, Embedding("style", (numbers(1),))])

    assert refused == {
        "wide": "its vectors have 48 numbers, and this model's take 32 numbers",
        "xl": "its vectors have 32 and 48 numbers, and this model's take 32 numbers",
    }
    assert encoder.encode("a cat, style", WEIGHTED).embedding.shape == (1, 77, WIDTH)
    with pytest.raises(InvalidInput, match="the embedding 'wide' is not for this model: its vectors have 48"):
        encoder.encode("a cat, Wide", WEIGHTED)


@pytest.mark.parametrize("count", [1, 3])
def test_it_is_encoded_as_diffusers_does(
    tiny_model: LoadedModel, encoder: PromptEncoder, tmp_path: Path, count: int
) -> None:
    path = tmp_path / "style.safetensors"
    save_file({"<style>": 3 * numbers(count)}, path)
    text_encoder = CLIPTextModel(copy.deepcopy(tiny_model.text_encoder.config)).eval()
    text_encoder.load_state_dict(tiny_model.text_encoder.state_dict())
    tokenizer = CLIPTokenizer.from_pretrained(tiny_model.source + "/tokenizer")
    parts: dict[str, Any] = dict.fromkeys(("vae", "unet", "scheduler", "safety_checker", "feature_extractor"))
    pipeline: Any = StableDiffusionPipeline(
        **parts, text_encoder=text_encoder, tokenizer=tokenizer, requires_safety_checker=False
    )
    pipeline.load_textual_inversion(str(path.parent), weight_name=path.name)
    expected, _ = pipeline.encode_prompt("a red <style> cat", "cpu", 1, False)

    encoder.learn([read_embedding("style", path)])
    vocabulary: Any = tiny_model.text_encoder.get_input_embeddings()
    before = vocabulary.weight.clone()
    found = encoder.encode("a red style cat", WEIGHTED).embedding
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert not torch.allclose(found, encoder.encode("a red cat", WEIGHTED).embedding, atol=1e-2)
    assert torch.equal(vocabulary.weight, before) and not vocabulary._forward_hooks, "nothing is left behind"


def test_each_encoder_of_sdxl_has_its_own_vectors(tiny_model: LoadedModel) -> None:
    torch.manual_seed(0)
    config = tiny_model.text_encoder.config
    second = CLIPTextModelWithProjection(
        type(config).from_dict({**config.to_dict(), "hidden_size": 48, "num_attention_heads": 4})
    ).eval()
    tokenizer = tiny_model.tokenizer
    one = TextEncoder(tokenizer, tiny_model.text_encoder, hidden=-2)
    two = TextEncoder(tokenizer, second, hidden=-2, pools=True)
    both, vectors = PromptEncoder([one, two]), (numbers(2), numbers(2, 48))
    assert not both.learn([Embedding("style", vectors)])

    ids = tokenizer("a cat", add_special_tokens=False).input_ids
    given = [ids[0], 0, 0, ids[1]]
    found = both.encode("a style cat", WEIGHTED)
    parts = [
        encoder.embed(given, vectors={1: own[0], 2: own[1]}) for encoder, own in zip((one, two), vectors, strict=True)
    ]
    assert torch.equal(found.embedding, torch.cat([part.states for part in parts], dim=-1))
    assert found.pooled is not None and parts[1].pooled is not None
    assert torch.equal(found.pooled, parts[1].pooled)
    assert re.match("its vectors have 32 numbers", both.learn([Embedding("style", vectors[:1])])["style"])


def test_an_embedding_is_not_parted_by_the_end_of_a_chunk(encoder: PromptEncoder) -> None:
    encoder.learn([Embedding("style", (numbers(10),))])
    read = encoder.read("cat " * 70 + "style cat", "weighted")
    assert [len(chunk) for chunk in read.chunks] == [70, 11]
