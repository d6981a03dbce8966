"""Which device a worker computes on, and in which precision."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from farm.errors import InvalidInput
from farm.jobs.status import MemoryUse

_FIRST_WITH_BFLOAT16 = (8, 0)  # Ampere; older GPUs only emulate it


@dataclass(frozen=True)
class Placement:
    """A device, the dtype of the UNet and the text encoder there, that of the autoencoder, and their memory layouts."""

    device: torch.device
    dtype: torch.dtype
    vae_dtype: torch.dtype
    channels_last: bool
    vae_channels_last: bool


def place(device: str | None = None) -> Placement:
    """Where to compute: `device` (such as `cpu`, `cuda`, `cuda:1`, `mps`), by default the best there is.

    On CUDA bfloat16 where the GPU has it, else float16, in channels_last. The autoencoder takes bfloat16 too,
    but never float16, in which Stable Diffusion's can overflow to black pictures. Elsewhere all is float32;
    on a CPU the autoencoder alone gains by channels_last (8 %, see deploy/docs/performance.md).
    Raises `InvalidInput` if this machine has no such device.
    """
    chosen = _device(device)
    if chosen.type != "cuda":
        return Placement(chosen, torch.float32, torch.float32, False, vae_channels_last=chosen.type == "cpu")
    if torch.cuda.get_device_capability(chosen) >= _FIRST_WITH_BFLOAT16:
        return Placement(chosen, torch.bfloat16, torch.bfloat16, True, vae_channels_last=True)
    return Placement(chosen, torch.float16, torch.float32, True, vae_channels_last=True)


def _device(name: str | None) -> torch.device:
    if name is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was compiled with CUDA
        raise InvalidInput(
            f"this machine has no device '{name}'", field="device", hint="use cpu, cuda, cuda:N or mps"
        ) from error
    return device


def name_of(placement: Placement) -> str:
    """The device as people know it. Of a CPU, with the threads that the calling thread computes with."""
    if placement.device.type == "cuda":
        return torch.cuda.get_device_name(placement.device)
    return f"{placement.device.type} ({torch.get_num_threads()} threads)"


def model_budget(placement: Placement) -> int:
    """Bytes that models may take: most of a GPU's memory, half of a host's."""
    if placement.device.type == "cuda":
        return int(0.6 * torch.cuda.get_device_properties(placement.device).total_memory)
    return int(0.5 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def memory_of(placement: Placement) -> MemoryUse | None:
    """The memory of a GPU, as its driver tells it; None of a CPU, which has none but the machine's."""
    device = placement.device
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return MemoryUse(total=total, used=total - free, own=torch.cuda.memory_reserved(device))
    if device.type == "mps":
        return MemoryUse(total=torch.mps.recommended_max_memory(), own=torch.mps.driver_allocated_memory())
    return None


def free_cached_memory(placement: Placement) -> None:
    """Give back to the device what PyTorch keeps of freed tensors."""
    if placement.device.type == "cuda":
        torch.cuda.empty_cache()
