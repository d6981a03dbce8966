"""LoRAs without layers, whose files are a few bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from farm import keys
from farm.errors import ModelError
from farm.jobs.loras import LoraUse
from tests.fakes.storage import FakeStorage
from worker.diffusion.adapters import Adapter, Factors

DAMAGED = b"nonsense"
"""What is in a file that no worker can read."""
PARTLY = b"partly"
"""What is in a file with weights that are for no layer of any model, and what is told of them."""
UNFIT = "2 of its 5 weights are for no layer of it: 'x', 'y'"


def put_lora(storage: FakeStorage, data: bytes, name: str = "detail") -> LoraUse:
    """A LoRA of a farm in memory, as a job names it."""
    sha256 = hashlib.sha256(data).hexdigest()
    storage.put(keys.lora_blob(sha256), data, "application/octet-stream")
    return LoraUse(name=name, sha256=sha256)


def read_fake(path: Path, name: str, sha256: str, model: Any) -> Adapter:
    """An adapter of one layer, as large as its file. Raises `ModelError` for one that is damaged."""
    data = path.read_bytes()
    if data == DAMAGED:
        raise ModelError(f"{path} cannot be loaded: nonsense", hint="fetch it again")
    factors = Factors(torch.zeros(len(data), 1, dtype=torch.uint8), torch.zeros(0, 1))
    return Adapter(name, sha256, {f"{model.name}.layer": factors}, (), UNFIT if data == PARTLY else None)
