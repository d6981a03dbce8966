from __future__ import annotations

import pytest
import torch

from farm.errors import InvalidInput
from farm.jobs.status import MemoryUse
from worker.models.device import Placement, memory_of, place


def test_a_cpu_computes_in_float32() -> None:
    placement = place("cpu")
    assert placement.device == torch.device("cpu")
    assert placement.dtype == placement.vae_dtype == torch.float32
    assert not placement.channels_last


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "", "cpu:x"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="this machine has no device"):
        place(name)


@pytest.mark.parametrize(
    ("capability", "dtype", "vae_dtype"),
    [((9, 0), torch.bfloat16, torch.bfloat16), ((7, 5), torch.float16, torch.float32)],
)
def test_cuda_computes_in_half_precision(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype, vae_dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    placement = place()
    assert placement.device.type == "cuda"
    assert (placement.dtype, placement.vae_dtype) == (dtype, vae_dtype)
    assert placement.channels_last


def placed_on(device: str) -> Placement:
    return Placement(torch.device(device), torch.float32, torch.float32, False, False)


def test_of_a_gpu_it_is_told_what_it_has_what_is_taken_and_by_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (30, 80))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _device: 40)
    assert memory_of(placed_on("cuda:0")) == MemoryUse(total=80, used=50, own=40)

    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 16)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 3)
    assert memory_of(placed_on("mps")) == MemoryUse(total=16, own=3)

    assert memory_of(placed_on("cpu")) is None
