"""PNG files that say how they were made: A1111's `parameters` text for other tools, and the whole spec as JSON.

The text follows what A1111's `parse_generation_parameters` reads: the prompt, a line `Negative prompt: …`, and
a last line of `Name: value` pairs, with values that hold a comma or colon quoted as JSON strings. Brackets in a prompt
are weights to it, so those of a plain reading have a backslash before them. Between its lines it knows no escapes, so
a prompt that itself says `Negative prompt:` says it there with a space that does not break, and a line of it that
begins with `Steps:` is joined to the one before. Readers then give back what was meant, and an encoder reads the same:
to it every space is one. LoRAs are tags at the end of the prompt, and words that look like one have a backslash.
Nothing in the file depends on when, where or in what company the job ran, so equal pixels make equal files.
"""

from __future__ import annotations

import io
import json
import re

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from farm.bucket.results import ModelUsed
from farm.jobs import samplers, tags
from farm.jobs.emphasis import escaped
from farm.jobs.spec import ResolvedSpec, Start
from farm.jobs.start import strength_of
from farm.pictures.metadata import read_text
from farm.pictures.provenance import SPEC_KEY
from worker.engine.request import Pixels

_HASH = 10
"""Digits of a file's SHA-256 by which A1111 and the sites where models are shared know it."""
_CONTROL_CHARACTERS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")  # all but the ends of lines
_BEFORE_STEPS = re.compile(r"\n *(?=Steps:)")


def encode_png(pixels: Pixels, spec: ResolvedSpec, model: ModelUsed) -> bytes:
    """A PNG of `pixels` with both descriptions of how to make it again."""
    info = PngInfo()
    info.add_text("parameters", parameters_text(spec, model))
    info.add_itxt(SPEC_KEY, spec.to_json())
    return encode_plain_png(pixels, info)


def encode_study_png(pixels: Pixels, spec: ResolvedSpec) -> bytes:
    """A PNG of what a study made, with the spec alone: no other tool could make it again."""
    info = PngInfo()
    info.add_itxt(SPEC_KEY, spec.to_json())
    return encode_plain_png(pixels, info)


def encode_plain_png(pixels: NDArray[np.uint8], info: PngInfo | None = None) -> bytes:
    """A PNG of pixels [height, width, 3], or of grey ones [height, width]."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", pnginfo=info, compress_level=6)
    return file.getvalue()


def read_spec(data: bytes) -> ResolvedSpec | None:
    """The spec that a PNG made by `encode_png` carries, or None. Raises `InvalidInput` if it is damaged."""
    text = read_text(data, SPEC_KEY)
    return ResolvedSpec.from_json(text) if text else None


def parameters_text(spec: ResolvedSpec, model: ModelUsed) -> str:
    """The description in A1111's form. A mix is written in its `prompt :weight AND …` notation."""
    lines = [_readable(_prompt(spec))]
    if spec.conditioning.negative:
        lines.append(f"Negative prompt: {_readable(_written(spec.conditioning.negative, spec))}")
    lines.append(", ".join(f"{name}: {_quoted(value)}" for name, value in _settings(spec, model).items()))
    return "\n".join(lines)


def _prompt(spec: ResolvedSpec) -> str:
    prompts = spec.conditioning.prompts
    if len(prompts) == 1:
        text = _written(prompts[0].text, spec)
    else:
        text = " AND ".join(f"{_written(prompt.text, spec)} :{prompt.weight:g}" for prompt in prompts)
    return f"{text} {tags.written(spec.loras)}".strip() if spec.loras else text


def _written(text: str, spec: ResolvedSpec) -> str:
    """A prompt as A1111 has to read it, which knows no plain reading, and takes more for tags than is one here."""
    return tags.inert(escaped(text) if spec.conditioning.reading == "plain" else text)


def _readable(text: str) -> str:
    """Text in which no reader takes a word for the end of the prompt, and nothing that a terminal acts on."""
    inert = _CONTROL_CHARACTERS.sub(" ", text)
    joined = _BEFORE_STEPS.sub(" ", inert)
    return joined.replace("Negative prompt:", "Negative\N{NO-BREAK SPACE}prompt:")


def _settings(spec: ResolvedSpec, model: ModelUsed) -> dict[str, str]:
    settings = {
        "Steps": str(spec.steps),
        "Sampler": samplers.KNOWN[spec.sampler].title,
        **({"Schedule type": samplers.SCHEDULE_TITLES[spec.schedule]} if spec.schedule != "model" else {}),
        "CFG scale": f"{spec.guidance.scale:g}",
        "Seed": str(spec.seed),
        "Size": f"{spec.width}x{spec.height}",
        **({"Model hash": model.sha256[:_HASH]} if model.sha256 else {}),
        "Model": model.name,
        **({"VAE hash": model.vae_sha256[:_HASH]} if model.vae_sha256 else {}),
        **({"VAE": model.vae} if model.vae else {}),
        **({"Clip skip": str(spec.conditioning.clip_skip)} if spec.conditioning.clip_skip > 1 else {}),
        **({"Lora hashes": hashes} if (hashes := _lora_hashes(spec)) else {}),
        "RNG": "CPU",  # readers take the noise for a GPU's unless told
    }
    settings |= {field.replace("_", " ").capitalize(): str(told) for field, told in spec.framing.items()}
    if spec.start.image is not None:
        settings["Denoising strength"] = f"{strength_of(spec.steps_to_do, spec.steps):g}"
        settings |= _masked(spec.start)
    if spec.conditioning.path == "spherical":
        settings["Mix path"] = spec.conditioning.path
    if spec.eta is not None:
        settings["Eta"] = f"{spec.eta:g}"
    if spec.guidance.losses:
        settings["Losses"] = "; ".join(f"{loss.name} ×{loss.scale:g}" for loss in spec.guidance.losses)
    return settings


def _lora_hashes(spec: ResolvedSpec) -> str:
    """The hashes by which A1111 and the sites where LoRAs are shared know those of a picture."""
    return ", ".join(f"{use.name}: {use.short_hash}" for use in spec.loras if use.short_hash)


_CONTENTS = {"noise": "latent noise", "blur": "fill"}


def _masked(start: Start) -> dict[str, str]:
    """What of the init picture was redone, and how: what A1111 does of itself is left out there too."""
    if not start.is_masked:
        return {}
    return {
        **({"Mask mode": "Inpaint not masked"} if start.redo == "black" else {}),
        **({"Mask blur": str(start.mask_blur)} if start.mask_blur else {}),
        **({"Masked content": _CONTENTS[start.fill]} if start.fill in _CONTENTS else {}),
        **({"Inpaint area": "Only masked"} if start.only_masked is not None else {}),
        **({"Masked area padding": str(start.only_masked)} if start.only_masked is not None else {}),
        **({"Outpaint": str(start.outpaint)} if start.outpaint is not None else {}),
    }


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if any(sign in value for sign in ',\n:"') else value
