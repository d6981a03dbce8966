from __future__ import annotations

import pytest
import torch
from transformers import CLIPTextModel

from farm.jobs.spec import WeightedPrompt
from worker.diffusion.conditioning import Conditioning
from worker.diffusion.prompts import PromptEncoder
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
    assert conditioned.cut == ()


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
    cat, otter = (Conditioning(encoder.encode(prompt).embedding) for prompt in ("a cat", "an otter"))
    together = Conditioning.stacked([cat, otter, cat])

    assert torch.equal(together.text, torch.cat([cat.text, otter.text, cat.text]))
    assert together.shape == cat.shape == ((77, 32),), "of a row, however many there are"
    assert torch.equal(together.each(lambda tensor: tensor[1:2]).text, otter.text)
    with pytest.raises(RuntimeError):
        Conditioning.stacked([cat, cat.each(lambda tensor: tensor[:, :40])])


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
    assert encoder.encode(prompt).cut == cut


def test_a_mix_reports_the_cuts_of_all_its_prompts(encoder: PromptEncoder) -> None:
    long = [WeightedPrompt(text="cat " * ROOM + word, weight=0.5) for word in ("red", "blue")]
    assert encoder.mix(long).cut == ("red", "blue")
