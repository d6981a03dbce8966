"""The request that the options of `farm submit` make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from farm.cli.options import parsing
from farm.jobs.request import JobRequest
from farm.jobs.spec import Mode


def request(mode: Mode, prompts: Sequence[str], options: Mapping[str, Any], **more: Any) -> JobRequest:
    """The request that a submit command's options make. Raises `InvalidInput`."""
    return JobRequest.parse(fields(mode, prompts, options, **more))


def fields(mode: Mode, prompts: Sequence[str], options: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """The fields of that request, as a batch file would have them. Raises `InvalidInput`."""
    named = (
        *("negative", "reading", "clip_skip", "steps", "guidance", "seed", "count", "width", "height", "sampler"),
        *("schedule", "eta", "model", "init", "start_step", "strength", "fit", "encode", "path", "trace"),
        *("mask", "redo", "mask_blur", "fill", "only_masked", "outpaint"),
        *("original_size", "crop", "target_size"),
        *("trace_every", "priority", "time_limit"),
    )
    given: dict[str, Any] = {name: options[name] for name in named if name in options}
    given |= {
        "mode": mode,
        "prompt": list(prompts),
        "mix_with": [parsing.mix_term(text) for text in options["mix_with"]],
        "loras": [parsing.lora(text) for text in options["lora"]],
        "losses": parsing.losses(options["loss"], options["loss_arg"], options["loss_scale"], options["loss_every"]),
        "labels": parsing.labels(options["label"]),
        **more,
    }
    return {name: value for name, value in given.items() if value is not None}
