"""What jobs were asked for and made with, in words; and in what several of them differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from farm.bucket.results import JobResult
from farm.jobs.spec import Conditioning, JobSpec
from farm.jobs.start import Start

NONE = "–"


@dataclass(frozen=True)
class Differing:
    """A setting in which jobs differ, with the value of each of them."""

    name: str
    values: tuple[str, ...]


def compared(results: Sequence[JobResult]) -> tuple[list[Differing], list[tuple[str, str]]]:
    """The settings in which jobs differ, and those that they share, in the order of a job's page."""
    tables = [_table(result) for result in results]
    names = dict.fromkeys(name for table in tables for name in table)
    differing, shared = [], []
    for name in names:
        values = tuple(table.get(name, NONE) for table in tables)
        if len(set(values)) > 1:
            differing.append(Differing(name, values))
        else:
            shared.append((name, values[0]))
    return differing, shared


def _table(result: JobResult) -> dict[str, str]:
    """Everything that a job was asked for and made with by its name, of which there may be several values."""
    table: dict[str, str] = {}
    for name, value in (*_words(result.spec.conditioning), *settings(result.spec), *made(result)):
        table[name] = f"{table[name]}; {value}" if name in table else value
    return table


def _words(conditioning: Conditioning) -> list[tuple[str, str]]:
    prompts, several = conditioning.prompts, len(conditioning.prompts) > 1
    rows = [("prompt", f"{one.text} × {one.weight:g}" if several else one.text) for one in prompts]
    rows += [("mixed", "along the arc")] if conditioning.path == "spherical" else []
    return [*rows, *([("negative", conditioning.negative)] if conditioning.negative else [])]


def settings(spec: JobSpec) -> list[tuple[str, str]]:
    """What was asked for, as names and values."""
    guidance, start = spec.guidance, spec.start
    scale = "the model's own" if guidance.scale is None else f"{guidance.scale:g}"
    size = f"{spec.width}×{spec.height} pixels" if spec.width and spec.height else "the model's own"
    rows = [("mode", spec.mode), ("model", spec.model), ("sampler", spec.sampler), ("steps", _steps(spec))]
    rows += [("schedule", spec.schedule)] if spec.schedule != "model" else []
    rows += [("eta", f"{spec.eta:g}")] if spec.eta is not None else []
    rows += [("seed", str(spec.seed)), ("guidance", scale), ("size", size)]
    rows += [(f"told {field.replace('_', ' ')}", str(told)) for field, told in spec.framing.items()]
    rows.append(("prompts read", spec.conditioning.reading))
    rows += [("clip skip", str(spec.conditioning.clip_skip))] if spec.conditioning.clip_skip > 1 else []
    if start.image is not None:
        shape = f", {start.image.width}×{start.image.height} pixels" if start.image.width else ""
        rows.append(
            ("init picture", f"{start.image.sha256[:12]}….{start.image.extension}{shape}, fitted by {start.fit}")
        )
        rows.append(("encoded", "as its mean" if start.encode == "mean" else "as a sample"))
        rows += _masked(start)
    for use in spec.loras:
        rows.append(("LoRA", f"{use.name} × {use.strength}" + (f", file {use.sha256[:12]}…" if use.sha256 else "")))
    for loss in guidance.losses:
        numbers = "".join(f" {name}={value:g}" for name, value in loss.arguments.items())
        times = "" if loss.scale is None else f" × {loss.scale:g}"
        rows.append(("loss", f"{loss.name}{times}, {_often(loss.every)}{numbers and ':'}{numbers}"))
    rows.append(("trace", spec.trace.level + (f", every {spec.trace.every} steps" if spec.trace.every > 1 else "")))
    return rows


def _often(every: int) -> str:
    return "at every step" if every == 1 else f"every {every} steps"


def _masked(start: Start) -> list[tuple[str, str]]:
    """What of the init picture was redone, if that was not all."""
    rows: list[tuple[str, str]] = []
    if start.mask is not None:
        rows.append(("mask", f"{start.mask.sha256[:12]}….{start.mask.extension}, {start.redo} is redone"))
    if start.outpaint is not None:
        rows.append(("grown by", f"{start.outpaint} pixels"))
    if start.keeps_size and (shape := start.canvas) is not None:
        rows.append(("size of the picture", f"{shape[0]}×{shape[1]} pixels"))
    if start.is_masked:
        rows += [("seam blurred", f"by a radius of {start.mask_blur} pixels"), ("filled with", start.fill)]
    if start.only_masked is not None:
        rows.append(("rendered", f"only what is masked, and {start.only_masked} pixels around it"))
    return rows


def _steps(spec: JobSpec) -> str:
    return f"{spec.steps}, from step {spec.start.step}" if spec.start.step else str(spec.steps)


def made(result: JobResult) -> list[tuple[str, str]]:
    """With what it was made, as names and values."""
    weights = [("weights", result.model.source)]
    weights += [("revision", result.model.revision)] if result.model.revision else []
    weights += [("SHA-256", result.model.sha256)] if result.model.sha256 else []
    weights += [("autoencoder", result.model.vae)] if result.model.vae else []
    versions = sorted(result.versions.items())
    return [("device", result.device), ("numbers", result.dtype), *weights, *versions]
