"""The corpus: names and captions are right, and a seed gives the same scenes, captions and pictures again."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from tests.worker.emoji.conftest import needs_font
from worker.emoji import corpus
from worker.emoji.corpus import (
    ALL_SUBJECTS,
    COLORS,
    CORE_SUBJECTS,
    STYLES,
    SUBJECTS,
    FontMissing,
    Scene,
    caption,
    draw_caption,
    draw_scene,
    render,
    stream,
    with_article,
)
from worker.emoji.recognition import border_color, margin_contrast
from worker.emoji.styles import BLOCK


def test_there_are_enough_subjects_and_the_promised_ones_are_among_the_first() -> None:
    assert len(CORE_SUBJECTS) >= 100
    assert len(ALL_SUBJECTS) >= 200
    assert len(SUBJECTS) == len(ALL_SUBJECTS)
    assert len({subject.glyph for subject in ALL_SUBJECTS}) == len(ALL_SUBJECTS)
    promised = {"otter", "puppy", "giraffe", "cat", "macaw", "top hat", "red apple", "strawberry", "owl"}
    assert promised <= {subject.name for subject in CORE_SUBJECTS}
    assert len(COLORS) == 10


@pytest.mark.parametrize(
    ("name", "phrase"),
    [
        ("otter", "an otter"),
        ("unicorn", "a unicorn"),
        ("umbrella", "an umbrella"),
        ("grapes", "grapes"),
        ("french fries", "french fries"),
        ("slice of pizza", "a slice of pizza"),
        ("hot dog", "a hot dog"),
        ("orange", "an orange"),
    ],
)
def test_articles(name: str, phrase: str) -> None:
    assert with_article(name) == phrase


@pytest.mark.parametrize(
    ("scene", "text"),
    [
        (Scene(SUBJECTS["puppy"]), "a puppy"),
        (Scene(SUBJECTS["red apple"], "blue"), "a red apple on a blue background"),
        (Scene(SUBJECTS["otter"], style="watercolor"), "a watercolor painting of an otter"),
        (Scene(SUBJECTS["owl"], style="sketch"), "a pencil sketch of an owl"),
        (Scene(SUBJECTS["strawberry"], "orange", "pixel"), "pixel art of a strawberry on an orange background"),
        (Scene(SUBJECTS["otter"], companion=SUBJECTS["top hat"]), "an otter in a top hat"),
        (Scene(SUBJECTS["cat"], companion=SUBJECTS["dog"]), "a cat and a dog"),
    ],
)
def test_captions(scene: Scene, text: str) -> None:
    assert caption(scene) == text


def test_a_caption_has_several_phrasings_and_each_names_what_is_shown() -> None:
    rng = stream(0)
    scene = Scene(SUBJECTS["otter"], "blue", "oil")
    texts = {draw_caption(scene, rng) for _ in range(200)}
    assert len(texts) > 8
    assert all("an otter" in text and "blue background" in text and "oil" in text for text in texts)


def test_a_seed_names_the_scenes_and_captions() -> None:
    def drawn(seed: int) -> list[tuple[Scene, str]]:
        rng = stream(seed)
        return [(scene, draw_caption(scene, rng)) for scene in (draw_scene(rng, pairs=0.2) for _ in range(50))]

    assert drawn(3) == drawn(3)
    assert drawn(3) != drawn(4)


def test_every_style_and_color_occurs_and_sketches_are_on_white_paper() -> None:
    rng = stream(0)
    scenes = [draw_scene(rng) for _ in range(2000)]
    assert set(Counter(scene.style for scene in scenes)) == set(STYLES)
    assert set(Counter(scene.background for scene in scenes)) == set(COLORS)
    assert {scene.background for scene in scenes if scene.style == "sketch"} == {"white"}
    assert not any(scene.companion for scene in scenes)


def test_without_the_font_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(corpus, "_FONT_PLACES", ())
    corpus._font.cache_clear()
    corpus._glyph_image.cache_clear()
    with pytest.raises(FontMissing, match="fonts-noto-color-emoji"):
        render(Scene(SUBJECTS["cat"]))


@needs_font
@pytest.mark.parametrize("style", STYLES)
def test_rendering_is_a_function_of_the_seed(style: str) -> None:
    scene = Scene(SUBJECTS["otter"], style=style)
    first, second = (np.asarray(render(scene, random.Random(7))) for _ in range(2))
    assert first.shape == (128, 128, 3)
    assert np.array_equal(first, second)
    assert not np.array_equal(first, np.asarray(render(scene, random.Random(8))))


@needs_font
def test_pixel_art_is_flat_inside_each_block() -> None:
    picture = np.asarray(render(Scene(SUBJECTS["owl"], "blue", "pixel"), random.Random(1)))
    blocks = picture.reshape(16, BLOCK, 16, BLOCK, 3)
    assert (blocks == blocks[:, :1, :, :1]).all()


@needs_font
@pytest.mark.parametrize("background", COLORS)
def test_a_watercolor_leaves_a_margin_of_paper_and_a_plain_drawing_does_not(background: str) -> None:
    painted, plain = (
        render(Scene(SUBJECTS["otter"], background, style), random.Random(5)) for style in ("watercolor", "plain")
    )
    assert border_color(painted).min() > 0.85
    assert margin_contrast(painted) > 0.05
    assert margin_contrast(plain) < 0.01


@needs_font
def test_every_subject_has_a_glyph_of_its_own() -> None:
    drawings = {np.asarray(render(Scene(subject))).tobytes() for subject in ALL_SUBJECTS}
    assert len(drawings) == len(ALL_SUBJECTS)
