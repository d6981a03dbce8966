"""Batch files: whatever they say, they are refused in one line, or make requests within the bounds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.errors import InvalidInput
from farm.jobs.batch_file import count, expand
from farm.jobs.documents import parse
from farm.jobs.request import JobRequest
from tests.fuzzing import anything, bounded_memory, fuzz, spoilt, words

MOST = 500
DOCUMENT: dict[str, Any] = {
    "defaults": {"steps": 30, "model": "emoji", "labels": {"project": "otters"}, "losses": [{"name": "blue"}]},
    "jobs": [
        {"prompt": "an otter", "product": {"sampler": ["lms", "euler"], "guidance": [3, 5, 7.5], "count": [1, 2]}},
        {"mode": "mix", "prompt": ["a cat", "a fox"], "weights": [1, 2], "labels": {"a": "b"}},
        {
            "mode": "guided",
            "prompt": "a puppy",
            "losses": [{"name": "color", "arguments": {"red": 0.1}}],
            "zip": {"seed": [1, 2], "losses.0.scale": [0, 50], "losses.0.arguments.red": [0.1, 0.2]},
        },
    ],
}


@pytest.fixture(autouse=True)
def memory() -> Iterator[None]:
    with bounded_memory():
        yield


def requests_of(text: str) -> list[JobRequest] | None:
    """What a file makes, or None if it is refused as it should be. Any other exception is the test's."""
    try:
        document = parse(text)
        number = count(document)
        requests = expand(document, limit=MOST)
    except InvalidInput as error:
        assert 0 < len(str(error)) < 50_000
        return None
    assert sum(request.count for request in requests) == number <= MOST
    assert all(JobRequest.parse(request.model_dump()) == request for request in requests)
    return requests


def test_the_document_is_one() -> None:
    assert len(requests_of(json.dumps(DOCUMENT)) or ()) == 12 + 1 + 2


@fuzz(160)
@given(spoilt(DOCUMENT))
def test_documents(document: Any) -> None:
    requests_of(json.dumps(document))


@fuzz(120)
@given(st.lists(st.dictionaries(st.sampled_from((*JobRequest.model_fields, "zip", "product")), anything), max_size=3))
def test_jobs_of_anything(jobs: list[Any]) -> None:
    requests_of(json.dumps({"jobs": jobs}))


@fuzz(120)
@given(st.text(max_size=200))
def test_texts(text: str) -> None:
    requests_of(text)


# Lines of YAML with all that it has to confuse: anchors, aliases, merges, tags, documents, comments, odd scalars.
values = st.recursive(
    st.one_of(
        st.sampled_from(
            (
                "x",
                "1",
                "0x" + "f" * 6_000,
                "*a",
                "*b",
                "*c",
                "&a x",
                "&b [*a, *a]",
                "&c {<<: *b}",
                "{<<: [*a, *b]}",
                "~",
            )
        ),
        st.sampled_from(
            ("!!binary aGk=", "!!set {a}", "!!python/name:os.system", "2026-99-99", "1:59:59", ".inf", "=")
        ),
        st.sampled_from(("|", ">-", "'", '"', "{", "[", "? a", "- ", "%TAG ! !", "---", "...", "#", "\t", "!", "!<!>")),
        words.map(json.dumps),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4).map(lambda parts: f"[{', '.join(parts)}]"),
        st.lists(st.tuples(st.sampled_from(("prompt", "<<", "labels", "seed", "zip")), inner), max_size=3).map(
            lambda pairs: "{" + ", ".join(f"{key}: {value}" for key, value in pairs) + "}"
        ),
        st.tuples(st.sampled_from("abc"), inner).map(lambda pair: f"&{pair[0]} {pair[1]}"),
    ),
    max_leaves=8,
)
lines = st.one_of(
    st.tuples(st.sampled_from(("defaults", "jobs", "jobs", "x", "<<")), values).map(": ".join),
    st.tuples(st.sampled_from(("- prompt", "  product", "  seed", "  <<", "  losses")), values).map(": ".join),
    values,
)


@fuzz(240)
@given(st.lists(lines, max_size=8))
def test_lines_of_yaml(written: list[str]) -> None:
    requests_of("\n".join(written))


@fuzz(60)
@given(
    st.integers(1, 40),
    st.integers(2, 9),
    st.sampled_from(
        ("&a{n} [{many}]", "&a{n} {{<<: [{many}]}}", "&a{n} {{x: [{many}]}}", "&a{n} {{a: {one}, <<: {one}}}")
    ),
    st.sampled_from(("prompt", "labels", "losses", "product", "<<", "init", "weights", "seed")),
)
def test_towers_of_aliases(height: int, width: int, floor: str, use: str) -> None:
    """Each floor holds the one below several times: billions at forty floors."""
    ground = "&a0 {x: y}"
    floors = [floor.format(n=n, one=f"*a{n - 1}", many=", ".join([f"*a{n - 1}"] * width)) for n in range(1, height + 1)]
    text = "\n".join(
        [
            "defaults:",
            *(f"  x{n}: {made}" for n, made in enumerate([ground, *floors])),
            f"jobs: [{{{use}: *a{height}}}]",
        ]
    )
    assert requests_of(text) is None
    held = f"jobs:\n- prompt: x\n  {use}:\n" + "\n".join(f"  - {made}" for made in [ground, *floors])
    assert requests_of(held) is None
