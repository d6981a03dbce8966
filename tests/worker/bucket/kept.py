"""Models that a farm in memory keeps."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from farm import keys
from farm.bucket.models import StoredModel, write_model
from farm.bucket.shelf import KeptFile
from tests.fakes.storage import FakeStorage


def put_model(storage: FakeStorage, name: str, **files: bytes) -> StoredModel:
    """Keep a model of such files, whose names end in `.json`."""
    described = {}
    for file, data in files.items():
        sha256 = hashlib.sha256(data).hexdigest()
        storage.put(keys.model_blob(sha256), data, "application/octet-stream")
        described[f"unet/{file}.json"] = KeptFile(sha256=sha256, size=len(data))
    model = StoredModel(name=name, layout="folder", source="a test", added=datetime.now(UTC), files=described)
    write_model(storage, model)
    return model
