"""Names of models and where each comes from. Nothing is read or downloaded here.

| source | means |
| --- | --- |
| `DIRECTORY` | a local model in diffusers' layout |
| `FILE.safetensors[#config=DIRECTORY]` | a single-file checkpoint, put together as that local model is, or as SD 1.4 |
| `s3://BUCKET/PREFIX` | a model in diffusers' layout below that prefix |
| `[hub:]OWNER/NAME@REVISION` | a model of the Hugging Face hub at a revision |
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from farm.errors import InvalidInput, ModelError
from farm.keys import PICKLED_WEIGHTS, WEIGHTS, model_name
from worker.models.disguises import CONVERT

HUB_CONFIG_FILES = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    "vae/config.json",
)
"""How a hub model is put together. Besides these only the weights that are loaded are downloaded: no pickled ones, none
in a second precision, and no safety checker."""

_BUCKET = re.compile(r"s3://[^/\s]+/[^\s]+")
_HUB = re.compile(r"(?P<repository>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True)
class LocalDirectory:
    path: Path

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class SingleFile:
    path: Path
    config: Path | None

    def __str__(self) -> str:
        return f"{self.path}#config={self.config}" if self.config else str(self.path)


@dataclass(frozen=True)
class Bucket:
    url: str

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True)
class Hub:
    repository: str
    revision: str

    def __str__(self) -> str:
        return f"hub:{self.repository}@{self.revision}"


@dataclass(frozen=True)
class Stored:
    """A model that the farm keeps, by its name and by what its files are; without the latter, whatever it keeps."""

    name: str
    fingerprint: str = ""

    def __str__(self) -> str:
        return f"farm:{self.name}@{self.fingerprint[:16]}"


Source = LocalDirectory | SingleFile | Bucket | Hub | Stored

STABLE_DIFFUSION_1_4 = Hub("CompVis/stable-diffusion-v1-4", "133a221b8aa7292a167afc5127cb63fb5005638b")

BUILT_IN: Mapping[str, Source] = {
    "emoji": LocalDirectory(Path(__file__).parents[1] / "emoji" / "weights"),
    "sd14": STABLE_DIFFUSION_1_4,
}


class ModelRegistry:
    """The models that a worker can serve, by name."""

    def __init__(self, sources: Mapping[str, Source | InvalidInput] = BUILT_IN) -> None:
        """For a model that cannot be served, the reason takes the place of its source."""
        self._sources = dict(sources)

    @classmethod
    def from_options(cls, options: Iterable[str]) -> ModelRegistry:
        """The models of `NAME=SOURCE` options; a bare NAME is a built-in one, or one that the farm keeps. Without
        options, the built-in ones.

        A source that is bad, or is not there, keeps only its own model from being served. Raises `InvalidInput` if
        that goes for all of them, or if an option is malformed.
        """
        sources: dict[str, Source | InvalidInput] = {}
        for option in options:
            name, equals, source = option.partition("=")
            if not equals:
                sources |= [parse_option(option)]
                continue
            try:
                sources[model_name(name)] = parse_source(source)
            except InvalidInput as error:
                sources[model_name(name)] = error
        errors = [source for source in sources.values() if isinstance(source, InvalidInput)]
        if errors and len(errors) == len(sources):
            raise errors[0]
        return cls(sources or BUILT_IN)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._sources)

    def known(self, name: str) -> Source | InvalidInput | None:
        """Where a model comes from, or why it has no source."""
        return self._sources.get(name)

    def put(self, name: str, source: Source) -> None:
        """From now on a model comes from `source`."""
        self._sources[name] = source

    def drop(self, name: str) -> None:
        """A model can be had no longer."""
        self._sources.pop(name, None)

    def source(self, name: str) -> Source:
        """Where the model `name` comes from. Raises `ModelError` saying why it has none, or what models there are."""
        if (source := self._sources.get(name)) is not None:
            if isinstance(source, InvalidInput):
                raise ModelError(source.reason, hint=source.hint)
            return source
        near = difflib.get_close_matches(name, self._sources, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"this worker has: {', '.join(sorted(self._sources))}"
        raise ModelError(f"there is no model '{name}'", hint=hint)


def parse_option(option: str) -> tuple[str, Source]:
    """Name and source of `NAME=SOURCE`, or of a `NAME` that is built in or else the farm's. Raises `InvalidInput`."""
    name, equals, source = option.partition("=")
    if equals:
        return model_name(name), parse_source(source)
    return model_name(name), BUILT_IN.get(name) or Stored(name)


def parse_source(text: str) -> Source:
    """The source that `text` names. Raises `InvalidInput` if it is malformed or a local path is not there."""
    if text.startswith("s3://"):
        return _bucket(text)
    if "://" in text:
        raise InvalidInput(
            f"'{text}' is an address, from which no model is downloaded",
            field="model",
            hint="download the file or folder and name that; a model of the hub is OWNER/NAME@REVISION",
        )
    path, _, config = text.partition("#config=")
    if path.lower().endswith(WEIGHTS):
        return _single_file(path, config)
    if path.lower().endswith(PICKLED_WEIGHTS):
        raise InvalidInput(
            f"'{path}' is pickled, which can run code, and is never opened",
            field="model",
            hint=f"{CONVERT}, or as one .safetensors file",
        )
    if text and not text.startswith("hub:") and Path(text).expanduser().is_dir():
        return LocalDirectory(Path(text).expanduser().resolve())
    return _hub(text)


def _bucket(text: str) -> Bucket:
    if not _BUCKET.fullmatch(text):
        raise InvalidInput(f"'{text}' is not s3://BUCKET/PREFIX", field="model")
    if text.lower().endswith(WEIGHTS):
        raise InvalidInput(
            f"'{text}' is one file, and in a bucket a model is a folder in diffusers' layout",
            field="model",
            hint="download the file and name that",
        )
    return Bucket(text.rstrip("/"))


def _single_file(path: str, config: str) -> SingleFile:
    checkpoint = Path(path).expanduser().absolute()  # not where a link leads: the name says how it is read
    if not checkpoint.is_file():
        raise InvalidInput(f"there is no file {checkpoint}", field="model")
    directory = Path(config).expanduser().resolve() if config else None
    if directory and not directory.is_dir():
        raise InvalidInput(f"there is no directory {directory}", field="model")
    return SingleFile(checkpoint, directory)


def _hub(text: str) -> Hub:
    match = _HUB.fullmatch(text.removeprefix("hub:"))
    if match is None:
        raise InvalidInput(
            f"'{text}' is not a model source",
            field="model",
            hint="use an existing directory, FILE.safetensors, s3://BUCKET/PREFIX or OWNER/NAME@REVISION",
        )
    if match["revision"] is None:
        raise InvalidInput(
            f"'{text}' is not a directory here, and as a hub model it needs a revision",
            field="model",
            hint=f"use {match['repository']}@REVISION, with a commit of the repository, so that seeds stay repeatable",
        )
    return Hub(match["repository"], match["revision"])
