"""What a model on this machine consists of, and whether it is one, as far as that can be told without PyTorch.

Read are configurations and the headers of weights. A worker checks the rest when it loads the model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from farm import sources
from farm.bucket.models import FILE_NAME, MAX_FILES, Kind, Layout
from farm.client import model_options
from farm.client.given import GivenFile
from farm.client.headers import Shapes, read_header
from farm.client.model_options import Given
from farm.disguises import CONVERT
from farm.errors import InvalidInput
from farm.keys import MODEL_CONFIG, MODEL_FILE, PICKLED_WEIGHTS, WEIGHTS

_FIELD = "SOURCE"
_INDEX = "model_index.json"
_OF_THE_WHOLE = (_INDEX, "farm.json", "preview.json")
_TEXTS = (".json", "merges.txt")
_WITH_WEIGHTS = re.compile(r"unet|vae|text_encoder(_\d)?")
_OTHER_PARTS = re.compile(r"scheduler|tokenizer(_\d)?")
"""Of what an index names, these are loaded; safety checkers and the like never are."""
_STEM = re.compile(r"(diffusion_pytorch_model|model)[.-]")
_UNET, _VAE = "UNet2DConditionModel", "vae"
_OF_SHARDS = re.compile(r"-\d+-of-\d+|\.index\b")
_MARKED = re.compile(r"^\w+(?:-\d+-of-\d+)?\.(?!safetensors)|\.index\.(?!json)")
_HALF = ".fp16"
_ORIGINAL = "model.diffusion_model."
_ATTENTION = re.compile(r".*\.attn2\.to_k\.weight")
_OF_SDXL = ("add_embedding.", "model.diffusion_model.label_emb.")
"""Weights that read a prompt as a whole, and sizes."""
_KINDS: Mapping[int, Kind] = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
_OF_REFINER = 1280
_LORA = re.compile(r"^lora_|[._]lora[._]|\.hada_w|\.lokr_w")
_MAX_JSON_BYTES = 16 * 2**20


@dataclass(frozen=True)
class LocalModel:
    """A model on this machine: its files by their names in the farm, and what is said of it besides. `source` is where
    it was found."""

    layout: Layout
    kind: Kind
    source: str
    files: Mapping[str, Path]
    options: Mapping[str, str] = field(default_factory=dict)


def look_at(source: str | GivenFile) -> LocalModel:
    """The model in a folder in diffusers' layout, or in `FILE.safetensors[#config=FOLDER]`, with options after it.

    Or in a file that is given.

    Only what a worker loads is of it: configurations, tokenizers, and weights in one precision.
    Raises `InvalidInput` saying what is wrong with it and what to do.
    """
    if isinstance(source, GivenFile):
        return _given(source)
    try:
        named, options = sources.split(source)
        given = model_options.read(options)
    except InvalidInput as error:
        raise _refused(error.reason, hint=error.hint) from error
    except (OSError, RuntimeError) as error:
        raise _unreadable(source, error) from error
    config = options.get(sources.CONFIG, "")
    try:
        path = Path(named).expanduser().resolve()
        if path.is_dir():
            if config:
                raise _refused(f"{named} is a folder", hint="#config= goes with a checkpoint in one file")
            return _with_options(_folder(path, has_vae=given.has_vae), given)
        if named.lower().endswith(WEIGHTS) and path.is_file():
            found = _single_file(GivenFile.at(path, _FIELD), Path(config).expanduser().resolve() if config else None)
            return _with_options(found, given)
    except (OSError, RuntimeError) as error:
        raise _unreadable(source, error) from error
    if named.lower().endswith(PICKLED_WEIGHTS):
        raise _pickled(GivenFile.at(Path(named), _FIELD))
    raise _refused(
        f"there is no folder or .safetensors file {named}", hint="a model of the hub is downloaded first, as a folder"
    )


def _given(file: GivenFile) -> LocalModel:
    if file.called.lower().endswith(PICKLED_WEIGHTS):
        raise _pickled(file)
    if not file.called.lower().endswith(WEIGHTS):
        raise file.refused(f"is no {WEIGHTS} file", hint="a checkpoint of Stable Diffusion in one file is read")
    return _single_file(file, None)


def _pickled(file: GivenFile) -> InvalidInput:
    return file.refused("is pickled, which can run code, and is never opened", hint=CONVERT)


def _with_options(model: LocalModel, given: Given) -> LocalModel:
    files = _checked({**model.files, **given.files})
    return replace(model, files=files, options=given.kept, source=sources.join(model.source, given.written))


def _folder(folder: Path, *, has_vae: bool) -> LocalModel:
    """The model in a folder; without the weights of its autoencoder if it has another."""
    index = _read_json(folder / _INDEX) if (folder / _INDEX).is_file() else None
    if index is None:
        single = sorted(path.name for path in folder.glob(f"*{WEIGHTS}"))
        hint = (
            f"if {single[0]} is a whole checkpoint, name that file"
            if single
            else "a model is a folder in diffusers' layout"
        )
        raise _refused(f"{folder} is no model: it has no {_INDEX}", hint=hint)
    parts = [name for name, what in index.items() if _is_named(what)]
    if _class_of(index.get("unet")) != _UNET:
        pipeline = index.get("_class_name") or "of no known kind"
        raise _refused(f"{folder} is {pipeline!s:.60}, whose UNet is not {_UNET}")
    files = {name: folder / name for name in _OF_THE_WHOLE if (folder / name).is_file()}
    for path in files.values():
        _read_json(path)
    unet: Shapes = {}
    for part in parts:
        if not (folder / part).is_dir():
            if _WITH_WEIGHTS.fullmatch(part) or _OTHER_PARTS.fullmatch(part):
                raise _refused(f"{folder} has no folder {part}, which its {_INDEX} names", hint="fetch it again")
            continue
        if _WITH_WEIGHTS.fullmatch(part):
            weights = [] if has_vae and part == _VAE else _weights(folder / part)
            shapes = {key: shape for path in weights for key, shape in _shapes_of(path).items()}
            unet = shapes if part == "unet" else unet
            files |= {f"{part}/{path.name}": path for path in weights}
            files |= _texts(folder / part, under=f"{part}/")
        elif _OTHER_PARTS.fullmatch(part):
            files |= _texts(folder / part, under=f"{part}/")
    return LocalModel("folder", _kind(unet), str(folder), _checked(files))


def _single_file(file: GivenFile, config: Path | None) -> LocalModel:
    shapes = read_header(file).shapes
    if any(_LORA.search(key) for key in shapes):
        raise file.refused("is a LoRA, and no whole model", hint="'farm loras add NAME=FILE' adds it for jobs to name")
    if not any(key.startswith(_ORIGINAL) for key in shapes):
        typical = min(shapes, default="none")
        raise file.refused(
            f"is no whole checkpoint of Stable Diffusion: its weights have names such as {typical!r:.80}",
            hint="a model in diffusers' layout is added as its folder",
        )
    files = {MODEL_FILE: file.path}
    if config is None:
        _check_architecture(file, shapes)
    else:
        if not (config / _INDEX).is_file():
            raise _refused(f"{config} has no {_INDEX}", hint="#config= names a folder in diffusers' layout")
        files |= {f"{MODEL_CONFIG}/{name}": config / name for name in _OF_THE_WHOLE if (config / name).is_file()}
        for part in sorted(child for child in config.iterdir() if child.is_dir()):
            if _WITH_WEIGHTS.fullmatch(part.name) or _OTHER_PARTS.fullmatch(part.name):
                files |= _texts(part, under=f"{MODEL_CONFIG}/{part.name}/")
    source = f"{file.source}#config={config}" if config else file.source
    return LocalModel("file", _kind(shapes), source, _checked(files))


def _check_architecture(file: GivenFile, shapes: Shapes) -> None:
    """Raise `InvalidInput` for a checkpoint that is to show by itself of which kind it is, and shows that it is of none
    that is known."""
    width, more = _width(shapes), any(key.startswith(_OF_SDXL) for key in shapes)
    if width is None or ((kind := _KINDS.get(width)) and (kind == "sdxl") == more):
        return
    if more and width == _OF_REFINER:
        raise file.refused(
            "is the refiner of SDXL, which only refines what SDXL's base model made", hint="use the base model"
        )
    raise file.refused(
        f"is of an architecture that is not known: it reads texts of width {width}{' and more' if more else ''}",
        hint="with the configuration of a model like it 'farm models add NAME=FILE#config=DIRECTORY' adds it",
    )


def _shapes_of(path: Path) -> Shapes:
    return read_header(GivenFile.at(path, _FIELD)).shapes if path.name.endswith(WEIGHTS) else {}


def _weights(folder: Path) -> list[Path]:
    """The files of a part's weights, of shards with their index: in full precision rather than in half, in one file
    rather than in shards."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    found = [name for name in names if _STEM.match(name) and name.endswith((WEIGHTS, ".json"))]
    for chosen in (
        [name for name in found if not _MARKED.search(name)],
        [name for name in found if _HALF in name],
    ):
        whole = [name for name in chosen if not _OF_SHARDS.search(name)]
        if any(name.endswith(WEIGHTS) for name in chosen):
            return [folder / name for name in (whole or chosen)]
    pickled = [name for name in names if name.lower().endswith(PICKLED_WEIGHTS)]
    if pickled and not found:
        raise _refused(f"{folder} has only pickled weights ({pickled[0]}), which can run code", hint=CONVERT)
    others = [name for name in names if name.endswith(WEIGHTS)]
    raise _refused(
        f"{folder} has no weights that are loaded{f', but {others[0]}' if others else ''}",
        hint="they are called diffusion_pytorch_model.safetensors, or model.safetensors of a text encoder",
    )


def _texts(folder: Path, *, under: str) -> dict[str, Path]:
    """Configurations and vocabularies directly in a folder, and no index of weights."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name.endswith(_TEXTS) and WEIGHTS not in path.name:
            if path.name.endswith(".json"):
                _read_json(path)
            found[f"{under}{path.name}"] = path
    return found


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise ValueError(f"it has more than {_MAX_JSON_BYTES:,} bytes")
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _refused(f"{path} is not JSON: {error}", hint="fetch it again") from error
    if not isinstance(content, dict):
        raise _refused(f"{path} is not a JSON object")
    return content


def _is_named(what: Any) -> bool:
    return isinstance(what, list) and len(what) == 2 and what[0] is not None


def _class_of(what: Any) -> Any:
    return what[1] if _is_named(what) else None


def _kind(shapes: Shapes) -> Kind:
    if any(key.startswith(_OF_SDXL) for key in shapes):
        return "sdxl"
    return _KINDS.get(_width(shapes) or 0, "sd")


def _width(shapes: Shapes) -> int | None:
    """How wide the texts are that a UNet reads; None if that cannot be told."""
    return next((shape[-1] for key, shape in sorted(shapes.items()) if _ATTENTION.fullmatch(key) and shape), None)


def _checked(files: Mapping[str, Path]) -> Mapping[str, Path]:
    if len(files) > MAX_FILES:
        raise _refused(f"it has {len(files):,} files, more than {MAX_FILES:,}")
    for name, path in files.items():
        if not re.match(FILE_NAME, name):
            raise _refused(f"{path} has a name that no model's file has")
    return files


def _unreadable(source: str, error: OSError | RuntimeError) -> InvalidInput:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return _refused(f"{source} cannot be read: {reason}")


def _refused(message: str, *, hint: str | None = None) -> InvalidInput:
    return InvalidInput(message, field=_FIELD, hint=hint)
