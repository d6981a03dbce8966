"""The page of one job: how its picture came to be, as one HTML file.

Its words may be anybody's: the template escapes all of them, nothing of them comes near the script, and the page's own
policy lets nothing run or load but what this package wrote.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, get_args

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from farm.jobs.report import PromptRead
from farm.jobs.spec import JobSpec
from farm.pages import curves, plot
from farm.pages.gather import Seen
from farm.pages.record import Part, Remark, figure
from farm.words import one_line

_WEB = resources.files("farm.pages").joinpath("web")
_MOST_PRINTED = 12
_PARTS = (("queued", "queued"), ("model", "model"), ("text", "text"), ("render", "denoised"), ("decode", "decoded"))
"""Where a job's time goes, as `timings` call it and as the page does."""


@dataclass(frozen=True)
class Shown:
    """A prompt of the page: its words, its share of a mix, and its tokens if they are known."""

    title: str
    text: str
    weight: float | None
    read: PromptRead | None


@dataclass(frozen=True)
class Span:
    """A part of the bar of time: its seconds, and where it begins and how long it is in thousandths of the bar.

    Each `number` has a colour of its own.
    """

    number: int
    name: str
    seconds: float
    at: float
    length: float


def page(seen: Seen) -> str:
    """The page as HTML. The same record makes the same page."""
    result, spec = seen.result, seen.result.spec
    schedule, of_schedule = curves.schedule_plot(seen)
    guidance, of_guidance = curves.guidance_plots(seen)
    losses, of_losses = curves.losses_plots(seen)
    numbers = [*guidance, *curves.latents_plots(seen)]
    prompts, of_prompts = _prompts(seen)
    time, of_time = _time(seen)
    undrawn = (
        *curves.undrawn("schedule", [schedule] if schedule else []),
        *curves.undrawn("numbers", numbers),
        *curves.undrawn("losses", losses),
    )
    remarks = (*seen.remarks, *of_prompts, *of_schedule, *of_guidance, *of_losses, *of_time, *undrawn)
    script, style = _asset("trace.js"), _asset("page.css")
    return (
        _environment()
        .get_template("trace.html")
        .render(
            seen=seen,
            result=result,
            spec=spec,
            policy=_policy(script, style),
            script=Markup(script),  # noqa: S704 - this package's own
            style=Markup(style),  # noqa: S704
            prompts=prompts,
            schedule=schedule,
            numbers=numbers,
            losses=losses,
            time=time,
            remarks=_by_part(remarks),
            settings=_settings(spec),
            made=_made(seen),
            printed=_printed(len(seen.frames)),
            sigmas=_sigmas(seen),
            at=plot,
        )
    )


@cache
def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("farm.pages", "web"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalized,
    )
    made.filters |= {"data": _data, "figure": _written, "seconds": _seconds}
    return made


def _finalized(value: Any) -> Any:
    """Words of strangers, with nothing in them that would not be seen; what this package wrote stays as it is."""
    return one_line(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _asset(name: str) -> str:
    return _WEB.joinpath(name).read_text(encoding="utf-8")


def _policy(script: str, style: str) -> str:
    """The page's Content-Security-Policy: what is embedded as data, and this very script and style."""
    return (
        "default-src 'none'; img-src data:; media-src data:; "
        f"script-src {_hash(script)}; style-src {_hash(style)}; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _data(content: bytes, kind: str) -> Markup:
    return Markup(f"data:{kind};base64,{base64.b64encode(content).decode()}")  # noqa: S704 - the kind is the template's


def _written(value: float | None) -> str:
    return "–" if value is None else "no number" if math.isnan(value) else f"{value:.4g}"


def _seconds(value: float) -> str:
    """`0.31 s`, `12.4 s`, `3 min 20 s`, `2 h 5 min`."""
    if value < 60:
        return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def _by_part(remarks: Iterable[Remark]) -> dict[str, list[str]]:
    """What there is to say of each part, each thing once."""
    found: dict[str, dict[str, None]] = {part: {} for part in get_args(Part)}
    for remark in remarks:
        found[remark.part][remark.text] = None
    return {part: list(texts) for part, texts in found.items()}


def _prompts(seen: Seen) -> tuple[list[Shown], list[Remark]]:
    """The prompts of the mix, then the negative one, each with its tokens as the encoder saw them."""
    conditioning = seen.result.spec.conditioning
    read = seen.result.prompts
    positive = [prompt for prompt in read if prompt.role == "prompt"]
    negative = [prompt for prompt in read if prompt.role == "negative"]
    count = len(conditioning.prompts)
    shown = [
        Shown(
            "Prompt" if count == 1 else f"Prompt {number} of {count}",
            prompt.text,
            prompt.weight if count > 1 else None,
            positive[number - 1] if len(positive) == count else None,
        )
        for number, prompt in enumerate(conditioning.prompts, start=1)
    ]
    if conditioning.negative or negative:
        shown.append(Shown("Negative prompt", conditioning.negative, None, negative[0] if negative else None))
    if not read:
        return shown, [Remark("prompts", "Its result has no tokens, for it is of an older worker.")]
    return shown, []


def _time(seen: Seen) -> tuple[list[Span], list[Remark]]:
    """Where the time went, from submission to the last of its files; uploading comes after."""
    timings = {name: seconds for name, seconds in seen.result.timings.items() if 0 <= seconds < 1e9}
    remarks = []
    queued = figure(getattr(seen.result, "queued", None))  # not every farm knows it
    if queued is not None and 0 <= queued < 1e9:
        timings["queued"] = queued
    if missing := [shown for name, shown in _PARTS if name not in timings]:
        remarks.append(Remark("time", f"Its result does not say how long these took: {', '.join(missing)}."))
    parts = [(number, shown, timings[name]) for number, (name, shown) in enumerate(_PARTS) if name in timings]
    known = sum(seconds for name, seconds in timings.items() if name in ("model", "text", "render", "decode"))
    if (rest := timings.get("total", 0.0) - known) > 0:
        parts.append((len(_PARTS), "the rest", rest))
    whole = sum(seconds for _, _, seconds in parts)
    if not whole:
        return [], remarks
    spans, at = [], 0.0
    for number, shown, seconds in parts:
        length = 1000 * seconds / whole
        spans.append(Span(number, shown, seconds, round(at, 2), round(length, 2)))
        at += length
    return spans, remarks


def _settings(spec: JobSpec) -> list[tuple[str, str]]:
    """What was asked for, as names and values."""
    guidance, start = spec.guidance, spec.start
    scale = "the model's own" if guidance.scale is None else f"{guidance.scale:g}"
    size = f"{spec.width}×{spec.height} pixels" if spec.width and spec.height else "the model's own"
    rows = [("mode", spec.mode), ("model", spec.model), ("sampler", spec.sampler), ("steps", _steps(spec))]
    rows += [("seed", str(spec.seed)), ("guidance", scale), ("size", size)]
    if start.image is not None:
        shape = f", {start.image.width}×{start.image.height} pixels" if start.image.width else ""
        rows.append(
            ("init picture", f"{start.image.sha256[:12]}….{start.image.extension}{shape}, fitted by {start.fit}")
        )
        rows.append(("encoded", "as its mean" if start.encode == "mean" else "as a sample"))
    for loss in guidance.losses:
        numbers = "".join(f" {name}={value:g}" for name, value in loss.arguments.items())
        times = "" if loss.scale is None else f" × {loss.scale:g}"
        rows.append(("loss", f"{loss.name}{times}, every {loss.every} steps{numbers and ':'}{numbers}"))
    rows.append(("trace", spec.trace.level + (f", every {spec.trace.every} steps" if spec.trace.every > 1 else "")))
    return rows


def _steps(spec: JobSpec) -> str:
    return f"{spec.steps}, from step {spec.start.step}" if spec.start.step else str(spec.steps)


def _made(seen: Seen) -> list[tuple[str, str]]:
    """With what it was made, as names and values."""
    result = seen.result
    weights = [("weights", result.model.source)]
    weights += [("revision", result.model.revision)] if result.model.revision else []
    weights += [("SHA-256", result.model.sha256)] if result.model.sha256 else []
    return [
        *(("device", result.device), ("numbers", result.dtype)),
        *weights,
        *((name, version) for name, version in sorted(result.versions.items())),
        *(("worker", result.worker), ("attempt", str(result.attempt))),
    ]


def _printed(number: int) -> set[int]:
    """Which of so many frames are on paper: a few, the first and the last among them."""
    if number <= _MOST_PRINTED:
        return set(range(number))
    return {round(index * (number - 1) / (_MOST_PRINTED - 1)) for index in range(_MOST_PRINTED)}


def _sigmas(seen: Seen) -> dict[int, float | None]:
    """The noise level that each step starts from, as far as it is known."""
    of_schedule = seen.result.schedule.sigmas if seen.result.schedule else ()
    return {**{step.step: step.sigma for step in seen.steps}, **dict(enumerate(map(figure, of_schedule)))}
