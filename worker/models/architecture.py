"""How a single file is put together: as a folder says that is named with it, or as the configurations say that come
along, of the architectures that single files are usually of."""

from __future__ import annotations

import gzip
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain
from pathlib import Path

from farm.errors import ModelUnavailable
from worker.models import kinds
from worker.models.original import Original, read_original
from worker.models.prediction import by_its_weights, said_by
from worker.models.registry import Options, SingleFile

_log = logging.getLogger(__name__)

SHIPPED = Path(__file__).parent / "architectures"
"""A folder an architecture, in diffusers' layout but for weights and vocabularies: all have the one of CLIP."""

INPAINTING_CHANNELS = 9
_PREDICTS_V = "sd2-v"
_MERGES = SHIPPED / "clip" / "merges.txt.gz"
_WORD_END = "</w>"
_PLAIN_BYTES = (*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1))
"""Those that stand for themselves among the letters of CLIP's tokens; for every other stands a letter after ÿ."""
_MARKS = ("<|startoftext|>", "<|endoftext|>")


@contextmanager
def configuration(name: str, source: SingleFile) -> Iterator[Path]:
    """A folder in diffusers' layout that says how the model `name` in a file is put together, while it is read.

    Raises `ModelError` if the file is no checkpoint, or of an architecture that is not known.
    """
    original = read_original(source.path)
    if source.config is not None:
        yield source.config
        return
    folder = _told(name, original, source.options)
    try:
        made = tempfile.TemporaryDirectory(prefix="farm-architecture-")
    except OSError as error:
        raise _no_room(name, error) from error
    with made as temporary:
        try:
            lay_out(folder, Path(temporary) / folder, channels=kinds.channels_read(original.shapes))
        except OSError as error:
            raise _no_room(name, error) from error
        yield Path(temporary) / folder


def _told(name: str, original: Original, options: Options) -> str:
    """Which of the folders that come along a checkpoint belongs to."""
    found = kinds.architecture(name, original.path, original.shapes)
    title, predicts = kinds.TITLES[found], options.predicts or said_by(original).predicts
    if found == "sd2" and predicts is None:
        predicts = by_its_weights(original)
        told = (
            "the model '%s' is %s, and by its weights predicts %s; #prediction=v or #prediction=epsilon says otherwise"
        )
        _log.info(told, name, title, predicts)
    else:
        _log.info("the model '%s' is %s, and predicts %s", name, title, predicts or "epsilon")
    return _PREDICTS_V if (found, predicts) == ("sd2", "v_prediction") else found


def _no_room(name: str, error: OSError) -> ModelUnavailable:
    return ModelUnavailable(
        f"the configuration of the model '{name}' cannot be written to {tempfile.gettempdir()}: {error.strerror}"
    )


def lay_out(architecture: str, folder: Path, *, channels: int = 0) -> None:
    """Write one of the folders that come along, with the vocabulary. Raises `OSError`.

    An inpainting model is the same but for the `channels` that its UNet reads (0: as they come).
    """
    shutil.copytree(SHIPPED / architecture, folder)
    if channels == INPAINTING_CHANNELS:
        file = folder / "unet" / "config.json"
        configuration = json.loads(file.read_text(encoding="utf-8"))
        file.write_text(json.dumps({**configuration, "in_channels": channels}), encoding="utf-8")
    for tokenizer in folder.glob("tokenizer*"):
        (tokenizer / "merges.txt").write_text(_merges(), encoding="utf-8")
        (tokenizer / "vocab.json").write_text(_vocabulary(), encoding="utf-8")


@lru_cache(maxsize=1)
def _merges() -> str:
    """A line of what it is, and then two pieces a line, the likeliest to be joined first."""
    return gzip.decompress(_MERGES.read_bytes()).decode("utf-8")


@lru_cache(maxsize=1)
def _vocabulary() -> str:
    """Every token's number, as JSON: the bytes, the bytes at the end of a word, what merges make, and the marks."""
    plain = set(_PLAIN_BYTES)
    others = [chr(256 + number) for number in range(256 - len(plain))]
    letters = [*map(chr, _PLAIN_BYTES), *others]
    merged = (line.replace(" ", "") for line in _merges().splitlines()[1:])
    tokens = chain(letters, (letter + _WORD_END for letter in letters), merged, _MARKS)
    return json.dumps({token: number for number, token in enumerate(tokens)}, ensure_ascii=False)
