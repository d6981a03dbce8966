"""Names of models and where each comes from. Nothing is read or downloaded here.

| source | means |
| --- | --- |
| `DIRECTORY` | a local model in diffusers' layout |
| `FILE.safetensors[#config=DIRECTORY]` | a single-file checkpoint, put together as that folder says, or as it shows |
| `s3://BUCKET/PREFIX` | a model in diffusers' layout below that prefix |
| `[hub:]OWNER/NAME@REVISION` | a model of the Hugging Face hub at a revision |

Each may be followed by what is to be otherwise than the model says (see `farm.sources`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from farm import sources
from farm.alike import did_you_mean
from farm.disguises import CONVERT
from farm.errors import InvalidInput, ModelError
from farm.keys import PICKLED_WEIGHTS, WEIGHTS, model_name
from worker.diffusion.steps import Prediction

_QUANTISED = ".gguf"
_BUCKET = re.compile(r"s3://[^/\s]+/[^\s]+")
_HUB = re.compile(r"(?P<repository>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?")


_PREDICTS: Mapping[str, Prediction] = {"epsilon": "epsilon", "v": "v_prediction"}


@dataclass(frozen=True)
class Options:
    """What is to be otherwise than a model says of itself: an autoencoder of its own, in a file; what it predicts; and
    whether it was trained to begin at a signal-to-noise ratio of zero."""

    vae: Path | None = None
    predicts: Prediction | None = None
    zero_snr: bool = False

    def written(self) -> dict[str, str]:
        options = {sources.VAE: str(self.vae)} if self.vae else {}
        words = [word for word, meant in _PREDICTS.items() if meant == self.predicts]
        options |= {sources.PREDICTION: words[0]} if words else {}
        return options | ({sources.ZERO_SNR: ""} if self.zero_snr else {})


AS_IT_IS = Options()


@dataclass(frozen=True)
class LocalDirectory:
    path: Path
    options: Options = AS_IT_IS

    def __str__(self) -> str:
        return sources.join(str(self.path), self.options.written())


@dataclass(frozen=True)
class SingleFile:
    path: Path
    config: Path | None
    options: Options = AS_IT_IS

    def __str__(self) -> str:
        config = {sources.CONFIG: str(self.config)} if self.config else {}
        return sources.join(str(self.path), config | self.options.written())


@dataclass(frozen=True)
class Bucket:
    url: str
    options: Options = AS_IT_IS

    def __str__(self) -> str:
        return sources.join(self.url, self.options.written())


@dataclass(frozen=True)
class Hub:
    repository: str
    revision: str
    options: Options = AS_IT_IS

    def __str__(self) -> str:
        return sources.join(f"hub:{self.repository}@{self.revision}", self.options.written())


@dataclass(frozen=True)
class Stored:
    """A model that the farm keeps, by its name and by what its files are; without the latter, whatever it keeps."""

    name: str
    fingerprint: str = ""
    options: Options = AS_IT_IS

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
            if name in sources:
                raise InvalidInput(
                    f"'{name}' is there twice", field="--model", hint="give each model a name of its own"
                )
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
        hint = did_you_mean([name], self._sources, f"this worker has: {', '.join(sorted(self._sources))}")
        raise ModelError(f"there is no model '{name}'", hint=hint)


def parse_option(option: str) -> tuple[str, Source]:
    """Name and source of `NAME=SOURCE`, or of a `NAME` that is built in or else the farm's. Raises `InvalidInput`."""
    name, equals, source = option.partition("=")
    if equals:
        return model_name(name), parse_source(source)
    return model_name(name), BUILT_IN.get(name) or Stored(name)


def parse_source(text: str) -> Source:
    """The source that `text` names. Raises `InvalidInput` if it is malformed or a local path is not there."""
    where, given = sources.split(text)
    options, config = options_of(given), given.get(sources.CONFIG)
    if where.lower().endswith(WEIGHTS) and "://" not in where:
        return SingleFile(_file(where), _directory(config) if config else None, options)
    if config is not None:
        raise InvalidInput(
            f"'{where}' is given a configuration, and only a single file can be",
            field="model",
            hint=f"leave out #{sources.CONFIG}={config}; a folder has its own",
        )
    if where.startswith("s3://"):
        return Bucket(_bucket(where), options)
    if "://" in where:
        raise InvalidInput(
            f"'{where}' is an address, from which no model is downloaded",
            field="model",
            hint="download the file or folder and name that; a model of the hub is OWNER/NAME@REVISION",
        )
    _check_not_pickled(where)
    if where.lower().endswith(_QUANTISED):
        raise InvalidInput(
            f"'{where}' is quantised, and such files are not loaded",
            field="model",
            hint="use the model's .safetensors file",
        )
    if where and not where.startswith("hub:") and _path(where).is_dir():
        return LocalDirectory(_path(where).resolve(), options)
    return _hub(where, options)


def options_of(given: Mapping[str, str]) -> Options:
    """What options of a source say. Raises `InvalidInput` for a file that is not there, or a word that says nothing."""
    sources.check_words(given)
    said = given.get(sources.PREDICTION)
    vae = given.get(sources.VAE)
    return Options(
        vae=_autoencoder(vae) if vae else None,
        predicts=_PREDICTS[said] if said else None,
        zero_snr=sources.ZERO_SNR in given,
    )


def _autoencoder(path: str) -> Path:
    _check_not_pickled(path)
    if not path.lower().endswith(WEIGHTS) or "://" in path:
        raise InvalidInput(
            f"'{path}' is no {WEIGHTS} file, as an autoencoder is to be",
            field="model",
            hint="name the file; in a folder of diffusers' layout it is vae/diffusion_pytorch_model.safetensors",
        )
    return _file(path)


def _check_not_pickled(path: str) -> None:
    if path.lower().endswith(PICKLED_WEIGHTS):
        raise InvalidInput(
            f"'{path}' is pickled, which can run code, and is never opened",
            field="model",
            hint=f"{CONVERT}, or as one .safetensors file",
        )


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise InvalidInput(f"'{text}' is in the home of somebody who is not known here", field="model") from error


def _file(path: str) -> Path:
    file = _path(path).absolute()  # not where a link leads: the name says how it is read
    if not file.is_file():
        raise InvalidInput(f"there is no file {file}", field="model")
    return file


def _directory(path: str) -> Path:
    directory = _path(path).resolve()
    if not directory.is_dir():
        raise InvalidInput(f"there is no directory {directory}", field="model")
    return directory


def _bucket(url: str) -> str:
    if not _BUCKET.fullmatch(url):
        raise InvalidInput(f"'{url}' is not s3://BUCKET/PREFIX", field="model")
    if url.lower().endswith(WEIGHTS):
        raise InvalidInput(
            f"'{url}' is one file, and in a bucket a model is a folder in diffusers' layout",
            field="model",
            hint="download the file and name that",
        )
    return url.rstrip("/")


def _hub(text: str, options: Options) -> Hub:
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
    return Hub(match["repository"], match["revision"], options)
