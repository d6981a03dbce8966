"""How much memory a model's forwards and decodes take, measured by running one of each as it is loaded.

A worker that takes more rows than fit is not always told so: on a CPU the kernel may end the process.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from worker.diffusion import latents
from worker.diffusion.conditioning import Conditioning
from worker.diffusion.determinism import reproducible_backward
from worker.models.model import LoadedModel, MemoryProfile

_SMALLER = 4
"""The side of the small picture is this part of the model's own: decoding a whole one can take a CPU a minute."""


@torch.no_grad()
def memory_profile(model: LoadedModel) -> MemoryProfile:
    """What the model takes, measured on one row, and on a small picture, for autoencoders grow with the area alone."""
    one = model.conditioned(model.prompts.encode(""))
    x, timestep = torch.zeros((1, *model.latent_shape), device=model.device), torch.zeros(1, device=model.device)
    row = torch.zeros((1, *model.row_shape), device=model.device)
    small = x[..., : max(1, x.shape[-2] // _SMALLER), : max(1, x.shape[-1] // _SMALLER)]
    times = x.numel() / small.numel()
    return MemoryProfile(
        row=highest(lambda: model.predict(row, timestep, Conditioning.stacked([one])), model.device),
        picture=int(times * highest(lambda: latents.to_pixels(latents.decode(model.vae, small)), model.device)),
        gradient=int(times * highest(lambda: _differentiate(model, small), model.device)),
    )


@torch.enable_grad()
def _differentiate(model: LoadedModel, x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    with reproducible_backward():
        return torch.autograd.grad(latents.decode(model.vae, x).sum(), x)[0]


def highest(call: Callable[[], Any], device: torch.device) -> int:
    """The most bytes of tensors that a call holds at once, besides those that were there before.

    On CUDA its allocator tells, including whatever else runs then. Elsewhere every operator's tensors are counted;
    what it uses only inside is not.
    """
    if device.type == "cuda":
        # Not of the device, which would break what another thread makes a CUDA graph of.
        stream = torch.cuda.current_stream(device)
        stream.synchronize()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        stream.synchronize()
        return torch.cuda.max_memory_allocated(device) - before
    counting = _Counting()
    with counting:
        call()
    return counting.most


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out. A CPU's allocator, oneDNN, and TorchScript for any error, say so in words alone.

    oneDNN's words have other causes too, but not for a model that has rendered, as each has when it is loaded.
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    said = str(error)
    return any(words in said for words in ("can't allocate memory", "std::bad_alloc", "could not create a primitive"))


class _Counting(TorchDispatchMode):
    """Sums the bytes of the tensors that operators have made and that are still there."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's has no annotations
        self.most = 0
        self._now = 0
        self._known: weakref.WeakKeyDictionary[UntypedStorage, None] = weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._meet(args, count=False)
        self._meet(kwargs, count=False)
        made = func(*args, **(kwargs or {}))
        self._meet(made, count=True)
        return made

    def _meet(self, tensors: Any, *, count: bool) -> None:
        for tensor in tree_leaves(tensors):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage()) not in self._known:
                self._known[storage] = None
                if count:
                    self._now += storage.nbytes()
                    self.most = max(self.most, self._now)
                    weakref.finalize(storage, self._forget, storage.nbytes())

    def _forget(self, size: int) -> None:
        self._now -= size
