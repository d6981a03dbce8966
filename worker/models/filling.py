"""Giving a component the weights of a file: all that it has, and in the shapes that it has."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Named = dict[str, Tensor]


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
def fill(part: str, module: Any, given: Named) -> None:
    """Give a component its weights. Raises `ValueError` as `check`."""
    check(part, module, given)
    module.load_state_dict({key: given[key] for key in module.state_dict()})


def _written(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "one number"
