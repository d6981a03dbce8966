"""What the index keeps of a finished job: enough to find its picture, and to list it without asking anybody."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Self

from pydantic import BaseModel, ConfigDict

from farm import keys
from farm.bucket.results import IMAGE, JobResult, ResultObject

NUMBERS = "trace.jsonl"


class Entry(BaseModel):
    """A finished job with a picture: what was asked for, and the keys of what it left. Times are UTC.

    `width`, `height` and `guidance` are None where an early worker did not say what the model's own were.
    """

    model_config = ConfigDict(frozen=True)

    job: str
    finished: datetime
    mode: str
    prompts: tuple[str, ...]
    negative: str
    model: str
    sampler: str
    schedule: str
    steps: int
    seed: int
    guidance: float | None
    width: int | None
    height: int | None
    losses: tuple[str, ...]
    loras: tuple[str, ...]
    labels: dict[str, str]
    traced: bool
    """Whether it kept a trace of its steps."""
    picture: ResultObject
    result: str
    """The key of its `result.json`."""

    @property
    def batch(self) -> str:
        return keys.batch_of(self.job)

    @classmethod
    def of(cls, result: JobResult, *, key: str, labels: dict[str, str]) -> Self | None:
        """The entry of the job whose result lies under `key`; None for a study that made no picture."""
        spec, picture = result.spec, result.objects.get(IMAGE)
        if picture is None:
            return None
        width, height = spec.picture_size or (None, None)
        return cls(
            job=result.job,
            finished=_in_utc(result.finished),
            mode=spec.mode,
            prompts=tuple(prompt.text for prompt in spec.conditioning.prompts),
            negative=spec.conditioning.negative,
            model=spec.model,
            sampler=spec.sampler,
            schedule=spec.schedule,
            steps=spec.steps,
            seed=spec.seed,
            guidance=spec.guidance.scale,
            width=width,
            height=height,
            losses=tuple(loss.name for loss in spec.guidance.losses),
            loras=tuple(lora.name for lora in spec.loras),
            labels=labels,
            traced=NUMBERS in result.objects,
            picture=picture,
            result=key,
        )


def _in_utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
