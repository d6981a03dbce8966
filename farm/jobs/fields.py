"""Fields of a job by their names in a request, such as `guidance` or `losses.0.scale`: what a spec has there.

A spec keeps them elsewhere, and some only as what they come to: a strength as the step to start from, a mix as weights.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TypeVar

from farm.errors import InvalidInput
from farm.jobs.batch_file import refuse_unknown
from farm.jobs.loras import LoraUse
from farm.jobs.request import JobRequest
from farm.jobs.spec import FRAMING, JobSpec, LossTerm

T = TypeVar("T")

NONE = "–"
MODELS_OWN = "the model's"
SAMPLERS_OWN = "the sampler's"
_OTHER_NAMES = {"lora": "loras", "loss": "losses", "loss_scale": "losses.0.scale", "loss_every": "losses.0.every"}
_OF_A_LOSS = ("name", "scale", "every", "arguments")
_INDEX = re.compile(r"[0-9]{1,4}")


def field_name(written: str) -> str:
    """The field that a person means, as batch files write it. Raises `InvalidInput` for one that no job has.

    It may be written as the option that sets it (`start-step`, `loss-scale`), and an argument of a loss without
    saying that it is one (`losses.0.target`).
    """
    head, *rest = written.strip().split(".")
    head = head.replace("-", "_")
    parts = [*_OTHER_NAMES.get(head, head).split("."), *rest]
    if parts[0] == "losses" and len(parts) == 3 and parts[2] not in _OF_A_LOSS:
        parts.insert(2, "arguments")
    refuse_unknown(parts[:1], JobRequest.model_fields)
    return ".".join(parts)


def value(spec: JobSpec, labels: Mapping[str, str], field: str) -> str:
    """What a job has in a field, for people; `–` where it has nothing there. Raises `InvalidInput` if no spec tells."""
    root, _, rest = field.partition(".")
    if root == "labels":
        return labels.get(rest, NONE)
    if root == "losses":
        return _of_losses(spec.guidance.losses, rest)
    if root == "loras":
        return _of_loras(spec.loras, rest)
    if root in _LISTS:
        values = _LISTS[root](spec)
        return " + ".join(values) if not rest else _item(values, rest) or NONE
    if field not in _READ:
        raise InvalidInput(f"what a job had in '{field}' is not kept", hint=f"known: {', '.join(known())}")
    return _READ[field](spec)


def called(field: str, specs: Iterable[JobSpec]) -> str:
    """What a field is called in a heading: `start step`, or `blue scale` where all of the jobs have that loss.

    A prompt is not called anything, for its words speak for themselves.
    """
    root, _, rest = field.partition(".")
    if root == "prompt":
        return ""
    if root == "labels" and rest:
        return rest
    if root == "losses" and rest:
        index, _, part = rest.partition(".")
        names = {value(spec, {}, f"losses.{index}.name") for spec in specs}
        loss = names.pop() if len(names) == 1 else "loss" if index == "0" else f"loss {index}"
        return f"{loss} {part.removeprefix('arguments.')}"
    if root == "loras" and rest:
        index, _, part = rest.partition(".")
        names = {value(spec, {}, f"loras.{index}.name") for spec in specs}
        return f"{names.pop() if len(names) == 1 else 'lora' if index == '0' else f'lora {index}'} {part}".rstrip()
    return field.replace("_", " ")


def known() -> Sequence[str]:
    """The fields that every spec tells something of."""
    return (*_LISTS, *_READ, "loras", "losses")


def differing(specs: Iterable[JobSpec]) -> Sequence[str]:
    """Those of the known fields in which not all of the specs are alike; of losses that all of them have, in what."""
    specs = list(specs)

    def differs(field: str) -> bool:
        return len({value(spec, {}, field) for spec in specs}) > 1

    found = [field for field in known() if differs(field)]
    return found if "losses" in found else [*found, *filter(differs, _within_losses(specs))]


def _within_losses(specs: Iterable[JobSpec]) -> Iterator[str]:
    """The fields of every loss of specs that have the same ones, in their order."""
    fields = dict.fromkeys(
        f"{index}.{part}"
        for spec in specs
        for index, loss in enumerate(spec.guidance.losses)
        for part in ("scale", "every", *(f"arguments.{name}" for name in loss.arguments))
    )
    return (f"losses.{field}" for field in fields)


def _of_losses(losses: Sequence[LossTerm], rest: str) -> str:
    if not rest:
        return " + ".join(loss.name for loss in losses) or NONE
    index, _, part = rest.partition(".")
    loss = _item(losses, index)
    if loss is None:
        return NONE
    if part.startswith("arguments."):
        found = loss.arguments.get(part.removeprefix("arguments."))
        return NONE if found is None else f"{found:g}"
    told = {"name": loss.name, "scale": _or(loss.scale, MODELS_OWN), "every": str(loss.every)}
    return told.get(part, NONE)


def _of_loras(loras: Sequence[LoraUse], rest: str) -> str:
    if not rest:
        return " + ".join(map(str, loras)) or NONE
    index, _, part = rest.partition(".")
    use = _item(loras, index)
    if use is None:
        return NONE
    told = {"name": use.name, "weight": use.strength, "unet": f"{use.unet:g}", "text": f"{use.text:g}"}
    return told.get(part, NONE)


def _item(values: Sequence[T], index: str) -> T | None:
    return values[int(index)] if _INDEX.fullmatch(index) and int(index) < len(values) else None


def _or(number: float | None, instead: str) -> str:
    return instead if number is None else f"{number:g}"


def _framed(spec: JobSpec, *, field: str) -> str:
    return str(spec.framing.get(field, NONE))


def _strength(spec: JobSpec) -> str:
    return NONE if spec.start.image is None else f"{spec.steps_to_do / spec.steps:.3g}"


_LISTS: Mapping[str, Callable[[JobSpec], Sequence[str]]] = {
    "prompt": lambda spec: [prompt.text for prompt in spec.conditioning.prompts],
    "weights": lambda spec: [f"{prompt.weight:.3g}" for prompt in spec.conditioning.prompts],
}
_READ: Mapping[str, Callable[[JobSpec], str]] = {
    "mix": lambda spec: f"{spec.conditioning.prompts[0].weight:.3g}",
    "path": lambda spec: spec.conditioning.path,
    "negative": lambda spec: spec.conditioning.negative or NONE,
    "reading": lambda spec: spec.conditioning.reading,
    "clip_skip": lambda spec: str(spec.conditioning.clip_skip),
    "guidance": lambda spec: _or(spec.guidance.scale, MODELS_OWN),
    "sampler": lambda spec: spec.sampler,
    "schedule": lambda spec: MODELS_OWN if spec.schedule == "model" else spec.schedule,
    "eta": lambda spec: _or(spec.eta, SAMPLERS_OWN),
    "steps": lambda spec: str(spec.steps),
    "seed": lambda spec: str(spec.seed),
    "start_step": lambda spec: str(spec.start.step),
    "strength": _strength,
    "init": lambda spec: spec.start.image.sha256[:8] if spec.start.image else NONE,
    "fit": lambda spec: spec.start.fit,
    "encode": lambda spec: spec.start.encode,
    "mask": lambda spec: spec.start.mask.sha256[:8] if spec.start.mask else NONE,
    "redo": lambda spec: spec.start.redo if spec.start.mask else NONE,
    "mask_blur": lambda spec: str(spec.start.mask_blur) if spec.start.is_masked else NONE,
    "fill": lambda spec: spec.start.fill if spec.start.is_masked else NONE,
    "only_masked": lambda spec: NONE if spec.start.only_masked is None else str(spec.start.only_masked),
    "outpaint": lambda spec: NONE if spec.start.outpaint is None else str(spec.start.outpaint),
    "width": lambda spec: _or(spec.width, MODELS_OWN),
    "height": lambda spec: _or(spec.height, MODELS_OWN),
    **{field: partial(_framed, field=field) for field in FRAMING},
    "model": lambda spec: spec.model,
    "mode": lambda spec: spec.mode,
    "trace": lambda spec: spec.trace.level,
    "trace_every": lambda spec: str(spec.trace.every),
    "time_limit": lambda spec: _or(spec.time_limit, NONE),
}
