"""What a model predicts: as it says itself, as its file says, or as whoever names it says."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farm import layouts
from farm.errors import ModelError
from worker.diffusion.steps import Prediction
from worker.models import kinds
from worker.models.original import Original
from worker.models.registry import Options

_log = logging.getLogger(__name__)

_WORDS: Mapping[str, Prediction] = {**dict.fromkeys(layouts.V_WORDS, "v_prediction"), "epsilon": "epsilon"}

TELLING = kinds.UNET + "output_blocks.11.1.transformer_blocks.0.norm1.bias"
_MOST_SPREAD_OF_EPSILON = 0.09
"""Nothing in a file of Stable Diffusion 2 says which it predicts. Of those that predict v this bias varies more, by
which ComfyUI tells them (`comfy/supported_models.py`)."""


@dataclass(frozen=True)
class Said:
    """What a file says of itself; None and False: nothing."""

    predicts: Prediction | None = None
    zero_snr: bool = False


NOTHING = Said()


def said_by(original: Original) -> Said:
    """What a file says by its marks or its metadata."""
    marked: Prediction | None = "v_prediction" if layouts.MARKS_V in original.shapes else None
    told = marked or _WORDS.get(original.metadata.get(layouts.TELLS_PREDICTION, ""))
    return Said(told, layouts.MARKS_ZERO_SNR in original.shapes)


def by_its_weights(original: Original) -> Prediction:
    """What a checkpoint of Stable Diffusion 2 predicts, which comes in both kinds. It can be wrong."""
    varies = TELLING in original.shapes and original.weights([TELLING])[TELLING].float().std(correction=0).item()
    return "v_prediction" if varies > _MOST_SPREAD_OF_EPSILON else "epsilon"


def scheduler_of(
    name: str, config: Mapping[str, Any], options: Options, path: Path, said: Said = NOTHING
) -> Mapping[str, Any]:
    """The configuration of a scheduler, with what is said besides it of the model `name` in `path`.

    A zero signal-to-noise ratio is reached only by trailing spacing, and only if v is predicted (Lin et al. 2023,
    arXiv:2305.08891). Raises `ModelError` if it is asked for without.
    """
    changed = dict(config)
    if options.predicts is not None:
        changed["prediction_type"] = options.predicts
    elif said.predicts == "v_prediction":
        changed["prediction_type"] = said.predicts
    if changed.get("prediction_type") == "v_prediction":
        zero_snr = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        return changed | (zero_snr if options.zero_snr or said.zero_snr else {})
    if options.zero_snr:
        reason, hint = layouts.ZERO_SNR_NEEDS_V
        raise ModelError(f"the model '{name}' {reason}", hint=hint)
    if said.zero_snr:
        _log.warning("%s says '%s' without '%s', which has no meaning", path, layouts.MARKS_ZERO_SNR, layouts.MARKS_V)
    return changed | ({"rescale_betas_zero_snr": False} if config.get("rescale_betas_zero_snr") else {})
