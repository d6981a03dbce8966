"""The command that asks for a picture, from its spec: for those who saw it somewhere and want more of it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping

from farm.jobs import tags
from farm.jobs.request import DEFAULT_PRIORITY
from farm.jobs.spec import Conditioning, JobSpec, LossTerm


def command(spec: JobSpec, *, labels: Mapping[str, str] | None = None, priority: int = DEFAULT_PRIORITY) -> str | None:
    """`farm submit …` with quotes as a shell needs them, or None for a study, which is asked in another way.

    An init picture is named by its content; whoever runs the command puts their file's name there.
    """
    if spec.is_study:
        return None
    prompts = [tags.in_words(prompt.text, spec.conditioning.reading) for prompt in spec.conditioning.prompts]
    mode = "mix" if len(prompts) > 1 else spec.mode
    options = [word for option in _options(spec) for word in option]
    options += ["--priority", str(priority)] if priority != DEFAULT_PRIORITY else []
    options += [word for name, text in (labels or {}).items() for word in ("--label", f"{name}={text}")]
    if any(prompt.startswith("-") for prompt in prompts):  # else it is read as an option
        return shlex.join(["farm", "submit", mode, *options, "--", *prompts])
    return shlex.join(["farm", "submit", mode, *prompts, *options])


def _options(spec: JobSpec) -> Iterator[tuple[str, ...]]:
    yield from _of_prompts(spec.conditioning)
    if spec.guidance.scale is not None:
        yield "--guidance", repr(spec.guidance.scale)
    yield "--steps", str(spec.steps)
    yield "--seed", str(spec.seed)
    if spec.start.fit != "init" and spec.width and spec.height:
        yield "--width", str(spec.width)
        yield "--height", str(spec.height)
    yield "--sampler", spec.sampler
    if spec.schedule != "model":
        yield "--schedule", spec.schedule
    if spec.eta is not None:
        yield "--eta", repr(spec.eta)
    yield "--model", spec.model
    yield from _of_start(spec)
    for use in spec.loras:
        yield "--lora", use.option
    for term in spec.guidance.losses:
        yield "--loss", _loss(term)
    if spec.trace.level != "none":
        yield "--trace", spec.trace.level
    if spec.trace.every > 1:
        yield "--trace-every", str(spec.trace.every)
    if spec.time_limit is not None:
        yield "--time-limit", repr(spec.time_limit)


def _of_prompts(conditioning: Conditioning) -> Iterator[tuple[str, ...]]:
    if len(conditioning.prompts) > 1:
        yield "--weights", ",".join(repr(prompt.weight) for prompt in conditioning.prompts)
    if conditioning.path != "linear":
        yield "--path", conditioning.path
    if conditioning.negative:
        yield "--negative", conditioning.negative
    if conditioning.reading == "plain":
        yield ("--plain-prompt",)
    if conditioning.clip_skip > 1:
        yield "--clip-skip", str(conditioning.clip_skip)


def _of_start(spec: JobSpec) -> Iterator[tuple[str, ...]]:
    start = spec.start
    if start.image is None:
        return
    yield "--init", f"{start.image.sha256[:8]}.{start.image.extension}"
    yield "--start-step", str(start.step)
    yield "--fit", start.fit
    yield "--encode", start.encode


def _loss(term: LossTerm) -> str:
    scale = {} if term.scale is None else {"scale": term.scale}
    numbers = {**term.arguments, **scale, "every": term.every}
    return f"{term.name}:{','.join(f'{name}={value!r}' for name, value in numbers.items())}"
