"""Many jobs in a few words: how many are in which state, what they were warned of, what to type for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from farm.cli.view.output import note, plural
from farm.jobs.status import STATES, JobStatus


def tally(statuses: Iterable[JobStatus]) -> str:
    """`3 done · 1 failed`, in the order of the states."""
    counts = Counter(status.state for status in statuses)
    return " · ".join(f"{counts[state]:,} {state}" for state in STATES if counts[state])


def tell_warnings(statuses: Iterable[JobStatus]) -> None:
    """Say what the jobs were warned of, such as words cut off a prompt; each warning once."""
    warnings = Counter(warning for status in statuses for warning in status.warnings)
    for warning, number in warnings.items():
        note(f"  warning: {warning}" + (f" ({plural(number, 'job')})" if number > 1 else ""))


def values_of(losses: Mapping[str, float]) -> list[str]:
    """The latest values of losses, each as `blue 0.0824`."""
    return [f"{name} {value:.3g}" for name, value in losses.items()]


def short_names(jobs: Sequence[str]) -> str:
    """What to type for these jobs: a lone job's own id, else their batches'."""
    return " ".join(jobs if len(jobs) == 1 else dict.fromkeys(job.partition("-")[0] for job in jobs))
