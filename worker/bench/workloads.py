"""What is rendered: jobs that are all alike, and a backlog in which no job is like another."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from farm.jobs.request import JobRequest
from farm.jobs.samplers import SamplerName
from farm.jobs.spec import InitReference, ResolvedSpec
from worker.diffusion.adapters import Stack
from worker.diffusion.guidance import needs_unconditional
from worker.diffusion.losses import load_losses
from worker.engine.request import resolve
from worker.models.model import LoadedModel

SUBJECTS = ("a cat", "an owl", "a red apple", "a strawberry", "a giraffe", "an otter", "a lighthouse", "a penguin")
STYLES = ("a watercolor painting of", "a pencil sketch of", "pixel art of", "an oil painting of")
MIXED: tuple[SamplerName, ...] = ("lms", "euler", "euler_a", "ddim", "dpmpp_2m")
"""The samplers of a mixed backlog: the same as ever, so that measurements can be compared."""
SHORTEST, LONGEST = 20, 60
MIDDLE = (SHORTEST + LONGEST) / 2
_SOME_IMAGE = InitReference(sha256="0" * 64, extension="png")


@dataclass(frozen=True)
class Job:
    """A job for any arm. `picture` is the init image where there is one, `mask` what is redone of it, `stack` its
    adapters."""

    id: str
    spec: ResolvedSpec
    picture: Image.Image | None = None
    mask: Image.Image | None = None
    stack: Stack = ()

    @property
    def rows(self) -> int:
        """Rows of one step: two under classifier-free guidance."""
        return 2 if needs_unconditional(self.spec.guidance.scale) else 1

    @property
    def all_rows(self) -> int:
        """Rows of all its steps."""
        return self.rows * self.spec.steps_to_do


def alike(model: LoadedModel, count: int, *, steps: int, sampler: SamplerName = "lms") -> list[Job]:
    """Jobs that differ in prompt and seed alone, under the model's own guidance."""
    return [
        job(model, f"job {number}", {"prompt": prompt(number), "steps": steps, "sampler": sampler, "seed": number})
        for number in range(count)
    ]


def prompt(number: int) -> str:
    """The prompt of one of the jobs alike."""
    return _prompt(random.Random(number))  # noqa: S311 - no secret


def unlike(
    model: LoadedModel, count: int, *, sampler: SamplerName | None, share: float = 1.0, seed: int = 0
) -> list[Job]:
    """A backlog as a farm sees it: 20 to 60 steps, guidance 1 to 12, four modes in turn, every sixth job traced.

    `sampler` None draws every job's sampler too. Where time is short, jobs have only a `share` of those steps. The same
    arguments make the same jobs.
    """
    draw = random.Random(seed)  # noqa: S311 - no secret
    jobs = []
    for number in range(count):
        fields: dict[str, Any] = {
            "prompt": _prompt(draw),
            "seed": number,
            "steps": round(share * draw.randint(SHORTEST, LONGEST)),
            "guidance": 1.0 if draw.random() < 0.1 else round(draw.uniform(1.5, 12.0), 2),
            "sampler": sampler or draw.choice(MIXED),
        }
        match number % 6:
            case 1:
                fields |= {"mode": "img2img", "init": Path("picture.png"), "strength": round(draw.uniform(0.4, 0.9), 2)}
            case 2:
                fields |= {"mode": "mix", "prompt": (_prompt(draw), _prompt(draw)), "mix": 0.5}
            case 4:
                fields |= {"mode": "guided", "losses": [{"name": "blue", "scale": 20.0, "every": 5}]}
            case 5:
                fields |= {"trace": "frames", "trace_every": 10}
        jobs.append(job(model, f"job {number}", fields))
    return jobs


def rows(jobs: Sequence[Job]) -> int:
    """Rows that the jobs need, without padding."""
    return sum(job.all_rows for job in jobs)


def job(model: LoadedModel, name: str, fields: dict[str, Any]) -> Job:
    """The job that the fields of a submission ask of a model, which may say its own guidance."""
    request = JobRequest.parse({"guidance": None, **fields})
    mask = _SOME_IMAGE if request.mask else None
    spec = resolve(request.specs(_SOME_IMAGE, default_model=model.name, mask=mask)[0], model, load_losses())
    picture = _picture(spec) if spec.start.image else None
    return Job(name, spec, picture, picture.convert("L") if mask and picture else None)


def _picture(spec: ResolvedSpec) -> Image.Image:
    return Image.radial_gradient("L").resize((spec.width, spec.height)).convert("RGB")


def _prompt(draw: random.Random) -> str:
    return f"{draw.choice(STYLES)} {draw.choice(SUBJECTS)}"
