"""The page of several jobs side by side: in what they differ, their pictures, and the ways there at like noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from farm.pages.alignment import nearest, placed, stations
from farm.pages.curves import undrawn
from farm.pages.gather import Frame, Seen
from farm.pages.html import by_part, rendered, spread
from farm.pages.overlays import overlays
from farm.pages.record import Remark
from farm.pages.settings import NONE, Differing, compared

FEWEST_JOBS, MOST_JOBS = 2, 8
"""No more can be told apart in one plot."""
_LETTERS = "ABCDEFGH"
_MOST_PRINTED = 4
_MOST_SIGNS, _MOST_WORDS = 40, 24
"""How long a job's name and a setting in it may be."""


@dataclass(frozen=True)
class Way:
    """A job of the page under its letter, and its frames with their noise levels.

    `at` has the frame for each place of the scrubber, by its index; those of the `printed` indices are on paper.
    """

    letter: str
    name: str
    seen: Seen
    frames: Sequence[tuple[Frame, float]]
    at: Sequence[int]
    printed: frozenset[int]


def page(jobs: Sequence[Seen]) -> str:
    """The page of two to eight jobs as HTML. The same records make the same page."""
    differing, shared = compared([seen.result for seen in jobs])
    names = named(differing, len(jobs))
    levels, ways = _aligned(jobs, names)
    plots = overlays(jobs, names)
    remarks = [*_remarks(ways), *undrawn("numbers", plots)]
    if not plots:
        remarks.append(Remark("numbers", "None of these jobs kept numbers: 'farm submit … --trace numbers' does."))
    return rendered(
        "compare",
        ways=ways,
        levels=levels,
        differing=differing,
        shared=shared,
        plots=plots,
        remarks=by_part(remarks),
    )


def letters(number: int) -> Sequence[str]:
    """What so many jobs are called on the page."""
    return _LETTERS[:number]


def named(differing: Sequence[Differing], number: int) -> list[str]:
    """The jobs' names: letters, with the values of what they differ in, as far as there is room: `A: guidance 3`."""
    names = []
    for index, letter in enumerate(letters(number)):
        told = ""
        for setting in differing:
            value = setting.values[index]
            more = f"{', ' if told else ''}{'no ' if value == NONE else ''}{setting.name}"
            more += "" if value == NONE else f" {_short(value)}"
            if len(told) + len(more) > _MOST_SIGNS:
                break
            told += more
        names.append(f"{letter}: {told}" if told else letter)
    return names


def _short(text: str) -> str:
    return text if len(text) <= _MOST_WORDS else f"{text[: _MOST_WORDS - 1].rstrip()}…"


def _aligned(jobs: Sequence[Seen], names: Sequence[str]) -> tuple[list[float], list[Way]]:
    """The places of the scrubber, and the jobs with their frames for each of them."""
    frames = [placed(seen.frames, seen.sigmas) for seen in jobs]
    levels = stations([level for _, level in of_job] for of_job in frames)
    on_paper = sorted(spread(len(levels), _MOST_PRINTED))
    ways = []
    for letter, name, seen, of_job in zip(letters(len(jobs)), names, jobs, frames, strict=True):
        at = nearest([level for _, level in of_job], levels) if of_job else []
        ways.append(Way(letter, name, seen, of_job, at, frozenset(at[index] for index in on_paper if at)))
    return levels, ways


def _remarks(ways: Sequence[Way]) -> Iterator[Remark]:
    """What there is to say of each job, under its letter."""
    for way in ways:
        for remark in way.seen.remarks:
            yield Remark(remark.part, f"{way.letter}: {remark.text}", remark.is_fault)
        if lost := len(way.seen.frames) - len(way.frames):
            told = f"{way.letter}: {lost:,} of its frames are not here, for their noise level is not known."
            yield Remark("frames", told)
