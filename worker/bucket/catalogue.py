"""The models that the farm keeps, as one worker knows them: looked for now and then, and read when they change."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from farm.bucket.models import MODELS, StoredModel, manifests, read_model
from farm.bucket.storage import Storage
from farm.errors import ModelError, ObjectDamaged, StorageError
from farm.keys import MODEL_VAE
from worker.bucket.model_cache import ModelCache
from worker.models.registry import ModelRegistry, Stored
from worker.models.stored import Opened

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Changes:
    """Models that were added, perhaps once more; those of them whose files are `others` than before; and models that
    the farm keeps no longer."""

    come: Sequence[str] = ()
    others: Sequence[str] = ()
    gone: Sequence[str] = ()


class Catalogue:
    """What of the farm's models a worker may serve: those it was told by name, or `all_of_them`.

    Its `registry` is told where each comes from. A worker's own models go before the farm's of the same names.
    """

    def __init__(
        self, storage: Storage, cache: ModelCache, registry: ModelRegistry, *, all_of_them: bool = False
    ) -> None:
        self._storage = storage
        self._cache = cache
        self._registry = registry
        self._own = {name for name in registry.names if not isinstance(registry.known(name), Stored)}
        self._asked_for = set(registry.names) - self._own
        self._all = all_of_them
        self._tags: dict[str, str] = {}
        self._models: dict[str, StoredModel] = {}
        self._told: set[str] = set()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._models)

    def bytes_of(self, name: str) -> int:
        """How large a model is in the bucket; 0 if it is not the farm's."""
        model = self._models.get(name)
        return model.size if model else 0

    def refresh(self) -> Changes:
        """Look what the farm keeps now. Raises `StorageError`."""
        found = {name: tag for name, tag in manifests(self._storage).items() if self._is_wanted(name)}
        gone = [name for name in self._models if name not in found]
        come, others = [], []
        for name, tag in found.items():
            if self._tags.get(name) != tag and (model := self._read(name)):
                before = self._models.get(name)
                self._tags[name] = tag
                self._models[name] = model
                self._registry.put(name, Stored(name, model.fingerprint))
                come.append(name)
                if before is not None and before.fingerprint != model.fingerprint:
                    others.append(name)
        for name in gone:
            del self._models[name], self._tags[name]
            self._registry.drop(name)
        return Changes(tuple(come), tuple(others), tuple(gone))

    def is_current(self, name: str) -> bool:
        """Whether the farm keeps what it did when this was last refreshed; of a worker's own models that is always so.

        From any thread. Raises `StorageError`.
        """
        return name not in self._models or MODELS.tag(self._storage, name) == self._tags.get(name)

    def keep_on_disk(self, names: Sequence[str]) -> None:
        """Note that these are in use, so that others leave the disk before them."""
        models = dict(self._models)
        self._cache.keep(models[name] for name in names if name in models)

    # As the loader sees it

    @contextmanager
    def opened(self, source: Stored) -> Iterator[Opened]:
        """A folder with a model's files, and what is said of it.

        Raises as `ModelCache.opened` does, and `ModelError` if it is not kept.
        """
        model = self._model(source)
        vae = model.files.get(MODEL_VAE)
        with self._cache.opened(model) as folder:
            yield Opened(folder, dict(model.options), vae.sha256 if vae else None)

    def mend(self, source: Stored) -> bool:
        """Have files of a model fetched again that are damaged on the disk. Whether there were any."""
        return self._cache.mend(self._model(source))

    def _model(self, source: Stored) -> StoredModel:
        model = self._models.get(source.name)
        if model is None or source.fingerprint not in ("", model.fingerprint):
            raise MODELS.lacks(source.name, self._kept())
        return model

    def _kept(self) -> Collection[str]:
        """The names of all models that the farm keeps, as far as the bucket answers."""
        try:
            return manifests(self._storage)
        except StorageError:
            return ()

    def _is_wanted(self, name: str) -> bool:
        return name in self._asked_for or (self._all and name not in self._own)

    def _read(self, name: str) -> StoredModel | None:
        try:
            return read_model(self._storage, name)
        except (ObjectDamaged, ModelError) as error:
            if name not in self._told:
                _log.error("the farm's model '%s' is not served: %s", name, error)
            self._told.add(name)
            return None
