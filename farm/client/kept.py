"""What the farm keeps on a shelf of its bucket, as far as that says."""

from __future__ import annotations

from farm.bucket.shelf import K, Shelf
from farm.client.client import FarmClient
from farm.errors import ObjectDamaged, StorageError, WrongBucket


def all_kept(farm: FarmClient, shelf: Shelf[K]) -> tuple[dict[str, K], list[str]]:
    """What the farm keeps on a shelf, by name, and what could not be read, a line each."""
    kept: dict[str, K] = {}
    trouble: list[str] = []
    try:
        farm.check_bucket(only_to_read=True)
        for one in shelf.everything(farm.storage):
            if isinstance(one, ObjectDamaged):
                trouble.append(one.message)
            else:
                kept[one.name] = one
    except (StorageError, WrongBucket) as error:
        trouble.append(f"which {shelf.what}s the bucket keeps is not known: {error.message}")
    return kept, trouble
