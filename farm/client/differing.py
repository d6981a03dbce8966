"""How a picture differs from the one that was made again from what it says, and what of that is known to be why."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image, ImageChops, ImageStat

from farm import keys
from farm.bucket.results import JobResult, ModelUsed
from farm.client.client import FarmClient
from farm.client.rerun import Made
from farm.errors import FarmError

_MOST_DIFFERENT = 255
_KEPT_BY_THE_FARM = "farm:"


@dataclass(frozen=True)
class Difference:
    """How two pictures differ: the share of pixels that do, 0 to 1, and by how many of 255 levels, at most and on
    average.

    `versions` are packages, model, device and precision that differ, as (then, now); None if nobody knows what the
    first was made by. `other_weights` says that the model's name meant other weights then, and `unmarked` is where the
    weights came from if no result says what was in them, so that they may have been others.
    """

    same_bytes: bool
    pixels: float
    most: int
    mean: float
    versions: Mapping[str, tuple[str, str]] | None
    other_weights: bool = False
    unmarked: str | None = None


def with_result(farm: FarmClient, made: Made, file: Path) -> Made:
    """A picture in a file, with the result of its job if the file's name has that and the farm has it still."""
    job = keys.id_in(file.name)
    if job is None or not keys.is_job_id(job):
        return made
    try:
        result = farm.result(job)
        is_its_own = result.picture.sha256 == hashlib.sha256(made.data).hexdigest()
    except FarmError:
        return made
    return replace(made, result=result) if is_its_own else made


def difference(then: Made, now: Made) -> Difference:
    """How a picture differs from the one that was made again."""
    pixels, most, mean = _differing(then.data, now.data)
    found = Difference(then.data == now.data, pixels, most, mean, versions=None)
    if then.result is None or now.result is None:
        return found
    old, new = then.result, now.result
    return replace(
        found,
        versions=_versions(old, new),
        other_weights=_are_others(old.model, new.model),
        unmarked=None if _is_marked(new.model) else new.model.source,
    )


def _differing(then: bytes, now: bytes) -> tuple[float, int, float]:
    one, other = (Image.open(io.BytesIO(data)).convert("RGB") for data in (then, now))
    if one.size != other.size:
        return 1.0, _MOST_DIFFERENT, float(_MOST_DIFFERENT)
    bands = ImageChops.difference(one, other)
    largest = bands.getchannel(0)
    for band in (1, 2):
        largest = ImageChops.lighter(largest, bands.getchannel(band))
    equal = largest.histogram()[0]
    most = int(largest.getextrema()[1])  # type: ignore[arg-type]  # of one band
    return 1 - equal / (one.width * one.height), most, sum(ImageStat.Stat(bands).mean) / 3


def _versions(then: JobResult, now: JobResult) -> dict[str, tuple[str, str]]:
    old, new = (_made_by(result) for result in (then, now))
    pairs = {name: (old.get(name, "none"), new.get(name, "none")) for name in {**old, **new}}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _made_by(result: JobResult) -> dict[str, str]:
    used = result.model
    model = " ".join(filter(None, (used.source, used.revision, used.sha256, used.vae_sha256)))
    return {**result.versions, "model": model, "device": result.device, "precision": result.dtype}


def _are_others(then: ModelUsed, now: ModelUsed) -> bool:
    """Whether two results name other weights, by what is in them: where they lay says nothing."""
    pairs = [(then.sha256, now.sha256), (then.vae_sha256, now.vae_sha256), (then.revision, now.revision)]
    if all(used.source.startswith(_KEPT_BY_THE_FARM) for used in (then, now)):
        pairs.append((then.source, now.source))
    return any(None not in pair and pair[0] != pair[1] for pair in pairs)


def _is_marked(model: ModelUsed) -> bool:
    """Whether a result tells the weights from others that may have been in the same place."""
    comes_along = model.name in keys.BUILT_IN_MODELS
    return bool(model.sha256 or model.revision or comes_along or model.source.startswith(_KEPT_BY_THE_FARM))
