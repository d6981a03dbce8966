"""A folder that holds only what is loaded of a model, under the names by which the libraries look for it.

The libraries open what they find and what files tell them to: other precisions, pickled weights, adapters, code, files
elsewhere. So they are shown a folder of checked configurations and of links to checked files, and nothing else.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from farm.errors import ModelError
from farm.layouts import STEMS
from worker.families.family import Family
from worker.models.disguises import recognised
from worker.models.layout import read_json
from worker.models.weights import Weights

_TOKENIZER_FILES = ("merges.txt", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.json")
_NAMING_FILES = ("fast_tokenizer_files", "init_inputs", "name_or_path")
"""Keys by which a tokenizer's configuration names other files, or replaces what is read from its own."""
_MAX_TOKENIZER_BYTES = 64 * 2**20


@contextmanager
def staged(name: str, family: Family, directory: Path, weights: Mapping[str, Weights]) -> Iterator[Path]:
    """A temporary folder with the configuration of the model `name` in `directory`, its tokenizers, and `weights`.

    Raises `ModelError` for a configuration that cannot be read, and `OSError` if the folder cannot be made.
    """
    with tempfile.TemporaryDirectory(prefix="farm-model-") as made:
        stage = Path(made)
        for component in family.parts:
            (stage / component).mkdir()
            _write(stage / component / "config.json", read_json(name, directory / component / "config.json"))
            if component in weights:
                _link(stage / component, STEMS[component], weights[component])
        for encoder in family.encoders:
            _stage_tokenizer(name, directory / encoder.tokenizer, stage / encoder.tokenizer)
        yield stage


def _link(folder: Path, stem: str, weights: Weights) -> None:
    """Show weights of whatever precision as if they were of full precision."""
    if weights.index is None:
        (path,) = weights.files.values()
        (folder / f"{stem}.safetensors").symlink_to(path.absolute())
        return
    for shard, path in weights.files.items():
        (folder / shard).symlink_to(path.absolute())
    _write(folder / f"{stem}.safetensors.index.json", {"metadata": {}, "weight_map": dict(weights.index)})


def _stage_tokenizer(name: str, source: Path, target: Path) -> None:
    files = {file: source / file for file in _TOKENIZER_FILES if (source / file).is_file()}
    target.mkdir()
    for file, path in files.items():
        if path.stat().st_size > _MAX_TOKENIZER_BYTES:
            raise ModelError(f"{path} of the model '{name}' is too large for a tokenizer")
        if found := recognised(path):
            raise ModelError(f"{path} of the model '{name}' cannot be read: {found[0]}", hint=found[1])
        if file == "tokenizer_config.json":
            config = read_json(name, path)
            _write(target / file, {key: value for key, value in config.items() if key not in _NAMING_FILES})
        else:
            (target / file).symlink_to(path.absolute())


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
