"""The forms of the site: every option of `farm submit`, read as the command reads it, and filled in from a picture."""

from __future__ import annotations

import json
import re
import shlex
from typing import Any

import click
import pytest
from click.testing import CliRunner

from farm.cli.commands.forms import SubmitForms
from farm.cli.commands.submit import submit
from farm.errors import InvalidInput
from farm.jobs.losses import BUILTIN
from farm.jobs.request import JobRequest
from farm.jobs.spec import InitReference
from farm.web.forms import Field, Read, Values

FORMS = SubmitForms()
NOT_ASKED = {"--wait", "--out", "--previews", "--previews-to", "--dry-run", "--json", "--yes", "--max-jobs"}


def read(mode: str, **values: Any) -> Read:
    return FORMS.read(mode, values, losses=BUILTIN, most=1_000)


def fields(mode: str) -> dict[str, Field]:
    [found] = [known for known in FORMS.modes if known.name == mode]
    return {field.name: field for group in found.groups for field in group.fields}


@pytest.mark.long
@pytest.mark.parametrize("mode", [name for name in submit.commands if name != "batch"])
def test_a_form_has_each_option_of_its_command_once(mode: str) -> None:
    declared = {param.name for param in submit.commands[mode].params if not NOT_ASKED & {*param.opts}}
    [found] = [known for known in FORMS.modes if known.name == mode]
    shown = [field.name for group in found.groups for field in group.fields]
    assert sorted(shown) == sorted(name for name in declared if name)
    for param in submit.commands[mode].params:
        if isinstance(param, click.Option) and param.name in shown:
            assert bool(fields(mode)[param.name].help) == bool(param.help)


def test_fields_have_the_ranges_defaults_and_choices_that_are_declared() -> None:
    known = fields("txt2img")
    steps, width, sampler = known["steps"], known["width"], known["sampler"]
    assert (steps.kind, steps.least, steps.most, steps.usual) == ("whole", 1, 1_000, "30")
    assert (width.least, width.most, width.step, width.usual) == (64, 2_048, 8, "the model's")
    assert (sampler.kind, sampler.usual) == ("choice", "lms")
    assert ("dpmpp_2m", "DPM++ 2M") in [(choice.value, choice.help) for choice in sampler.choices]
    assert (known["init"].kind, known["reading"].kind, known["prompt"].kind) == ("file", "switch", "text")
    assert known["loss"].many and known["priority"].most == 9
    assert fields("grid")["x"].required and fields("mix")["prompts"].many


@pytest.mark.parametrize(
    ("mode", "values", "command"),
    [
        ("txt2img", {"prompt": "an otter's"}, """farm submit txt2img 'an otter'"'"'s'"""),
        (
            "txt2img",
            {"prompt": "-x", "negative": "-y", "reading": True, "label": ["a=b", ""], "steps": ""},
            "farm submit txt2img --negative=-y --plain-prompt --label a=b -- -x",
        ),
        ("mix", {"prompts": ["a", "b"], "mix": "0.3"}, "farm submit mix a b --mix 0.3"),
        ("guided", {"prompt": "a", "loss": ["blue:scale=3"]}, "farm submit guided a --loss blue:scale=3"),
        ("grid", {"prompts": ["a"], "x": "steps=1,2", "count": "2"}, "farm submit grid a --x steps=1,2 --count 2"),
    ],
)
def test_the_command_line_asks_for_the_very_same(mode: str, values: Values, command: str) -> None:
    told = FORMS.read(mode, {**values, "seed": "3"}, losses=BUILTIN, most=1_000)
    assert FORMS.command(mode, values) == command
    done = CliRunner().invoke(submit, [*shlex.split(command)[2:3], "--dry-run", "--seed=3", *shlex.split(command)[3:]])
    assert done.exit_code == 0, done.output
    wanted = [job["spec"] for job in json.loads(done.stdout)["jobs"]]
    made = [
        one for request in told.requests for one in JobRequest.parse({**request}).specs(None, default_model="emoji")
    ]
    assert [spec.model_dump(mode="json") for spec in made] == wanted
    assert told.jobs == len(wanted)


def test_a_picture_is_named_by_its_field() -> None:
    [request] = read("img2img", prompt="x", init="my photo.png", strength="0.5").requests
    assert request["init"] == {"upload": "init"}
    with pytest.raises(InvalidInput, match="is not the picture that comes along"):
        read("grid", prompts=["x"], x="init=/etc/passwd,b.png")


@pytest.mark.parametrize(
    ("mode", "values", "option", "words"),
    [
        ("txt2img", {}, "PROMPT", "Missing argument"),
        ("txt2img", {"prompt": "x", "steps": "x"}, "--steps", "'x' is not a valid integer"),
        ("txt2img", {"prompt": "x", "steps": "0"}, "--steps", "greater than or equal to 1"),
        ("txt2img", {"prompt": "x", "sampler": "lmss"}, "--sampler", "there is no sampler"),
        ("guided", {"prompt": "x", "loss": ["blu"]}, "--loss", "there is no loss"),
        ("grid", {"prompts": ["x"], "x": "stps=1"}, "--x", "there is no field"),
        ("grid", {"prompts": ["x"], "x": f"seed={','.join(map(str, range(1_001)))}"}, None, "more than 1,000"),
        ("txt2img", {"prompt": "x", "count": "1001"}, None, "more than 1,000"),
        ("txt2img", {"prompt": "x", "out": "/tmp"}, None, "there is no field 'out'"),
        ("batch", {}, "mode", "there is no mode 'batch'"),
    ],
)
def test_faults_name_the_option_in_the_words_of_the_command(
    mode: str, values: dict[str, Any], option: str | None, words: str
) -> None:
    with pytest.raises(InvalidInput, match=words) as caught:
        read(mode, **values)
    assert caught.value.field == option


@pytest.mark.long
@pytest.mark.parametrize(
    "asked",
    [
        {"prompt": "an otter", "seed": 3, "steps": 20, "sampler": "euler", "schedule": "karras"},
        {"mode": "guided", "prompt": "x", "losses": [{"name": "blue", "scale": 3, "every": 2}], "seed": 1},
        {"mode": "mix", "prompt": ["a", "b"], "weights": [1, 3], "path": "spherical", "seed": 1, "reading": "plain"},
        {"mode": "img2img", "prompt": "x", "init": b"", "strength": 0.5, "fit": "pad", "encode": "mean", "seed": 1},
        {"prompt": r"a <\lora:x:1>", "loras": [{"name": "A.1", "unet": 0.5, "text": -1}, {"name": "b"}], "seed": 1},
        {"prompt": "a <lora:x:0.1234567:1> b", "loras": [{"name": "c"}], "seed": 1},
        {"mode": "mix", "prompt": ["<lora:x>", "b <lora:y:-1>"], "mix": 0.5, "seed": 1},
        {"mode": "roundtrip", "init": b"", "noise_steps": [3, 4], "seed": 1, "width": 64, "height": 128},
        {"mode": "img2img", "prompt": "x", "init": b"", "mask": b"", "redo": "black", "mask_blur": 0, "seed": 1},
        {"mode": "img2img", "prompt": "x", "init": b"", "mask": b"", "only_masked": 32, "fill": "noise", "seed": 1},
        {"mode": "img2img", "prompt": "x", "init": b"", "outpaint": "left=8,top=16", "fill": "original", "seed": 1},
        {"prompt": "x", "original_size": "4096x2048", "crop": "0,0", "target_size": "64x96", "seed": 1},
        {
            "prompt": "x",
            "clip_skip": 2,
            "eta": 0.5,
            "sampler": "euler_a",
            "guidance": 0.1,
            "trace": "frames",
            "seed": 1,
        },
    ],
)
def test_what_is_filled_in_from_a_picture_makes_the_very_same(asked: dict[str, Any]) -> None:
    picture = InitReference(sha256="a" * 64, extension="png") if "init" in asked else None
    mask = picture if "mask" in asked else None
    [spec] = JobRequest.parse(asked).specs(picture, default_model="other", mask=mask)
    mode, values = FORMS.filled(spec, {"project": "otters"})
    files = {name: "x.png" for name, given in (("init", picture), ("mask", mask)) if given}
    [request] = read(mode, **values, **files).requests
    assert request["labels"] == {"project": "otters"}
    made = JobRequest.parse({**request, **dict.fromkeys(files, b"")})
    [again] = made.specs(picture, default_model="emoji", mask=mask)
    assert again == spec


def test_tags_are_filled_in_where_they_were_written() -> None:
    asked = {"prompt": "a cat <lora:x:0.5>, asleep", "loras": [{"name": "y"}], "seed": 1}
    [spec] = JobRequest.parse(asked).specs(None, default_model="emoji")
    _, values = FORMS.filled(spec, {})
    assert (values["prompt"], values["lora"]) == ("a cat , asleep <lora:x:0.5>", ["y:1.0"])
    command = FORMS.command("txt2img", {**values, "prompt": "a dog"})
    assert command == "farm submit txt2img 'a dog' --seed 1 --model emoji --lora y:1.0"


def test_several_prompts_are_a_mix_whatever_else_a_job_is() -> None:
    picture = InitReference(sha256="a" * 64, extension="png")
    asked = {"mode": "img2img", "prompt": "a", "mix_with": [{"prompt": "b", "weight": 0.3}], "init": b"", "seed": 1}
    [spec] = JobRequest.parse(asked).specs(picture, default_model="emoji")
    mode, values = FORMS.filled(spec, {})
    assert (mode, values["prompts"], values["weights"]) == ("mix", ["a", "b"], "0.7,0.3")


def test_forms_speak_of_fields_and_not_of_options() -> None:
    fields = [field for mode in FORMS.modes for group in mode.groups for field in group.fields]
    told = {text for field in fields for text in (field.help, field.usual)} | {mode.help for mode in FORMS.modes}
    assert not [text for text in told if re.search(r"--[a-z]|'farm |\$FARM|\bPROMPT", text)]
    helps = {(field.name, field.help) for field in fields} | {(mode.name, mode.help) for mode in FORMS.modes}
    assert {
        ("strength", "Redo this share of the steps."),
        ("loss", "Guide by a loss; its arguments, scale and every may follow inline."),
        ("img2img", "A picture from a prompt and a picture."),
    } <= helps
    assert {field.usual for field in fields if field.name == "model"} == {"the only one served"}
