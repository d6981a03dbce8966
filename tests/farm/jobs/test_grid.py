"""Grids: axes as they are written, the requests they make, and whom an error names."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.errors import InvalidInput
from farm.jobs.grid import Axis, Place, count, parse_axis, requests
from farm.jobs.request import JobRequest
from farm.jobs.spec import InitReference

PICTURE = InitReference(sha256="0" * 64, extension="png")
BASE: dict[str, Any] = {"mode": "txt2img", "prompt": ["a cat in the snow"], "seed": 7}


def axes(*texts: str) -> list[Axis]:
    return [parse_axis(text, name=name) for text, name in zip(texts, "xyz", strict=False)]


def test_what_is_said_of_a_mask_can_be_an_axis() -> None:
    given = {"mode": "img2img", "init": "a.png", "mask": "m.png"}
    made = grid("mask_blur=0,8", "fill=original,noise", 'outpaint="left=8,top=4",right=8', **given)
    assert [(one.mask_blur, one.fill, str(one.outpaint)) for one in made[:2]] == [
        *((blur, "original", "left=8,top=4") for blur in (0, 8))
    ]
    assert len(made) == 8 and str(made[-1].outpaint) == "right=8"


def test_how_a_picture_was_framed_can_be_an_axis() -> None:
    made = grid("original_size=64x64,4096x2048", 'crop="8,0","0,8"', "target_size.width=64", target_size={"height": 96})
    assert [(str(one.original_size), str(one.crop), str(one.target_size)) for one in made] == [
        (size, crop, "64x96") for crop in ("8,0", "0,8") for size in ("64x64", "4096x2048")
    ]


def test_a_lora_of_a_tag_is_no_axis_and_the_hint_says_how_it_becomes_one() -> None:
    tagged = {"prompt": ["a cat <lora:style:0.5> <lora:detail:0.8:0.4>"]}
    said = r"--x: loras\.0\.weight is of a LoRA that is not there; there are 0 \(those of tags are not counted: write "
    with pytest.raises(InvalidInput, match=rf"^{said}--lora style:0\.5 instead of its tag\)$"):
        grid("loras.0.weight=0,1", **tagged)
    with pytest.raises(InvalidInput, match=r"there are 0 \(add it by --lora NAME; the first is loras\.0\)"):
        grid("loras.0.weight=0,1", **tagged, reading="plain")
    made = grid("loras.0.weight=0,1", prompt=["a cat"], loras=[{"name": "style"}])
    assert [one.loras[0].weight for one in made] == [0, 1]


def grid(*texts: str, **fields: Any) -> list[JobRequest]:
    return requests({**BASE, **fields}, axes(*texts))


def labels(request: JobRequest) -> list[str]:
    return [request.labels[f"grid.{name}"] for name in "xyz" if f"grid.{name}" in request.labels]


@pytest.mark.parametrize(
    ("written", "field", "values"),
    [
        ("guidance=1,3,7.5", "guidance", ("1", "3", "7.5")),
        ("sampler = lms , euler", "sampler", ("lms", "euler")),
        ("start-step=0,12", "start_step", ("0", "12")),
        ("loss-scale=0,25", "losses.0.scale", ("0", "25")),
        ("losses.0.every=1,5", "losses.0.every", ("1", "5")),
        ("losses.1.target=0.1,0.9", "losses.1.arguments.target", ("0.1", "0.9")),
        ("losses.0.arguments.red=1", "losses.0.arguments.red", ("1",)),
        ("mix-with.0.weight=0.1,0.2", "mix_with.0.weight", ("0.1", "0.2")),
        ('prompt=cat,"a dog, asleep",a = b', "prompt", ("cat", "a dog, asleep", "a = b")),
        ('prompt=cat, "a ""big"" dog"', "prompt", ("cat", 'a "big" dog')),
        ("negative=,blurry", "negative", ("", "blurry")),
        ("labels.take=a,b", "labels.take", ("a", "b")),
    ],
)
def test_an_axis_is_a_field_and_values(written: str, field: str, values: tuple[str, ...]) -> None:
    assert parse_axis(written, name="x") == Axis("x", field, values)


words = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=12)


@given(st.lists(words.map(str.strip).filter(bool), min_size=1, max_size=5, unique=True))
def test_whatever_csv_can_write_is_read(values: list[str]) -> None:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(values)
    assert parse_axis(f"prompt={line.getvalue()}", name="y").values == tuple(values)


@given(st.text(max_size=40))
def test_whatever_is_written_is_an_axis_or_bad_input(text: str) -> None:
    try:
        axis = parse_axis(text, name="z")
    except InvalidInput as error:
        assert error.field == "--z"
    else:
        assert axis.values and len(set(axis.values)) == len(axis.values)


@pytest.mark.parametrize(
    ("written", "reason", "hint"),
    [
        ("guidance", "'guidance' is not FIELD=VALUE,…", "such as --x guidance=1,3,7.5"),
        ("=1", "there is no field ''", "known: mode"),
        ("guidence=1", "there is no field 'guidence'", "did you mean 'guidance'?"),
        ("guidance=", "guidance has no values", "such as"),
        ("guidance=1,2,1", "'1' is there twice", ""),
        ('prompt=cat,"dog', "cannot be read as values: unexpected end of data", "is quoted"),
        ("losses=blue", "no value fills all of 'losses'", "losses.0.scale"),
        ("weights=1", "no value fills all of 'weights'", "weights.0"),
        ("labels=a", "no value fills all of 'labels'", "labels.NAME"),
        ("mix-with=a", "no value fills all of 'mix_with'", "mix_with.0.weight"),
        ("seed=1,-1", "-1 is another seed at every place", "seed=1,2,3"),
        ("count=1,2", "every place of a grid has as many pictures", "seed=1,2,3"),
    ],
)
def test_a_wrong_axis_is_refused(written: str, reason: str, hint: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_axis(written, name="x")
    assert caught.value.field == "--x"
    assert reason in caught.value.reason
    assert hint in (caught.value.hint or "")


def test_a_grid_has_a_request_for_each_place_row_by_row() -> None:
    made = grid("guidance=1,7.5", "steps=10,20,40")
    assert [(request.steps, request.guidance) for request in made] == [
        *((10, 1), (10, 7.5), (20, 1), (20, 7.5), (40, 1), (40, 7.5))
    ]
    assert labels(made[3]) == ["guidance=7.5", "steps=20"]
    assert {request.seed for request in made} == {7}
    assert count(BASE, axes("guidance=1,7.5", "steps=10,20,40")) == 6


def test_three_axes_over_fields_of_every_kind() -> None:
    losses = [{"name": "color", "arguments": {"red": 0.5}}]
    made = grid("losses.0.red=0.1,0.9", "loss-scale=5,10", "sampler=lms,euler", losses=losses, labels={"who": "me"})
    assert len(made) == 8
    assert [(r.losses[0].arguments, r.losses[0].scale, r.sampler) for r in made[:2]] == [
        ({"red": 0.1}, 5, "lms"),
        ({"red": 0.9}, 5, "lms"),
    ]
    assert made[7].losses[0].scale == 10 and made[7].sampler == "euler"
    assert labels(made[6]) == ["losses.0.arguments.red=0.1", "losses.0.scale=10", "sampler=euler"]
    assert all(request.labels["who"] == "me" for request in made)
    assert losses == [{"name": "color", "arguments": {"red": 0.5}}]


@pytest.mark.parametrize("seed", [{}, {"seed": None}, {"seed": -1}])
def test_a_random_seed_is_drawn_once(seed: dict[str, Any]) -> None:
    fields = {name: value for name, value in BASE.items() if name != "seed"} | seed
    drawn = [{request.seed for request in requests(fields, axes("steps=1,2,3"))} for _ in range(2)]
    assert [len(seeds) for seeds in drawn] == [1, 1]
    assert drawn[0] != drawn[1] and None not in drawn[0]


def test_an_axis_over_seeds_has_them() -> None:
    assert [request.seed for request in grid("seed=3,5")] == [3, 5]


def test_a_count_goes_with_every_place() -> None:
    made = grid("steps=1,2", count=3)
    assert [(request.steps, request.count) for request in made] == [(1, 3), (2, 3)]
    with pytest.raises(InvalidInput, match=r"^count: goes with one seed"):
        grid("seed=1,2", count=3)


def test_the_prompt_is_searched_and_replaced() -> None:
    made = grid('prompt=cat,dog,"owl, asleep"', "prompt=the snow,a boat")
    assert [request.prompts for request in made] == [
        *(("a cat in the snow",), ("a dog in the snow",), ("a owl, asleep in the snow",)),
        *(("a cat in a boat",), ("a dog in a boat",), ("a owl, asleep in a boat",)),
    ]
    assert labels(made[5]) == ["prompt=owl, asleep", "prompt=a boat"]


def test_weights_are_searched_and_replaced_with_the_words() -> None:
    made = grid('prompt=cat,(cat:1.3),"[cat, asleep]"', "clip_skip=1,2")
    assert [request.prompts[0] for request in made[:3]] == [
        *("a cat in the snow", "a (cat:1.3) in the snow", "a [cat, asleep] in the snow"),
    ]
    specs = [request.specs(None, default_model="m")[0].conditioning for request in made]
    assert [(spec.reading, spec.clip_skip) for spec in specs] == [("weighted", 1)] * 3 + [("weighted", 2)] * 3
    with pytest.raises(InvalidInput, match="'cat' weighs 500") as refused:
        requests(
            BASE, axes("prompt=cat,(cat:500)"), check=lambda some: [one.specs(None, default_model="m") for one in some]
        )
    assert refused.value.field == "--x"


def test_every_prompt_of_a_mix_is_searched() -> None:
    made = grid("prompt=cat,dog", mode="mix", prompt=["a cat", "an owl", "the cat"])
    assert made[1].prompts == ("a dog", "an owl", "the dog")
    (first,) = grid("prompt.1=an owl,", mode="mix", prompt=["a cat", "x"])[:1]
    assert first.prompts == ("a cat", "an owl")


def test_labels_of_long_values_are_short_and_unlike() -> None:
    values = tuple("x" * 300 + end for end in "ab")
    axis = Axis("x", "prompt", values)
    first, second = (Place(axis, index).label for index in range(2))
    assert first != second and len(first) == len(second) == 200
    (request, _) = requests({**BASE, "prompt": [values[0]]}, [axis])
    assert request.labels["grid.x"] == first


@pytest.mark.parametrize(
    ("written", "fields", "message"),
    [
        (["guidance=1,300"], {}, "--x: guidance=300: '300': input should be less than or equal to 100"),
        (["steps=10,1e3"], {}, "--x: steps=1e3: '1e3': input should be a valid integer"),
        (["seed=1,-2"], {}, "--x: seed=-2: '-2': input should be greater than or equal to 0"),
        (["steps=10", "sampler=lms,plums"], {}, "--y: sampler=plums: there is no sampler 'plums'"),
        (["sampler=lms,ddim"], {"schedule": "karras"}, "schedule: with sampler=ddim: 'ddim' does not follow"),
        (["schedule=model,karras"], {"sampler": "ddim"}, "--x: schedule=karras: 'ddim' does not follow the schedule"),
        (["model=a b"], {}, "--x: model='a b': 'a b' cannot name a model"),
        (["prompt=dog,cat"], {}, "--x: 'dog' is not in the prompt"),
        (["prompt=,cat"], {}, "--x: '' is not in the prompt"),
        (["losses.0.scale=1"], {}, "--x: losses.0.scale is of a loss that is not there; there are 0"),
        (["losses.1.every=1"], {"losses": [{"name": "blue"}]}, "--x: losses.1.every is of a loss that is not there"),
        (["losses.a.every=1"], {"losses": [{"name": "blue"}]}, "--x: losses.a.every is of a loss that is not there"),
        (["losses.0.target=3"], {"losses": [{"name": "blue"}]}, "--x: losses.0.arguments.target=3: 'target' of loss"),
        (["losses.0.hue=3"], {"losses": [{"name": "blue"}]}, "--x: losses.0.arguments.hue=3: loss 'blue' has no"),
        (["loss-scale=1", "loss-every=0"], {"losses": [{"name": "blue"}]}, "--y: losses.0.every=0: '0': input should"),
        (["strength=0.5,2"], {"init": "a.png"}, "--x: strength=2: 2 is not above 0 and up to 1"),
        (["mix=0.2,150"], {"mode": "mix", "prompt": ["a", "b"]}, "--x: mix=150: '150': input should be less"),
        (["steps=40,10"], {"init": "a.png", "start_step": 12}, "start_step: with steps=10: 12 leaves none of the 10"),
        (["steps=40,10", "start-step=12"], {"init": "a.png"}, "--y: start_step=12: 12 leaves none of the 10 steps"),
        (["mix=0.5"], {}, "with mix=0.5: --mix goes with exactly two prompts"),
        (["steps=1"], {"mode": "guided"}, "guided needs a loss"),
        (["steps=1"], {"guidance": -101}, "guidance: -101: input should be greater than or equal to -100"),
        (["steps=1,2", "steps=3"], {}, "--y: steps is on --x already"),
        (["seed=1"], {"labels": {f"l{n}": "" for n in range(16)}}, "labels: with seed=1: there are more than 16"),
    ],
)
def test_an_error_names_the_axis_and_the_value(written: list[str], fields: dict[str, Any], message: str) -> None:
    def check(made: Sequence[JobRequest]) -> None:
        for request in made:
            request.specs(PICTURE, default_model="emoji")

    if "init" in fields:
        fields = {**fields, "mode": "img2img"}
    with pytest.raises(InvalidInput) as caught:
        requests({**BASE, **fields}, axes(*written), check=check)
    assert caught.value.message.startswith(message)


def test_too_many_are_refused_before_any_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = ",".join(map(str, range(100)))
    monkeypatch.setattr(JobRequest, "parse", lambda _: pytest.fail("a request was made"))
    with pytest.raises(InvalidInput, match="makes 1,000,000 jobs, more than 100,000"):
        requests(BASE, axes(f"seed={numbers}", f"guidance={numbers}", f"steps={numbers}"), limit=10**9)
    with pytest.raises(InvalidInput, match="makes 100 jobs, more than 99"):
        requests({**BASE, "count": 10}, axes("steps=1,2,3,4,5,6,7,8,9,10"), limit=99)
