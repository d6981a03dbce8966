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

from farm import layouts, sources
from farm.bucket.models import FILE_NAME, MAX_FILES, Kind, Layout
from farm.client import model_options, model_prediction
from farm.client.given import GivenFile
from farm.client.headers import Shapes, read_header
from farm.client.model_options import Given
from farm.disguises import CONVERT, LOOK_AT, disguise
from farm.errors import InvalidInput
from farm.jobs import defaults
from farm.keys import MODEL_CONFIG, MODEL_FILE, PICKLED_WEIGHTS, WEIGHTS
from farm.layouts import INDEX, PARTS, STEMS, UNET, VAE

_FIELD = "SOURCE"
_OF_THE_WHOLE = (INDEX, defaults.FILE, "preview.json")
_TEXTS = (".json", "merges.txt")
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
    it was found. `predicts_v` is None where only its weights can tell."""

    layout: Layout
    kind: Kind
    source: str
    files: Mapping[str, Path]
    options: Mapping[str, str] = field(default_factory=dict)
    predicts_v: bool | None = None


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
            file, folder = GivenFile.at(path, _FIELD), Path(config).expanduser().resolve() if config else None
            found = _single_file(file, folder, has_vae=given.has_vae)
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
    return _single_file(file, None, has_vae=False)


def _pickled(file: GivenFile) -> InvalidInput:
    return file.refused("is pickled, which can run code, and is never opened", hint=CONVERT)


def _with_options(model: LocalModel, given: Given) -> LocalModel:
    if fault := model_prediction.fault(given.kept, model.predicts_v):
        raise _at_fault(model.source, fault)
    files = _checked({**model.files, **given.files})
    return replace(model, files=files, options=given.kept, source=sources.join(model.source, given.written))


def _folder(folder: Path, *, has_vae: bool) -> LocalModel:
    """The model in a folder; without the weights of its autoencoder if it has another."""
    if not (folder / INDEX).is_file():
        single = sorted(path.name for path in folder.glob(f"*{WEIGHTS}"))
        hint = (
            f"if {single[0]} is a whole checkpoint, name that file"
            if single
            else "a model is a folder in diffusers' layout"
        )
        raise _refused(f"{folder} is no model: it has no {INDEX}", hint=hint)
    parts, unet = _parts(folder), dict[str, tuple[int, ...]]()
    files = _of_the_whole(folder)
    for part in parts:
        if part in STEMS and not (has_vae and part == VAE):
            weights = _weights(folder, part)
            unet |= weights.shapes if part == UNET else {}
            files |= {f"{part}/{path.name}": path for path in weights.files}
        files |= _texts(folder / part, under=f"{part}/")
    predicts_v = model_prediction.said_by_scheduler(_read_json(folder / layouts.SCHEDULER))
    return LocalModel("folder", _kind(unet), str(folder), _checked(files), predicts_v=predicts_v)


def _of_the_whole(folder: Path) -> dict[str, Path]:
    """What says something of the whole model in a folder. Raises `InvalidInput` for what no worker could read."""
    files = {name: folder / name for name in _OF_THE_WHOLE if (folder / name).is_file()}
    for name, path in files.items():
        said = _read_json(path)
        if name == defaults.FILE:
            try:
                defaults.read_defaults(said)
            except InvalidInput as error:
                raise _refused(f"{path} is malformed: {error}") from error
    return files


def _parts(folder: Path) -> tuple[str, ...]:
    """The parts of the model in a folder with an index. Raises `InvalidInput` unless all are there, but for weights."""
    if fault := layouts.unfit(folder, _read_json):
        raise _at_fault(folder, fault)
    return layouts.parts_of(_read_json(folder / UNET / layouts.CONFIG))


def _single_file(file: GivenFile, config: Path | None, *, has_vae: bool) -> LocalModel:
    header = read_header(file)
    shapes = header.shapes
    if any(_LORA.search(key) for key in shapes):
        raise file.refused("is a LoRA, and no whole model", hint="'farm loras add NAME=FILE' adds it for jobs to name")
    if not shapes:
        raise file.refused("has no weights", hint=layouts.FETCH_AGAIN)
    if layouts.lacking_in_file(shapes, [UNET]):
        raise file.refused(
            f"is no whole checkpoint of Stable Diffusion: its weights have names such as {min(shapes)!r:.80}",
            hint="a model in diffusers' layout is added as its folder",
        )
    files = {MODEL_FILE: file.path}
    if config is None:
        _check_architecture(file, shapes)
        parts = layouts.parts_of(layouts.WITH_SECOND_ENCODER if _kind(shapes) == "sdxl" else {})
    else:
        if not (config / INDEX).is_file():
            raise _refused(f"{config} has no {INDEX}", hint="#config= names a folder in diffusers' layout")
        parts = _parts(config)
        files |= {f"{MODEL_CONFIG}/{name}": path for name, path in _of_the_whole(config).items()}
        for part in parts:
            files |= _texts(config / part, under=f"{MODEL_CONFIG}/{part}/")
    if lacks := layouts.lacking_in_file(shapes, [part for part in parts if not (has_vae and part == VAE)]):
        raise file.refused(
            f"has no {PARTS[lacks].title}", hint=layouts.hint_in_file(lacks, "farm models add NAME=FILE")
        )
    source = f"{file.source}#config={config}" if config else file.source
    scheduler = _read_json(config / layouts.SCHEDULER) if config else None
    predicts_v = model_prediction.said_by_file(header, _kind(shapes), scheduler)
    return LocalModel("file", _kind(shapes), source, _checked(files), predicts_v=predicts_v)


def _check_architecture(file: GivenFile, shapes: Shapes) -> None:
    """Raise `InvalidInput` for a checkpoint that is to show by itself of which kind it is, and shows that it is of none
    that is known."""
    width, more = _width(shapes), any(key.startswith(_OF_SDXL) for key in shapes)
    if width is None or ((kind := _KINDS.get(width)) and (kind == "sdxl") == more):
        return
    if more and width == _OF_REFINER:
        raise file.refused(f"is {layouts.REFINER}", hint=layouts.BASE_IS_NEEDED)
    raise file.refused(
        f"is of an architecture that is not known: it reads texts of width {width}{' and more' if more else ''}",
        hint="with the configuration of a model like it 'farm models add NAME=FILE#config=DIRECTORY' adds it",
    )


@dataclass(frozen=True)
class _Weights:
    """The files of a part's weights, of shards with their index, and the shapes of the weights in them."""

    files: list[Path]
    shapes: dict[str, tuple[int, ...]]


def _weights(folder: Path, part: str) -> _Weights:
    """The weights of a part of the model in a folder. Raises `InvalidInput` unless they are there and whole."""
    names = [path.name for path in (folder / part).iterdir() if path.is_file()]
    found = layouts.chosen(names, STEMS[part])
    if not found:
        raise _at_fault(folder, layouts.without_weights(part, names))
    first = folder / part / found[0]
    if first.name.endswith(WEIGHTS):
        return _Weights([first], dict(_shapes_of(first)))
    try:
        index = layouts.shards_by_weight(_read_json(first))
    except (ValueError, TypeError, KeyError) as error:
        raise _refused(f"{first} is not an index of shards: {error}", hint=layouts.FETCH_AGAIN) from error
    if fault := layouts.astray(part, index, names):
        raise _at_fault(folder, fault)
    shards = [folder / part / shard for shard in sorted(set(index.values()))]
    held = {shard.name: _shapes_of(shard) for shard in shards}
    if fault := layouts.lost(part, index, held):
        raise _at_fault(folder, fault)
    return _Weights([first, *shards], {key: shape for shapes in held.values() for key, shape in shapes.items()})


def _shapes_of(path: Path) -> Shapes:
    return read_header(GivenFile.at(path, _FIELD)).shapes


def _at_fault(folder: Path | str, fault: layouts.Fault) -> InvalidInput:
    said, hint = fault
    return _refused(f"{folder} {said}", hint=hint)


def _texts(folder: Path, *, under: str) -> dict[str, Path]:
    """Configurations and vocabularies directly in a folder, and no index of weights."""
    found = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name.endswith(_TEXTS) and WEIGHTS not in path.name:
            if path.name.endswith(".json"):
                _read_json(path)
            elif fault := _disguise(path):
                raise _refused(f"{path} is {fault[0]}", hint=fault[1])
            found[f"{under}{path.name}"] = path
    return found


def _disguise(path: Path) -> layouts.Fault | None:
    with path.open("rb") as file:
        return disguise(file.read(LOOK_AT))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise ValueError(f"it has more than {_MAX_JSON_BYTES:,} bytes")
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        what, hint = _disguise(path) or (f"not JSON: {error}", layouts.FETCH_AGAIN)
        raise _refused(f"{path} is {what}", hint=hint) from error
    if not isinstance(content, dict):
        raise _refused(f"{path} is not a JSON object")
    return content


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
