"""The page of one job: how its picture came to be, as one HTML file."""

from __future__ import annotations

from dataclasses import dataclass

from farm.jobs.report import PromptRead
from farm.pages import curves
from farm.pages.gather import Seen
from farm.pages.html import by_part, rendered, spread
from farm.pages.record import Remark
from farm.pages.settings import made, settings

_MOST_PRINTED = 12
_PARTS = (
    *(("queued", "queued"), ("model", "model"), ("text", "text")),
    *(("render", "denoised"), ("decode", "decoded"), ("publish", "published")),
)
"""Where a job's time goes, as `timings` call it and as the page does. `total` is from `queued` to `publish`."""


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
    return rendered(
        "trace",
        seen=seen,
        result=result,
        spec=spec,
        prompts=prompts,
        schedule=schedule,
        numbers=numbers,
        losses=losses,
        time=time,
        remarks=by_part(remarks),
        settings=settings(spec),
        made=[*made(result), ("worker", result.worker), ("attempt", str(result.attempt))],
        printed=spread(len(seen.frames), _MOST_PRINTED),
        sigmas=seen.sigmas,
    )


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
    """Where the time went, from submission to the last of its files in the bucket."""
    timings = {name: seconds for name, seconds in seen.result.timings.items() if 0 <= seconds < 1e9}
    remarks = []
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
