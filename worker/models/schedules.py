"""`python -m worker.models.schedules`: the numbers of schedules, without a farm and without loading a model.

Reads from stdin a list of what to tell, each {model, sampler, steps, schedule, eta, start_step}, and writes the list of
what `schedule_told` says of them; or what is wrong, as {error: {message, field, hint}}.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from farm.errors import FarmError, InvalidInput, ModelError
from worker.diffusion.told import schedule_told
from worker.models import layout
from worker.models.registry import BUILT_IN, LocalDirectory

SD_1_4: Mapping[str, Any] = {
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
"""As Stable Diffusion 1.4 is published."""


def config_of(model: str) -> Mapping[str, Any]:
    """The scheduler's configuration of `sd14`, `emoji`, or the model in a directory. Raises `ModelError`."""
    if model == "sd14":
        return SD_1_4
    source = BUILT_IN.get(model)
    directory = source.path if isinstance(source, LocalDirectory) else Path(model.partition("=")[2] or model)
    if not directory.is_dir():
        raise ModelError(
            f"there is no schedule of the model '{model}' here", hint="sd14, emoji, or a directory in diffusers' layout"
        )
    return layout.check(directory.name, directory).scheduler_config


def main() -> None:
    try:
        asked = json.load(sys.stdin)
        told = [schedule_told(config_of(one.pop("model")), **one).model_dump(mode="json") for one in asked]
        print(json.dumps(told))
    except FarmError as error:
        field = error.field if isinstance(error, InvalidInput) else None
        reason = error.reason if isinstance(error, InvalidInput) else error.message
        print(json.dumps({"error": {"message": reason, "field": field, "hint": error.hint}}))


if __name__ == "__main__":
    main()
