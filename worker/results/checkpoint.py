"""A job half done, as one object in the bucket: the next attempt goes on from its step, on whatever machine.

`jobs/<job>/<attempt>/checkpoint.safetensors` holds the latents, the solver's history, where the random stream is,
and the trace so far. The ledger names the attempt whose checkpoint counts; it is removed when the job is over.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from pydantic import ConfigDict, TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from farm import keys
from farm.bucket.results import ModelUsed
from farm.bucket.storage import Storage
from farm.errors import FarmError, LedgerUnavailable, StorageError
from farm.jobs.report import LossValues
from farm.jobs.spec import ResolvedSpec
from farm.ledger.ledger import Ledger
from farm.ledger.records import Attempt, Claim
from worker.diffusion.noise import NoiseStream
from worker.diffusion.steps import HISTORY
from worker.engine.request import Snapshot
from worker.models.disguises import first_line
from worker.results.trace import check_so_far

_log = logging.getLogger(__name__)

MAX_BYTES = 256 * 2**20
"""A checkpoint with a longer trace than this is not kept: the job would start over."""

_VERSION = 1
_TRACE = "trace:"
_LOSSES: TypeAdapter[LossValues] = TypeAdapter(LossValues, config=ConfigDict(allow_inf_nan=False))
_MAX_SECONDS = 365 * 24 * 3600.0

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Checkpoint:
    """Where an attempt got to: the engine's snapshot, and the files of the trace so far by object name."""

    snapshot: Snapshot
    trace: Mapping[str, bytes]


class Unusable(FarmError):
    """These bytes are not a checkpoint of this job."""


def pack(checkpoint: Checkpoint, job: str, spec: ResolvedSpec, model: ModelUsed) -> bytes:
    """The checkpoint of a job as safetensors."""
    snapshot = checkpoint.snapshot
    about = {
        **_identity(job, spec, model),
        "position": snapshot.position,
        "seconds": snapshot.seconds,
        "losses": snapshot.losses,
    }
    return save_tensors(
        {
            **({} if snapshot.x0 is None else {"x0": snapshot.x0.contiguous()}),
            "x": snapshot.x.contiguous(),
            "history": snapshot.history.contiguous(),
            "noise": _as_tensor(snapshot.noise),
            "about": _as_tensor(json.dumps(about).encode()),
            **{_TRACE + name: _as_tensor(data) for name, data in checkpoint.trace.items()},
        }
    )


def unpack(data: bytes, job: str, spec: ResolvedSpec, model: ModelUsed, shape: tuple[int, ...]) -> Checkpoint:
    """The checkpoint in `data`, every part of it checked: no job fails because it goes on from it.

    `shape` [4, h, w] is that of the job's latents. Raises `Unusable` unless it is a checkpoint of this job, rendered as
    `spec` by `model`.
    """
    try:
        tensors = load_tensors(data)
        about = json.loads(_as_bytes(tensors["about"]))
        identity = _identity(job, spec, model)
        if {name: about.get(name) for name in identity} != identity:
            raise Unusable("it is of another job, model or version")
        files = {name.removeprefix(_TRACE): _as_bytes(t) for name, t in tensors.items() if name.startswith(_TRACE)}
        check_so_far(files, spec)
        return Checkpoint(
            Snapshot(
                position=_within(about["position"], 1, spec.steps_to_do - 1),
                x=_latents(tensors["x"], shape),
                history=_latents(tensors["history"], (HISTORY, *shape)),
                noise=_stream(_as_bytes(tensors["noise"])),
                seconds=_within(about["seconds"], 0.0, _MAX_SECONDS),
                losses=_LOSSES.validate_python(about.get("losses", {})),
                x0=_latents(tensors["x0"], shape) if "x0" in tensors else None,
            ),
            files,
        )
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError, RecursionError, RuntimeError) as error:
        raise Unusable(f"it cannot be read: {type(error).__name__}: {first_line(error)}") from error


class Checkpoints:
    """The checkpoints of one worker's jobs. A checkpoint is a saving, never a duty: nothing here raises."""

    def __init__(self, storage: Storage, ledger: Ledger, worker: str) -> None:
        self._storage = storage
        self._ledger = ledger
        self._worker = worker
        self._saved: set[Attempt] = set()

    def save(self, claim: Claim, spec: ResolvedSpec, model: ModelUsed, checkpoint: Checkpoint) -> bool:
        """Keep a checkpoint in the bucket and name it in the ledger. False if that could not be done."""
        size = sum(map(len, checkpoint.trace.values()))
        if size > MAX_BYTES * 3 // 4:
            _log.warning("job %s is not checkpointed: its trace has %d MiB already", claim.job, size // 2**20)
            return False
        step = checkpoint.snapshot.position
        self._saved.add((claim.job, claim.attempt))
        try:
            data = pack(checkpoint, claim.job, spec, model)
            self._storage.put(keys.checkpoint(claim.job, claim.attempt), data, "application/octet-stream")
            if not self._ledger.checkpoint(claim, self._worker, step):
                self._delete(claim.job, claim.attempt)
                return False
        except (StorageError, LedgerUnavailable) as error:
            _log.warning("job %s could not be checkpointed at step %d: %s", claim.job, step, error)
            return False
        _log.info("job %s is checkpointed at step %d", claim.job, step)
        return True

    def load(self, claim: Claim, spec: ResolvedSpec, model: ModelUsed, shape: tuple[int, ...]) -> Checkpoint | None:
        """What an earlier attempt left to go on from, or None to start at the beginning. See `unpack`."""
        if claim.checkpoint is None:
            return None
        key = keys.checkpoint(claim.job, claim.checkpoint)
        try:
            found = unpack(self._storage.get(key, limit=MAX_BYTES), claim.job, spec, model, shape)
        except FarmError as error:
            _log.warning("job %s starts over, because %s cannot be used: %s", claim.job, key, error)
            return None
        _log.info("job %s goes on from step %d of attempt %d", claim.job, found.snapshot.position, claim.checkpoint)
        return found

    def forget(self, claim: Claim) -> None:
        """Remove what is no longer of use once the job is over."""
        attempts = {claim.checkpoint} if claim.checkpoint is not None else set()
        if (claim.job, claim.attempt) in self._saved:
            attempts.add(claim.attempt)
        for attempt in attempts:
            self._delete(claim.job, attempt)
        self.let_go(claim)

    def let_go(self, claim: Claim) -> None:
        """The claim is over, but its checkpoint may be of use to the next."""
        self._saved.discard((claim.job, claim.attempt))

    def _delete(self, job: str, attempt: int) -> None:
        try:
            self._storage.delete(keys.checkpoint(job, attempt))
        except StorageError as error:
            _log.warning("a checkpoint that is no longer needed stays in the bucket: %s", error)


def _identity(job: str, spec: ResolvedSpec, model: ModelUsed) -> dict[str, Any]:
    digest = hashlib.sha256(spec.to_json().encode()).hexdigest()
    return {"version": _VERSION, "job": job, "spec": digest, "model": model.name, "revision": model.revision}


def _as_tensor(data: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(bytearray(data), np.uint8))


def _as_bytes(tensor: Tensor) -> bytes:
    return tensor.to(torch.uint8).numpy().tobytes()


def _latents(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    if tensor.shape != shape:
        raise Unusable(f"its latents are of {tuple(tensor.shape)}, not of {shape}")
    if tensor.dtype != torch.float32 or not bool(torch.isfinite(tensor).all()):
        raise Unusable("its latents are not finite numbers in float32")
    return tensor


def _stream(state: bytes) -> bytes:
    """Where a random stream is. Raises `RuntimeError` if none could go on from there."""
    stream = NoiseStream(seed=0)
    stream.restore(state)
    if not bool(torch.isfinite(stream.draw((4,))).all()):  # it holds a number that was drawn and not yet given
        raise Unusable("its random stream gives no finite numbers")
    return state


def _within(value: Number, least: Number, most: Number) -> Number:
    if type(value) is not type(least) or not least <= value <= most:
        raise Unusable(f"it says {value!r:.40}, which is not between {least} and {most}")
    return value
