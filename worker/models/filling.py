"""Giving a component the weights of a file: all that it has, and in the shapes that it has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

Named = dict[str, Tensor]

_DRAWING = ("torch.nn.init", "transformers.initialization")


class WithoutNumbers(TorchFunctionMode):
    """Modules that this thread makes meanwhile draw no weights, for they are given others: to draw those of SDXL takes
    a minute, and as much memory again."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if getattr(func, "__module__", None) in _DRAWING:
            return given.get("tensor", args[0] if args else None)
        return func(*args, **given)


def check(part: str, module: Any, given: Named) -> None:
    """Raise `ValueError` if weights of a component are missing in what is given, or of other shapes. Neither need have
    any numbers yet."""
    own: Named = module.state_dict()
    if missing := sorted(own.keys() - given.keys()):
        raise ValueError(f"it lacks {len(missing)} weights of the {part}, such as {missing[0]}")
    for key, value in own.items():
        if given[key].shape != value.shape:
            raise ValueError(
                f"{key} of the {part} is {_written(given[key])}, but by its configuration {_written(value)}"
            )
        if not given[key].is_floating_point():
            raise ValueError(f"{key} of the {part} is quantised: it has numbers of {given[key].dtype}")


@torch.no_grad()
def fill(part: str, module: Any, given: Named, dtype: torch.dtype) -> None:
    """Give a component its weights, in a precision. Raises `ValueError` as `check`."""
    check(part, module, given)
    # Copies, for what was read may be the file itself, which can change.
    own = {
        key: given[key].to(dtype=dtype, copy=True, memory_format=torch.contiguous_format) for key in module.state_dict()
    }
    module.load_state_dict(own, assign=True)


def _written(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "one number"
