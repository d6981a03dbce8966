"""What kind of model a job names, as far as the farm knows; and what is asked only of some kinds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from farm.bucket.models import KINDS, Kind, read_model
from farm.bucket.storage import Storage
from farm.client.planning import Draft
from farm.errors import InvalidInput, ModelError, ObjectDamaged
from farm.ledger.records import NewJob

_BUILT_IN: Mapping[str, Kind] = {"emoji": "sd", "sd14": "sd1"}


def kind_of(storage: Storage, model: str) -> Kind | None:
    """What kind a model is; None of one that only workers have. Raises `StorageError`."""
    if model in _BUILT_IN:
        return _BUILT_IN[model]
    try:
        return read_model(storage, model).kind
    except (ModelError, ObjectDamaged):
        return None


def refuse_framing(storage: Storage, jobs: Sequence[NewJob], drafts: Sequence[Draft] = ()) -> None:
    """Raise `InvalidInput` for a job that says how its picture was framed to a model that is known not to be told.

    The error tells which of `drafts` does.
    """
    framed = {job.spec.model: next(iter(job.spec.framing)) for job in reversed(jobs) if job.spec.framing}
    for model, field in framed.items():
        if (kind := kind_of(storage, model)) not in (None, "sdxl"):
            reason = f"the model '{model}' is {KINDS[kind]}, and only models of SDXL are told that"
            error = InvalidInput(reason, field=field, hint="leave it out")
            places = (one.place for one in drafts if one.request.model in (None, model) and getattr(one.request, field))
            place = next(places, None)
            raise error if place is None else InvalidInput(f"{place}: {error.message}", hint=error.hint)
