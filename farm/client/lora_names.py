"""Which files the names of LoRAs mean as jobs are submitted. A spec says the file, so that it means the same later."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from farm.alike import did_you_mean
from farm.bucket.loras import LORAS, StoredLora
from farm.bucket.models import KINDS
from farm.bucket.storage import Storage
from farm.client.model_kinds import kind_of
from farm.client.planning import Draft
from farm.errors import InvalidInput, ModelError, WrongState
from farm.jobs import tags
from farm.jobs.request import JobRequest
from farm.jobs.spec import JobSpec
from farm.ledger.records import NewJob

_MOST_NAMED = 8

_Meant = tuple[str, str | None]
"""A name, and the file's SHA-256 where that is known."""


def with_files(storage: Storage, jobs: Sequence[NewJob], drafts: Sequence[Draft] = ()) -> Sequence[NewJob]:
    """The jobs, with the files that the farm has by the names of their LoRAs. Errors tell which of `drafts` names them.

    Raises `InvalidInput` for LoRAs that the farm does not keep, or that are for other models than their job's;
    `ObjectDamaged`, `StorageError`.
    """
    meant = dict.fromkeys((use.name, use.sha256) for job in jobs for use in job.spec.loras)
    if not meant:
        return jobs
    found = {one: _found(storage, *one) for one in meant}
    known = {one: kept for one, kept in found.items() if kept is not None}
    if missing := [one for one in meant if one not in known]:
        first = _asking(missing[0][0], drafts)
        alike = [one for one in missing[:_MOST_NAMED] if _asking(one[0], drafts) == first]
        raise first.error(_unknown(alike, LORAS.manifests(storage)))
    _refuse_others(storage, known, [job.spec for job in jobs], drafts)
    return [replace(job, spec=_with_files(job.spec, known)) if job.spec.loras else job for job in jobs]


def refuse_lost(storage: Storage, specs: Mapping[str, JobSpec]) -> None:
    """Raise `WrongState` for the first of some jobs that names a LoRA's file which the farm keeps no longer.

    `specs` is what each renders, by job. Raises `ObjectDamaged`, `StorageError`.
    """
    found: dict[_Meant, bool] = {}
    for job, spec in specs.items():
        for one in [(use.name, use.sha256) for use in spec.loras]:
            if one not in found:
                found[one] = _found(storage, *one) is not None
            if not found[one]:
                lost = _unknown([one], ())
                raise WrongState(
                    f"{job}: {lost.reason}", hint=f"{lost.hint}; without it, name the jobs to retry that have another"
                )


@dataclass(frozen=True)
class _Asking:
    """Who names a LoRA: the field, and the place of its request where it has one."""

    field: str
    place: str | None = None

    def error(self, error: InvalidInput) -> InvalidInput:
        """The error, told of that field, there."""
        told = InvalidInput(error.reason, field=self.field, hint=error.hint)
        return told if self.place is None else InvalidInput(f"{self.place}: {told.message}", hint=told.hint)


def _asking(name: str, drafts: Iterable[Draft], model: str | None = None) -> _Asking:
    """The first that names a LoRA, of those that ask for this model or for none, if it is given."""
    for draft in drafts:
        if model is not None and draft.request.model not in (None, model):
            continue
        for field, names in _named_by(draft.request):
            if name in names:
                return _Asking(field, draft.place)
    return _Asking("loras")


def _named_by(request: JobRequest) -> Iterator[tuple[str, set[str]]]:
    """The names of LoRAs in each field of a request that has some."""
    yield "loras", {lora.name for lora in request.loras}
    if request.reading != "plain":
        for field, texts in (("prompt", request.prompts), ("mix_with", [term.prompt for term in request.mix_with])):
            yield field, {use.name for text in texts for use in tags.taken_out(text)[1]}


def _found(storage: Storage, name: str, sha256: str | None) -> StoredLora | None:
    """What the farm keeps under a name; of a file that is named too, whatever the farm calls it by now."""
    try:
        kept = LORAS.read(storage, name)
    except ModelError:
        kept = None
    if sha256 is None or (kept and kept.file.sha256 == sha256):
        return kept
    every = (one for one in LORAS.everything(storage) if isinstance(one, StoredLora))
    return next((one for one in every if one.file.sha256 == sha256), None)


def _with_files(spec: JobSpec, known: Mapping[_Meant, StoredLora]) -> JobSpec:
    loras = tuple(
        use.model_copy(update={"sha256": kept.file.sha256, "short_hash": use.short_hash or kept.short_hash})
        for use in spec.loras
        for kept in [known[use.name, use.sha256]]
    )
    return spec.model_copy(update={"loras": loras})


def _unknown(missing: Sequence[_Meant], kept: Collection[str]) -> InvalidInput:
    """The error that names them all, with those that may be meant."""
    names = list(dict.fromkeys(name for name, sha256 in missing if sha256 is None))
    if not names:
        name, sha256 = missing[0]
        return InvalidInput(
            f"the farm keeps the file of the LoRA '{name}' no longer, whose SHA-256 is {sha256}",
            hint="'farm loras add' brings it back",
        )
    told = ", ".join(repr(name) for name in names[:_MOST_NAMED])
    return InvalidInput(
        f"the farm keeps no LoRA {told}",
        hint=did_you_mean(names, kept, "'farm loras' lists them, 'farm loras add' adds one"),
    )


def _refuse_others(
    storage: Storage, known: Mapping[_Meant, StoredLora], specs: Iterable[JobSpec], drafts: Sequence[Draft]
) -> None:
    """Raise `InvalidInput` for a LoRA that is for other models than the one it is to be used with."""
    pairs = dict.fromkeys((spec.model, (use.name, use.sha256)) for spec in specs for use in spec.loras)
    kinds = {model: kind_of(storage, model) for model, _ in pairs}
    for model, meant in pairs:
        kind, lora = kinds[model], known[meant]
        if kind is not None and not lora.fits(kind):
            its = KINDS[kind] if kind != "sd" else "of another size"
            raise _asking(meant[0], drafts, model).error(
                InvalidInput(
                    f"'{lora.name}' is for {KINDS[lora.kind]}, and the model '{model}' is {its}",
                    hint="'farm loras' and 'farm models' say what each is for",
                )
            )
