"""Why queued jobs wait for longer than their turn: nobody serves their model, or whoever does takes no jobs now."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from farm import keys
from farm.alike import did_you_mean
from farm.jobs.status import JobStatus, WorkerInfo

LOOK_SECONDS = 5.0
"""Workers are found by a look at every key of Redis, and say how they are about as often."""
_MOST_TOLD = 3


def held_up(
    models: Iterable[str], workers: Sequence[WorkerInfo], kept: Callable[[], Collection[str]]
) -> dict[str, str]:
    """Why jobs of the models wait, by model, in a sentence; those that a worker takes are left out.

    `kept` gives the names of the models that the farm keeps. It is asked only where a model is not served.
    """
    found = {model: _why(model, workers, kept) for model in sorted(set(models))}
    return {model: why for model, why in found.items() if why is not None}


def refusal(model: str, workers: Iterable[WorkerInfo]) -> str | None:
    """Why a worker that was to serve a model does not, after its id."""
    return next((f"{worker.id}: {worker.refused[model]}" for worker in workers if model in worker.refused), None)


def what_to_do(model: str, workers: Iterable[WorkerInfo], kept: Callable[[], Collection[str]]) -> str:
    """How a model comes to be served that is not, or else which may have been meant; `kept` as in `held_up`."""
    stored = () if model in keys.BUILT_IN_MODELS else kept()
    if model in keys.BUILT_IN_MODELS:
        return f"'farm worker --model {model}' serves it"
    if model in stored:
        return f"workers without --model take it up within seconds, and 'farm worker --model {model}' serves it"
    known = {*stored, *keys.BUILT_IN_MODELS, *(name for worker in workers for name in worker.models)}
    return did_you_mean([model], sorted(known), f"'farm worker --model {model}=SOURCE' serves it")


class TellsOnce:
    """Tells each reason once why jobs that are followed wait, but for those in `said`. `why` gives it for models."""

    def __init__(
        self,
        why: Callable[[Iterable[str]], Mapping[str, str]],
        tell: Callable[[str], object],
        said: Iterable[str] = (),
    ) -> None:
        self._why, self._tell = why, tell
        self._looked = float("-inf")
        self._told = set(said)

    def look(self, statuses: Iterable[JobStatus]) -> None:
        """Look whether any of the jobs are held up, unless that was done a moment ago."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        models = {status.model for status in statuses if status.state == "queued"}
        if not models:
            return
        self._looked = time.monotonic()
        for why in self._why(models).values():
            if why not in self._told:
                self._told.add(why)
                self._tell(why)


def _why(model: str, workers: Sequence[WorkerInfo], kept: Callable[[], Collection[str]]) -> str | None:
    serving = [worker for worker in workers if model in worker.models]
    if not serving:
        reason = refusal(model, workers) or what_to_do(model, workers, kept)
        return f"no live worker serves the model '{model}'; its jobs wait until one does ({reason})"
    if any(worker.idle_because is None for worker in serving):
        return None
    if all(worker.drained for worker in serving):
        return (
            f"every worker that serves the model '{model}' is drained by an operator; its jobs wait until one is "
            "resumed ('farm workers resume NAME')"
        )
    reasons = "; ".join(f"{worker.id}: {worker.idle_because}" for worker in serving[:_MOST_TOLD])
    return f"no worker takes jobs of the model '{model}' now; they wait until one does ({reasons})"
