"""Batch files as text: what JSON and YAML mean, and what is said of text that is neither."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from farm.errors import InvalidInput
from farm.jobs.batch_file import expand
from farm.jobs.documents import MAX_DEPTH, MAX_FILE_BYTES, parse

ROOT = Path(__file__).parents[3]


def test_json_of_other_programs_is_read() -> None:
    document = {"jobs": [{"prompt": "an otter 🦦 in the snow", "negative": "\x7f", "steps": 4}]}
    assert "\\ud83e\\udda6" in json.dumps(document)
    for is_json in (True, False):
        assert parse(json.dumps(document), is_json=is_json) == document
        assert parse(json.dumps(document, ensure_ascii=False, indent="\t"), is_json=is_json) == document


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        *(("no", "no"), ("Yes", "Yes"), ("on", "on"), ("y", "y"), ("true", True), ("FALSE", False)),
        *(("0123", 123), ("0o17", 15), ("0xff", 255), ("-7", -7), ("+7", 7), ("1_000", "1_000"), ("0b1", "0b1")),
        *(("4e0", 4.0), ("1.5", 1.5), (".5", 0.5), ("5.", 5.0), ("-.inf", float("-inf")), ("1e400", float("inf"))),
        *(("2024-01-01", "2024-01-01"), ("2024-99-99", "2024-99-99"), ("12:30", "12:30"), ("1:59:59", "1:59:59")),
        *(("", None), ("~", None), ("null", None), ("=", "="), ("'7'", "7"), ("a\xa0b", "a\xa0b")),
    ],
)
def test_yaml_is_read_by_the_core_schema(written: str, meant: Any) -> None:
    read = parse(f"value: {written}\n")["value"]
    assert (read, type(read)) == (meant, type(meant))


def test_a_time_of_many_parts_is_text() -> None:
    """YAML 1.1 takes it for a number of base 60, and hours to multiply it out."""
    assert parse(f"seed: 1{':59' * 300_000}\n")["seed"].startswith("1:59:59")


def test_merges_are_followed() -> None:
    document = parse("a: &a {steps: 3, seed: 1}\nb: {<<: *a, seed: 2}\n")
    assert document["b"] == {"steps": 3, "seed": 2}


@pytest.mark.parametrize(
    "tag", ["!!timestamp", "!!bool", "!!int ''", "!!float ''", "!!binary", "!!python/name:x", "!", "!x"]
)
def test_tags_are_refused(tag: str) -> None:
    with pytest.raises(InvalidInput, match=r"^line 2: has the tag '.*' \(leave it out\)$|^line 2: has the tag '.*'$"):
        parse(f"jobs:\n- seed: {tag} foo\n" if "''" not in tag else f"jobs:\n- seed: {tag}\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("jobs:\n  - prompt: 'x\n", "line 3, column 1: "),
        ("jobs: [\n{prompt: x\n", "line 3, column 1: "),
        (
            "a: !!python/object/apply:os.system [x]",
            "line 1: has the tag '!!python/object/apply:os.system'",
        ),
        ("a: b\nc: d\x00", "line 2: has the character U+0000, which YAML forbids"),
        ("a: é\nb: \x7f", "line 2: has the character U+007F, which YAML forbids"),
        ("x" * (MAX_FILE_BYTES + 1), "is larger than 2 MiB"),
        ("jobs:\n- prompt: an otter: in the snow\n", "line 2, column 19: mapping values are not allowed"),
        ("jobs:\n- prompt: @otter\n", "line 2, column 11: found character that cannot start any token"),
        ("jobs:\n- prompt: *otter\n", "line 2, column 11: found undefined alias"),
        ("seed: " + "9" * 5_000, "has a number with thousands of digits"),
        ('{"seed": ' + "9" * 5_000 + "}", "has a number with thousands of digits"),
        ('{"guidance": NaN}', "has NaN as a number, which JSON does not allow"),
        ("[{a: 1}, {[b]: 2}]", "line 1, column 11: found unhashable key"),
        ("jobs:\n- prompt: a\n  prompt: b\n", "line 3: 'prompt' is there twice"),
        ('{"jobs": [{"prompt": "a", "prompt": "b"}]}', "'prompt' is there twice: as 'a' and as 'b'"),
        ("a: {b: 1}\nc: {b: 1}\n? [a]\n: 1\nc: 2\n", "line 5: 'c' is there twice"),
    ],
)
def test_text_that_is_no_document_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse(text)
    assert message in caught.value.message


def test_what_yaml_takes_for_a_sign_is_to_be_quoted() -> None:
    with pytest.raises(InvalidInput) as caught:
        parse("jobs:\n- prompt: an otter: in the snow\n")
    assert "needs quotes" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("text", "message", "mend"),
    [
        ("jobs:\n\t- prompt: x\n", "line 2, column 1", "with spaces, not tabs"),
        ("a: 1\n---\nb: 2\n", "a second document begins; only one is read", "leave out '---'"),
        ('a: "\\q"\n', "found unknown escape character", None),
        ('a: "\\ud83e\\udda6"\n', "line 1, column 7: found invalid Unicode", r"\U0001F98A"),
    ],
)
def test_other_faults_have_mends_of_their_own(text: str, message: str, mend: str | None) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse(text)
    assert message in caught.value.message
    assert (mend or "None") in str(caught.value.hint)


def test_what_is_meant_as_json_is_told_so() -> None:
    for is_json, text in ((True, "jobs: []"), (True, '{"a": 1,}'), (False, '{"jobs": [}'), (False, ' [["a"')):
        with pytest.raises(InvalidInput, match=r"line 1, column \d+: .*, as JSON"):
            parse(text, is_json=is_json)


def test_yaml_may_look_like_json() -> None:
    assert parse('{"jobs": [{"prompt": no,}, ]} # two commas too many, and this\n') == {"jobs": [{"prompt": "no"}]}


@pytest.mark.parametrize("text", ["'[' * 100_000 + ']' * 100_000", "'{\"a\": ' * 100_000", "'- ' * 100_000"])
def test_deep_nesting_is_refused(text: str) -> None:
    """In a process of its own: composing it would overflow the stack of C, and end the process."""
    program = f"from farm.jobs.documents import parse; parse({text})"
    answer = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 1
    assert "is nested more than 100 deep" in answer.stderr.splitlines()[-1]


def test_a_hundred_levels_are_read() -> None:
    assert parse("[" * MAX_DEPTH + "]" * MAX_DEPTH)


def test_aliases_cannot_nest_deeper() -> None:
    chain = "".join(f", &a{n} [*a{n - 1}]" for n in range(1, 3_000))
    text = f"defaults: {{negative: [&a0 [x]{chain}]}}\njobs:\n- {{prompt: x, negative: '', labels: *a2999}}\n"
    with pytest.raises(InvalidInput, match="line 1: is nested more than 100 deep"):
        expand(parse(text))


def test_merges_cannot_nest_deeper() -> None:
    chain = "".join(f", &a{n} {{<<: *a{n - 1}}}" for n in range(1, 3_000))
    with pytest.raises(InvalidInput, match="line 1: is nested more than 100 deep"):
        parse(f"a: [[&a0 {{x: 1}}{chain}]]\nb: {{<<: *a2999}}\n")


@pytest.mark.parametrize("floor", ["{{<<: [*a{n}, *a{n}]}}", "[*a{n}, *a{n}]", "{{x: *a{n}, y: *a{n}}}"])
def test_a_tower_of_aliases_is_refused(floor: str) -> None:
    """Each line doubles what the one before it stands for: ten thousand million at the top."""
    tower = "\n".join(f"a{n + 1}: &a{n + 1} {floor.format(n=n)}" for n in range(33))
    with pytest.raises(InvalidInput, match=r"line \d+: is too large with all its aliases written out"):
        parse(f"a0: &a0 {{x: 1}}\n{tower}\n")


def test_what_is_part_of_itself_is_refused() -> None:
    with pytest.raises(InvalidInput, match="line 2: 'a' contains itself"):
        parse("jobs:\n- prompt: &a [x, *a]\n")


def test_labels_keep_what_was_written() -> None:
    text = """
defaults: &all
  labels: &kept {take: 007, exp: 1e3, hex: 0x10, ok: yes, true: TRUE, day: 2024-01-01, nothing: ~, 010: "5"}
jobs: [{prompt: x, steps: 007}, {prompt: y, labels: *kept}]
other: *all
"""
    written = {"take": "007", "exp": "1e3", "hex": "0x10", "ok": "yes", "true": "TRUE", "day": "2024-01-01"}
    found = parse(text)

    assert found["defaults"]["labels"] == {**written, "nothing": None, "010": "5"}
    assert found["jobs"] == [{"prompt": "x", "steps": 7}, {"prompt": "y", "labels": found["defaults"]["labels"]}]


def test_labels_that_are_swept_keep_what_was_written() -> None:
    text = """
jobs:
- {prompt: x, zip: {labels.take: [007, 1.10], seed: [010, 2]}, product: {labels: [{run: 1e3}, {run: 0x10}]}}
- {prompt: y, labels.take: 007}
"""
    swept, unswept = parse(text)["jobs"]

    assert swept["zip"] == {"labels.take": ["007", "1.10"], "seed": [10, 2]}
    assert swept["product"] == {"labels": [{"run": "1e3"}, {"run": "0x10"}]}
    assert unswept["labels.take"] == "007"
