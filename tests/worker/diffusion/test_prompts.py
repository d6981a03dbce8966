from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CLIPTextModel

from farm.jobs.spec import Conditioning, WeightedPrompt
from worker.diffusion import conditioning
from worker.diffusion.prompts import PLAINLY, How, PromptEncoder
from worker.diffusion.text import TextEncoder
from worker.models.model import LoadedModel

ROOM = 75


@pytest.fixture
def encoder(tiny_model: LoadedModel) -> PromptEncoder:
    return PromptEncoder([TextEncoder(tiny_model.tokenizer, tiny_model.text_encoder)], capacity=3)


def test_an_embedding_is_the_encoders_last_hidden_state(encoder: PromptEncoder, tiny_model: LoadedModel) -> None:
    ids = tiny_model.tokenizer("a red cat", padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.no_grad():
        expected = tiny_model.text_encoder(ids)[0]
    conditioned = encoder.encode("a red cat")
    assert conditioned.embedding.shape == (1, 77, 32)
    assert torch.equal(conditioned.embedding, expected)


def test_embeddings_are_mixed_half_and_half(encoder: PromptEncoder) -> None:
    giraffe, cat = encoder.encode("a giraffe").embedding, encoder.encode("a cat").embedding
    mixed = encoder.mix([WeightedPrompt(text="a giraffe", weight=0.5), WeightedPrompt(text="a cat", weight=0.5)])
    torch.testing.assert_close(mixed.embedding, 0.5 * giraffe + 0.5 * cat)


def test_one_prompt_of_weight_one_is_its_own_embedding(encoder: PromptEncoder) -> None:
    mixed = encoder.mix([WeightedPrompt(text="a cat")])
    assert torch.equal(mixed.embedding, encoder.encode("a cat").embedding)


def test_weights_may_be_negative(encoder: PromptEncoder) -> None:
    mixed = encoder.mix([WeightedPrompt(text="a cat", weight=1.5), WeightedPrompt(text="red", weight=-0.5)])
    expected = 1.5 * encoder.encode("a cat").embedding - 0.5 * encoder.encode("red").embedding
    torch.testing.assert_close(mixed.embedding, expected)


def test_a_prompt_is_encoded_once_while_it_is_kept(encoder: PromptEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    forward = CLIPTextModel.forward

    def counted(*args: object, **options: object) -> object:
        calls.append(1)
        return forward(*args, **options)

    monkeypatch.setattr(CLIPTextModel, "forward", counted)
    for prompt in ("", "a", "b", "", "a", ""):
        encoder.encode(prompt)
    assert len(calls) == 3
    encoder.encode("c")  # the fourth: "b" was used longest ago
    encoder.encode("")
    assert len(calls) == 4
    encoder.encode("b")
    assert len(calls) == 5


def test_what_rows_are_conditioned_on_is_stacked_in_their_order(encoder: PromptEncoder) -> None:
    cat, otter = (conditioning.Conditioning(encoder.encode(prompt).embedding) for prompt in ("a cat", "an otter"))
    together = conditioning.Conditioning.stacked([cat, otter, cat])

    assert torch.equal(together.text, torch.cat([cat.text, otter.text, cat.text]))
    assert together.shape == cat.shape == ((77, 32),), "of a row, however many there are"
    assert torch.equal(together.each(lambda tensor: tensor[1:2]).text, otter.text)
    with pytest.raises(RuntimeError):
        conditioning.Conditioning.stacked([cat, cat.each(lambda tensor: tensor[:, :40])])


CUTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "empty": ("", ()),
    "exactly full": ("cat " * ROOM, ()),
    "one word": ("cat " * ROOM + "otter", ("otter",)),
    "several words, case kept": ("cat " * ROOM + "Red, OTTER on\nblue", ("Red,", "OTTER", "on", "blue")),
    "a word whose end is lost": ("cat " * (ROOM - 1) + "zx otter", ("zx", "otter")),
    "after a line break": ("cat " * (ROOM - 1) + "cat\nzx\totter", ("zx", "otter")),
    "accents and other scripts": ("cat " * ROOM + "née 猫 cafe\u0301", ("née", "猫", "cafe\u0301")),
    "runs of blanks": ("cat   " * ROOM + "   red", ("red",)),
    "one endless word": ("z" * 200, ("z" * 200,)),
}


@pytest.mark.parametrize("case", CUTS)
def test_words_that_do_not_fit_are_reported(encoder: PromptEncoder, case: str) -> None:
    prompt, cut = CUTS[case]
    assert encoder.read(prompt).cut == cut


WEIGHTED = How("weighted")


@pytest.fixture
def off_centre(tiny_model: LoadedModel) -> Iterator[None]:
    """States with a mean, as of every trained encoder; the tiny one's are centred."""
    encoder: Any = tiny_model.text_encoder
    bias = encoder.final_layer_norm.bias
    before = bias.clone()
    with torch.no_grad():
        bias.copy_(torch.linspace(-0.1, 0.7, len(bias)))
    yield
    with torch.no_grad():
        bias.copy_(before)


def states(encoder: PromptEncoder, model: LoadedModel, ids: Sequence[int]) -> Tensor:
    """What the text encoder makes of a chunk."""
    given = [model.tokenizer.bos_token_id, *ids, model.tokenizer.eos_token_id]
    given += [model.tokenizer.pad_token_id] * (encoder.tokens - len(given))
    with torch.no_grad():
        found: Tensor = model.text_encoder(torch.tensor([given]))[0]
    return found


def ids(model: LoadedModel, text: str) -> list[int]:
    return list(model.tokenizer(text, add_special_tokens=False).input_ids)


def test_a_short_prompt_without_weights_keeps_its_bits(encoder: PromptEncoder) -> None:
    for prompt in ("", "a red cat", "a cat, an otter: blue"):
        assert torch.equal(encoder.encode(prompt, WEIGHTED).embedding, encoder.encode(prompt).embedding)


@pytest.mark.usefixtures("off_centre")
def test_weights_multiply_states_and_the_mean_of_the_chunk_stays(
    encoder: PromptEncoder, tiny_model: LoadedModel
) -> None:
    before = states(encoder, tiny_model, ids(tiny_model, "a red cat")).double()
    weights = torch.ones(77, dtype=torch.float64)
    weights[2], weights[3] = 1.5, 1 / 1.1
    after = before * weights[:, None]
    expected = after * (before.mean() / after.mean())

    found = encoder.encode("a (red:1.5) [cat]", WEIGHTED).embedding
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-5)
    assert float(found.mean()) == pytest.approx(float(before.mean()), rel=1e-4)
    assert not torch.allclose(found, before.float(), atol=1e-2)


def test_a_mean_of_nothing_but_rounding_is_not_restored(encoder: PromptEncoder, tiny_model: LoadedModel) -> None:
    before = states(encoder, tiny_model, ids(tiny_model, "a red cat"))
    weights = torch.ones(77)
    weights[2] = 1.5
    assert before.mean().abs() < 1e-6
    torch.testing.assert_close(encoder.encode("a (red:1.5) cat", WEIGHTED).embedding, before * weights[:, None])


def test_chunks_are_encoded_apart_and_lie_side_by_side(encoder: PromptEncoder, tiny_model: LoadedModel) -> None:
    found = encoder.encode("cat " * ROOM + "red BREAK (blue:2) otter", WEIGHTED).embedding
    first, second = (states(encoder, tiny_model, ids(tiny_model, text)) for text in ("cat " * ROOM, "red"))

    assert found.shape == (1, 3 * 77, 32)
    assert torch.equal(found[:, :77], first) and torch.equal(found[:, 77:154], second)
    assert torch.equal(found[:, 154:], encoder.encode("(blue:2) otter", WEIGHTED).embedding)


def test_a_job_has_as_many_chunks_for_each_of_its_prompts(encoder: PromptEncoder) -> None:
    prompts = (WeightedPrompt(text="a cat BREAK an otter", weight=0.5), WeightedPrompt(text="a giraffe", weight=0.5))
    asked = Conditioning(prompts=prompts, negative="red BREAK blue BREAK long", reading="weighted")
    guided, alone = encoder.how(asked, guided=True), encoder.how(asked, guided=False)
    assert (guided.chunks, alone.chunks) == (3, 2), "the negative prompt of a job without guidance is not encoded"

    empty, giraffe = encoder.encode("").embedding, encoder.encode("a giraffe").embedding
    assert torch.equal(encoder.encode("a giraffe", guided).embedding, torch.cat([giraffe, empty, empty], dim=1))
    mixed = encoder.mix(prompts, how=guided).embedding
    parts = [encoder.encode(prompt.text, guided).embedding for prompt in prompts]
    torch.testing.assert_close(mixed, 0.5 * parts[0] + 0.5 * parts[1])
    assert encoder.mix(prompts, how=WEIGHTED).embedding.shape == (1, 154, 32), "never fewer than there are"


def test_a_plain_reading_of_the_same_has_one_chunk(encoder: PromptEncoder) -> None:
    asked = Conditioning(prompts=(WeightedPrompt(text="cat BREAK " * 90),))
    assert encoder.how(asked, guided=True) == PLAINLY
    assert torch.equal(encoder.encode("cat " * 90).embedding, encoder.encode("cat " * 75).embedding)


def test_an_empty_negative_prompt_of_zeros_has_as_many_chunks(tiny_model: LoadedModel) -> None:
    encoder = PromptEncoder([TextEncoder(tiny_model.tokenizer, tiny_model.text_encoder)], zeros_for_nothing=True)
    for chunks in (1, 3):
        found = encoder.encode_negative("", How("weighted", chunks=chunks)).embedding
        assert torch.equal(found, torch.zeros(1, chunks * 77, 32))
    assert encoder.encode_negative("a cat").embedding.any()


def test_long_prompts_take_the_room_of_several(encoder: PromptEncoder) -> None:
    short, long = encoder.encode("a cat"), encoder.encode("red BREAK blue BREAK long", WEIGHTED)
    assert encoder.encode("red BREAK blue BREAK long", WEIGHTED) is long, "kept, though it fills the room alone"
    assert encoder.encode("a cat") is not short


@pytest.mark.usefixtures("off_centre")
def test_each_encoders_states_keep_their_own_mean_and_pooled_is_of_the_first_chunk(tiny_model: LoadedModel) -> None:
    one = TextEncoder(tiny_model.tokenizer, tiny_model.text_encoder)
    module: Any = tiny_model.text_encoder
    projecting: Any = Projecting(module)
    two = TextEncoder(tiny_model.tokenizer, projecting, hidden=-2, pools=True)
    both, alone, other = PromptEncoder([one, two]), PromptEncoder([one]), PromptEncoder([two])

    prompt = "a (red:1.9) cat BREAK an otter"
    found = both.encode(prompt, WEIGHTED)
    apart = [encoder.encode(prompt, WEIGHTED).embedding for encoder in (alone, other)]
    assert torch.equal(found.embedding, torch.cat(apart, dim=-1))
    first, second = (other.encode(text).pooled for text in ("a red cat", "an otter"))
    assert found.pooled is not None and first is not None and second is not None
    assert torch.equal(found.pooled, first) and not torch.equal(found.pooled, second)


class Projecting(torch.nn.Module):
    """A text encoder that makes an embedding of the whole as well."""

    def __init__(self, text_model: CLIPTextModel) -> None:
        super().__init__()
        self.text_model, self.config, self.device = text_model, text_model.config, text_model.device

    def forward(self, ids: Tensor, **options: Any) -> Any:
        out = self.text_model(ids, **options)
        return SimpleNamespace(
            last_hidden_state=out.last_hidden_state, hidden_states=out.hidden_states, text_embeds=2 * out.pooler_output
        )
