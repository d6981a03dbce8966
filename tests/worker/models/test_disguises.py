"""What is said of a file that a library could not read."""

from __future__ import annotations

import json

import pytest
import torch

from worker.models.disguises import first_line


def test_an_error_is_told_in_a_line_that_says_something() -> None:
    assert first_line(ValueError("it is short\nand goes on")) == "it is short"
    assert first_line(RuntimeError()) == "RuntimeError"
    with pytest.raises(KeyError) as missing:
        json.loads("{}")["added_tokens"]
    assert first_line(missing.value) == "there is no 'added_tokens'"


def test_a_line_that_introduces_the_next_is_told_with_it() -> None:
    with pytest.raises(RuntimeError) as misfit:
        torch.nn.Linear(2, 3).load_state_dict({"weight": torch.zeros(3, 4), "bias": torch.zeros(3)})
    told = first_line(misfit.value)
    assert told.startswith("Error(s) in loading state_dict for Linear: size mismatch for weight:")
    assert "[3, 4]" in told and "\n" not in told
