"""What is wrong with a request is told to a program by its fields, in the words that a person is told by options."""

from __future__ import annotations

import re
from typing import Any

import pytest

from farm.errors import InvalidInput, WrongState
from farm.jobs.emphasis import sections
from farm.jobs.tags import taken_out
from farm.web.a1111.asked import NAMES as OF_A1111
from farm.web.dialects import naming_fields
from farm.web.openai.asked import NAMES as OF_OPENAI
from farm.web.problems import Problem, of_error
from tests.farm.jobs.test_requests import WRONG, specs

OPTION = re.compile(r"(?<!\w)'[^']*'|(--[a-z]\S*)")


def told(error: InvalidInput, names: dict[str, str] | None = None) -> Problem:
    return naming_fields(of_error(error), names)


@pytest.mark.parametrize("fields", [fields for fields, _ in WRONG], ids=str)
def test_no_option_is_named_to_a_program(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as caught:
        specs(**fields)
    problem = told(caught.value)
    assert not any(OPTION.findall(f"{problem.detail} {problem.hint}")), problem


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        ({"mode": "img2img"}, "img2img needs an init image: give 'init'"),
        ({"start_step": 3}, "'start_step' and 'strength' need an init image: give 'init'"),
        ({"init": "a.png", "redo": "black"}, "'redo=black' needs a mask: give 'mask'"),
        ({"init": "a.png", "mask_blur": 2}, "'mask_blur' needs a mask: give 'mask' or 'outpaint'"),
        (
            {"init": "a.png", "fit": "init", "width": 512},
            "'fit=init' takes the size from the picture: leave out 'width' and 'height'",
        ),
        ({"mode": "guided"}, "guided needs a loss: give 'losses' ('farm losses' lists them)"),
        ({"model": "--init FILE"}, "model: '--init FILE' cannot name a model"),
    ],
)
def test_options_are_told_as_fields(fields: dict[str, Any], detail: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        specs(**fields)
    assert told(caught.value).detail.startswith(detail)


def test_hints_are_too() -> None:
    for read, text in ((taken_out, "<lora:x:y>"), (sections, "(" * 1_000 + "a")):
        with pytest.raises(InvalidInput) as caught:
            read(text)
        assert (told(caught.value).hint or "").endswith("or use 'reading=plain'")


def test_another_program_has_its_own_names_for_them() -> None:
    error = InvalidInput("--invert-mask needs a mask", field="mask", hint="give --init FILE, --width or --plain-prompt")
    problem = told(error, {**OF_A1111})
    assert problem.detail == "mask: 'inpainting_mask_invert' needs a mask"
    assert problem.hint == "give 'init_images', 'width' or 'reading=plain'"
    assert told(error, {**OF_OPENAI}).hint == "give 'image', 'size' or 'reading=plain'"


def test_a_field_that_is_an_option_is_told_as_one_of_a_request() -> None:
    error = InvalidInput("this is not the picture", field="specs.0.--init", hint="'farm submit --init FILE' does that")
    problem = told(error)
    assert (problem.field, problem.detail) == ("specs.0.init", "specs.0.init: this is not the picture")
    assert problem.hint == "'farm submit --init FILE' does that", "a command is one"


def test_what_is_no_fault_of_a_request_stays() -> None:
    problem = of_error(WrongState("2 jobs wait", hint="remove it with --model"))
    assert naming_fields(problem) == problem
    error = InvalidInput("the worker does less", hint="its operator sets that with --max-side")
    assert told(error).hint == "its operator sets that with --max-side"
