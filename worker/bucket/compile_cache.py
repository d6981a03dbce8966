"""Compiled kernels, kept on disk for the next start and shared between workers through the bucket.

A start that finds them takes seconds where compiling takes minutes. They are native code, so what comes from the bucket
is used only if it is signed with a secret that all workers know and those who submit jobs do not: `FARM_KERNELS_KEY`.
Without it nothing is shared.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import json
import logging
import os
import platform
import tarfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from farm import keys, variables
from farm.bucket.storage import Storage
from farm.errors import FarmError, InvalidInput, ObjectMissing
from worker.models.compiled import compiled
from worker.models.model import LoadedModel, UNetForward

_log = logging.getLogger(__name__)

_MOST_BYTES = 2**30
_CPUINFO = Path("/proc/cpuinfo")


@dataclass
class CompileCache:
    """Compiles models for some numbers of rows. What was compiled is below `folder`, and in `store` with a `secret`."""

    folder: Path
    store: Storage
    numbers: Sequence[int]
    secret: bytes | None = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def compile(self, model: LoadedModel) -> UNetForward | None:
        """The model's UNet, compiled; None where that cannot be done."""
        name = _identity(model, self.numbers)
        folder = self.folder / name
        with self._lock, _compiling_into(folder):
            if not folder.exists():
                self._fetch(name, folder)
            before = _files(folder)
            unet = compiled(model, self.numbers)
            if unet is not None and _files(folder) != before:
                self._share(name, folder)
            return unet

    def _fetch(self, name: str, folder: Path) -> None:
        if self.secret is None:
            return
        try:
            data = self.store.get(keys.kernels(name), limit=_MOST_BYTES)
            unpack(data, folder, self._sealed_for(name))
            _log.info("found %d kB of compiled kernels in the bucket", len(data) // 1000)
        except ObjectMissing:
            pass
        except (FarmError, OSError, tarfile.TarError) as error:
            _log.warning("the compiled kernels in the bucket are not used: %s", error)

    def _share(self, name: str, folder: Path) -> None:
        if self.secret is None:
            return
        try:
            data = pack(folder, self._sealed_for(name))
            if len(data) <= _MOST_BYTES:
                self.store.put(keys.kernels(name), data, "application/octet-stream")
        except (FarmError, OSError) as error:
            _log.warning("the compiled kernels could not be shared: %s", error)

    def _sealed_for(self, name: str) -> bytes:
        """The key to sign the kernels of this name with, so that they pass for no others."""
        assert self.secret is not None
        return hmac.digest(self.secret, name.encode(), "sha256")


def pack(folder: Path, key: bytes) -> bytes:
    """All files below a folder, after their signature."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for path in sorted(_files(folder)):
            archive.add(path, arcname=str(path.relative_to(folder)))
    return hmac.digest(key, file.getvalue(), "sha256") + file.getvalue()


def unpack(data: bytes, folder: Path, key: bytes) -> None:
    """Write the files that `pack` took. Raises `InvalidInput` unless the signature is this key's."""
    size = hashlib.sha256().digest_size
    signature, archived = data[:size], data[size:]
    if not hmac.compare_digest(signature, hmac.digest(key, archived, "sha256")):
        raise InvalidInput(f"they are not signed with this worker's {variables.KERNELS_KEY.name}")
    with tarfile.open(fileobj=io.BytesIO(archived), mode="r:gz") as archive:
        archive.extractall(folder, filter="data")


def _files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def _identity(model: LoadedModel, numbers: Sequence[int]) -> str:
    """A name that differs wherever kernels may: versions, device, and the model's shape, but not its weights."""
    facts = {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "device": _device(model.device),
        "threads": torch.get_num_threads() if model.device.type == "cpu" else None,
        "dtype": str(model.dtype),
        "rows": list(numbers),
        "latents": model.row_shape,
        "unet": {name: value for name, value in sorted(model.unet.config.items()) if not name.startswith("_")},
    }
    return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()


def _device(device: torch.device) -> list[str]:
    if device.type == "cuda":
        return [torch.cuda.get_device_name(device), str(torch.cuda.get_device_capability(device))]
    said = _CPUINFO.read_text(encoding="utf-8").splitlines() if _CPUINFO.exists() else []
    return [platform.machine(), *sorted({line for line in said if line.startswith(("model name", "flags"))})]


@contextmanager
def _compiling_into(folder: Path) -> Iterator[None]:
    """Let Inductor and Triton keep what they make in `folder`."""
    places = {"TORCHINDUCTOR_CACHE_DIR": str(folder), "TRITON_CACHE_DIR": str(folder / "triton")}
    before = {name: os.environ.get(name) for name in places}
    os.environ.update(places)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
