"""Rendering a picture again from what it says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farm import keys
from farm.bucket.fetch import read
from farm.bucket.results import JobResult
from farm.client.client import FarmClient, Submission
from farm.client.planning import Draft, Pictures, mask_of
from farm.errors import InvalidInput, ObjectMissing
from farm.jobs import tags
from farm.jobs.batch_file import assign
from farm.jobs.loras import LoraUse
from farm.jobs.request import JobRequest
from farm.jobs.samplers import read_sampler
from farm.jobs.spec import FRAMING, InitReference, JobSpec
from farm.jobs.studies import READ_BY
from farm.pictures.images import MAX_BYTES, InitImage
from farm.pictures.provenance import spec_in

_OF_A_PART = ("redo", "mask_blur", "fill", "only_masked", "outpaint")
_INSTEAD: Mapping[str, str] = {"mix": "weights", "weights": "mix", "strength": "start_step", "start_step": "strength"}
"""Two ways to say one thing: who changes the one does not keep the other."""
_AS_THEY_ARE = ("sampler", "schedule", "eta", "steps", "seed", "model", "time_limit", "noise_steps", *FRAMING)


@dataclass(frozen=True)
class Made:
    """A picture that was made: its file's bytes, its spec, and its job's result where that is known."""

    data: bytes
    spec: JobSpec
    result: JobResult | None = None


def picture_file(path: Path) -> Made:
    """The picture in a file. Raises `InvalidInput` unless it says what it was made from."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        job = keys.id_in(path.name)
        hint = f"did you mean '{job}'?" if job else "name a PNG that this farm made, or a job by its id"
        raise InvalidInput(f"{path} cannot be read: {error.strerror}", hint=hint) from error
    if len(data) > MAX_BYTES:
        raise InvalidInput(f"{path} is larger than {MAX_BYTES // 2**20} MiB")
    spec = spec_in(data)
    if spec is None:
        raise InvalidInput(f"{path} does not say how it was made", hint="use a PNG that this farm made, or a job's id")
    return Made(data, spec)


def picture_of(farm: FarmClient, job: str) -> Made:
    """The picture of a job that is done. Raises `WrongState`, `ObjectMissing`, `FetchRefused`, `StorageError`."""
    result = farm.result(job)
    return Made(read(farm.storage, result.picture), result.spec, result)


def draft_again(
    made: Made, init: Path | bytes | None, changes: Mapping[str, Any], *, mask: Path | bytes | None = None
) -> Draft:
    """What makes the picture again, with some fields of its `JobRequest` changed, such as `losses.0.scale`.

    Unchanged, the spec is the very same. With another prompt it has no LoRA that only tags of the old one named, for
    the new one brings its own. `init` is the picture that it started from, if there was one, and `mask` what of that
    was redone. Raises `InvalidInput`.
    """
    pictures = Pictures()
    image = None if init is None else pictures.read(init)
    _check_init(made.spec, image)
    masked = None if mask is None or image is None else pictures.read_mask(mask, image).image
    _check_mask(made.spec, masked)
    fields = {**fields_of(made.spec), **({} if init is None else {"init": init})}
    fields |= {} if mask is None else {"mask": mask}
    if made.spec.start.outpaint is not None:
        fields["outpaint"] = made.spec.start.outpaint.model_dump()  # one side may be changed
    fields |= {field: told.model_dump() for field, told in made.spec.framing.items()}  # likewise
    if any(path.partition(".")[0] == "prompt" for path in changes):
        fields["loras"] = [_asked(use) for use in made.spec.loras if use.by != "tag"]
    changed = {path.partition(".")[0] for path in changes}
    for path, value in changes.items():
        _check_change(made.spec, path)
        _let_go_of_file(fields, path)
        for field in _displaced(made.spec, path, value) - changed:
            fields.pop(field, None)
        if fields.get(root := path.partition(".")[0], ...) is None:  # what was not said is not in the way
            del fields[root]
        assign(fields, path, value)
    request = JobRequest.parse(fields)
    if not changes:
        return Draft(request, image, (made.spec,), masked)
    start = made.spec.start
    kept = None if image is None else mask_of(request, image, pictures)
    specs = request.specs(start.image, default_model=made.spec.model, mask=start.mask if kept else None)
    return Draft(request, image, specs, kept)


def init_of(farm: FarmClient, made: Made) -> bytes | None:
    """The picture that it started from, from the farm's bucket. Raises `InvalidInput` if it is not there."""
    return _from_bucket(farm, made.spec.start.image, "picture that it started from", hint="give --init FILE")


def mask_in(farm: FarmClient, made: Made) -> bytes | None:
    """The mask that it had, from the farm's bucket. Raises `InvalidInput` if it is not there."""
    return _from_bucket(farm, made.spec.start.mask, "mask that it had", hint="give --mask FILE")


def _from_bucket(farm: FarmClient, image: InitReference | None, what: str, *, hint: str) -> bytes | None:
    if image is None:
        return None
    try:
        return farm.storage.get(image.key, limit=MAX_BYTES)
    except ObjectMissing as error:
        raise InvalidInput(f"the {what} is not in this bucket", hint=hint) from error


def submit_again(farm: FarmClient, job: str) -> Submission:
    """Submit what a job renders once more, as a batch of its own, whatever became of the job.

    Raises `JobNotFound`, `LedgerUnavailable`, `StorageError`, and `InvalidInput` if its init picture is gone.
    """
    made = Made(b"", farm.ledger.spec(job))
    return farm.submit([draft_again(made, init_of(farm, made), {}, mask=mask_in(farm, made))])


def _check_change(spec: JobSpec, path: str) -> None:
    """Raise `InvalidInput` for a field that this picture has not, or that is a file of its own."""
    root = path.partition(".")[0]
    if root in ("init", "mask"):
        hint = f"--{root} FILE gives the one that it had; another makes another picture: 'farm submit img2img'"
        raise InvalidInput(f"there is no field {path!r:.60} to change", hint=hint)
    if root not in JobRequest.model_fields:
        raise InvalidInput(f"there is no field {path!r:.60} to change", hint="such as steps, guidance or seed")
    if root in _OF_A_PART and not spec.start.is_masked:
        raise InvalidInput(
            f"there is no field {path!r:.60} to change: no part of a picture was redone for it",
            hint="'farm submit img2img --init FILE' does that, with --mask or --outpaint",
        )


def _check_init(spec: JobSpec, image: InitImage | None) -> None:
    wanted = spec.start.image
    if wanted is None and image is not None:
        raise InvalidInput("it did not start from a picture", field="--init")
    if wanted is not None and (image is None or image.sha256 != wanted.sha256):
        raise InvalidInput("this is not the picture that it started from", field="--init")


def _check_mask(spec: JobSpec, mask: InitImage | None) -> None:
    wanted = spec.start.mask
    if wanted is None and mask is not None:
        raise InvalidInput("it had no mask", field="--mask")
    if wanted is not None and (mask is None or mask.sha256 != wanted.sha256):
        raise InvalidInput("this is not the mask that it had", field="--mask")


def fields_of(spec: JobSpec) -> dict[str, Any]:
    """The fields of a request for this very spec, but for its init picture."""
    prompts, start = spec.conditioning.prompts, spec.start
    fields: dict[str, Any] = {
        "mode": spec.mode,
        "prompt": [tags.in_words(prompt.text, spec.conditioning.reading) for prompt in prompts],
        "weights": [prompt.weight for prompt in prompts],
        **{name: getattr(spec.conditioning, name) for name in ("negative", "path", "reading", "clip_skip")},
        "losses": [term.model_dump() for term in spec.guidance.losses],
        "loras": [_asked(use) for use in spec.loras],
        "guidance": spec.guidance.scale,
        "trace": spec.trace.level,
        "trace_every": spec.trace.every,
        **{name: getattr(spec, name) for name in _AS_THEY_ARE},
    }
    if start.image is not None:
        fields |= {"start_step": start.step, "encode": start.encode}
    if start.image is not None and start.only_masked is None and start.outpaint is None:
        fields |= {"fit": start.fit}
    if start.is_masked:
        fields |= {name: getattr(start, name) for name in ("mask_blur", "fill", "only_masked", "outpaint")}
    if start.mask is not None and start.redo != "white":
        fields |= {"redo": start.redo}
    if start.fit != "init":
        fields |= {"width": spec.width, "height": spec.height}
    read = READ_BY.get(spec.mode, fields)
    return {name: value for name, value in fields.items() if name in read}


def _asked(use: LoraUse) -> dict[str, Any]:
    strength = {"weight": use.unet} if use.unet == use.text else {"unet": use.unet, "text": use.text}
    return {"name": use.name, "sha256": use.sha256, "by": use.by, **strength}


def _displaced(spec: JobSpec, path: str, value: Any) -> set[str]:
    """The fields that say the same as a change does, or that go with what it changes."""
    displaced = {_INSTEAD[path]} if path in _INSTEAD else set()
    if path == "sampler" and isinstance(value, str) and read_sampler(value).schedule:
        displaced.add("schedule")
    if path == "prompt" and len(value if isinstance(value, list) else [value]) != len(spec.conditioning.prompts):
        displaced.add("weights")
    return displaced


def _let_go_of_file(fields: dict[str, Any], path: str) -> None:
    """Where another LoRA is named in the place of one, another file is meant."""
    root, _, rest = path.partition(".")
    index, _, part = rest.partition(".")
    loras = fields.get("loras", [])
    if root == "loras" and part == "name" and index.isdecimal() and int(index) < len(loras):
        loras[int(index)] |= {"sha256": None, "by": "field"}
