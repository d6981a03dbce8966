"""Train a LoRA of the bundled model: ``python -m worker.emoji.lora --out DIR``.

It learns a style that the model does not know, neon, from the corpus' scenes drawn in that style, while the model's own
weights stay as they are (Hu et al. 2021, arXiv:2106.09685). The file, as diffusers reads it, is
``DIR/neon.safetensors``, with a sheet of samples beside it. The same command again goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import itertools
import json
from pathlib import Path

import numpy as np
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from worker.diffusion.adapters import Stack, Use
from worker.emoji.autoencoder import SCALING_FACTOR
from worker.emoji.corpus import SIZE, render
from worker.emoji.dataset import Pictures, scene_number, scenes
from worker.emoji.denoiser import Denoiser, denoising_losses, with_plain_attention
from worker.emoji.drawing import draw, load, sheet
from worker.emoji.loop import Stage
from worker.emoji.settings import Settings, StagePlan, refined
from worker.emoji.styles import neon
from worker.emoji.train import SAMPLE_CAPTIONS, encode_all
from worker.loras.reading import read_adapter
from worker.models.model import LoadedModel
from worker.models.registry import BUILT_IN, LocalDirectory

RANK = 8
_INIT = 1e-2
_CONVOLUTIONS = ("conv1", "conv2")
"""Of the UNet's residual blocks; its widest level has no attention that could learn a style."""
_LINEARS = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")


class Adapted(nn.Module):
    """A layer of the model, which does not learn, and a product of low rank beside it, which does."""

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        if isinstance(layer, nn.Linear):
            self.down: nn.Module = nn.Linear(layer.in_features, RANK, bias=False)
            self.up: nn.Module = nn.Linear(RANK, layer.out_features, bias=False)
        else:
            # a layer's own stride and padding, as it is applied to the same input
            self.down = nn.Conv2d(
                layer.in_channels,
                RANK,
                layer.kernel_size,  # type: ignore[arg-type]  # torch keeps pairs, and asks for pairs of two
                layer.stride,  # type: ignore[arg-type]
                layer.padding,  # type: ignore[arg-type]
                bias=False,
            )
            self.up = nn.Conv2d(RANK, layer.out_channels, 1, bias=False)
        nn.init.normal_(self.down.weight, std=_INIT)
        nn.init.zeros_(self.up.weight)

    def forward(self, given: Tensor) -> Tensor:
        out: Tensor = self.layer(given) + self.up(self.down(given))
        return out


def adapt(unet: UNet2DConditionModel) -> None:
    """Put a product beside the layers of the UNet that carry style; nothing else learns."""
    unet.requires_grad_(False)
    ends = tuple(f".{name}" for name in (*_LINEARS, *_CONVOLUTIONS))
    for path in [path for path, _ in unet.named_modules() if path.endswith(ends)]:
        parent, _, name = path.rpartition(".")
        layer = unet.get_submodule(path)
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        setattr(unet.get_submodule(parent), name, Adapted(layer))


def factors(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """What was learnt, in float16, under the names that diffusers and PEFT give it."""
    found: dict[str, Tensor] = {}
    for path, module in unet.named_modules():
        if isinstance(module, Adapted):
            for letter, part in (("A", module.down), ("B", module.up)):
                weight = part.weight
                assert isinstance(weight, Tensor)
                found[f"unet.{path}.lora_{letter}.weight"] = weight.detach().half().contiguous()
    return found


def train(model: Path, out: Path, settings: Settings, device: torch.device) -> Path:
    """Train a LoRA of the model in a directory; return its file."""
    out.mkdir(parents=True, exist_ok=True)
    parts = StableDiffusionPipeline.from_pretrained(model)
    latents = SCALING_FACTOR * encode_all(parts.vae.to(device), out, neon_pictures(settings, out), settings, device)
    torch.manual_seed(settings.seed)
    adapt(parts.unet)
    denoiser = Denoiser(parts.unet, parts.text_encoder.requires_grad_(False))
    stage = Stage(
        "neon",
        with_plain_attention(denoiser, device),
        settings.denoiser,
        out,
        settings.seed,
        device,
        settings.ema_decay,
        settings.checkpoint_minutes,
    )
    file = out / "neon.safetensors"
    losses = denoising_losses(stage, parts.tokenizer, latents, scenes(settings), settings, device)

    def save() -> None:
        told = {"format": "pt", "ss_output_name": "neon", "ss_steps": str(stage.step), "ss_network_dim": str(RANK)}
        save_file(factors(stage.average.unet), file, metadata=told)
        _sample_sheet(model, file).save(out / "samples.png")

    stage.run(losses, save)
    return file


def neon_pictures(settings: Settings, directory: Path) -> Pictures:
    """The scenes of a training in neon, drawn at the first call and read from ``directory`` afterwards."""
    path = directory / "pictures.npy"
    if not path.is_file():
        drawn = np.empty((settings.renders, SIZE, SIZE, 3), np.uint8)
        for row in range(settings.renders):
            scene, rng = scene_number(row, settings)
            bare = dataclasses.replace(scene, style="plain", background="black")
            drawn[row] = np.asarray(neon(render(bare, rng), rng))
        np.save(path, drawn)
    loaded: Pictures = np.load(path, mmap_mode="r")
    return loaded


def recipe(model: Path, minutes: float) -> Settings:
    """What training a LoRA takes, on two CPU cores, given the settings that the model was made with."""
    numbers = json.loads((model / "training.json").read_text(encoding="utf-8"))["settings"]
    plan = StagePlan(800, minutes, batch=24, learning_rate=3e-3, weight_decay=0.0)
    return dataclasses.replace(
        refined(numbers), denoiser=plan, renders=2_000, mixes=0.2, ema_decay=0.98, checkpoint_minutes=2.0
    )


def micro(settings: Settings) -> Settings:
    """The same, tiny: seconds, to see that all runs."""
    plan = StagePlan(3, 1.0, batch=2, learning_rate=1e-3)
    return dataclasses.replace(settings, denoiser=plan, renders=4)


def adapted(model: LoadedModel, file: Path) -> Stack:
    """The LoRA in a file, as the farm reads it for a model. Raises `ModelError`."""
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return (Use(read_adapter(file, file.stem, digest, model)),)


def _sample_sheet(model: Path, file: Path) -> Image.Image:
    """Samples without the LoRA, above the same with it."""
    loaded = load(model)
    both = [draw(loaded, SAMPLE_CAPTIONS[:8], stack=stack) for stack in ((), adapted(loaded, file))]
    return sheet(list(itertools.chain(*both)), columns=8)


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m worker.emoji.lora", description="Train a LoRA of the model emoji.")
    parser.add_argument("--out", type=Path, required=True, help="directory of checkpoints and of the file")
    parser.add_argument("--minutes", type=float, default=8.0, help="of training, at the most (default: 8)")
    parser.add_argument("--seed", type=int, default=0, help="seed of corpus, factors and noise (default: 0)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's choice)")
    parser.add_argument("--micro", action="store_true", help="the same, tiny: seconds, to see that all runs")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    emoji = BUILT_IN["emoji"]
    assert isinstance(emoji, LocalDirectory)
    settings = dataclasses.replace(recipe(emoji.path, options.minutes), seed=options.seed)
    settings = micro(settings) if options.micro else settings
    print(f"the LoRA is {train(emoji.path, options.out, settings, torch.device('cpu'))}")


if __name__ == "__main__":
    main()
