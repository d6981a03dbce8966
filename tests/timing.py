"""Short times for farms under test: what takes a lease or a reaper's round is over in a few seconds.

A lease still lasts for several stalls of a busy machine of two cores, so that no healthy worker loses a job.
"""

from __future__ import annotations

from farm.ledger.timing import VARIABLE, Timing

SHORT = Timing(
    lease=4.0,
    progress=0.2,
    announcement=1.5,
    reaping=0.4,
    unclaimed=1.0,
    search=2.0,
    unpromoted=2.0,
    again=0.3,
    disk=2.0,
    models=0.5,
)


def of_a_farm(timing: Timing) -> dict[str, str]:
    """The variables of an environment in which every worker goes by `timing`."""
    return {VARIABLE: timing.model_dump_json()}
