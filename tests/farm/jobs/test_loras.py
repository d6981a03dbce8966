"""LoRAs as people ask for them, in options, fields and tags of prompts, and what a spec says of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from farm.cli.options import parsing
from farm.errors import InvalidInput
from farm.jobs import batch_file, grid, tags
from farm.jobs.describe import describe
from farm.jobs.emphasis import sections
from farm.jobs.fields import called, differing, value
from farm.jobs.loras import LoraUse
from farm.jobs.request import JobRequest
from farm.jobs.spec import JobSpec

SHA256 = "0123456789abcdef" * 4


def spec(**fields: Any) -> JobSpec:
    (made,) = JobRequest.parse({"prompt": "a cat", "seed": 7, **fields}).specs(None, default_model="emoji")
    return made


def weights(**fields: Any) -> dict[str, tuple[float, float]]:
    """By name, how strongly each LoRA of a request acts on the UNet and on text encoders."""
    return {use.name: (use.unet, use.text) for use in spec(**fields).loras}


# Tags


@pytest.mark.parametrize(
    ("prompt", "text", "unet_and_text"),
    [
        ("a cat <lora:detail:0.8>", "a cat", (0.8, 0.8)),
        ("a cat <lora:detail>", "a cat", (1, 1)),
        ("<lora:detail:-1.5>a cat", "a cat", (-1.5, -1.5)),
        ("a <lora:detail:0.5:0.75>cat", "a cat", (0.75, 0.5)),
        ("a <lora:detail:te=0:unet=0.75>cat", "a cat", (0.75, 0)),
        ("a <lora:detail:te=0.25>cat", "a cat", (0.25, 0.25)),
        ("a <lora:detail:0.5:unet=2>cat", "a cat", (2, 0.5)),
        ("(a <lyco:detail:.5>cat:1.2)", "(a cat:1.2)", (0.5, 0.5)),
        ("<lora:detail:1>", "", (1, 1)),
    ],
)
def test_tags_are_read_as_a1111_reads_them(prompt: str, text: str, unet_and_text: tuple[float, float]) -> None:
    made = spec(prompt=prompt)
    assert made.conditioning.prompts[0].text == text
    [use] = made.loras
    assert (use.name, use.unet, use.text) == ("detail", *unet_and_text)


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("<lora:detail:much>", "prompt: '<lora:detail:much>' has a weight that is not a number"),
        ("<lora:detail:1_0>", "prompt: '<lora:detail:1_0>' has a weight that is not a number"),
        ("<lora:detail:٣>", "prompt: '<lora:detail:٣>' has a weight that is not a number"),
        ("<lora:detail:nan>", "prompt: '<lora:detail:nan>' unet: nan: input should be a finite number"),
        ("<lora:detail:101>", "prompt: '<lora:detail:101>' unet: 101.0: input should be less than or equal to 100"),
        ("<lora:../x:1>", "prompt: '<lora:../x:1>' name: '../x' cannot name a LoRA"),
        ("<lora:a:1:1:1>", "prompt: '<lora:a:1:1:1>' is not <lora:NAME:WEIGHT>"),
        ("<lora:a:dyn=4>", "prompt: '<lora:a:dyn=4>' is not <lora:NAME:WEIGHT>"),
        ("<lora:a:60><lora:a:60>", "loras: the weights of 'a' come to 120, beyond ±100"),
        ("".join(f"<lora:l{number}>" for number in range(9)), "loras: there are more than 8"),
    ],
)
def test_a_tag_that_cannot_be_read_is_told(prompt: str, said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        spec(prompt=prompt)
    assert caught.value.message.startswith(said)


def test_tags_of_all_prompts_of_a_mix_count_and_those_of_a_name_add_up() -> None:
    fields = {
        "mode": "mix",
        "prompt": ["a cat <lora:a:0.5>", "a dog<lora:b:1>"],
        "mix_with": [{"prompt": "a fox <lora:a:0.25:1>", "weight": 0.5}],
        "loras": [{"name": "c", "weight": -1}, {"name": "b", "weight": 0.5}],
    }
    assert weights(**fields) == {"c": (-1, -1), "b": (1.5, 1.5), "a": (1.5, 0.75)}
    assert [prompt.text for prompt in spec(**fields).conditioning.prompts] == ["a cat", "a dog", "a fox"]


def test_a_negative_prompt_and_a_plain_one_have_no_tags() -> None:
    made = spec(negative="<lora:a:1>")
    assert (made.loras, made.conditioning.negative) == ((), "<lora:a:1>")
    plain = spec(prompt="a <lora:a:1>", reading="plain")
    assert (plain.loras, plain.prompt) == ((), "a <lora:a:1>")


def test_words_that_look_like_a_tag_have_a_backslash_that_says_nothing() -> None:
    made = spec(prompt=r"a <\lora:a:1> sign")
    assert made.loras == ()
    [[words]] = sections(made.prompt)
    assert words.text == "a <lora:a:1> sign"


@pytest.mark.parametrize(
    "text", ["<lora:a:1>", "x <hypernet:y:1><lora:z> >", "<<lora:a:1>", r"<\lora:a:1>", "a<b:c", ""]
)
def test_words_are_made_inert_once_and_for_all(text: str) -> None:
    made = tags.inert(text)
    assert tags.taken_out(made) == (made, ())
    assert tags.inert(made) == made
    assert made.replace("\\", "") == text.replace("\\", "")


def test_what_is_written_is_read_back() -> None:
    uses = tuple(
        LoraUse(name=name, unet=unet, text=text, by="tag")
        for name, unet, text in (("a", 0.8, 0.8), ("B.2", -1, 0.25), ("c", 0.1234567, 1))
    )
    assert tags.written(uses) == "<lora:a:0.8><lora:B.2:0.25:-1><lora:c:1:0.1234567>"
    assert tags.taken_out(f"a cat {tags.written(uses)}") == ("a cat", uses)


# Options and fields


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("detail", (1, 1)),
        ("detail:0.8", (0.8, 0.8)),
        ("detail:-2", (-2, -2)),
        ("detail:unet=0.8,text=0.5", (0.8, 0.5)),
        ("detail:text=0", (1, 0)),
    ],
)
def test_the_option_says_one_weight_or_two(written: str, meant: tuple[float, float]) -> None:
    assert weights(loras=[parsing.lora(written)]) == {"detail": meant}


@pytest.mark.parametrize("written", ["detail:", "detail:x", "detail:unet=x", "detail:te=1", "detail:0.8:0.5"])
def test_another_form_of_the_option_is_refused(written: str) -> None:
    with pytest.raises(InvalidInput, match=r"^--lora: "):
        parsing.lora(written)


@pytest.mark.parametrize(
    ("lora", "said"),
    [
        ({"name": "a b"}, "loras.0.name: 'a b' cannot name a LoRA"),
        ({"name": ""}, "loras.0.name: '' cannot name a LoRA"),
        ({"weight": 1}, "loras.0.name: field required"),
        ({"name": "a", "weight": 101}, "loras.0.weight: 101: input should be less than or equal to 100"),
        ({"name": "a", "unet": float("nan")}, "loras.0.unet: nan: input should be a finite number"),
        ({"name": "a", "weight": True}, "loras.0.weight: true is neither a number nor text"),
        ({"name": "a", "weight": 1, "unet": 1, "text": 1}, "loras.0: give the weight, or those of unet and text"),
        ({"name": "a", "sha256": "0"}, "loras.0.sha256: '0': "),
        ("a:1", "loras.0: 'a:1' should be a mapping of names to values"),
    ],
)
def test_a_wrong_field_is_named(lora: Any, said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        JobRequest.parse({"prompt": "a cat", "loras": [lora]})
    assert caught.value.message.startswith(said)


def test_a_study_adds_nothing_to_a_model() -> None:
    with pytest.raises(InvalidInput, match="tokens has no use for 'loras'"):
        JobRequest.parse({"mode": "tokens", "prompt": "a", "loras": [{"name": "a"}]})
    study = JobRequest.parse({"mode": "tokens", "prompt": "a <lora:a:1>"}).specs(None, default_model="emoji")[0]
    assert (study.prompt, study.loras) == ("a <lora:a:1>", ())
    with pytest.raises(InvalidInput, match="tokens takes no step: it has no losses, LoRAs"):
        JobSpec.from_json(study.to_json()[:-1] + ',"loras":[{"name":"a"}]}')


def test_batch_files_sweep_weights() -> None:
    job = {
        "prompt": "a cat",
        "loras": [{"name": "a"}, {"name": "b", "unet": 0.5}],
        "zip": {"loras.0.weight": [0, 0.5], "loras.1.text": [1, -1]},
    }
    made = [request.specs(None, default_model="emoji")[0].loras for request in batch_file.expand({"jobs": [job]})]
    assert [[(use.unet, use.text) for use in loras] for loras in made] == [[(0, 0), (0.5, 1)], [(0.5, 0.5), (0.5, -1)]]


def test_grids_have_axes_over_weights() -> None:
    axes = [grid.parse_axis("lora.0.unet=0,0.5", name="x"), grid.parse_axis("loras.0.name=a,b", name="y")]
    made = grid.requests({"prompt": ["a cat"], "loras": [{"name": "a", "text": 0.25}], "seed": 1}, axes)
    [*found] = [request.specs(None, default_model="emoji")[0].loras[0] for request in made]
    assert [(use.name, use.unet, use.text) for use in found] == [
        *[("a", 0, 0.25), ("a", 0.5, 0.25)],
        *[("b", 0, 0.25), ("b", 0.5, 0.25)],
    ]


@pytest.mark.parametrize(
    ("axis", "said"),
    [
        ("loras=a,b", "--x: no value fills all of 'loras'"),
        ("loras.1.unet=0,1", "--x: loras.1.unet is of a LoRA that is not there; there are 1"),
        ("loras.0.unet=0,x", "--x: loras.0.unet=x: 'x': input should be a valid number"),
    ],
)
def test_an_axis_that_cannot_be_is_told(axis: str, said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        grid.requests({"prompt": ["a"], "loras": [{"name": "a"}], "seed": 1}, [grid.parse_axis(axis, name="x")])
    assert caught.value.message.startswith(said)


# Specs


def test_a_spec_without_loras_is_written_as_before() -> None:
    assert "loras" not in json.loads(spec().to_json())


def test_a_spec_says_the_file() -> None:
    made = spec(loras=[{"name": "a", "sha256": SHA256, "unet": 0.8, "text": 0.5}])
    assert JobSpec.from_json(made.to_json()) == made
    assert json.loads(made.to_json())["loras"] == [
        {"name": "a", "sha256": SHA256, "short_hash": None, "unet": 0.8, "text": 0.5}
    ]
    twice = json.loads(made.to_json())
    twice["loras"] *= 2
    with pytest.raises(InvalidInput, match="the LoRA 'a' is there twice"):
        JobSpec.from_json(json.dumps(twice))


def test_it_is_told_what_is_added() -> None:
    made = spec(loras=[{"name": "a", "weight": 0.8}, {"name": "b", "unet": 0.5, "text": 0}])
    assert describe(made) == "txt2img · seed 7 · 30 steps · lms · lora a 0.8 · lora b unet 0.5, text 0"
    told = {field: value(made, {}, field) for field in ("loras", "loras.0.weight", "loras.1.unet", "loras.1.text")}
    assert list(told.values()) == ["a 0.8 + b unet 0.5, text 0", "0.8", "0.5", "0"]
    assert [value(made, {}, field) for field in ("loras.0.name", "loras.2.name", "loras.0", "loras.0.x")] == ["a"] + [
        "–"
    ] * 3
    assert value(spec(), {}, "loras") == "–"
    assert differing([made, spec()]) == ["loras"]
    assert called("loras.0.weight", [made, made]) == "a weight"
    assert called("loras.0.weight", [made, spec(loras=[{"name": "b"}])]) == "lora weight"
    assert called("loras", [made]) == "loras"


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("a <LORA:x:0.8> b", [("<LORA:x:0.8>", "<lora:x:0.8>")]),
        ("<lora x> and <Lyco=y:-2>", [("<lora x>", "<lora:x:1>"), ("<Lyco=y:-2>", "<lora:y:-2>")]),
        ("< lora : x : 0.5>", [("< lora : x : 0.5>", "<lora:x:0.5>")]),
        ("<lora: my style:1>", []),
        ("<LoRA:my style:1>", [("<LoRA:my style:1>", "<lora:NAME:1>")]),
        ("<lora:x:1, a cat", [("<lora:x", "<lora:x:1>")]),
        ("<lora:x:1> <lyco:y:2>", []),
        (r"<\lora:x:1> <lora> <lorax> <lora-style> <flora x> a lora", []),
        ("a cat <lora:> <LORA:>", [("<lora:>", "<lora:NAME:1>"), ("<LORA:>", "<lora:NAME:1>")]),
        ("<lora：x：0.8>", [("<lora：x：0.8>", "<lora:x:0.8>")]),
        ("a [lora:x:0.8] (LoRA: y)", [("[lora:x:0.8]", "<lora:x:0.8>"), ("(LoRA: y)", "<lora:y:1>")]),
        ("{lyco:x} &lt;lora:y:1&gt;", [("{lyco:x}", "<lora:x:1>"), ("&lt;lora:y:1&gt;", "<lora:y:1>")]),
        ("a cat, lora:x:-1, sitting", [("lora:x:-1", "<lora:x:-1>")]),
        ("<loras:x:0.8> <lroa:y>", [("<loras:x:0.8>", "<lora:x:0.8>"), ("<lroa:y>", "<lora:y:1>")]),
        ("<time:12:30> <lou:x> <a:b>", []),
        ("[lora:2.5d]", [("[lora:2.5d]", "<lora:2.5d:1>")]),
        (r"(lora:0.8) [lora] lora: a word, a-lora:x:1 \[lora:x:1\] (flora:x:1)", []),
    ],
)
def test_what_is_nearly_a_tag_is_found(prompt: str, told: list[tuple[str, str]]) -> None:
    assert [*tags.nearly(prompt)] == told
