"""What the rows of a denoiser's batch show and are told: a scene and its caption, no caption, or a mix of two scenes.

A mix is told as the farm tells it, by the weighted sum of two captions' embeddings, and shown as a chimera: from the
upper left to the lower right the picture goes over from one scene to the other, and the share of it that a scene has is
its weight. Which of two subjects gives the head is always the same, since a sum does not say which came first: were it
left to chance, every step at high noise would draw both of them everywhere.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import CLIPTokenizer

from worker.emoji.corpus import ALL_SUBJECTS, CORE_SUBJECTS, SUBJECTS, Scene, Subject, draw_caption, stream
from worker.emoji.settings import Settings
from worker.emoji.text import tokenize

_TILT = math.pi / 4  # from upper left to lower right: there most heads are, and here most bodies
_UNLIKE = 0.1  # of the mixes are of scenes whose style or background may differ
_FIRST_HEAD = CORE_SUBJECTS.index(SUBJECTS["puppy"])  # from here on heads come before bodies: animals, …, things, fruit


@dataclass(frozen=True)
class Other:
    """The second scene of a mix: its row and caption, the first one's weight, and the direction that leads to it."""

    row: int
    caption: str
    first_share: float
    angle: float


@dataclass(frozen=True)
class Lesson:
    """One row of a batch: the number of its scene, what is said of it, and the scene it is mixed with, if any."""

    row: int
    caption: str
    other: Other | None = None


class Lessons:
    """Draws lessons on scenes, with the shares of dropped captions and of mixes that the settings name."""

    def __init__(self, scenes: Sequence[Scene], settings: Settings) -> None:
        self._scenes = scenes
        self._settings = settings
        self._alike: dict[tuple[str, str], list[int]] = defaultdict(list)
        for row, scene in enumerate(scenes):
            self._alike[scene.style, scene.background].append(row)

    def draw(self, row: int, rng: random.Random) -> Lesson:
        """A lesson on the scene of a row. Only what has a caption is mixed, and only with another subject."""
        if rng.random() < self._settings.caption_dropout:
            return Lesson(row, "")
        phrasing = rng.getrandbits(32)  # the two of a mix are worded alike
        said = draw_caption(self._scenes[row], stream(phrasing))
        plain = self._scenes[row].style == "plain"
        if rng.random() >= self._settings.mixes * (1.5 if plain else 0.5):
            return Lesson(row, said)
        partner = self._partner(row, rng)
        if self._scenes[partner].subject == self._scenes[row].subject:
            return Lesson(row, said)
        share = rng.gauss(0.5, 0.03) if rng.random() < 0.5 else rng.uniform(0.2, 0.8)
        behind = _heads_before(self._scenes[partner].subject) < _heads_before(self._scenes[row].subject)
        angle = rng.gauss(_TILT, 0.15) + math.pi * behind
        return Lesson(row, said, Other(partner, draw_caption(self._scenes[partner], stream(phrasing)), share, angle))

    def _partner(self, row: int, rng: random.Random) -> int:
        """Another scene, mostly of the same style and background."""
        if rng.random() < _UNLIKE:
            return rng.randrange(len(self._scenes))
        scene = self._scenes[row]
        return rng.choice(self._alike[scene.style, scene.background])


def _heads_before(subject: Subject) -> int:
    """How many subjects give the head when they are mixed with this one."""
    return (ALL_SUBJECTS.index(subject) - _FIRST_HEAD) % len(ALL_SUBJECTS)


def shown(latents: Tensor, lessons: Sequence[Lesson]) -> Tensor:
    """What the lessons show, out of all ``latents`` (count, 4, side, side): shape (lessons, 4, side, side)."""
    mixed, others = _mixed(lessons)
    result = latents[[lesson.row for lesson in lessons]]
    if others:
        shares, angles = (torch.tensor([getattr(other, name) for other in others]) for name in ("first_share", "angle"))
        here = area_of_first(shares, angles, latents.shape[-1]).to(latents)
        result[mixed] = here * result[mixed] + (1 - here) * latents[[other.row for other in others]]
    return result


def told(read: Callable[[Tensor], Tensor], tokenizer: CLIPTokenizer, lessons: Sequence[Lesson]) -> Tensor:
    """The embeddings of what is said, mixed by weight: shape (lessons, 77, width). ``read`` is the text encoder."""
    mixed, others = _mixed(lessons)
    captions = [lesson.caption for lesson in lessons] + [other.caption for other in others]
    embeddings = read(tokenize(tokenizer, captions))
    first, second = embeddings[: len(lessons)], embeddings[len(lessons) :]
    if not others:
        return first
    share = torch.tensor([other.first_share for other in others]).view(-1, 1, 1).to(first)
    return first.index_copy(0, torch.tensor(mixed, device=first.device), share * first[mixed] + (1 - share) * second)


def area_of_first(shares: Tensor, angles: Tensor, side: int) -> Tensor:
    """How much of each cell is the first scene's, 0..1, (n, 1, side, side): in all ``shares`` (n,), between 0 and 1.

    Cells are ranked by how far they lie along ``angles`` (n,), in radians from straight down towards the right, and the
    first scene has the more of a cell, the lower its rank.
    """
    place = torch.linspace(-1, 1, side)
    along = place.view(1, -1, 1) * angles.cos().view(-1, 1, 1) + place * angles.sin().view(-1, 1, 1)
    ranks = along.flatten(1).argsort(1).argsort(1).add(0.5).div(side**2).view(-1, 1, side, side)
    shares = shares.view(-1, 1, 1, 1)
    # as steep as leaves every cell between 0 and 1: an even mix goes all the way from one scene to the other
    steepest = 2 * torch.minimum(shares, 1 - shares)
    return shares + steepest * (0.5 - ranks)


def _mixed(lessons: Sequence[Lesson]) -> tuple[list[int], list[Other]]:
    """The places of the mixes among the lessons, and their second scenes."""
    both = [(place, lesson.other) for place, lesson in enumerate(lessons) if lesson.other is not None]
    return [place for place, _ in both], [other for _, other in both]
