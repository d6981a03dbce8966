"""Caps on rows: halved when memory runs out, and grown back with patience."""

from __future__ import annotations

import pytest
import torch

from worker.engine.memory import RowCaps, is_out_of_memory


def fit(caps: RowCaps, times: int, *, most: int = 32) -> None:
    for _ in range(times):
        caps.fitted("group", most=most)


def test_a_group_that_never_ran_out_has_no_cap() -> None:
    caps = RowCaps()
    fit(caps, 1000)
    assert caps.of("group") is None


def test_running_out_halves_and_a_while_without_it_doubles() -> None:
    caps = RowCaps()
    caps.ran_out("group", 32)
    assert caps.of("group") == 16
    fit(caps, 63)
    assert caps.of("group") == 16
    fit(caps, 1)
    assert caps.of("group") == 32
    fit(caps, 1000)
    assert caps.of("group") == 32, "never more than there are rows"


def test_the_patience_grows_with_each_time() -> None:
    caps = RowCaps()
    caps.ran_out("group", 32)
    caps.ran_out("group", 32)
    fit(caps, 127)
    assert caps.of("group") == 16
    fit(caps, 1)
    assert caps.of("group") == 32


def test_no_cap_is_below_one_job_under_guidance() -> None:
    caps = RowCaps()
    caps.ran_out("group", 3)
    assert caps.of("group") == 2


def test_a_cap_goes_with_its_group_and_leaves_others_alone() -> None:
    caps = RowCaps()
    caps.ran_out("group", 32)
    caps.ran_out("other", 8)
    caps.keep_only({"other"})
    assert (caps.of("group"), caps.of("other")) == (None, 4)


def test_what_the_cpu_says_when_memory_runs_out_is_understood() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(error.value)
    assert not is_out_of_memory(RuntimeError("something else"))
