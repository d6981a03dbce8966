"""What a model predicts: as it says itself, as its file says, or as whoever names it says."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farm.errors import ModelError
from worker.diffusion.steps import Prediction
from worker.models import kinds
from worker.models.original import Original
from worker.models.registry import Options

_log = logging.getLogger(__name__)

_V_PREDICTION, _ZERO_SNR = "v_pred", "ztsnr"
"""Tensors, empty by custom, that mark v-prediction and a signal-to-noise ratio of zero at the last timestep."""
_SAID = "modelspec.prediction_type"
"""What programs that train models note in a file's metadata (https://github.com/Stability-AI/ModelSpec)."""
_WORDS: Mapping[str, Prediction] = {"v": "v_prediction", "v_prediction": "v_prediction", "epsilon": "epsilon"}

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
    marked: Prediction | None = "v_prediction" if _V_PREDICTION in original.shapes else None
    return Said(marked or _WORDS.get(original.metadata.get(_SAID, "")), _ZERO_SNR in original.shapes)


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
        raise ModelError(
            f"the model '{name}' cannot begin at a signal-to-noise ratio of zero, for it predicts noise",
            hint="add #prediction=v if it predicts v; else leave out #ztsnr",
        )
    if said.zero_snr:
        _log.warning("%s says '%s' without '%s', which has no meaning", path, _ZERO_SNR, _V_PREDICTION)
    return changed | ({"rescale_betas_zero_snr": False} if config.get("rescale_betas_zero_snr") else {})
