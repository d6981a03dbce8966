"""The families that the farm can load: to add one is a module and an entry here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from worker.families.family import Family
from worker.families.sd import SD
from worker.families.sdxl import SDXL

FAMILIES = (SDXL, SD)
"""The one that asks for most comes first."""


def family_of(unet: Mapping[str, Any]) -> Family:
    """The family of a model, by the configuration of its UNet."""
    return next(family for family in FAMILIES if all(unet.get(key) == value for key, value in family.asks.items()))
