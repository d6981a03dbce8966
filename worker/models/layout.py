"""Whether a directory is a model of Stable Diffusion's layout, checked before any weight is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from farm.errors import ModelError
from farm.spec import MAX_GUIDANCE

COMPONENTS = {
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
    "tokenizer": "CLIPTokenizer",
}
WITH_WEIGHTS = ("unet", "vae", "text_encoder")
PICKLED = (".bin", ".ckpt", ".pt", ".pth")


DEFAULT_GUIDANCE = 7.5


def read_guidance(directory: Path) -> float:
    """The guidance scale that suits a model: its `farm.json`'s, such as {"guidance": 4.0}, else 7.5.

    Raises `ModelError` if the file is malformed, or the scale none that a job may have.
    """
    path = directory / "farm.json"
    if not path.is_file():
        return DEFAULT_GUIDANCE
    try:
        guidance = float(json.loads(path.read_text()).get("guidance", DEFAULT_GUIDANCE))
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} is malformed: {error}") from error
    if not 0 <= guidance <= MAX_GUIDANCE:
        raise ModelError(f"{path} is malformed: a guidance of {guidance:g} is not from 0 to {MAX_GUIDANCE:g}")
    return guidance


def check(name: str, directory: Path) -> None:
    """Raise `ModelError` unless `directory` holds exactly the expected classes, with safetensors weights."""
    index = _read_json(name, directory / "model_index.json")
    for component, expected in COMPONENTS.items():
        _check_class(name, component, expected, index.get(component))
    _read_json(name, directory / "scheduler" / "scheduler_config.json")
    for component in WITH_WEIGHTS:
        config = _read_json(name, directory / component / "config.json")
        written = config.get("_class_name") or next(iter(config.get("architectures") or ()), None)
        _check_class(name, component, COMPONENTS[component], ["", written])
        _check_weights(name, directory / component)


def check_configs(name: str, unet: Any, vae: Any, text_encoder: Any) -> None:
    """Raise `ModelError` unless the parts fit together as Stable Diffusion's do (SDXL and inpainting do not)."""
    extras = [key for key in ("addition_embed_type", "class_embed_type", "time_cond_proj_dim") if unet.get(key)]
    if extras:
        raise ModelError(f"the UNet of '{name}' needs more than a prompt: {', '.join(extras)}", hint=_ONLY_SD)
    if not unet.in_channels == unet.out_channels == vae.latent_channels:
        raise ModelError(
            f"the UNet of '{name}' goes from {unet.in_channels} to {unet.out_channels} channels, "
            f"and its latents have {vae.latent_channels}",
            hint=_ONLY_SD,
        )
    if unet.cross_attention_dim != text_encoder.hidden_size:
        raise ModelError(
            f"the UNet of '{name}' attends to width {unet.cross_attention_dim}, "
            f"and its text encoder has {text_encoder.hidden_size}"
        )


_ONLY_SD = "use a text-to-image model of Stable Diffusion 1 or 2"


def _check_class(name: str, component: str, expected: str, found: Any) -> None:
    written = found[1] if isinstance(found, list) and len(found) == 2 else None
    if component == "tokenizer" and written == "CLIPTokenizerFast":
        return
    if written != expected:
        raise ModelError(
            f"the {component} of the model '{name}' is {written or 'missing'}, not {expected}", hint=_ONLY_SD
        )


def _check_weights(name: str, directory: Path) -> None:
    if any(directory.glob("*.safetensors")):
        return
    pickled = sorted(path.name for path in directory.iterdir() if path.suffix in PICKLED)
    if pickled:
        raise ModelError(
            f"the model '{name}' has only pickled weights in {directory} ({pickled[0]}), which can run code",
            hint="load it with diffusers where you trust it, and save it again with save_pretrained",
        )
    raise ModelError(f"the model '{name}' has no .safetensors weights in {directory}")


def _read_json(name: str, path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ModelError(
            f"the model '{name}' has no {path}", hint="a model is a directory in diffusers' layout"
        ) from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} of the model '{name}' cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} of the model '{name}' is not a JSON object")
    return content
