"""Making a request ready for its first step: its plan, its prompts, its first latents."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from concurrent.futures import Future
from typing import Literal

import torch

from farm.jobs.report import PromptRead
from farm.jobs.spec import JobSpec, ResolvedSpec
from worker.diffusion.fitting import cut_off
from worker.diffusion.guidance import needs_unconditional
from worker.diffusion.losses import Losses
from worker.diffusion.noise import NoiseStream
from worker.diffusion.plans import plan
from worker.diffusion.prompts import How
from worker.diffusion.schedules import read_schedule
from worker.diffusion.steps import HISTORY
from worker.engine.beginning import begin
from worker.engine.request import Rendered, RenderRequest, latent_shape
from worker.engine.request_state import RequestState
from worker.families.family import Frame


def batch_key_of(request: RenderRequest, *, deterministic: bool = False) -> Hashable:
    """What rows of one forward pass must share: the model (and with it the dtype), the latent size, and how many chunks
    their prompts have. Prompts are read for it, and not encoded. In a deterministic engine also the ranks of their
    adapters, for bits depend on them.

    Raises `InvalidInput` for prompts that cannot be read.
    """
    key = id(request.model), latent_shape(request.spec, request.model), _how_to_encode(request).chunks
    return (*key, request.model.adapting.ranks(request.stack)) if deterministic else key


def prepare(
    request: RenderRequest, losses: Losses, arrival: int, future: Future[Rendered], *, deterministic: bool = False
) -> RequestState:
    """Prepare a job for its first step: plan, embeddings, latents, what is kept; its adapters go to the device.

    Raises `InvalidInput`, `ModelError` or `RenderError` for what the spec asks and cannot have.
    """
    began, spec, model = time.monotonic(), request.spec, request.model
    schedule = read_schedule(model.scheduler_config, spec.sampler, spec.steps, spacing=spec.schedule, eta=spec.eta)
    steps = plan(schedule, spec.start.step)
    noise, how = NoiseStream(spec.seed), _how_to_encode(request)
    with torch.no_grad():
        additions = model.adapting.of(request.stack)
        prompts = model.prompts.mix(spec.conditioning.prompts, spec.conditioning.path, how=how)
        negative = model.prompts.encode_negative(spec.conditioning.negative, how) if _is_guided(request) else None
        first = begin(request, steps, noise)
    read, frame = _prompts_read(request), Frame.of(spec)
    state = RequestState(
        request=request,
        arrival=arrival,
        future=future,
        batch_key=batch_key_of(request, deterministic=deterministic),
        plan=steps,
        conditional=model.conditioned(prompts, frame, additions=additions),
        prompt=prompts,
        unconditional=model.conditioned(negative, frame, additions=additions) if negative else None,
        terms=tuple((losses.term(term), term.every) for term in spec.guidance.losses),
        noise=noise,
        x=first.x,
        history=first.x.new_zeros((HISTORY, *first.x.shape)),
        kept=first.kept,
        beside=first.beside,
        warnings=_warnings(spec, read),
        prompts=read,
        preparing=time.monotonic() - began,
        additions=additions,
    )
    if request.resume is not None:
        state.restore(request.resume)
    return state


def _is_guided(request: RenderRequest) -> bool:
    return needs_unconditional(request.spec.guidance.scale)


def _how_to_encode(request: RenderRequest) -> How:
    return request.model.prompts.how(request.spec.conditioning, guided=_is_guided(request), stack=request.stack)


def _prompts_read(request: RenderRequest) -> tuple[PromptRead, ...]:
    """The prompts as they were read, the negative one last: the model remembers them."""
    asked = request.spec.conditioning

    def told(role: Literal["prompt", "negative"], text: str, weight: float) -> PromptRead:
        read = request.model.prompts.read(text, asked.reading)
        sizes = tuple(map(len, read.chunks))
        return PromptRead(role=role, weight=weight, tokens=read.tokens, chunks=sizes, cut=read.cut)

    return (*(told("prompt", one.text, one.weight) for one in asked.prompts), told("negative", asked.negative, 1.0))


def _warnings(spec: ResolvedSpec, read: Sequence[PromptRead]) -> tuple[str, ...]:
    """What of the spec the picture will not show."""
    return (
        *_cut_words("the prompt", read[:-1]),
        *_cut_words("the negative prompt", read[-1:]),
        *_idle_losses(spec),
        *filter(None, (cut_off(spec),)),
    )


def _cut_words(what: str, read: Sequence[PromptRead]) -> tuple[str, ...]:
    cut = [word for prompt in read for word in prompt.cut]
    return (f"{what} is longer than the model reads; it did not see: {' '.join(cut)}",) if cut else ()


def _idle_losses(spec: JobSpec) -> tuple[str, ...]:
    """Losses act at steps that are multiples of their `every`; a late start may leave none."""
    steps = range(spec.start.step, spec.steps)
    return tuple(
        f"the loss '{loss.name}' had no effect: no step from {steps[0]} to {steps[-1]} is a multiple of {loss.every}"
        for loss in spec.guidance.losses
        if not any(step % loss.every == 0 for step in steps)
    )
