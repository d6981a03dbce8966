"""The variables of the environment: what is refused in them, and that the pages name all of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from farm import variables
from farm.errors import InvalidInput

ROOT = Path(__file__).parents[2]
NAMES = {variable.name for variable in variables.ALL}


def test_what_is_not_set_or_empty_has_no_value() -> None:
    for variable in variables.ALL:
        assert variable.of({}) is None
        assert variable.of({variable.name: ""}) is None


def test_values_are_of_their_types() -> None:
    given = {"FARM_RETENTION": "30d", "FARM_RETENTION_OBJECTS": "yes", "FARM_KERNELS_KEY": "0123456789abcdef"}
    assert variables.RETENTION.of(given) == 30 * 86_400.0
    assert variables.RETENTION_OBJECTS.of(given) is True
    assert variables.RETENTION_OBJECTS.of({"FARM_RETENTION_OBJECTS": "no"}) is False
    assert variables.MODEL_CACHE_GB.of({"FARM_MODEL_CACHE_GB": "2.5"}) == 2.5
    assert variables.KERNELS_KEY.of(given) == b"0123456789abcdef"


def test_what_is_refused_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"^FARM_RETENTION: 'long' is not a length of time \(such as 30d"):
        variables.RETENTION.of({"FARM_RETENTION": "long"})
    with pytest.raises(InvalidInput, match=r"^FARM_RETENTION_OBJECTS: is 'true', and neither yes nor no"):
        variables.RETENTION_OBJECTS.of({"FARM_RETENTION_OBJECTS": "true"})


@pytest.mark.parametrize("text", ["0", "-1", "much", "nan", "inf", "1e9"])
def test_a_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"^FARM_MODEL_CACHE_GB: is .*, and not a number of GB above 0"):
        variables.MODEL_CACHE_GB.of({"FARM_MODEL_CACHE_GB": text})


def test_a_secret_that_is_short_is_refused_and_not_told() -> None:
    with pytest.raises(InvalidInput, match=r"^FARM_KERNELS_KEY: has fewer than 16 characters") as caught:
        variables.KERNELS_KEY.of({"FARM_KERNELS_KEY": "topsecret"})
    assert "topsecret" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "1y", "1.5d"])
def test_an_age_that_is_none_names_the_option(text: str) -> None:
    with pytest.raises(InvalidInput, match="older-than"):
        variables.age(text, "older-than")
    assert (variables.age("30d", "x"), variables.age("90m", "x")) == (30 * 86_400.0, 5_400.0)


def test_the_page_has_every_variable_in_its_table() -> None:
    page = (ROOT / "deploy" / "docs" / "operations.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[A-Z].*?) \|", page, re.MULTILINE)
    told = re.findall(r"`(FARM_\w+)`", "".join(rows))
    assert sorted(told) == sorted(NAMES)


def test_no_other_module_reads_or_names_one_of_its_own() -> None:
    declared = re.compile(r"environ\w*(?:\.get\(|\[)\s*[\"']FARM_|Variable\(\s*[\"']FARM_")
    modules = [file for package in ("farm", "worker") for file in (ROOT / package).rglob("*.py")]
    found = {file.name for file in modules if declared.search(file.read_text(encoding="utf-8"))}
    assert found == {"variables.py"}
    declarations = [value for value in vars(variables).values() if isinstance(value, variables.Variable)]
    assert declarations == list(variables.ALL)
