"""Files that say how they were made, to this farm and to other tools."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
from PIL import Image

from farm.results import ModelUsed
from farm.spec import JobSpec
from tests.worker.engine.conftest import spec_of
from worker.png import encode_png, parameters_text, read_spec

MODEL = ModelUsed(name="emoji", source="somewhere", revision=None)


def resolved(**fields: Any) -> JobSpec:
    return spec_of(width=64, height=64, **fields)


def parsed(text: str) -> tuple[str, str, dict[str, str]]:
    """Prompt, negative prompt and settings, by the rules that A1111 and its readers follow."""
    *lines, last = text.strip().split("\n")
    settings = dict(re.findall(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', last))
    at = next((n for n, line in enumerate(lines) if line.startswith("Negative prompt: ")), len(lines))
    negative = "\n".join(lines[at:]).removeprefix("Negative prompt: ")
    return "\n".join(lines[:at]), negative, settings


def test_the_text_is_read_back_by_a1111s_rules() -> None:
    prompt, negative, settings = parsed(parameters_text(resolved(negative="blurry, dark", seed=32), MODEL))

    assert (prompt, negative) == ("a cat", "blurry, dark")
    assert settings == {
        "Steps": "6",
        "Sampler": "LMS",
        "CFG scale": "7.5",
        "Seed": "32",
        "Size": "64x64",
        "Model": "emoji",
    }


def test_a_mix_is_written_with_its_weights() -> None:
    prompt, _, _ = parsed(parameters_text(resolved(prompt=["a cat", "a dog"], mix=0.25), MODEL))

    assert prompt == "a cat :0.25 AND a dog :0.75"


def test_an_image_start_is_written_as_denoising_strength() -> None:
    _, _, settings = parsed(parameters_text(resolved(from_image=True, steps=30, start_step=12), MODEL))

    assert settings["Denoising strength"] == "0.6"


def test_a_value_with_a_comma_is_quoted() -> None:
    _, _, settings = parsed(parameters_text(resolved(), ModelUsed(name="a, b", source="s", revision=None)))

    assert settings["Model"] == '"a, b"'


def test_pixels_and_the_whole_spec_survive() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    spec = resolved(prompt="ein Fuchs 🦊 im Schnee", losses=[{"name": "color", "arguments": {"red": 0.25}}])

    data = encode_png(pixels, spec, MODEL)

    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(np.asarray(image), pixels)
        assert "🦊" in image.info["parameters"]
    assert read_spec(data) == spec


def test_equal_pictures_are_equal_files() -> None:
    pixels = np.zeros((64, 64, 3), dtype=np.uint8)

    assert encode_png(pixels, resolved(), MODEL) == encode_png(pixels, resolved(), MODEL)


def test_a_foreign_png_has_no_spec() -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")

    assert read_spec(file.getvalue()) is None
