"""By how much what a LoRA file says of a layer is multiplied: its alpha by its rank, wherever the file says them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from worker.loras.layers import Layer

_KEY = "lora_adapter_metadata"
"""Under which diffusers writes PEFT's settings into the header, of every part: `unet.lora_alpha`, ….."""
_INSIDE = "text_model."
_PATH = re.compile(r"\^?([\w.]+)")


@dataclass(frozen=True)
class Settings:
    """PEFT's settings, by owner; empty for files that have an alpha for each layer, or none at all."""

    said: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def scale(self, layer: Layer, alpha: float | None, rank: int | None) -> float:
        """What a layer's factors are multiplied by, given its own alpha, if it has one. Raises `ValueError` for
        numbers that cannot be."""
        if rank is None:
            return 1.0
        said = self.said.get(layer.owner, {})
        if alpha is None and "lora_alpha" in said:
            alpha = _number(_of_layer(said.get("alpha_pattern"), layer, said["lora_alpha"]))
        if alpha is None:
            return 1.0
        if not math.isfinite(alpha) or alpha == 0:
            raise ValueError(f"its alpha is {alpha:g}")
        return alpha / (math.sqrt(rank) if said.get("use_rslora") is True else rank)


def settings_of(metadata: Mapping[str, str]) -> Settings:
    """PEFT's settings in a header. Raises `ValueError` if they cannot be read."""
    if _KEY not in metadata:
        return Settings()
    try:
        content = json.loads(metadata[_KEY])
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    said: dict[str, dict[str, Any]] = {}
    for key, value in content.items():
        owner, _, setting = key.partition(".")
        said.setdefault(owner, {})[setting] = value
    return Settings(said)


def _of_layer(patterns: Any, layer: Layer, default: Any) -> Any:
    """What is said of a layer by the end of its path, as PEFT reads it; a pattern of a stranger is never run."""
    if not isinstance(patterns, dict):
        return default
    name = layer.name.removeprefix(_INSIDE)
    for pattern, value in patterns.items():
        if not (path := _PATH.fullmatch(pattern)):
            raise ValueError(f"its settings name layers by the pattern {pattern!r:.80}")
        if f".{name}".endswith("." + path[1].removeprefix(_INSIDE)):
            return value
    return default


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"its alpha is {value!r:.40}")
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError("its alpha is enormous") from error
