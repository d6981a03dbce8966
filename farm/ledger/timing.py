"""How long a farm waits for what: leases, the search for what was lost, and patience with servers that are away.

All of it is one value, whose numbers belong together: what is renewed, watched or announced has to come round well
before it lapses. The defaults are what a farm runs with, and what its documentation names. Tests alone shorten them,
for a whole farm, by `FARM_TIMING`: a JSON object of these fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from farm.errors import InvalidInput

VARIABLE = "FARM_TIMING"

Period = Annotated[float, Field(ge=0.05, le=86_400)]
Age = Annotated[float, Field(ge=0, le=86_400)]
"""Of something that is looked for once it is so old; 0 finds it at once."""


class Timing(BaseModel):
    """Seconds, each of them. What is not a field follows from one."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    lease: Period = 15.0
    """A claim that is not renewed for so long has lapsed."""
    progress: Period = 0.5
    """How often steps are reported, and how soon a worker hears of cancellations at the latest."""
    announcement: Period = 5.0
    """How often a worker says that it lives."""
    reaping: Period = 2.0
    """How often a reaper looks for lapsed leases and lost messages."""
    unclaimed: Age = 5.0
    """A queued job of an empty queue whose message is older than this has no message any more."""
    search: Age = 30.0
    """How often the messages of a queue that is not empty are looked through for jobs that have none."""
    forgotten: Age = 600.0
    """In a queue too long for that, a queued job whose message is older than this gets another, which does no harm."""
    unpromoted: Age = 10.0
    """A done job whose own result is missing for so long has lost the worker that was to write it."""
    again: Period = 1.0
    """How soon a server that did not answer is asked again."""
    patience: Age = 600.0
    """A job that had to wait for a server for so long goes back to the queue: another worker may reach it."""
    disk: Age = 10.0
    """For so long a worker whose disk could not hold a job takes no others, unless there is room before."""
    models: Period = 10.0
    """How often a worker looks which models the farm keeps."""
    stall: Period | None = None
    """An engine without progress for so long hangs. None: chosen by the device."""

    @property
    def renewal(self) -> float:
        """How often leases are renewed: two renewals may fail before one lapses."""
        return self.lease / 3

    @property
    def window(self) -> float:
        """Within this time of Redis answering again, every healthy worker has renewed its leases."""
        return self.lease / 2

    @property
    def announced(self) -> float:
        """For so long a worker is taken to live that has said so."""
        return 3 * self.announcement

    @property
    def reaper_lock(self) -> float:
        """A reaper that does not come by for so long leaves the work to another."""
        return 3 * self.reaping

    @property
    def first_pause(self) -> float:
        """How soon a job asks again for what it needs. Each pause is twice as long as the one before it."""
        return self.again / 2

    @property
    def longest_pause(self) -> float:
        """Pauses grow no longer than this."""
        return 10 * self.again

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        if self.progress > self.renewal:
            raise ValueError("leases would lapse between two reports: 'progress' is more than a third of 'lease'")
        if self.reaping > self.lease / 5:  # after two thirds of a window without a reaper nothing is reaped
            raise ValueError("nothing would ever be reaped: 'reaping' is more than a fifth of 'lease'")
        return self

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Timing:
        """The defaults, changed as `FARM_TIMING` says. Raises `InvalidInput` for what makes no sense."""
        text = environment.get(VARIABLE)
        if not text:
            return TIMING
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            told = error.errors()[0]
            where = ".".join(map(str, told["loc"]))
            raise InvalidInput(
                f"{where}: {told['msg']}" if where else told["msg"], field=VARIABLE, hint="unset it: it is for tests"
            ) from error


TIMING = Timing()
"""What a farm runs with."""
