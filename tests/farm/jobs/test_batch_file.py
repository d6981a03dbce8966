"""Batch files: what they expand to, how they are counted, and what is said of a wrong one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from farm.errors import InvalidInput
from farm.jobs.batch_file import count, expand
from farm.jobs.documents import parse
from farm.jobs.request import JobRequest

EXAMPLE = Path(__file__).parents[1] / "data" / "otters.yaml"


def one(**entry: Any) -> dict[str, Any]:
    return {"jobs": [{"prompt": "an otter", **entry}]}


def test_the_example_makes_ten_jobs() -> None:
    document = parse(EXAMPLE.read_text(encoding="utf-8"))
    requests = expand(document)
    assert count(document) == len(requests) == 10
    assert [(r.sampler, r.guidance) for r in requests[:6]] == [
        *(("lms", scale) for scale in (3, 5, 7.5)),
        *(("euler", scale) for scale in (3, 5, 7.5)),
    ]
    assert [(r.seed, r.losses[0].scale) for r in requests[6:]] == [(1, 0), (2, 50), (3, 100), (4, 200)]
    assert all(r.labels == {"project": "otters"} and r.model == "emoji" for r in requests)


def test_json_is_read_as_yaml_is() -> None:
    document = parse(EXAMPLE.read_text(encoding="utf-8"))
    assert expand(parse(json.dumps(document))) == expand(document)
    assert expand(parse(json.dumps(document, indent="\t"))) == expand(document)


def test_every_zip_meets_every_product() -> None:
    document = one(zip={"seed": [1, 2], "steps": [10, 20]}, product={"width": [64, 128], "height": [64, 128, 256]})
    requests = expand(document)
    assert count(document) == 12
    assert {(r.seed, r.steps) for r in requests} == {(1, 10), (2, 20)}
    assert len({(r.seed, r.width, r.height) for r in requests}) == 12


def test_entries_win_over_defaults_and_labels_are_joined() -> None:
    document = {
        "defaults": {"steps": 20, "labels": {"a": "1", "b": "1"}},
        "jobs": [{"prompt": "x", "steps": 5, "labels": {"b": "2"}}, {"prompt": "y"}],
    }
    first, second = expand(document)
    assert (first.steps, first.labels) == (5, {"a": "1", "b": "2"})
    assert (second.steps, second.labels) == (20, {"a": "1", "b": "1"})


def test_dotted_paths_reach_into_lists_and_make_mappings() -> None:
    document = one(
        losses=[{"name": "color"}],
        product={"losses.0.arguments.red": [0.1, 0.9], "labels.run": ["a"]},
    )
    requests = expand(document)
    assert [r.losses[0].arguments for r in requests] == [{"red": 0.1}, {"red": 0.9}]
    assert all(r.labels == {"run": "a"} for r in requests)


def test_jobs_of_a_sweep_do_not_share_what_they_change() -> None:
    shared = parse("jobs:\n- {prompt: x, losses: &l [{name: blue}], product: {losses.0.every: [1, 2]}}\n")
    assert [r.losses[0].every for r in expand(shared)] == [1, 2]
    assert shared["jobs"][0]["losses"] == [{"name": "blue"}]


def test_a_mask_is_found_beside_the_file_too() -> None:
    one, own = expand(
        {"jobs": [{"prompt": "x", "init": "a.png", "product": {"mask": ["m.png", "alpha"], "mask_blur": [2]}}]},
        folder=Path("/some/where"),
    )
    assert (one.mask, own.mask, one.mask_blur) == (Path("/some/where/m.png"), "alpha", 2)


def test_init_is_found_beside_the_file() -> None:
    relative, absolute = expand(
        {"jobs": [{"prompt": "x", "product": {"init": ["a.png", "/b.png"]}}]}, folder=Path("/some/where")
    )
    assert relative.init == Path("/some/where/a.png")
    assert absolute.init == Path("/b.png")


def test_counts_of_pictures_count() -> None:
    assert count(one(count=5, product={"steps": [1, 2]})) == 10
    assert count(one(product={"count": [2, 3], "steps": [1, 2]})) == 10
    assert count(one(zip={"count": [2, 3], "steps": [1, 2]})) == 5


def test_a_bomb_is_refused_before_any_of_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = ("seed", "steps", "guidance", "width", "height", "priority", "trace_every", "time_limit", "start_step")
    bomb = one(product={name: list(range(10)) for name in fields})
    monkeypatch.setattr(JobRequest, "parse", lambda _: pytest.fail("a request was made"))
    assert count(bomb) == 10**9
    with pytest.raises(InvalidInput, match=r"makes 1,000,000,000 jobs, more than 100,000"):
        expand(bomb, limit=10**12)


def test_too_many_are_refused() -> None:
    with pytest.raises(InvalidInput, match="makes 1,001 jobs, more than 1,000"):
        expand(one(product={"seed": list(range(1_001))}))


@pytest.mark.parametrize(
    ("document", "message", "hint"),
    [
        (None, "has no list of jobs", "the form is"),
        ([], "has no list of jobs", "the form is"),
        ({}, "has no list of jobs", "the form is"),
        ({"jobs": []}, "has no list of jobs", "the form is"),
        ({"jobs": ["x"]}, "job 1: the entry must be a mapping", ""),
        ({"jobs": [{"prompt": "x"}], "default": {}}, "there is no field 'default'", "did you mean 'defaults'?"),
        ({"jobs": [{"prompt": "x"}], "defaults": {"zip": {}}}, "defaults: there is no field 'zip'", "known: "),
        ({"jobs": [{"prompt": "x"}], "defaults": [1]}, "defaults must be a mapping", ""),
        (one(stepz=3), "job 1: there is no field 'stepz'", "did you mean 'steps'?"),
        (one(products={}), "job 1: there is no field 'products'", "did you mean 'product'?"),
        (one(zip={"stepz": [1]}), "job 1: zip: there is no field 'stepz'", "did you mean 'steps'?"),
        (one(product={"steps": 3}), "job 1: product.steps: must be a list of values", ""),
        (one(product={"steps": []}), "job 1: product.steps: must be a list of values", ""),
        (one(product=[1]), "job 1: product must be a mapping", ""),
        (one(zip={"steps": [1], "seed": [1, 2]}), "the lists of zip differ in length: steps has 1, seed has 2", ""),
        (one(zip={"steps": [1]}, product={"steps": [1]}), "job 1: steps: is in both zip and product", ""),
        (one(product={"losses.0.scale": [1]}), "job 1: losses.0.scale: there is no list 'losses' to set it in", ""),
        (one(losses=[{"name": "blue"}], product={"losses.1.scale": [1]}), "losses.1.scale: there is no '1' to set", ""),
        (one(product={"steps.x": [1]}, steps=3), "job 1: steps.x: there is no 'x' to set", ""),
        (one(steps=0), "job 1: steps: 0: input should be greater than or equal to 1", ""),
        ({"jobs": [{"prompt": "x"}, {"mode": "mix", "prompt": "x"}]}, "job 2: mix needs at least two prompts", ""),
        (one(count="many"), "job 1: count: 'many' is not a whole number", ""),
        (one(count="2000"), "job 1: count: '2000' is not a whole number", ""),
        (one(count=2.5), "job 1: count: 2.5 is not a whole number", ""),
        (one(count=float("inf")), "job 1: count: inf is not a whole number", ""),
        (one(count=True), "job 1: count: True is not a whole number", ""),
        (one(product={"count": [1, "2000"]}), "job 1: count: '2000' is not a whole number", ""),
        (one(count=0), "job 1: count: 0: input should be greater than or equal to 1", ""),
        (one(steps=True), "job 1: steps: true is neither a number nor text", ""),
        (one(init="~no such user/a.png"), "job 1: init: '~no such user/a.png': ", ""),
        (one(init="a\0b.png"), "job 1: init: 'a\\x00b.png' cannot be the name of a file", ""),
        (one(init="a.png", mask="~no such user/a.png"), "job 1: mask: '~no such user/a.png': ", ""),
        (one(init=""), "job 1: init: '' cannot be the name of a file", ""),
    ],
)
def test_a_wrong_document_is_refused_with_a_message(document: Any, message: str, hint: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        expand(document)
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


def test_what_an_axis_replaces_is_not_copied_for_each_job() -> None:
    large = one(prompt=["x"] * 2_000, product={"prompt": ["a"], "seed": list(range(1_000))})
    with pytest.raises(InvalidInput, match="job 1: there are more than 1,000 values in one job"):
        expand(large)
    with pytest.raises(InvalidInput, match="job 1: zip and product have more than 64 lists"):
        expand(one(losses=[{"name": "blue"}], product={f"losses.{'0' * n}.scale": [1] for n in range(1, 70)}))


def test_numbers_of_thousands_of_digits_are_refused() -> None:
    for field in ("count", "seed", "steps", "guidance", "weights"):
        with pytest.raises(InvalidInput, match=f"job 1: {field}"):
            expand(parse(f"jobs: [{{prompt: x, {field}: 0x{'f' * 50_000}}}]"))


def test_each_entry_is_checked_and_named() -> None:
    def check(requests: Sequence[JobRequest]) -> None:
        if len(requests) > 1:
            raise InvalidInput("no", field="steps")

    with pytest.raises(InvalidInput, match=r"^job 2: steps: no$"):
        expand({"jobs": [{"prompt": "x"}, {"prompt": "x", "product": {"steps": [1, 2]}}]}, check=check)
