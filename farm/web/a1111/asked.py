"""What a program asks of A1111, read as a request to the farm.

Programs send dozens of fields, most of which they never change. One that would change the picture in a way that the
farm cannot is refused, and never passed over in silence; whatever else is not known is ignored, as A1111 does.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from farm.errors import InvalidInput
from farm.jobs.samplers import KNOWN, SamplerName, ScheduleName, read_sampler, read_schedule_name
from farm.web.a1111.options import Options, Settings
from farm.web.reading import Lenient

MOST_PICTURES = 100
"""Of one request: so many A1111's own page lets one ask for at once."""
_DEFAULT_SAMPLER = "Euler a"
_AUTOMATIC: Mapping[SamplerName, ScheduleName] = {
    "dpmpp_2m": "karras",
    "dpmpp_sde": "karras",
    "dpm2": "karras",
    "dpm2_a": "karras",
    "dpmpp_2m_sde": "exponential",
    "dpmpp_3m_sde": "exponential",
}
"""The schedule that A1111 takes for a sampler where it is to choose; for others the model's."""
_AS_IT_CHOOSES = ("", "automatic")
_FITS = {0: "stretch", 1: "crop", 2: "pad"}
_FILLS = {0: "blur", 1: "original", 2: "noise"}
_NO_REFINER = ("", "none")
_CELL = 8

NAMES = {
    "negative": "negative_prompt",
    "guidance": "cfg_scale",
    "count": "batch_size",
    "sampler": "sampler_name",
    "schedule": "scheduler",
    "strength": "denoising_strength",
    "init": "init_images",
    "redo": "inpainting_mask_invert",
    "fill": "inpainting_fill",
    "only_masked": "inpaint_full_res_padding",
    "clip_skip": "CLIP_stop_at_last_layers",
    "model": "sd_model_checkpoint",
}
"""What A1111 calls fields of the farm's."""

Number = Annotated[float, Field(allow_inf_nan=False)]
Pictures = Annotated[int, Field(ge=1, le=MOST_PICTURES)]


class TextToImage(Lenient):
    """A picture of a prompt. A field that is null counts as one that is not there."""

    model_config = ConfigDict(extra="ignore", json_schema_extra={"examples": [{"prompt": "an otter", "steps": 20}]})

    prompt: str = ""
    negative_prompt: str = ""
    seed: int = -1
    sampler_name: str = ""
    sampler_index: str = ""
    scheduler: str = ""
    steps: int = 50
    cfg_scale: Number = 7.0
    eta: Number | None = None
    width: int | None = None
    height: int | None = None
    batch_size: Pictures = 1
    n_iter: Pictures = 1
    override_settings: Settings = Settings()
    send_images: bool = True
    force_task_id: Annotated[str, Field(max_length=200)] = ""

    enable_hr: bool = False
    script_name: str = ""
    alwayson_scripts: dict[str, Any] = Field(default={})
    styles: list[str] = Field(default=[])
    restore_faces: bool = False
    tiling: bool = False
    subseed_strength: Number = 0.0
    seed_resize_from_w: int = 0
    seed_resize_from_h: int = 0
    s_churn: Number = 0.0
    refiner_checkpoint: str = ""
    refiner_switch_at: Number = 1.0
    infotext: str = ""

    @property
    def count(self) -> int:
        return self.batch_size * self.n_iter

    def check(self) -> None:
        """Raises `InvalidInput` for what the farm cannot do."""
        for field, what in self._impossible():
            raise InvalidInput(f"the farm has no {what}", field=field, hint="leave it out, or at A1111's default")
        if self.count > MOST_PICTURES:
            raise InvalidInput(f"{self.count} pictures are more than {MOST_PICTURES}", field="batch_size")

    def fields(self, options: Options) -> dict[str, Any]:
        """The fields of a `JobRequest` for it. Raises `InvalidInput` for an unknown sampler or scheduler."""
        sampler, schedule = self._sampler()
        asked = {
            "prompt": self.prompt,
            "negative": self.negative_prompt,
            "seed": self.seed,
            "sampler": sampler,
            "schedule": schedule,
            "steps": self.steps,
            "guidance": self.cfg_scale,
            "eta": self.eta if KNOWN[sampler].takes_eta else None,
            "width": _whole_cells(self.width),
            "height": _whole_cells(self.height),
            "count": self.count,
            "model": options.model,
            "clip_skip": options.clip_skip,
        }
        return {name: value for name, value in asked.items() if value is not None}

    def _sampler(self) -> tuple[SamplerName, ScheduleName]:
        """What a sampler's name says of a schedule goes before what the scheduler says, as A1111 has it."""
        try:
            sampler, said = read_sampler(self.sampler_name or self.sampler_index or _DEFAULT_SAMPLER)
            if said is None and self.scheduler.casefold() not in _AS_IT_CHOOSES:
                said = read_schedule_name(self.scheduler)
        except InvalidInput as error:
            field = NAMES.get(error.field or "", error.field)
            raise InvalidInput(error.reason, field=field, hint=error.hint) from error
        return sampler, said or _AUTOMATIC.get(sampler, "model")

    def _impossible(self) -> Iterator[tuple[str, str]]:
        """The fields that ask for what the farm cannot do, and what that is."""
        if self.enable_hr:
            yield "enable_hr", "hires fix"
        if self.script_name not in ("", "None"):
            yield "script_name", f"script {self.script_name!r:.60}"
        for name, script in self.alwayson_scripts.items():
            if _asks_for_something(script):
                yield "alwayson_scripts", f"extension {name!r:.60}"
        if any(self.styles):
            yield "styles", f"style {next(filter(None, self.styles))!r:.60}"
        if self.restore_faces:
            yield "restore_faces", "restoring of faces"
        if self.tiling:
            yield "tiling", "tiling"
        if self.subseed_strength > 0:
            yield "subseed_strength", "variations of a seed"
        if self.seed_resize_from_w > 0 and self.seed_resize_from_h > 0:
            yield "seed_resize_from_w", "seeds of another size"
        if self.s_churn > 0:
            yield "s_churn", "churn"
        if self.refiner_checkpoint.casefold() not in _NO_REFINER and self.refiner_switch_at < 1:
            yield "refiner_checkpoint", "refiner"
        if self.infotext:
            yield "infotext", "reading of an infotext"


class ImageToImage(TextToImage):
    """A picture that begins with another."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompt": "in oil", "init_images": ["data:image/png;base64,…"]}]}
    )

    init_images: list[str] = Field(default=[])
    denoising_strength: Number = 0.75
    resize_mode: int = 0
    initial_noise_multiplier: Number = 1.0

    mask: str = ""
    mask_blur: int = 4
    inpainting_mask_invert: int = 0
    inpainting_fill: int = 0
    inpaint_full_res: bool = True
    inpaint_full_res_padding: int = 0

    def fields(self, options: Options) -> dict[str, Any]:
        how: dict[str, Any] = {"init": {"upload": "init"}, "strength": self.denoising_strength}
        if self.mask:
            redo = "black" if self.inpainting_mask_invert else "white"
            fill = _FILLS[self.inpainting_fill]
            how |= {"mask": {"upload": "mask"}, "redo": redo, "mask_blur": self.mask_blur, "fill": fill}
        if self.mask and self.inpaint_full_res:
            how["only_masked"] = self.inpaint_full_res_padding
        else:
            how["fit"] = _FITS[self.resize_mode]
        return {**super().fields(options), "mode": "img2img", **how}

    def files(self) -> dict[str, bytes]:
        """The pictures that came along, by the names that `fields` has for them. Raises `InvalidInput`."""
        if len(self.init_images) != 1:
            raise InvalidInput(
                f"there are {len(self.init_images)} pictures to begin with", field="init_images", hint="send one"
            )
        files = {"init": picture(self.init_images[0], field="init_images")}
        return files | ({"mask": picture(self.mask, field="mask")} if self.mask else {})

    def _impossible(self) -> Iterator[tuple[str, str]]:
        yield from super()._impossible()
        if self.mask and self.inpainting_fill not in _FILLS:
            yield "inpainting_fill", f"inpainting fill {self.inpainting_fill}"
        if self.resize_mode not in _FITS:
            yield "resize_mode", f"resize mode {self.resize_mode}"
        if self.initial_noise_multiplier != 1:
            yield "initial_noise_multiplier", "multiplier of the noise"


def picture(text: str, *, field: str) -> bytes:
    """The bytes of a picture that came as base64, bare or as a data URI. Raises `InvalidInput` for anything else.

    So for an address, which A1111 would open.
    """
    encoded = text.strip()
    if encoded[:5].lower() == "data:":
        head, comma, encoded = encoded.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise InvalidInput("this data URI is not base64", field=field)
    try:
        return base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidInput(
            "is not base64",
            field=field,
            hint="send the picture itself; a server opens no path and no URL of a client's",
        ) from None


def _asks_for_something(script: Any) -> bool:
    """Whether a script is switched on. Programs name scripts with `false`, or with units that are not enabled."""
    arguments = script.get("args") if isinstance(script, dict) else script
    if not isinstance(arguments, list) or not arguments:
        return bool(arguments)
    if arguments[0] is False:
        return False
    return not all(isinstance(unit, dict) and unit.get("enabled") is False for unit in arguments)


def _whole_cells(side: int | None) -> int | None:
    """A side in pixels, of as many whole latents as A1111 would make of it."""
    return None if side is None else side - side % _CELL
