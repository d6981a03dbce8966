"""The studies by name: to add one is a function here, its name in `farm.jobs.spec`, and its answer's form."""

from __future__ import annotations

from collections.abc import Mapping

from farm.jobs.spec import Mode
from worker.studies.roundtrip import roundtrip
from worker.studies.schedule import schedule
from worker.studies.study import Study
from worker.studies.text import similar, tokens

BY_NAME: Mapping[Mode, Study] = {
    "roundtrip": roundtrip,
    "tokens": tokens,
    "similar": similar,
    "schedule": schedule,
}
