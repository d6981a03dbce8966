"""The page of a round trip: the picture before and after the autoencoder, the difference, the latents, the noise."""

from __future__ import annotations

from dataclasses import dataclass

from farm.bucket.storage import Storage
from farm.client.asking import answer_of
from farm.errors import FetchRefused, ObjectDamaged, ObjectMissing, ObjectTooLarge
from farm.jobs.answers import Roundtrip
from farm.pages.gather import Reader, Seen
from farm.pages.html import rendered
from farm.pages.settings import made

_NO_ANSWER = "Its numbers are left out: {}."


@dataclass(frozen=True)
class Shown:
    """A picture of the page, a PNG, and what is written beneath it."""

    data: bytes
    title: str
    detail: str = ""


def page(storage: Storage, seen: Seen) -> str:
    """The page as HTML, with what is still to be read of the job. What cannot be shown becomes a remark of `seen`.

    Raises `StorageError` if the bucket does not answer.
    """
    result, reader = seen.result, Reader(storage, seen)
    try:
        answer: Roundtrip | None = answer_of(storage, result)
    except (FetchRefused, ObjectDamaged, ObjectMissing, ObjectTooLarge) as error:
        answer = None
        reader.leave_out(_NO_ANSWER.format(error.message))
    return rendered(
        "roundtrip",
        scripts=(),
        seen=seen,
        result=result,
        spec=result.spec,
        answer=answer,
        whole=_whole(reader, seen, answer),
        latents=_latents(reader, answer),
        noised=_noised(reader, answer),
        settings=_settings(seen, answer),
        made=[*made(result), ("worker", result.worker), ("attempt", str(result.attempt))],
        remarks=[remark.text for remark in seen.remarks if remark.is_fault],
    )


def _whole(reader: Reader, seen: Seen, answer: Roundtrip | None) -> list[Shown]:
    size = answer.pixels if answer else None
    original = _shown(reader, "original.png", size, "As it was encoded")
    told = _decibels(answer.psnr) if answer else ""
    decoded = [Shown(seen.picture, "Encoded and decoded", told)] if seen.picture else []
    difference = _shown(
        reader,
        "difference.png",
        size,
        "The difference",
        f"|a − b|, amplified {answer.amplified:g} times" if answer else "",
    )
    return [*original, *decoded, *difference]


def _latents(reader: Reader, answer: Roundtrip | None) -> list[Shown]:
    if answer is None:
        return []
    _, height, width = answer.latents
    return [
        one
        for number, channel in enumerate(answer.channels)
        for one in _shown(
            reader,
            f"latents/{number}.png",
            (width, height),
            f"Channel {number + 1}",
            f"black is {channel.low:.3g}, white {channel.high:.3g}; mean {channel.mean:.3g} ± {channel.deviation:.3g}",
        )
    ]


def _noised(reader: Reader, answer: Roundtrip | None) -> list[Shown]:
    return [
        one
        for noised in (answer.noised if answer else ())
        for one in _shown(
            reader,
            f"noised/{noised.step:04d}.png",
            answer.pixels if answer else None,
            f"Step {noised.step}",
            f"{noised.alpha:.3g}·latents + {noised.sigma:.3g}·noise; {_decibels(noised.psnr)}",
        )
    ]


def _shown(reader: Reader, name: str, size: tuple[int, int] | None, title: str, detail: str = "") -> list[Shown]:
    data = reader.kept(reader.picture(name, "picture", kind="PNG", size=size))
    return [] if data is None else [Shown(data, title, detail)]


def _settings(seen: Seen, answer: Roundtrip | None) -> list[tuple[str, str]]:
    """What was asked, and what came of it."""
    spec = seen.result.spec
    rows = [("model", spec.model), ("encoded", "as its mean" if spec.start.encode == "mean" else "as a sample")]
    rows += [("seed", str(spec.seed))]
    if spec.noise_steps:
        rows += [("sampler", spec.sampler), ("steps", str(spec.steps))]
    if answer is None:
        return rows
    before, after = answer.numbers
    width, height = answer.pixels
    channels, rows_of_it, columns = answer.latents
    return [
        *rows,
        ("picture", f"{width}×{height} pixels, {before:,} numbers"),
        ("latents", f"{channels} channels of {columns}×{rows_of_it}, {after:,} numbers: {answer.ratio:g} times fewer"),
        ("result", _decibels(answer.psnr)),
    ]


def _decibels(psnr: float | None) -> str:
    return "no pixel differs" if psnr is None else f"PSNR {psnr:.2f} dB"
