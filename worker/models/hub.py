"""Models of the Hugging Face hub: downloading exactly what is loaded of them, once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import get_cached_repo_tree, snapshot_download
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from farm.errors import ModelError, ModelUnavailable
from farm.keys import WEIGHTS
from farm.layouts import INDEX, ONLY_SD, weights_among
from worker.models.disguises import first_line
from worker.models.registry import Hub

HUB_CONFIG_FILES = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder_2/config.json",
    "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "tokenizer_2/merges.txt",
    "tokenizer_2/special_tokens_map.json",
    "tokenizer_2/tokenizer.json",
    "tokenizer_2/tokenizer_config.json",
    "tokenizer_2/vocab.json",
    "unet/config.json",
    "vae/config.json",
)
"""How a hub model is put together. Besides these only the weights that are loaded are downloaded: no pickled ones, none
in a second precision, and no safety checker."""

_NOT_THERE = (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError)
"""What the hub says of models that it does not have, or not for us."""


def download(source: Hub, *, instead: str) -> Path:
    """The local snapshot of all that is loaded of a hub model. `instead` is what to use where there is no network.

    Raises `ModelError` if it is neither in the cache nor on the hub, and `ModelUnavailable` if the hub cannot be asked.
    """
    directory = _snapshot(source, HUB_CONFIG_FILES, instead)
    try:
        files = [file.path for file in get_cached_repo_tree(source.repository, revision=source.revision)]
    except CachedRepoTreeNotFoundError:  # nor is there a network: what is in the cache is all there is
        return directory
    if INDEX not in files:
        raise _no_model(source, files)
    weights = [file for file in weights_among(files) if source.options.vae is None or not file.startswith("vae/")]
    return _snapshot(source, (*HUB_CONFIG_FILES, *weights), instead)


def _no_model(source: Hub, files: Sequence[str]) -> ModelError:
    """What to say of a repository without an index, by what lies in it."""
    single = sorted(file for file in files if "/" not in file and file.lower().endswith(WEIGHTS))
    return ModelError(
        f"{source.repository}@{source.revision} is no model in diffusers' layout: it has no {INDEX}",
        hint=f"if {single[0]} in it is a whole checkpoint, download that and name the file" if single else ONLY_SD,
    )


def _snapshot(source: Hub, files: Sequence[str], instead: str) -> Path:
    try:
        return Path(snapshot_download(source.repository, revision=source.revision, allow_patterns=list(files)))
    except Exception as error:  # those of its HTTP client are not OSErrors, and change from release to release
        kind = ModelError if isinstance(error, _NOT_THERE) else ModelUnavailable
        raise kind(
            f"{source.repository}@{source.revision} cannot be downloaded from the hub: {first_line(error)}",
            hint=f"check the network, or give a local model: {instead}",
        ) from error
