from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.errors import InvalidInput
from farm.jobs.emphasis import MAX_DEPTH, MAX_EMPHASIS, Words, escaped, sections
from farm.jobs.request import JobRequest
from farm.jobs.spec import MAX_PROMPT_CHARACTERS, JobSpec
from tests.fuzzing import fuzz

ONE: dict[str, tuple[tuple[str, float], ...]] = {
    "": (),
    "a red fox": (("a red fox", 1),),
    "a (red) fox": (("a ", 1), ("red", 1.1), (" fox", 1)),
    "a ((red)) fox": (("a ", 1), ("red", 1.21), (" fox", 1)),
    "a [red] fox": (("a ", 1), ("red", 1 / 1.1), (" fox", 1)),
    "a [[red]] fox": (("a ", 1), ("red", 1 / 1.21), (" fox", 1)),
    "a (red:1.5) fox": (("a ", 1), ("red", 1.5), (" fox", 1)),
    "(red: .5 )": (("red", 0.5),),
    "(red:-1)": (("red", -1),),
    "(red:+2.)": (("red", 2),),
    "(red:0)": (("red", 0),),
    "((red:1.5) fox:2)": (("red", 3), (" fox", 2)),
    "((red):1.5)": (("red", 1.65),),
    "[(red)] fox": (("red fox", 1),),
    "(red)(fox)": (("redfox", 1.1),),
    "(red [fox) bush]": (("red ", 1.1), ("fox", 1), (" bush", 1 / 1.1)),
    "a (red fox": (("a ", 1), ("red fox", 1.1)),
    "a [red fox": (("a ", 1), ("red fox", 1 / 1.1)),
    "a ((red) fox": (("a ", 1), ("red", 1.21), (" fox", 1.1)),
    "a red) fox]": (("a red) fox]", 1),),
    "a red:1.5) fox": (("a red:1.5) fox", 1),),
    "[red:1.5]": (("red:1.5", 1 / 1.1),),
    "[red:1.5)]": (("red:1.5)", 1 / 1.1),),
    "a: red, fox": (("a: red, fox", 1),),
    "(red:fox)": (("red:fox", 1.1),),
    "(red:1e2)": (("red:1e2", 1.1),),
    "(red:1.2.3)": (("red:1.2.3", 1.1),),
    "(red:1.5 fox)": (("red:1.5 fox", 1.1),),
    r"\(red\) \[fox\]": (("(red) [fox]", 1),),
    r"(\(red:1.5\):2)": (("(red:1.5)", 2),),
    r"a\\b \c": ((r"a\b c", 1),),
    "red\\": (("red", 1),),
    "()[](:2)": (),
    "(red\nfox:1.5)": (("red\nfox", 1.5),),
    "breaking BREAKS UNBREAK": (("breaking BREAKS UNBREAK", 1),),
}


def read(prompt: str) -> list[list[tuple[str, object]]]:
    return [[(words.text, pytest.approx(words.weight)) for words in section] for section in sections(prompt)]


@pytest.mark.parametrize("prompt", ONE)
def test_words_weigh_what_the_brackets_around_them_say(prompt: str) -> None:
    assert read(prompt) == [list(ONE[prompt])]


def test_a_break_parts_a_prompt_wherever_it_is() -> None:
    assert read("a fox BREAK snow") == [[("a fox ", 1)], [(" snow", 1)]]
    assert read("(a fox BREAK snow:1.5), red") == [[("a fox ", 1.5)], [(" snow", 1.5), (", red", 1)]]
    assert read("BREAK") == [[], []]
    assert read("a,BREAK,b") == [[("a,", 1)], [(",b", 1)]]
    assert len(sections("BREAK " * 3)) == 4


def test_what_nobody_can_mean_is_refused() -> None:
    sections("(" * MAX_DEPTH + ")" * MAX_DEPTH)
    with pytest.raises(InvalidInput, match="opens more than 100 brackets at once"):
        sections("([" * (MAX_DEPTH // 2) + "(")
    sections(f"(fox:{MAX_EMPHASIS:g})")
    for heavy in (
        f"(fox:{MAX_EMPHASIS + 1:g})",
        "(fox:-101)",
        "((fox:50):3)",
        "(fox:" + "9" * 400 + ")",
        "(" * 60 + "a",
    ):
        with pytest.raises(InvalidInput, match=r"weighs .*more than ±100"):
            sections(heavy)
    with pytest.raises(InvalidInput, match=r"'fox' weighs 1e[+]03") as told:
        JobRequest(prompt="a (fox:1000)").specs(None, default_model="m")
    assert "--plain-prompt" in str(told.value)
    with pytest.raises(InvalidInput, match="negative: 'red' weighs"):
        JobRequest(prompt="a fox", negative="(red:1000)").specs(None, default_model="m")
    plain = JobRequest(prompt="a (fox:1000)", reading="plain").specs(None, default_model="m")[0]
    forged = plain.to_json().replace('"negative":""', '"negative":"","reading":"weighted"')
    with pytest.raises(InvalidInput, match="conditioning: 'fox' weighs"):
        JobSpec.from_json(forged)


Written = tuple[str, list[tuple[str, float]]]
"""A prompt whose brackets match, and its words with their weights."""

letters = st.text(st.sampled_from("ab, ()[]\\\n:é"), min_size=1, max_size=5)
leaves = letters.map(lambda text: (escaped(text), [(text, 1.0)]))


def bracketed(within: Written, begin: str, end: str, times: float) -> Written:
    prompt, words = within
    return begin + prompt + end, [(text, weight * times) for text, weight in words]


def around(inner: st.SearchStrategy[Written]) -> st.SearchStrategy[Written]:
    number = st.integers(-300, 300).map(lambda hundredths: hundredths / 100)
    return st.one_of(
        inner.map(lambda within: bracketed(within, "(", ")", 1.1)),
        inner.map(lambda within: bracketed(within, "[", "]", 1 / 1.1)),
        st.tuples(inner, number).map(lambda drawn: bracketed(drawn[0], "(", f":{drawn[1]})", drawn[1])),
        st.lists(inner, max_size=4).map(in_a_row),
    )


def in_a_row(parts: list[Written]) -> Written:
    return "".join(prompt for prompt, _ in parts), [word for _, words in parts for word in words]


written = st.recursive(leaves, around, max_leaves=8)


def by_letter(words: list[tuple[str, float]]) -> list[tuple[str, object]]:
    return [(letter, pytest.approx(weight, rel=1e-9, abs=1e-9)) for text, weight in words for letter in text]


@pytest.mark.long
@fuzz(300)
@given(written)
def test_what_is_written_by_the_rules_is_read_by_them(drawn: Written) -> None:
    prompt, words = drawn
    if any(not abs(weight) <= MAX_EMPHASIS for _, weight in words):
        return
    [section] = sections(prompt)
    found = [(letter, part.weight) for part in section for letter in part.text]
    assert found == by_letter(words)
    assert all(one.weight != other.weight for one, other in pairwise(section)), "not joined"


@fuzz(300)
@given(st.text(max_size=200))
def test_escaped_text_is_read_as_it_is(text: str) -> None:
    plain = text if "BREAK" not in text else text.replace("BREAK", "break")
    found = sections(escaped(text))
    assert "".join(words.text for words in found[0]).lower() == plain.lower()
    assert len(found) == 1 and all(words == Words(words.text, 1.0) for words in found[0])


@fuzz(300)
@given(st.text(st.sampled_from("()[]\\:.1-a, \nBREAK"), max_size=400))
def test_whatever_is_written_is_read_or_refused(prompt: str) -> None:
    try:
        found = sections(prompt)
    except InvalidInput as error:
        assert len(str(error)) < 300
        return
    letters = iter(prompt)
    assert all(letter in letters for section in found for words in section for letter in words.text), "in their order"
    assert all(abs(words.weight) <= MAX_EMPHASIS for section in found for words in section)


LONG = {
    "colons": ":",
    "colons and blanks": ":   ",
    "weights of nothing": ":1",
    "digits": ":" + "1" * 400,
    "brackets": "(a)[b]",
    "open and closed across": "([a)b]",
    "breaks": "BREAK ",
    "backslashes": "\\",
}


@pytest.mark.parametrize("case", LONG)
def test_the_longest_prompts_are_read_at_once(case: str) -> None:
    deep = "([" * (MAX_DEPTH // 2 - 1) if case != "open and closed across" else ""
    prompt = (deep + LONG[case] * MAX_PROMPT_CHARACTERS)[:MAX_PROMPT_CHARACTERS]
    began = time.process_time()
    sections(prompt)
    assert time.process_time() - began < 1
