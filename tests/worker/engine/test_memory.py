"""Rows by what is free and what they take; and caps, halved when memory runs out, and grown back with probation."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from worker.diffusion.losses import load_losses
from worker.engine.engine import Engine
from worker.engine.memory import Budget, RowCaps, free_bytes
from worker.engine.preparing import prepare
from worker.engine.request import RenderRequest
from worker.host.memory import of_host
from worker.models.memory_profile import highest, is_out_of_memory
from worker.models.model import LoadedModel, MemoryProfile

CPU = torch.device("cpu")
MEGABYTE = 2**20


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


def test_no_cap_is_below_one_row() -> None:
    caps = RowCaps()
    caps.ran_out("group", 2)
    caps.ran_out("group", 1)
    assert caps.of("group") == 1


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


def test_a_recorded_forward_tells_when_memory_runs_out(model: LoadedModel) -> None:
    assert model.recorded is not None
    conditioning = model.conditioned(model.prompts.encode(""))
    far_too_many = 10**13

    with pytest.raises(RuntimeError) as error:
        model.recorded(
            torch.zeros(1, 4, 8, 8).expand(far_too_many, -1, -1, -1),
            torch.zeros(1).expand(far_too_many),
            conditioning.each(lambda tensor: tensor.expand(far_too_many, -1, -1)),
        )
    assert is_out_of_memory(error.value)


def test_the_highest_is_of_tensors_that_are_there_together() -> None:
    rows, square = torch.zeros(256, 1024), torch.eye(1024)

    assert highest(lambda: rows @ square, CPU) == MEGABYTE
    assert highest(lambda: (rows @ square + 1).relu(), CPU) == 2 * MEGABYTE, "the product is gone by then"
    assert highest(lambda: [rows @ square for _ in range(3)], CPU) == 3 * MEGABYTE
    assert highest(lambda: rows.view(-1)[:10], CPU) == 0, "a view takes nothing"
    assert highest(lambda: rows.add_(1), CPU) == 0, "nor does what was there before"


def test_a_loaded_model_says_what_it_takes(model: LoadedModel) -> None:
    assert model.memory is not None
    row, latent = model.memory.row, 4 * 4 * 8 * 8
    assert latent < row < 1000 * latent
    assert 4 * 3 * 64 * 64 < model.memory.picture < model.memory.gradient


@pytest.mark.parametrize(
    ("free", "rows", "pictures", "gradients"),
    [(None, 32, 4, 4), (10_000, 7, 3, 1), (100_000, 32, 4, 4), (0, 1, 0, 1)],
)
def test_as_many_as_fit(model: LoadedModel, free: int | None, rows: int, pictures: int, gradients: int) -> None:
    hungry = replace(model, memory=MemoryProfile(row=1000, picture=2000, gradient=4000))
    budget = Budget(lambda: free)

    assert budget.rows(hungry, model.latent_shape, most=32) == rows
    assert budget.pictures(hungry, model.latent_shape, most=4) == pictures
    assert budget.gradients(hungry, model.latent_shape, most=4) == gradients


def test_a_long_prompt_takes_room_in_every_row(model: LoadedModel, request_for: Callable[..., RenderRequest]) -> None:
    states = [prepare(request_for("j", prompt=text), load_losses(), 0, Future()) for text in ("a", "a BREAK b BREAK c")]
    one, three = (state.conditional.text.nbytes for state in states)
    assert [state.bytes_of_further_chunks for state in states] == [0, three - one]

    hungry = replace(model, memory=MemoryProfile(row=1000, picture=2000, gradient=4000))
    assert Budget(lambda: 10_000).rows(hungry, model.latent_shape, most=32, besides=1000) == 3


def test_four_times_the_area_takes_four_times_as_much(model: LoadedModel) -> None:
    hungry = replace(model, memory=MemoryProfile(row=1000, picture=2000, gradient=4000))
    channels, height, width = model.latent_shape

    assert Budget(lambda: 20_000).rows(hungry, (channels, height, width), most=32) == 14
    assert Budget(lambda: 20_000).rows(hungry, (channels, 2 * height, 2 * width), most=32) == 3


def test_forwards_are_cut_to_what_is_free(
    engines: Callable[..., Engine], request_for: Callable[..., RenderRequest], model: LoadedModel
) -> None:
    hungry = replace(model, memory=MemoryProfile(row=1000, picture=1, gradient=1))
    sizes: list[int] = []
    counting = model.called_unet.register_forward_pre_hook(lambda _, arguments: sizes.append(len(arguments[0])))
    try:
        engine = engines(max_rows=8, free=lambda: 6000)
        futures = [engine.submit(replace(request_for(f"j{n}", seed=n), model=hungry)) for n in range(4)]
        assert all(future.result(60).pixels.any() for future in futures)
    finally:
        counting.remove()

    assert max(sizes) == 4, "0.7 · 6000 bytes are four rows of 1000"


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="only Linux tells what is free")
def test_what_is_free_on_a_cpu_is_less_than_there_is() -> None:
    free = free_bytes(CPU)

    assert free is not None
    assert 0 < free < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="only Linux has control groups")
def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.host.memory._CONTROL_GROUP", tmp_path)
    for name, text in {
        "memory.max": "5000",
        "memory.current": "3000",
        "memory.stat": "anon 1\ninactive_file 500",
    }.items():
        (tmp_path / name).write_text(text + "\n", encoding="utf-8")

    assert free_bytes(CPU) == 2500
    host = of_host()
    assert (host.total, host.used) == (5000, 2500)

    (tmp_path / "memory.max").write_text("max\n", encoding="utf-8")
    assert (free_bytes(CPU) or 0) > 2500
