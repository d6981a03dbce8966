"""Lessons: a chimera's parts have the shares of its weights, and a mix is told as the farm tells it."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
import torch
from torch import Tensor

from farm.jobs.spec import WeightedPrompt
from worker.diffusion.prompts import PromptEncoder
from worker.diffusion.text import TextEncoder
from worker.emoji.corpus import STYLES, SUBJECTS, Scene, stream
from worker.emoji.dataset import scenes
from worker.emoji.lessons import Lesson, Lessons, Other, area_of_first, shown, told
from worker.emoji.settings import micro, on_cpu
from worker.emoji.text import new_text_encoder, new_tokenizer

SIDE = 16
SETTINGS = dataclasses.replace(on_cpu(), renders=2000, mixes=0.5)


def lessons_drawn(count: int) -> list[Lesson]:
    rng = stream(2)
    lessons = Lessons(scenes(SETTINGS), SETTINGS)
    return [lessons.draw(rng.randrange(SETTINGS.renders), rng) for _ in range(count)]


@pytest.mark.parametrize("share", [0.2, 0.35, 0.5, 0.8])
@pytest.mark.parametrize("angle", [0.0, 0.7, 2.0, -1.5])
def test_the_area_of_the_first_scene_is_its_share(share: float, angle: float) -> None:
    area = area_of_first(torch.tensor([share]), torch.tensor([angle]), SIDE)
    assert area.shape == (1, 1, SIDE, SIDE)
    assert area.mean().item() == pytest.approx(share, abs=0.005)
    assert area.max() <= 1
    assert area.min() >= 0
    assert area.max() - area.min() > 0.2


def test_an_angle_says_where_the_first_scene_is() -> None:
    above, left = area_of_first(torch.tensor([0.5, 0.5]), torch.tensor([0.0, torch.pi / 2]), SIDE)
    assert above[0, :4].min() > 0.6
    assert above[0, -4:].max() < 0.4
    assert left[0, :, :4].min() > 0.6
    assert left[0, :, -4:].max() < 0.4


def test_a_mix_is_shown_as_a_chimera_and_the_rest_as_it_is() -> None:
    latents = torch.stack([torch.full((4, SIDE, SIDE), float(number)) for number in range(3)])
    pictures = shown(latents, [Lesson(2, "c"), Lesson(0, "a", Other(1, "b", 0.3, 0.7))])
    assert torch.equal(pictures[0], latents[2])
    assert pictures[1].mean().item() == pytest.approx(0.7, abs=0.005)
    assert torch.equal(latents[0], torch.zeros(4, SIDE, SIDE))


def test_a_mix_is_told_as_the_farm_tells_it() -> None:
    settings = micro()
    tokenizer = new_tokenizer(settings)
    encoder = new_text_encoder(settings, tokenizer).eval()

    def read(tokens: Tensor) -> Tensor:
        read: Tensor = encoder(tokens).last_hidden_state
        return read

    with torch.no_grad():
        plain, mixed = told(read, tokenizer, [Lesson(0, "a banana"), Lesson(0, "a banana", Other(1, "a cat", 0.3, 0))])
    theirs = PromptEncoder([TextEncoder(tokenizer, encoder)])
    [alone] = theirs.encode("a banana").embedding
    parts = (WeightedPrompt(text="a banana", weight=0.3), WeightedPrompt(text="a cat", weight=0.7))
    [both] = theirs.mix(parts).embedding
    assert torch.allclose(plain, alone, atol=1e-5)
    assert torch.allclose(mixed, both, atol=1e-5)


def test_lessons_keep_to_their_shares() -> None:
    drawn = lessons_drawn(3000)
    assert sum(lesson.caption == "" for lesson in drawn) / len(drawn) == pytest.approx(0.1, abs=0.03)
    assert sum(lesson.other is not None for lesson in drawn) / len(drawn) == pytest.approx(0.49, abs=0.05)
    assert all(lesson.caption for lesson in drawn if lesson.other)


def test_what_is_mixed_is_mostly_alike_but_for_the_subject() -> None:
    known = scenes(SETTINGS)
    mixes = [(known[lesson.row], known[lesson.other.row]) for lesson in lessons_drawn(2000) if lesson.other]
    assert all(one.subject != other.subject for one, other in mixes)
    alike = Counter((one.style, one.background) == (other.style, other.background) for one, other in mixes)
    assert alike[True] > 0.8 * len(mixes)
    assert alike[False]


def test_the_captions_of_a_mix_are_worded_alike() -> None:
    settings = dataclasses.replace(SETTINGS, caption_dropout=0.0, mixes=1.0)
    lessons = Lessons([Scene(SUBJECTS["cat"], "blue"), Scene(SUBJECTS["dog"], "blue")], settings)
    rng = stream(4)
    mixes = [lesson for lesson in (lessons.draw(0, rng) for _ in range(40)) if lesson.other]
    assert mixes
    assert all(lesson.caption.replace("cat", "dog") == lesson.other.caption for lesson in mixes if lesson.other)
    assert all(0 < lesson.other.first_share < 1 for lesson in mixes if lesson.other)


def test_the_head_is_of_the_same_subject_whichever_comes_first() -> None:
    settings = dataclasses.replace(SETTINGS, caption_dropout=0.0, mixes=1.0)
    lessons = Lessons([Scene(SUBJECTS["owl"]), Scene(SUBJECTS["pineapple"])], settings)
    latents = torch.stack([torch.ones(4, SIDE, SIDE), torch.zeros(4, SIDE, SIDE)])
    rng = stream(6)
    mixes = [lesson for lesson in (lessons.draw(row, rng) for row in [0, 1] * 30) if lesson.other]
    assert {lesson.row for lesson in mixes} == {0, 1}
    for picture in shown(latents, mixes):
        assert picture[0, 0, 0] > picture[0, -1, -1] + 0.2


def test_every_style_is_mixed() -> None:
    known = scenes(SETTINGS)
    assert {known[lesson.row].style for lesson in lessons_drawn(1500) if lesson.other} == set(STYLES)
