"""Every kind of wrong input, with the message that a person gets for it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from farm.errors import InvalidInput
from farm.jobs.request import JobRequest, LossRequest
from farm.jobs.spec import InitReference, JobSpec
from farm.jobs.start import start_step_of_strength, strength_of

IMAGE = InitReference(sha256="0" * 64, extension="png")
NAN, INFINITY = math.nan, math.inf


def specs(**fields: Any) -> list[JobSpec]:
    request = JobRequest.parse({"prompt": "an otter", **fields})
    return request.specs(IMAGE if request.init else None, default_model="emoji")


WRONG = [
    ({"prompt": ()}, "prompt: there are 0; at most 16 are taken, and at least one"),
    ({"prompt": 7}, "prompt: 7 is a number, but should be text; put it in quotes if it is meant"),
    ({"prompt": ("x", 2.5)}, "prompt: 2.5 is a number, but should be text; put it in quotes if it is meant"),
    ({"prompt": {"a": "b"}}, "prompt: {'a': 'b'} should be text; what begins with a brace needs quotes"),
    ({"prompt": None}, "prompt: field required"),
    ({"prompt": "an \udcff otter"}, "prompt: 'an \\udcff otter' is not UTF-8 text from character 4 on"),
    ({"negative": "\ud83e"}, "negative: '\\ud83e' is not UTF-8 text from character 1 on"),
    ({"negative": 7}, "negative: 7 is a number, but should be text; put it in quotes if it is meant"),
    ({"labels": {"a": "\ud83e"}}, "labels: '\\ud83e' is not UTF-8 text from character 1 on"),
    ({"labels": {"a": ["b"]}}, "labels: ['b'] should be text"),
    ({"labels": ["a"]}, "labels: ['a'] should be a mapping of names to values"),
    ({"mix_with": ["a bear:0.3"]}, "mix_with.0: 'a bear:0.3' should be a mapping of names to values"),
    ({"losses": "blue"}, "losses: 'blue' should be a list"),
    (
        {"prompt": "a" * 70 + "\udcff"},
        "prompt: 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa… is not UTF-8",
    ),
    ({"prompt": True}, 'prompt: true is neither a number nor text; for the word write "true"'),
    ({"prompt": "x" * 4_001}, "prompt: 'xxx"),
    ({"prompt": ("x",) * 17}, "prompt: there are 17; at most 16 are taken, and at least one"),
    ({"negative": "x" * 4_001}, "negative: 'xxx"),
    ({"prompt": "a BREAK " * 80 + "a"}, "a prompt of 81 chunks, by its BREAKs, is longer than 80"),
    ({"steps": 0}, "steps: 0: input should be greater than or equal to 1"),
    ({"steps": -5}, "steps: -5: input should be greater than or equal to 1"),
    ({"steps": 1_001}, "steps: 1001: input should be less than or equal to 1000"),
    ({"steps": 2.5}, "steps: 2.5: input should be a valid integer, got a number with a fractional part"),
    ({"steps": "many"}, "steps: 'many': input should be a valid integer, unable to parse string as an integer"),
    ({"steps": NAN}, "steps: nan: input should be a finite number"),
    ({"steps": 10**400}, "steps: "),
    ({"guidance": NAN}, "guidance: nan: input should be a finite number"),
    ({"guidance": INFINITY}, "guidance: inf: input should be a finite number"),
    ({"guidance": -101}, "guidance: -101: input should be greater than or equal to -100"),
    ({"guidance": 1e9}, "guidance: 1000000000.0: input should be less than or equal to 100"),
    ({"seed": -2}, "seed: must be 0 to 9223372036854775807, or -1 for a random one"),
    ({"seed": 2**63}, "seed: 9223372036854775808: input should be less than or equal to 9223372036854775807"),
    (
        {"seed": 2**63 - 1, "count": 2},
        "seed: the last of 2 seeds would be 9223372036854775808, beyond 9223372036854775807",
    ),
    ({"count": 0}, "count: 0: input should be greater than or equal to 1"),
    ({"count": 10**9}, "count: 1000000000: input should be less than or equal to 10000"),
    ({"width": 100}, "width: 100: input should be a multiple of 8"),
    ({"width": 56}, "width: 56: input should be greater than or equal to 64"),
    ({"height": 2_056}, "height: 2056: input should be less than or equal to 2048"),
    ({"sampler": "plums"}, "sampler: there is no sampler 'plums'"),
    ({"sampler": "magic"}, "sampler: there is no sampler 'magic'"),
    ({"sampler": 1}, "sampler: 1: input should be 'lms', 'euler'"),
    ({"schedule": "normal"}, "schedule: there is no schedule 'normal'"),
    ({"sampler": "ddim", "schedule": "karras"}, "schedule: 'ddim' does not follow the schedule 'karras', only model"),
    ({"sampler": "lms", "eta": 0.5}, "eta: 'lms' has no eta"),
    ({"sampler": "ddim", "eta": 1.5}, "eta: 1.5: input should be less than or equal to 1"),
    (
        {"sampler": "DPM++ 2M Karras", "schedule": "beta"},
        "'DPM++ 2M Karras' says the schedule 'karras', and --schedule",
    ),
    ({"model": "../etc"}, "'../etc' cannot name a model"),
    ({"model": ""}, "model: '' cannot name a model (use up to 64 of"),
    ({"model": "a b"}, "model: 'a b' cannot name a model (use up to 64 of"),
    ({"steps": True}, "steps: true is neither a number nor text"),
    ({"prompt": ["a", "b"], "weights": [True, False]}, "weights: true is neither a number nor text"),
    (
        {"losses": [{"name": "blue", "arguments": {"target": True}}]},
        "losses.0.arguments: true is neither a number nor text",
    ),
    ({"init": ""}, "init: '' cannot be the name of a file"),
    ({"priority": 10}, "priority: 10: input should be less than or equal to 9"),
    ({"priority": -1}, "priority: -1: input should be greater than or equal to 0"),
    ({"trace": "all"}, "trace: 'all': input should be 'none', 'numbers', 'frames' or 'video'"),
    ({"trace_every": 0}, "trace_every: 0: input should be greater than or equal to 1"),
    ({"time_limit": 0}, "time_limit: 0: input should be greater than 0"),
    ({"time_limit": NAN}, "time_limit: nan: input should be a finite number"),
    ({"labels": {"a b": "c"}}, "labels.a b.[key]: 'a b': string should match pattern"),
    ({"labels": {"a": "x" * 201}}, "labels.a: 'xxx"),
    ({"labels": {str(number): "" for number in range(17)}}, "labels: there are more than 16"),
    ({"stepz": 3}, "stepz: 3: extra inputs are not permitted"),
    ({"mode": "inpaint"}, "mode: 'inpaint': input should be 'txt2img', 'img2img', 'mix', 'guided', 'roundtrip', "),
    ({"mode": "img2img"}, "img2img needs an init image: give --init FILE"),
    ({"mode": "mix"}, "mix needs at least two prompts"),
    ({"mode": "guided"}, "guided needs a loss: give --loss NAME ('farm losses' lists them)"),
    ({"fit": "pad"}, "--fit needs an init image: give --init FILE"),
    ({"init": "a.png", "fit": "zoom"}, "fit: 'zoom': input should be 'crop', 'pad', 'stretch' or 'init'"),
    ({"init": "a.png", "fit": "init", "width": 512}, "--fit init takes the size from the picture: leave out --width"),
    ({"start_step": 3}, "--start-step and --strength need an init image: give --init FILE"),
    ({"init": "a.png", "start_step": 3, "strength": 0.5}, "give --start-step or --strength, not both"),
    ({"init": "a.png", "start_step": -1}, "start_step: -1: input should be greater than or equal to 0"),
    ({"init": "a.png", "start_step": 30}, "start_step: 30 leaves none of the 30 steps to do"),
    ({"init": "a.png", "strength": 0}, "strength: 0 is not above 0 and up to 1"),
    ({"init": "a.png", "strength": 1.5}, "strength: 1.5 is not above 0 and up to 1"),
    ({"init": "a.png", "strength": NAN}, "strength: nan: input should be a finite number"),
    ({"init": "a.png", "strength": 0.01}, "strength: 0.01 of 30 steps leaves no step to do"),
    ({"mask": "m.png"}, "--mask and --outpaint need an init image: give --init FILE"),
    ({"init": "a.png", "mask": ""}, "mask: '' cannot be the name of a file"),
    ({"init": "a.png", "mask": 3}, "mask: 3 should be the path of a picture"),
    ({"init": "a.png", "redo": "black"}, "--invert-mask needs a mask: give --mask FILE"),
    ({"init": "a.png", "mask_blur": 2}, "--mask-blur needs a mask: give --mask FILE or --outpaint SIDE=PIXELS"),
    ({"init": "a.png", "mask": "m.png", "mask_blur": -1}, "mask_blur: -1: input should be greater than or equal to 0"),
    ({"init": "a.png", "mask": "m.png", "mask_blur": 257}, "mask_blur: 257: input should be less than or equal to 256"),
    ({"init": "a.png", "mask": "m.png", "fill": "sky"}, "fill: 'sky': input should be 'original', 'noise' or 'blur'"),
    ({"init": "a.png", "mask": "m.png", "only_masked": True}, "only_masked: true is neither a number nor text"),
    ({"init": "a.png", "mask": "m.png", "only_masked": 4, "fit": "pad"}, "--only-masked and --outpaint keep the"),
    ({"init": "a.png", "outpaint": "up=3"}, "outpaint: 'up=3' is not SIDE=PIXELS,… with the sides left, top, right, b"),
    ({"init": "a.png", "outpaint": "left=3,left=4"}, "outpaint: 'left=3,left=4' is not SIDE=PIXELS,…"),
    ({"init": "a.png", "outpaint": "left=0"}, "outpaint: the picture grows on no side; write how many pixels"),
    ({"init": "a.png", "outpaint": {"top": -8}}, "outpaint.top: -8: input should be greater than or equal to 0"),
    ({"init": "a.png", "outpaint": {"top": 4096}}, "outpaint.top: 4096: input should be less than or equal to 2048"),
    ({"mode": "roundtrip", "prompt": "", "init": "a.png", "mask": "m.png"}, "roundtrip has no use for 'mask'"),
    ({"original_size": "4096"}, "original_size: '4096' is not WIDTHxHEIGHT in pixels, such as 4096x4096"),
    ({"original_size": 4096}, "original_size: 4096 is not WIDTHxHEIGHT in pixels, such as 4096x4096"),
    ({"original_size": "16385x64"}, "original_size.width: 16385: input should be less than or equal to 16384"),
    ({"target_size": "64x0"}, "target_size.height: 0: input should be greater than or equal to 1"),
    ({"target_size": [64, 64]}, "target_size: [64, 64] should be a mapping of names to values"),
    ({"crop": "128x0"}, "crop: '128x0' is not X,Y: the pixels cut off on the left and above, such as 128,0"),
    ({"crop": {"x": -1}}, "crop.x: -1: input should be greater than or equal to 0"),
    ({"mode": "tokens", "crop": "0,0"}, "tokens has no use for 'crop'"),
    ({"prompt": ("a", "b", "c"), "mix": 0.5}, "--mix goes with exactly two prompts; give --weights for more"),
    ({"prompt": ("a", "b"), "mix": 101}, "mix: 101: input should be less than or equal to 100"),
    ({"prompt": ("a", "b"), "weights": (1,)}, "there are 2 prompts, and 1 of --weights"),
    ({"prompt": ("a", "b"), "weights": (1, -1)}, "weights: the weights sum to 0; their sum must be above 0 and finite"),
    (
        {"prompt": ("a", "b"), "weights": (1, -0.99999)},
        "weights: 1 is more than 100 times the weights' sum, which is 1e-05",
    ),
    ({"prompt": ("a", "b"), "weights": (1e308, 1e308)}, "weights: the weights sum to inf"),
    ({"prompt": ("a", "b"), "weights": (1, 2), "mix": 0.5}, "give --mix or --weights, not both"),
    ({"prompt": ("a", "b"), "weights": (1, NAN)}, "weights.1: nan: input should be a finite number"),
    ({"mix_with": ({"prompt": "b", "weight": 1.0},)}, "mix_with.0.weight: 1.0: input should be less than 1"),
    (
        {"mix_with": ({"prompt": "b", "weight": 0.6}, {"prompt": "c", "weight": 0.6})},
        "mix-with: the shares leave nothing for the first prompt",
    ),
    ({"losses": ({"name": "bleu"},)}, "loss: there is no loss 'bleu'"),
    ({"losses": ({"name": "blue", "arguments": {"red": 1}},)}, "loss: loss 'blue' has no argument 'red'"),
    (
        {"losses": ({"name": "blue", "arguments": {"target": 2}},)},
        "loss: 'target' of loss 'blue' is 2, outside 0 to 1",
    ),
    (
        {"losses": ({"name": "blue", "arguments": {"target": NAN}},)},
        "losses.0.arguments.target: nan: input should be a finite number",
    ),
    ({"losses": ({"name": "blue", "scale": INFINITY},)}, "losses.0.scale: inf: input should be a finite number"),
    ({"losses": ({"name": "blue", "every": 0},)}, "losses.0.every: 0: input should be greater than or equal to 1"),
    ({"losses": ({"name": "blue"},) * 9}, "losses: there are more than 8"),
]


@pytest.mark.parametrize(("fields", "message"), WRONG, ids=lambda value: value if isinstance(value, str) else "")
def test_wrong_input_is_refused_with_a_message(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        specs(**fields)
    assert message in caught.value.message


def test_a_prompt_may_be_given_bare() -> None:
    assert JobRequest(prompt="an otter").prompts == ("an otter",)
    assert JobRequest(prompt="an otter") == JobRequest(prompt=("an otter",))


def test_text_is_cleaned_of_what_no_picture_is_made_of() -> None:
    (spec,) = specs(prompt="a\0b\x1b[31mc\x7f\x9bd\te\nf\r\ng\rh 🦦", negative="\x07x", labels={"a": "b\0c"})
    assert spec.prompt == "a b [31mc  d\te\nf\ng\nh 🦦"
    assert spec.conditioning.negative == " x"
    assert JobRequest.parse({"prompt": "x", "labels": {"a": "b\0c"}}).labels == {"a": "b c"}
    (mixed,) = specs(mix_with=({"prompt": "a\0b", "weight": 0.5},))
    assert mixed.conditioning.prompts[1].text == "a b"


def test_a_field_without_a_value_is_left_out() -> None:
    fields = dict.fromkeys(set(JobRequest.model_fields) - {"prompt"})
    assert JobRequest.parse({"prompt": "x", **fields}) == JobRequest(prompt="x")
    loss = dict.fromkeys(set(LossRequest.model_fields) - {"name"})
    assert JobRequest.parse({"prompt": "x", "losses": [{"name": "blue", **loss}]}).losses == (LossRequest(name="blue"),)


def test_labels_may_be_numbers() -> None:
    request = JobRequest.parse({"prompt": "x", "labels": {"take": 1, "strength": 0.5, "final": True, "note": None}})
    assert request.labels == {"take": "1", "strength": "0.5", "final": "true"}


def test_minus_one_is_any_seed() -> None:
    for seed in (-1, -1.0, "-1"):
        assert JobRequest.parse({"prompt": "x", "seed": seed}) == JobRequest.parse({"prompt": "x"})
    assert specs(seed=-1)[0].seed != specs(seed=-1)[0].seed


def test_near_misses_are_named() -> None:
    with pytest.raises(InvalidInput) as caught:
        specs(losses=({"name": "bleu"},))
    assert caught.value.hint == "did you mean 'blue'?"


def test_a_bare_request_has_the_documented_defaults() -> None:
    (spec,) = specs(seed=1)
    assert (spec.mode, spec.model, spec.sampler, spec.steps, spec.trace.level) == (
        *("txt2img", "emoji", "lms", 30),
        "none",
    )


def test_seeds_are_random_and_consecutive() -> None:
    first, second, third = specs(count=3)
    assert (second.seed, third.seed) == (first.seed + 1, first.seed + 2)
    assert specs()[0].seed != specs()[0].seed


def test_weights_are_relative() -> None:
    (spec,) = specs(mode="mix", prompt=("a", "b"), weights=(1, 3))
    assert [prompt.weight for prompt in spec.conditioning.prompts] == [0.25, 0.75]


def test_mix_with_leaves_the_rest_to_the_own_prompts() -> None:
    (spec,) = specs(prompt=("a", "b"), mix_with=({"prompt": "c", "weight": 0.5},), mode="mix", mix=0.5)
    assert [prompt.weight for prompt in spec.conditioning.prompts] == [0.25, 0.25, 0.5]


@pytest.mark.parametrize(
    ("strength", "steps", "start"), [(1.0, 30, 0), (0.75, 30, 8), (0.5, 50, 25), (0.6, 30, 12), (0.034, 30, 29)]
)
def test_strength_starts_where_diffusers_does(strength: float, steps: int, start: int) -> None:
    (spec,) = specs(init="a.png", strength=strength, steps=steps, mode="img2img")
    assert spec.start.step == start


def test_all_modes_compose_in_one_job() -> None:
    (spec,) = specs(
        mode="guided",
        prompt=("a", "b"),
        weights=(1, 1),
        init=Path("a.png"),
        start_step=12,
        losses=({"name": "color", "arguments": {"red": 0.1}, "every": 2},),
    )
    assert spec.steps_to_do == 18
    assert spec.guidance.losses[0].arguments == {"red": 0.1, "green": 0.5, "blue": 0.5}
    assert JobSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    "forged",
    [
        "",
        "null",
        "[]",
        '{"mode": "txt2img"}',
        '{"__reduce__": "os.system"}',
        "\x80\x04",
        "[" * 100_000,
        '{"mode":"txt2img","model":"emoji","conditioning":{"prompts":[{"text":"a","weight":1e999}]},"steps":1,"seed":1}',
    ],
)
def test_a_forged_spec_is_refused(forged: str) -> None:
    with pytest.raises(InvalidInput):
        JobSpec.from_json(forged)


def test_a_mask_is_said_only_by_those_that_have_one() -> None:
    init = IMAGE.model_copy(update={"width": 64, "height": 48})

    def start(**fields: Any) -> dict[str, Any]:
        request = JobRequest.parse({"prompt": "x", "init": "a.png", "strength": 0.5, **fields})
        mask = init if request.mask is not None else None
        (spec,) = request.specs(init, default_model="m", mask=mask)
        assert JobSpec.from_json(spec.to_json()) == spec
        said: dict[str, Any] = json.loads(spec.to_json())["start"]
        return {name: value for name, value in said.items() if name not in ("image", "step")}

    named = json.loads(init.model_dump_json())
    assert start() == {"fit": "crop"}
    assert start(mask="m.png", mask_blur=4, redo="white", fill="original") == {"fit": "crop", "mask": named}
    assert start(mask=b"x", redo="black", only_masked=0, fit=None) == {
        **{"fit": "pad", "mask": named, "redo": "black", "only_masked": 0}
    }
    grown = {"left": 128, "top": 0, "right": 0, "bottom": 8}
    assert start(outpaint="left=128, bottom=8") == {"fit": "init", "mask_blur": 0, "fill": "blur", "outpaint": grown}
    assert start(outpaint=grown, width=512, fill="noise", mask_blur=4) == {
        **{"fit": "pad", "fill": "noise", "outpaint": grown}
    }


@pytest.mark.parametrize(
    "start",
    [
        {"mask": {"sha256": "0" * 64, "extension": "png"}},
        {"outpaint": {"left": 8}},
        {"image": {"sha256": "0" * 64, "extension": "png"}, "fill": "noise"},
        {"image": {"sha256": "0" * 64, "extension": "png"}, "only_masked": 3},
        {"image": {"sha256": "0" * 64, "extension": "png"}, "outpaint": {}},
        {"image": {"sha256": "0" * 64, "extension": "png"}, "mask": "alpha"},
    ],
)
def test_a_forged_mask_is_refused(start: dict[str, Any]) -> None:
    spec = json.loads(JobRequest(prompt="x", seed=1).specs(None, default_model="m")[0].to_json())
    with pytest.raises(InvalidInput, match=r"^start"):
        JobSpec.from_json(json.dumps({**spec, "start": start}))


def test_a_study_has_no_mask() -> None:
    request = JobRequest.parse({"mode": "roundtrip", "init": "a.png"})
    spec = json.loads(request.specs(IMAGE, default_model="m")[0].to_json())
    spec["start"]["mask"] = json.loads(IMAGE.model_dump_json())
    with pytest.raises(InvalidInput, match="roundtrip redoes nothing: it has no mask"):
        JobSpec.from_json(json.dumps(spec))


def test_a_strength_that_is_told_leaves_the_same_steps() -> None:
    for steps in (*range(1, 101), 333, 999, 1000):
        for left in range(1, steps + 1):
            strength = strength_of(left, steps)
            assert start_step_of_strength(strength, steps) == steps - left
            assert left / steps <= strength <= left / steps + 2e-4
    assert (strength_of(18, 30), strength_of(22, 30), strength_of(7, 7)) == (0.6, 0.7334, 1.0)
