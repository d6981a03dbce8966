"""Files that say how they were made, to this farm and to other tools."""

from __future__ import annotations

import io
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sd_parsers import ParserManager

from farm.bucket.results import ModelUsed
from farm.jobs.emphasis import sections
from farm.jobs.request import JobRequest
from farm.jobs.spec import InitReference, LoraUse, ResolvedSpec
from farm.jobs.tags import taken_out
from tests.worker.engine.conftest import resolved
from worker.results.png import encode_png, parameters_text, read_spec

MODEL = ModelUsed(name="emoji", source="somewhere", revision=None)


def parsed(text: str) -> tuple[str, str, dict[str, str]]:
    """Prompt, negative prompt and settings, by the rules that A1111 and its readers follow."""
    *lines, last = text.strip().split("\n")
    settings = dict(re.findall(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', last))
    assert len(settings) >= 3, "else the last line is one of the prompt"
    parts: dict[bool, list[str]] = {False: [], True: []}
    is_negative = False
    for line in map(str.strip, lines):
        is_negative = is_negative or line.startswith("Negative prompt:")
        parts[is_negative].append(line.removeprefix("Negative prompt:").strip() if is_negative else line)
    return "\n".join(parts[False]), "\n".join(parts[True]), settings


def parsed_by_first_marks(text: str) -> tuple[str, str]:
    """Prompt and negative prompt, by readers that look for the first of each mark, as sd-prompt-reader does."""
    end = text.find("\nSteps:")
    if "Negative prompt:" not in text:
        return text[:end].strip(), ""
    at = text.find("\nNegative prompt:")
    return text[:at].strip(), text[at + len("\nNegative prompt:") : end].strip()


def parsed_by_sd_parsers(data: bytes) -> tuple[str, str, str, str | None]:
    """Prompt, negative prompt, seed and model's hash, as another project reads a picture."""
    found = ParserManager().parse(io.BytesIO(data))
    assert found is not None
    [sampler] = found.samplers
    prompts, negatives = (" ".join(p.value for p in some) for some in (sampler.prompts, sampler.negative_prompts))
    assert sampler.model is not None
    return prompts, negatives, sampler.parameters["seed"], sampler.model.hash


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
        "RNG": "CPU",
    }


def test_a_schedule_and_an_eta_are_said_as_a1111_says_them() -> None:
    spec = resolved(sampler="DPM++ 2M SDE Karras", eta=0.25)
    _, _, settings = parsed(parameters_text(spec, MODEL))
    assert (settings["Sampler"], settings["Schedule type"], settings["Eta"]) == ("DPM++ 2M SDE", "Karras", "0.25")
    _, _, settings = parsed(parameters_text(resolved(sampler="plms", schedule="trailing"), MODEL))
    assert (settings["Sampler"], settings["Schedule type"]) == ("PLMS", "Trailing")


def test_a1111_reads_the_brackets_that_were_meant() -> None:
    weighted = parsed(parameters_text(resolved(prompt=r"a (red:1.3) \(cat\)", negative="[dog] BREAK x"), MODEL))
    assert weighted[:2] == (r"a (red:1.3) \(cat\)", "[dog] BREAK x")

    mix = {"prompt": ["f(x)", "[a]\\b"], "mode": "mix"}
    plain = parsed(parameters_text(resolved(reading="plain", negative="dog :) BREAK", **mix), MODEL))
    assert plain[:2] == (r"f\(x\) :0.5 AND \[a\]\\b :0.5", r"dog :\) break")


def test_layers_that_were_skipped_are_told() -> None:
    assert parsed(parameters_text(resolved(clip_skip=2), MODEL))[2]["Clip skip"] == "2"
    assert "Clip skip" not in parameters_text(resolved(clip_skip=1), MODEL)


def a_lora(name: str, short_hash: str | None = "0123456789ab", **strength: float) -> LoraUse:
    return LoraUse.model_validate({"name": name, "sha256": "f" * 64, "short_hash": short_hash, **strength})


def with_loras(*loras: LoraUse, **fields: Any) -> ResolvedSpec:
    return resolved(**fields).model_copy(update={"loras": loras})


def test_loras_are_named_as_a1111_names_them() -> None:
    loras = (
        a_lora("detail", unet=0.8, text=0.8),
        a_lora("Style.v2", "ba9876543210", unet=-1, text=0.25),
        a_lora("x", None),
    )
    prompt, _, settings = parsed(parameters_text(with_loras(*loras), MODEL))

    assert prompt == "a cat <lora:detail:0.8><lora:Style.v2:0.25:-1><lora:x:1>"
    assert settings["Lora hashes"] == '"detail: 0123456789ab, Style.v2: ba9876543210"'
    assert taken_out(prompt) == (
        "a cat",
        tuple(use.model_copy(update={"sha256": None, "short_hash": None, "by": "tag"}) for use in loras),
    )
    assert "Lora hashes" not in parameters_text(resolved(), MODEL)
    assert parsed(parameters_text(with_loras(a_lora("x"), prompt=""), MODEL))[0] == "<lora:x:1>"
    mix, _, _ = parsed(parameters_text(with_loras(a_lora("x"), prompt=["a", "b"], mix=0.25, mode="mix"), MODEL))
    assert mix == "a :0.25 AND b :0.75 <lora:x:1>"


@pytest.mark.parametrize("reading", ["plain", "weighted"])
def test_words_that_look_like_a_tag_are_none_to_a1111(reading: str) -> None:
    spec = resolved()
    words = spec.conditioning.prompts[0].model_copy(update={"text": "a <lora:x:1> and <hypernet:y:1> sign"})
    asked = spec.conditioning.model_copy(update={"prompts": (words,), "reading": reading})
    prompt, _, _ = parsed(parameters_text(spec.model_copy(update={"conditioning": asked}), MODEL))

    assert not re.search(r"<(\w+):([^>]+)>", prompt), "A1111's own pattern"
    [[said]] = sections(prompt)
    assert said.text == "a <lora:x:1> and <hypernet:y:1> sign"


def test_a_picture_says_its_loras_whole() -> None:
    spec = with_loras(a_lora("detail", unet=0.1 + 0.2, text=0))
    pixels = np.zeros((64, 64, 3), dtype=np.uint8)
    assert read_spec(encode_png(pixels, spec, MODEL)) == spec
    assert parsed_by_sd_parsers(encode_png(pixels, spec, MODEL))[2] == "1"


TRICKY = [
    ("a cat", ""),
    ("a cat\nand a dog", "blurry\ndark"),
    ("Negative prompt: a cat", ""),
    ("a cat\nNegative prompt: a dog\nNegative prompt: a fox", "Negative prompt: dark"),
    ("a sign that says Negative prompt: no dogs", "blurry"),
    ("Steps: 20, Sampler: Euler, CFG scale: 7, Seed: 1", ""),
    ("a cat\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 1", "dark\n  Steps: 20, Sampler: Euler, Seed: 1"),
    ("a cat\n\n\n  Steps: 20", "Steps: 3"),
    ("", "blurry"),
    ("", ""),
    ("a cat, Size: 1x1, Seed: 8", "Sampler: x"),
]


@pytest.mark.parametrize(("prompt", "negative"), TRICKY)
def test_every_reader_gives_back_what_was_meant(prompt: str, negative: str) -> None:
    spec = resolved(prompt=prompt, negative=negative, seed=32)
    text = parameters_text(spec, MODEL)
    pixels = np.zeros((64, 64, 3), dtype=np.uint8)
    meant = " ".join(prompt.split()), " ".join(negative.split())

    by_a1111, by_marks = parsed(text), parsed_by_first_marks(text)
    by_sd_parsers = parsed_by_sd_parsers(encode_png(pixels, spec, MODEL))

    for read in (by_a1111[:2], by_marks, by_sd_parsers[:2]):
        assert tuple(" ".join(words.split()) for words in read) == meant
    assert by_a1111[2]["Seed"] == by_sd_parsers[2] == "32"


def test_a_single_files_model_has_the_hash_that_sites_know_it_by() -> None:
    used = ModelUsed(name="mine", source="/models/mine.safetensors", revision=None, sha256="0123456789abcdef" * 4)
    assert parsed(parameters_text(resolved(), used))[2]["Model hash"] == "0123456789"
    assert parsed_by_sd_parsers(encode_png(np.zeros((64, 64, 3), dtype=np.uint8), resolved(), used))[3] == "0123456789"
    assert "Model hash" not in parsed(parameters_text(resolved(), MODEL))[2]


def test_an_autoencoder_of_another_file_has_a_hash_too() -> None:
    used = ModelUsed(
        name="mine", source="/models/mine#vae=x", revision=None, vae="x.safetensors", vae_sha256="0123456789abcdef" * 4
    )
    settings = parsed(parameters_text(resolved(), used))[2]
    assert (settings["VAE"], settings["VAE hash"]) == ("x.safetensors", "0123456789")
    assert not {"VAE", "VAE hash"} & parsed(parameters_text(resolved(), MODEL))[2].keys()


def test_no_control_character_is_written() -> None:
    """None comes from a person, for requests are cleaned of them; a spec that came another way is."""
    spec = resolved()
    forged = spec.conditioning.prompts[0].model_copy(update={"text": "a\0\x1b[2Jcat\x9b"})
    spec = spec.model_copy(update={"conditioning": spec.conditioning.model_copy(update={"prompts": (forged,)})})
    assert parsed(parameters_text(spec, MODEL))[0] == "a  [2Jcat"
    data = encode_png(np.zeros((64, 64, 3), dtype=np.uint8), spec, MODEL)
    assert b"\x1b" not in data.split(b"IDAT")[0]


def test_a_long_prompt_of_nothing_is_written_at_once() -> None:
    for prompt in ("\n" * 4_000, "\n " * 2_000, "\n" + " " * 3_999):
        assert parsed(parameters_text(resolved(prompt=prompt), MODEL))[0] == ""


def test_a_mix_is_written_with_its_weights() -> None:
    prompt, _, _ = parsed(parameters_text(resolved(prompt=["a cat", "a dog"], mix=0.25), MODEL))

    assert prompt == "a cat :0.25 AND a dog :0.75"


def test_an_image_start_is_written_as_denoising_strength() -> None:
    _, _, settings = parsed(parameters_text(resolved(from_image=True, steps=30, start_step=12), MODEL))

    assert settings["Denoising strength"] == "0.6"


def of_a_mask(**fields: Any) -> ResolvedSpec:
    reference = InitReference(sha256="1" * 64, extension="png")
    request = JobRequest.parse({"prompt": "a cat", "seed": 32, "steps": 6, "init": "a.png", **fields})
    (spec,) = request.specs(reference, default_model="m", mask=reference if request.mask is not None else None)
    return ResolvedSpec.of(spec, width=64, height=64, scale=7.5)


def test_a_mask_is_told_as_a1111_tells_it() -> None:
    """By modules/processing.py: what it does of itself is not said."""
    masked = of_a_mask(mask="m.png", strength=0.5, redo="black", mask_blur=9, fill="noise", only_masked=32)
    _, _, settings = parsed(parameters_text(masked, MODEL))
    told = {
        "Denoising strength": "0.5",
        "Mask mode": "Inpaint not masked",
        "Mask blur": "9",
        "Masked content": "latent noise",
        "Inpaint area": "Only masked",
        "Masked area padding": "32",
    }
    assert told.items() <= settings.items()
    data = encode_png(np.zeros((64, 64, 3), dtype=np.uint8), masked, MODEL)
    assert parsed_by_sd_parsers(data)[2] == "32"
    assert read_spec(data) == masked
    found = ParserManager().parse(io.BytesIO(data))
    assert found is not None
    assert {"mask blur": "9", "inpaint area": "Only masked"}.items() <= {
        key.replace("_", " ").lower(): value for key, value in found.metadata.items()
    }.items()

    plain = parsed(parameters_text(of_a_mask(mask="m.png"), MODEL))[2]
    assert plain["Mask blur"] == "4"
    assert not plain.keys() & (told.keys() - {"Denoising strength", "Mask blur"})
    grown = parsed(parameters_text(of_a_mask(outpaint="left=8,top=16"), MODEL))[2]
    assert (grown["Masked content"], grown["Outpaint"]) == ("fill", '"left=8,top=16"')
    assert "Mask blur" not in grown


def test_how_it_was_framed_is_said() -> None:
    settings = parsed(parameters_text(resolved(original_size="4096x2048", crop="128,0"), MODEL))[2]
    assert (settings["Original size"], settings["Crop"]) == ("4096x2048", '"128,0"')
    assert "Target size" not in settings


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
