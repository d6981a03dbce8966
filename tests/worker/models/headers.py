"""Files of weights of full size without any weights: a header, and as much of nothing behind it as it says.

The nothing takes no room on a disk, and no time to write.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from struct import pack
from typing import Any

import torch
from torch import Tensor

from tests.worker.models.original_layout import (
    original_clip,
    original_open_clip,
    original_unet,
    original_vae,
    read_config,
)
from worker.families.every import family_of
from worker.models.architecture import SHIPPED
from worker.models.components import empty

_HALF = 2  # bytes of a number in float16


def empty_modules(architecture: str) -> dict[str, Any]:
    """All parts with weights of an architecture that comes along, without any numbers in them."""
    folder = SHIPPED / architecture
    family = family_of(read_config(folder, "unet"))
    with torch.device("meta"):
        return {part: empty(folder / part, kind) for part, kind in family.parts.items()}


def original_shapes(architecture: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all weights as the original release of an architecture has them."""
    modules = empty_modules(architecture)
    weights: dict[str, Tensor] = original_unet(modules["unet"].state_dict(), modules["unet"].config)
    weights |= original_vae(modules["vae"].state_dict(), modules["vae"].config)
    first = modules["text_encoder"].state_dict()
    match architecture:
        case "sd1":
            weights |= original_clip(first, "cond_stage_model.transformer.text_model.")
        case "sdxl":
            weights |= original_clip(first, "conditioner.embedders.0.transformer.text_model.")
            weights |= original_open_clip(modules["text_encoder_2"].state_dict(), "conditioner.embedders.1.model.")
        case _:
            weights |= original_open_clip(first, "cond_stage_model.model.")
    return {key: tuple(value.shape) for key, value in weights.items()}


def write_header(
    file: Path, shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, Tensor] | None = None, **metadata: str
) -> Path:
    """Write a file that has weights of these shapes in half precision: those `given`, and else zeros."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    begin = 0
    for key, shape in shapes.items():
        end = begin + math.prod(shape) * _HALF
        header[key] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header).encode()
    with file.open("wb") as out:
        out.write(pack("<Q", len(text)) + text)
        out.truncate(out.tell() + begin)
        for key, value in (given or {}).items():
            out.seek(8 + len(text) + header[key]["data_offsets"][0])
            out.write(value.half().numpy().tobytes())
    return file
