"""What is said of a model besides its files, as it is kept with it: an autoencoder of its own, and what it predicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from farm import sources
from farm.client.given import GivenFile
from farm.client.headers import Shapes, read_header
from farm.errors import InvalidInput
from farm.keys import MODEL_VAE, PICKLED_WEIGHTS, WEIGHTS

_DECODER = "decoder.conv_in.weight"
_PREFIXES = ("first_stage_model.", "vae.", "")
"""What comes before the names of an autoencoder's weights, in a whole checkpoint and alone."""


@dataclass(frozen=True)
class Given:
    """Options of a source: as a manifest has them, as they are written for people, and their files by their names in
    the farm."""

    kept: Mapping[str, str]
    written: Mapping[str, str]
    files: Mapping[str, Path]

    @property
    def has_vae(self) -> bool:
        return sources.VAE in self.kept


def read(options: Mapping[str, str]) -> Given:
    """What the options of a source say, but for `#config=`. Raises `InvalidInput`, and `OSError`."""
    sources.check_words(options)
    kept = {name: value for name, value in options.items() if name != sources.CONFIG}
    if sources.VAE not in kept:
        return Given(kept, kept, {})
    path = Path(kept[sources.VAE]).expanduser()
    _check_autoencoder(path)
    written = {**kept, sources.VAE: str(path.absolute())}  # not where a link leads: pictures tell the name
    return Given({**kept, sources.VAE: path.name}, written, {MODEL_VAE: path.resolve()})


def _check_autoencoder(path: Path) -> None:
    if path.name.lower().endswith(PICKLED_WEIGHTS):
        raise InvalidInput(f"{path} is pickled, which can run code, and is never opened", hint=_NAMED)
    if not path.name.lower().endswith(WEIGHTS) or not path.is_file():
        raise InvalidInput(f"there is no {WEIGHTS} file {path}", hint=_NAMED)
    shapes: Shapes = read_header(GivenFile.at(path, "SOURCE")).shapes
    if not any(prefix + _DECODER in shapes for prefix in _PREFIXES):
        typical = min(shapes, default="none")
        raise InvalidInput(f"{path} holds no autoencoder: its weights have names such as {typical!r:.80}", hint=_NAMED)


_NAMED = "behind #vae= belongs a .safetensors file that holds an autoencoder (VAE)"
