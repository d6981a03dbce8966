"""What a model reads, against the notebook's way with transformers."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from farm.errors import RenderError
from tests.worker.studies.conftest import Ask
from worker.models.model import LoadedModel
from worker.studies.reading import read

PROMPT = "a cat in the red"


def ids_of(model: LoadedModel, prompt: str) -> torch.Tensor:
    """As the notebook pads and cuts."""
    found: torch.Tensor = model.tokenizer(
        prompt, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    ).input_ids
    return found


@torch.no_grad()
def test_tokens_are_the_tokenizers_and_their_norms_those_of_the_encoders_parts(ask: Ask, model: LoadedModel) -> None:
    ids = ids_of(model, PROMPT)
    answer = ask(mode="tokens", prompt=PROMPT).answer

    assert [token.position for token in answer.tokens] == list(range(77))
    assert [token.id for token in answer.tokens] == ids[0].tolist()
    inverse = {number: piece for piece, number in model.tokenizer.get_vocab().items()}
    assert [token.piece for token in answer.tokens] == [inverse[number] for number in ids[0].tolist()]
    assert [token.piece for token in answer.tokens][1:6] == ["a</w>", "cat</w>", "in</w>", "the</w>", "red</w>"]
    assert [token.role for token in answer.tokens] == ["start", *["text"] * 5, "end", *["padding"] * 70]
    assert (answer.padding, answer.cut, answer.width) == (70, (), 32)

    parts = model.text_encoder.get_submodule("embeddings")
    expected = {
        "token": parts.token_embedding(ids)[0],  # type: ignore[operator]
        "position": parts.position_embedding(torch.arange(77)),  # type: ignore[operator]
        "output": model.text_encoder(ids)[0][0],
    }
    for name, vectors in expected.items():
        found = torch.tensor([getattr(token.norms, name) for token in answer.tokens])
        torch.testing.assert_close(found, vectors.norm(dim=-1), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_arrays_are_those_of_the_encoder_and_its_own_way_through_them(ask: Ask, model: LoadedModel) -> None:
    ids = ids_of(model, PROMPT)
    (file,) = ask(mode="tokens", prompt=PROMPT).artifacts
    arrays = np.load(io.BytesIO(file.read()), allow_pickle=False)

    assert sorted(arrays) == ["ids", "output", "pooled", "positions", "sums", "tokens"]
    np.testing.assert_array_equal(arrays["ids"], ids[0])
    np.testing.assert_allclose(arrays["sums"], arrays["tokens"] + arrays["positions"], atol=1e-6)
    encoder = model.text_encoder
    np.testing.assert_allclose(arrays["output"], encoder(ids)[0][0], atol=1e-5)
    np.testing.assert_allclose(arrays["pooled"], encoder(ids).pooler_output[0], atol=1e-5)
    # Through the layers by hand, causally masked, as the notebook does with the sums of the embeddings.
    causal = torch.full((77, 77), float("-inf")).triu(1)[None, None]
    hidden = torch.from_numpy(arrays["sums"])[None]
    for layer in encoder.get_submodule("encoder.layers").children():
        made = layer(hidden, attention_mask=causal)
        hidden = made[0] if isinstance(made, tuple) else made
    output = encoder.get_submodule("final_layer_norm")(hidden)[0]
    np.testing.assert_allclose(arrays["output"], output, atol=1e-5)
    assert file.read() == ask(mode="tokens", prompt=PROMPT).artifacts[0].read(), "the same reading, the same bytes"


def test_what_is_cut_is_named(ask: Ask) -> None:
    answer = ask(mode="tokens", prompt="cat " * 80 + "otter").answer
    assert (answer.padding, answer.tokens[-1].role, answer.tokens[75].role) == (0, "end", "text")
    assert answer.cut == ("cat",) * 5 + ("otter",)
    assert len(ask(mode="tokens", prompt="z" * 4_000).answer.tokens) == 77


def test_the_empty_prompt_is_all_padding(ask: Ask) -> None:
    assert [token.role for token in ask(mode="tokens", prompt="").answer.tokens][:3] == ["start", "end", "padding"]


@torch.no_grad()
def test_similar_is_the_cosine_of_the_pooled_embeddings(ask: Ask, model: LoadedModel) -> None:
    prompts = ["a cat", "an otter in the red", "cat " * 90]
    pooled = torch.cat([model.text_encoder(ids_of(model, prompt)).pooler_output for prompt in prompts])
    expected = F.cosine_similarity(pooled[:, None], pooled[None], dim=-1)

    answer = ask(mode="similar", prompt=prompts).answer

    torch.testing.assert_close(torch.tensor(answer.cosines), expected, atol=1e-5, rtol=1e-5)
    assert [len(words) for words in answer.cut] == [0, 0, 15]
    assert answer.prompts == tuple(prompts)


def test_what_is_no_number_is_told(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = model.text_encoder.get_submodule("embeddings.position_embedding").weight
    assert isinstance(weight, torch.Tensor)
    monkeypatch.setattr(weight, "data", torch.full_like(weight, float("nan")))
    with pytest.raises(RenderError, match="not finite"):
        read(model, PROMPT)
