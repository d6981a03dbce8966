"""A1111's options, as far as the farm has a choice: the model, and how many layers of the text encoder count."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel, ConfigDict

from farm.alike import did_you_mean
from farm.errors import InvalidInput
from farm.jobs.spec import ClipSkip
from farm.web.served import Served

_OWN_VAE = ("", "automatic", "none")


@dataclass(frozen=True)
class Options:
    """What a caller has chosen for their requests. `model` is None for the farm's own choice."""

    model: str | None = None
    clip_skip: int = 1

    def told(self, served: Served) -> dict[str, Any]:
        """As A1111 tells its own. What is sent back as it was told changes nothing."""
        return {
            "sd_model_checkpoint": self.model or served.default,
            "sd_checkpoint_hash": None,
            "sd_vae": "Automatic",
            "CLIP_stop_at_last_layers": self.clip_skip,
            "samples_format": "png",
            "enable_pnginfo": True,
        }


class Settings(BaseModel):
    """What a program sets, by A1111's names, for all of its requests or for one. What the farm has no choice of is
    ignored."""

    model_config = ConfigDict(extra="ignore")

    sd_model_checkpoint: str | None = None
    sd_vae: str | None = None
    CLIP_stop_at_last_layers: ClipSkip | None = None

    def over(self, options: Options, served: Served) -> Options:
        """These options with what is set here. Raises `InvalidInput` for what the farm does not have."""
        if (self.sd_vae or "").casefold() not in _OWN_VAE:
            raise InvalidInput(
                f"there is no autoencoder {self.sd_vae!r:.60}",
                field="sd_vae",
                hint="each model comes with its own: 'Automatic'",
            )
        model = options.model
        if self.sd_model_checkpoint:
            model = served.find(self.sd_model_checkpoint)
            if model is None:
                every = f"there are: {', '.join(served.names):.500}"
                raise InvalidInput(
                    f"there is no model {self.sd_model_checkpoint!r:.80}",
                    field="sd_model_checkpoint",
                    hint=did_you_mean([self.sd_model_checkpoint], served.names, every),
                )
        return replace(options, model=model, clip_skip=self.CLIP_stop_at_last_layers or options.clip_skip)
