"""Which models the farm keeps, as far as its bucket says."""

from __future__ import annotations

from farm.bucket.models import StoredModel, stored_models
from farm.client.client import FarmClient
from farm.errors import StorageError, WrongBucket

KINDS = {"sd": "Stable Diffusion", "sd1": "Stable Diffusion 1", "sd2": "Stable Diffusion 2", "sdxl": "SDXL"}
"""What people call the kinds of models."""


def kept_models(farm: FarmClient) -> tuple[dict[str, StoredModel], list[str]]:
    """The models that the farm keeps, by name, and what could not be read, a line each. Raises `LedgerUnavailable`."""
    kept: dict[str, StoredModel] = {}
    trouble: list[str] = []
    try:
        farm.check_bucket(only_to_read=True)
        for one in stored_models(farm.storage):
            if isinstance(one, StoredModel):
                kept[one.name] = one
            else:
                trouble.append(one.message)
    except (StorageError, WrongBucket) as error:
        trouble.append(f"which models the bucket keeps is not known: {error.message}")
    return kept, trouble
