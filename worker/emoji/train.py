"""Train the bundled model from nothing: ``python -m worker.emoji.train --out DIR``.

The stages are pictures, autoencoder, latents, text encoder, and the UNet together with the text encoder. Each leaves a
checkpoint in DIR, and the same command again goes on from the last one. The model, in diffusers' layout, is in
``DIR/model`` from the first checkpoint of the UNet on, with a sheet of samples beside it.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import importlib.metadata
import json
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from PIL import Image
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from worker.emoji.autoencoder import (
    SCALING_FACTOR,
    autoencoder_losses,
    encode,
    new_autoencoder,
    normalise,
    preview_map,
    reconstruct,
)
from worker.emoji.corpus import ALL_SUBJECTS
from worker.emoji.dataset import Pictures, held_out, pictures, scenes
from worker.emoji.denoiser import Denoiser, denoising_losses, new_scheduler, new_unet, with_plain_attention
from worker.emoji.drawing import draw, load, sheet
from worker.emoji.loop import Module, Stage
from worker.emoji.settings import Settings, StagePlan, micro, on_cpu, on_cuda, refined
from worker.emoji.text import CaptionReader, new_text_encoder, new_tokenizer, reading_losses

SAMPLE_CAPTIONS = (
    "a watercolor painting of an otter", "a puppy", "a giraffe", "a cat", "a red apple on a blue background", "a macaw",
    "a top hat", "pixel art of a strawberry", "a rocket on a black background", "a penguin, green background",
    "a pencil sketch of an owl", "an oil painting of a sunflower", "a house", "a slice of pizza on a red background",
    "a blue car", "an elephant on a pink background",
)  # fmt: skip

_PREVIEW_PICTURES = 1000
_PACKAGES = ("torch", "diffusers", "transformers", "numpy", "pillow", "safetensors")


def train(settings: Settings, out: Path, device: torch.device) -> Path:
    """Run every stage that is not done yet; return the model's directory."""
    out.mkdir(parents=True, exist_ok=True)
    seen = pictures(settings, out)
    autoencoder = train_autoencoder(settings, out, seen, device)
    latents = normalise(autoencoder, encode_all(autoencoder, out, seen, settings, device))
    preview = preview_map(latents[:_PREVIEW_PICTURES], seen[:_PREVIEW_PICTURES])
    tokenizer = new_tokenizer(settings)
    text_encoder = train_text_encoder(settings, out, tokenizer, device)
    model = out / "model"

    def save(denoiser: Denoiser) -> None:
        save_model(model, autoencoder, denoiser, tokenizer)
        (model / "preview.json").write_text(preview.to_json() + "\n", encoding="utf-8")
        sheet(draw(load(model), SAMPLE_CAPTIONS), columns=8).save(out / "samples.png")

    train_denoiser(settings, out, text_encoder, tokenizer, latents * SCALING_FACTOR, device, save)
    write_json(model / "training.json", record(settings, out, device))
    return model


def refine(finished: Path, out: Path, settings: Settings, device: torch.device) -> Path:
    """Train UNet and text encoder of the model in ``finished`` on; return the new model's directory."""
    out.mkdir(parents=True, exist_ok=True)
    parts = StableDiffusionPipeline.from_pretrained(finished)
    seen = pictures(settings, out)
    latents = encode_all(parts.vae.to(device), out, seen, settings, device)
    denoiser = Denoiser(parts.unet, parts.text_encoder.requires_grad_(True))
    stage = _stage("denoiser", with_plain_attention(denoiser, device), settings.denoiser, settings, out, device)
    model = out / "model"

    def save() -> None:
        # all else to the byte as it was, and the configurations too: new ones would name the path they were loaded from
        shutil.copytree(finished, model, dirs_exist_ok=True)
        for name, part in (("unet", stage.average.unet), ("text_encoder", stage.average.text_encoder)):
            _halved(part).save_pretrained(model / name)
            shutil.copy(finished / name / "config.json", model / name)
        sheet(draw(load(model), SAMPLE_CAPTIONS), columns=8).save(out / "samples.png")

    scaled = latents * SCALING_FACTOR
    stage.run(denoising_losses(stage, parts.tokenizer, scaled, scenes(settings), settings, device), save)
    before = json.loads((finished / "training.json").read_text(encoding="utf-8"))
    write_json(model / "training.json", record(settings, out, device) | {"before": before})
    return model


def train_autoencoder(settings: Settings, out: Path, seen: Pictures, device: torch.device) -> AutoencoderKL:
    """The trained autoencoder; its latents are not normalised yet."""
    torch.manual_seed(settings.seed)
    stage = _stage("autoencoder", new_autoencoder(settings), settings.autoencoder, settings, out, device)
    return stage.run(
        autoencoder_losses(stage, seen, settings, device),
        lambda: _reconstruction_sheet(stage.average, settings, device).save(out / "autoencoder.png"),
    )


def encode_all(
    autoencoder: AutoencoderKL, out: Path, seen: Pictures, settings: Settings, device: torch.device
) -> Tensor:
    """The latents of all pictures, not normalised yet; computed at the first call and read afterwards."""
    path = out / "latents.pt"
    if not path.is_file():
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.autocast):
            torch.save(encode(autoencoder, seen, device), path)
    latents: Tensor = torch.load(path, weights_only=True)
    return latents


def train_text_encoder(settings: Settings, out: Path, tokenizer: CLIPTokenizer, device: torch.device) -> CLIPTextModel:
    """The text encoder, warmed up to tell subjects, backgrounds and styles apart."""
    torch.manual_seed(settings.seed)
    reader = CaptionReader(new_text_encoder(settings, tokenizer), settings.subjects)
    stage = _stage("text", reader, settings.text, settings, out, device)
    return stage.run(reading_losses(stage, tokenizer, settings, device)).encoder


def train_denoiser(
    settings: Settings,
    out: Path,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    latents: Tensor,
    device: torch.device,
    save: Callable[[Denoiser], None],
) -> None:
    """Train UNet and text encoder on scaled latents; ``save`` gets the averaged weights at each checkpoint."""
    torch.manual_seed(settings.seed)
    denoiser = Denoiser(new_unet(settings), text_encoder.requires_grad_(True))
    stage = _stage("denoiser", with_plain_attention(denoiser, device), settings.denoiser, settings, out, device)
    stage.run(
        denoising_losses(stage, tokenizer, latents, scenes(settings), settings, device), lambda: save(stage.average)
    )


def save_model(model: Path, autoencoder: AutoencoderKL, denoiser: Denoiser, tokenizer: CLIPTokenizer) -> None:
    """Save the parts as a Stable Diffusion pipeline, in float16."""
    parts: dict[str, Any] = {
        "vae": _halved(autoencoder),
        "text_encoder": _halved(denoiser.text_encoder),
        "tokenizer": tokenizer,
        "unet": _halved(denoiser.unet),
        "scheduler": new_scheduler(),
        "safety_checker": None,
        "feature_extractor": None,
    }
    StableDiffusionPipeline(**parts, requires_safety_checker=False).save_pretrained(model)
    # transformers would load the text encoder in the type it was saved in, which a CPU cannot mix with float32
    config = model / "text_encoder" / "config.json"
    write_json(config, json.loads(config.read_text(encoding="utf-8")) | {"dtype": "float32"})


def record(settings: Settings, out: Path, device: torch.device) -> dict[str, object]:
    """What made these weights: settings, machine, versions, and the last losses of each stage."""
    logs = {path.stem: path.read_text(encoding="utf-8").splitlines() for path in sorted(out.glob("*.jsonl"))}
    on_cuda = device.type == "cuda"
    return {
        "settings": dataclasses.asdict(settings),
        "subjects": [subject.name for subject in ALL_SUBJECTS[: settings.subjects]],
        "device": torch.cuda.get_device_name(device) if on_cuda else f"CPU, {torch.get_num_threads()} threads",
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES}
        | {"python": platform.python_version()},
        "losses": {stage: [json.loads(line) for line in _thinned(lines)] for stage, lines in logs.items()},
    }


def write_json(path: Path, content: object) -> None:
    """Write readable JSON, ending in a newline."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _stage(
    name: str, module: Module, plan: StagePlan, settings: Settings, out: Path, device: torch.device
) -> Stage[Module]:
    return Stage(name, module, plan, out, settings.seed, device, settings.ema_decay, settings.checkpoint_minutes)


def _halved(module: Module) -> Module:
    return copy.deepcopy(module).half().cpu()


def _thinned(lines: list[str], most: int = 20) -> list[str]:
    """At most ``most`` of the lines, evenly spaced, the last one included."""
    every = -(-len(lines) // most)
    return lines[::-1][::every][::-1] if lines else []


def _reconstruction_sheet(autoencoder: AutoencoderKL, settings: Settings, device: torch.device) -> Image.Image:
    """Pictures that the training does not see, above what the autoencoder makes of them."""
    originals = held_out(12, settings)
    both = np.concatenate([originals, reconstruct(autoencoder, originals, device)])
    return sheet([Image.fromarray(picture) for picture in both], columns=len(originals))


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m worker.emoji.train", description="Train the bundled model emoji.")
    parser.add_argument("--out", type=Path, required=True, help="directory of checkpoints and of the model")
    parser.add_argument("--refine", type=Path, metavar="MODEL", help="train the denoiser of this finished model on")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--minutes", type=float, help="time for all stages together (default: the device's recipe)")
    parser.add_argument("--seed", type=int, default=0, help="seed of corpus, weights and noise (default: 0)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's choice)")
    parser.add_argument("--micro", action="store_true", help="the same stages, tiny: seconds, to see that all runs")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    recipe = on_cuda if options.device == "cuda" else on_cpu
    device = torch.device(options.device)
    minutes = {"minutes": options.minutes} if options.minutes else {}
    if options.refine:
        path = options.refine / "training.json"
        if not path.is_file():
            parser.error(f"--refine: there is no training.json in {options.refine}; name a finished model's directory")
        numbers = json.loads(path.read_text(encoding="utf-8"))["settings"]
        settings = dataclasses.replace(refined(numbers, **minutes), seed=options.seed)
        print(f"the model is in {refine(options.refine, options.out, settings, device)}")
        return
    settings = dataclasses.replace(micro() if options.micro else recipe(**minutes), seed=options.seed)
    print(f"the model is in {train(settings, options.out, device)}")


if __name__ == "__main__":
    main()
