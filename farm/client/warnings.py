"""What people should know of a submission that is made all the same: cropped pictures, words that look like tags, jobs
that nobody can render."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from farm.client.waits import held_up
from farm.jobs import tags
from farm.jobs.faults import quoted
from farm.jobs.request import JobRequest
from farm.jobs.spec import JobSpec
from farm.jobs.status import WorkerInfo
from farm.ledger.records import NewJob
from farm.pictures.images import InitImage


def of_pictures(images: Iterable[InitImage]) -> Iterator[str]:
    """What init pictures lost on the way in."""
    return (warning for image in images for warning in image.warnings)


def of_prompts(requests: Iterable[JobRequest]) -> Iterator[str]:
    """What in prompts is read as words, and looks as if it should name a LoRA."""
    return iter(dict.fromkeys(line for request in requests if request.reading != "plain" for line in _of_tags(request)))


def _of_tags(request: JobRequest) -> Iterator[str]:
    for text in (*request.prompts, *(term.prompt for term in request.mix_with)):
        for said, meant in tags.nearly(text):
            yield f"{quoted(said)} is read as words, for a LoRA is named so: {meant}"
    for said in (*tags.named_in(request.negative), *(said for said, _ in tags.nearly(request.negative))):
        yield f"{quoted(said)} in the negative prompt is read as words, for LoRAs are named in the prompt"


def of_workers(
    jobs: Sequence[NewJob], workers: Sequence[WorkerInfo], kept: Callable[[], Collection[str]]
) -> tuple[str, ...]:
    """Models whose jobs no live worker takes, of which the farm may have `kept` some, and jobs that every one of them
    would refuse."""
    waiting = held_up({job.spec.model for job in jobs}, workers, kept).values()
    return (*waiting, *sorted(set(filter(None, (_beyond(job.spec, workers) for job in jobs)))))


def _beyond(spec: JobSpec, workers: Sequence[WorkerInfo]) -> str | None:
    """What to say of a job that every live worker with its model would refuse; None if one would take it."""
    able = [worker for worker in workers if spec.model in worker.models]
    if not any(worker.limits.side or worker.limits.steps for worker in able):
        return None
    excesses = [(worker.id, excess) for worker in able if (excess := worker.limits.excess(spec))]
    if len(excesses) < len(able):
        return None
    name, (asked, most, option) = excesses[0]
    rest = len(able) - 1
    others = ("", ", and the other refuses it")[rest] if rest < 2 else f", and {rest} others refuse it"
    return f"a job that asks for {asked} will fail: {name} does at most {most} ({option}){others}"
