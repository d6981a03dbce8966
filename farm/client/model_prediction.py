"""What a model predicts, noise or v, as far as that can be told without its weights; and whether what is said of it
besides goes with that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from farm import layouts, sources
from farm.bucket.models import Kind
from farm.client.headers import Header


def said_by_scheduler(config: Mapping[str, Any]) -> bool:
    """Whether it is v, by the configuration of a scheduler."""
    return config.get("prediction_type") == "v_prediction"


def said_by_file(header: Header, kind: Kind, config: Mapping[str, Any] | None) -> bool | None:
    """Whether it is v, by what a file says itself, or else by the scheduler that is named with it.

    Of Stable Diffusion 2 there are both, and a file of it that says nothing may be either: None.
    """
    if layouts.MARKS_V in header.shapes or header.metadata.get(layouts.TELLS_PREDICTION) in layouts.V_WORDS:
        return True
    if config is not None:
        return said_by_scheduler(config)
    return False if kind in ("sd1", "sdxl") else None


def fault(options: Mapping[str, str], predicts_v: bool | None) -> layouts.Fault | None:
    """What is wrong with a source's options, for a model that predicts v, or noise (False), or either (None)."""
    told = {"v": True, "epsilon": False}.get(options.get(sources.PREDICTION, ""), predicts_v)
    return layouts.ZERO_SNR_NEEDS_V if sources.ZERO_SNR in options and told is False else None
