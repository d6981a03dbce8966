"""Where prompts are parted, by A1111's rules."""

from __future__ import annotations

import pytest

from farm.errors import InvalidInput
from farm.jobs.report import Token
from farm.jobs.spec import MAX_CHUNKS
from worker.diffusion.chunks import PromptReader, in_chunks
from worker.models.model import LoadedModel

ROOM = 75


@pytest.fixture
def reader(tiny_model: LoadedModel) -> PromptReader:
    return PromptReader(tiny_model.tokenizer, ROOM)


def sizes(reader: PromptReader, prompt: str) -> list[int]:
    return [len(chunk) for chunk in reader.read(prompt, "weighted").chunks]


CHUNKS: dict[str, tuple[str, list[int]]] = {
    "nothing": ("", [0]),
    "a few words": ("a red cat", [3]),
    "exactly full": ("cat " * 75, [75]),
    "one more": ("cat " * 76, [75, 1]),
    "three": ("cat " * 160, [75, 75, 10]),
    "a comma at the end": ("cat " * 74 + ", cat", [75, 1]),
    "a comma 20 tokens early": ("cat " * 55 + ", " + "red " * 30, [56, 30]),
    "a comma 21 tokens early": ("cat " * 54 + ", " + "red " * 30, [75, 10]),
    "the last of several commas": ("cat " * 57 + ", red , " + "red " * 30, [60, 30]),
    "a comma comes next": ("cat " * 60 + ", " + "red " * 14 + ", otter", [75, 2]),
    "commas in two chunks": ("cat " * 70 + ", " + "red " * 60 + ", " + "otter " * 20, [71, 61, 20]),
    "a break": ("a cat BREAK an otter", [2, 2]),
    "breaks at both ends": ("BREAK a cat BREAK", [0, 2]),
    "two breaks": ("cat BREAK BREAK otter", [1, 0, 1]),
    "nothing but a break": ("BREAK", [0]),
    "a break after a full chunk": ("cat " * 75 + "BREAK cat", [75, 1]),
    "a break after a comma": ("cat " * 70 + ", BREAK " + "cat " * 10, [71, 10]),
    "a break within a weight": ("(cat BREAK otter:1.3)", [1, 1]),
}


@pytest.mark.long
@pytest.mark.parametrize("case", CHUNKS)
def test_chunks_end_when_they_are_full_at_late_commas_and_at_breaks(reader: PromptReader, case: str) -> None:
    prompt, expected = CHUNKS[case]
    assert sizes(reader, prompt) == expected


def test_no_word_is_dropped_and_each_has_its_weight(reader: PromptReader) -> None:
    prompt = "a (red:1.5) cat, [blue] otter, " * 30
    read = reader.read(prompt, "weighted")
    plain = "a red cat, blue otter, " * 30

    assert [token.id for token in read.tokens] == reader.tokenizer(
        plain, add_special_tokens=False, verbose=False
    ).input_ids
    weights = {token.piece: token.weight for token in read.tokens}
    assert weights["red</w>"] == 1.5 and weights["cat</w>"] == 1 and weights["blue</w>"] == pytest.approx(1 / 1.1)
    assert read.cut == () and len(read.chunks) == 3


def test_a_weight_within_a_word_parts_its_tokens(reader: PromptReader) -> None:
    assert [(token.piece, token.weight) for token in reader.read("ca(t:2)", "weighted").tokens] == [
        ("c", 1),
        ("a</w>", 1),
        ("t</w>", 2),
    ]


def test_a_plain_reading_takes_every_sign_for_a_letter(reader: PromptReader) -> None:
    prompt = r"a (red:1.5) \[cat] BREAK otter"
    read = reader.read(prompt, "plain")
    assert [token.id for token in read.tokens] == reader.tokenizer(prompt, add_special_tokens=False).input_ids
    assert len(read.chunks) == 1 and {token.weight for token in read.tokens} == {1}


def test_what_is_not_parted_comes_whole_into_the_next_chunk() -> None:
    word, three = (Token(id=1, piece="a</w>"),), tuple(Token(piece="style", vector=k) for k in range(3))
    assert [len(chunk) for chunk in in_chunks([word, word, word, three, word], 5)] == [3, 4]
    assert in_chunks([three, three], 5) == [three, three]


def test_a_prompt_of_too_many_chunks_is_refused(reader: PromptReader) -> None:
    assert len(reader.read("cat BREAK " * MAX_CHUNKS, "weighted").chunks) == MAX_CHUNKS
    with pytest.raises(InvalidInput, match=f"takes {MAX_CHUNKS + 1} chunks of 75 tokens"):
        reader.read("cat BREAK " * MAX_CHUNKS + "otter", "weighted")
    assert sizes(reader, "a," * 2_000) == [75] + [75] * 52 + [25], "4,000 characters"
