"""The LoRAs that a worker's jobs name: fetched once, read for their models, and the latest of them kept in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from farm import keys
from farm.bucket.loras import LORA_FILE
from farm.bucket.shelf import KeptFile
from farm.bucket.storage import Storage
from farm.errors import ModelError, ModelUnavailable
from farm.jobs.loras import LoraUse
from worker.bucket.model_cache import ModelCache
from worker.diffusion.adapters import Adapter, Factors
from worker.loras.reading import MAX_BYTES, read_adapter
from worker.models.model import LoadedModel

MOST_BYTES = 2 * 2**30
"""What all adapters in memory may take together. The latest stays, however large it is."""

_Key = tuple[str, str, str, str | None]
_Read = Callable[[Path, str, str, LoadedModel], Adapter]


@dataclass(frozen=True)
class _LoraFile:
    """The file that a job means, as `ModelCache` fetches it."""

    name: str
    file: KeptFile

    @property
    def files(self) -> Mapping[str, KeptFile]:
        return {LORA_FILE: self.file}

    @property
    def blobs(self) -> Mapping[str, int]:
        return {self.file.sha256: self.file.size}

    @property
    def size(self) -> int:
        return self.file.size


class Adapters:
    """Adapters by their file and their model, up to `most_bytes` of them. Safe for use from several threads."""

    def __init__(
        self, storage: Storage, cache: ModelCache, most_bytes: int = MOST_BYTES, *, read: _Read = read_adapter
    ) -> None:
        self._storage = storage
        self._cache = cache
        self._most_bytes = most_bytes
        self._read = read
        self._kept: OrderedDict[_Key, Adapter] = OrderedDict()
        self._keeping, self._loading = threading.Lock(), threading.Lock()

    def get(self, use: LoraUse, model: LoadedModel) -> Adapter:
        """What a LoRA adds to a model, from memory if it is there. Those that are not are read one after the other.

        Raises `ModelError` for a file that is gone, damaged, or not for this model, `ModelUnavailable` where there is
        no room on the disk, and `StorageError` while the bucket is away.
        """
        if use.sha256 is None:
            raise ModelError(f"it is not said which file the LoRA '{use.name}' is", hint="submit the job again")
        key = use.sha256, model.name, model.source, model.revision
        if (known := self._known(key)) is not None:
            return known
        with self._loading:  # whoever waited for another job's may find it read
            adapter = self._known(key) or self._loaded(use.name, use.sha256, model)
            self._keep(key, adapter)
        return adapter

    def _known(self, key: _Key) -> Adapter | None:
        with self._keeping:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def _keep(self, key: _Key, adapter: Adapter) -> None:
        """Keep it in memory. What was used the longest ago makes room."""
        with self._keeping:
            self._kept[key] = adapter
            self._kept.move_to_end(key)
            while len(self._kept) > 1 and sum(map(_bytes_of, self._kept.values())) > self._most_bytes:
                self._kept.popitem(last=False)

    def _loaded(self, name: str, sha256: str, model: LoadedModel) -> Adapter:
        """Read a file, and once more if it was damaged on the disk."""
        lora = _LoraFile(name, KeptFile(sha256=sha256, size=self._size(name, sha256)))
        try:
            return self._from_file(lora, model)
        except ModelUnavailable:
            raise
        except ModelError:
            if not self._cache.mend(lora):
                raise
        return self._from_file(lora, model)

    def _from_file(self, lora: _LoraFile, model: LoadedModel) -> Adapter:
        with self._cache.opened(lora) as folder:
            path = folder / LORA_FILE
            try:
                return self._read(path, lora.name, lora.file.sha256, model)
            except ModelError as error:  # nobody knows the file by where it lies for this moment
                said = error.message.replace(str(path), f"the LoRA '{lora.name}'")
                raise ModelError(said, hint=error.hint) from error

    def _size(self, name: str, sha256: str) -> int:
        key = keys.lora_blob(sha256)
        size = next((stored.size for stored in self._storage.list(key) if stored.key == key), None)
        if size is None:
            raise ModelError(
                f"the farm keeps the file of the LoRA '{name}' no longer, {key}",
                hint=f"'farm loras add {name}=FILE' brings it back",
            )
        if size > MAX_BYTES:
            raise ModelError(f"the LoRA '{name}' has {size:,} bytes, more than {MAX_BYTES:,}")
        return size


def _bytes_of(adapter: Adapter) -> int:
    return sum(tensor.nbytes for layers in (adapter.unet, *adapter.encoders) for tensor in _tensors(layers))


def _tensors(layers: Mapping[str, Factors]) -> Iterator[Tensor]:
    for factors in layers.values():
        yield from (factors.down, factors.up)
        if factors.magnitude is not None:
            yield factors.magnitude
