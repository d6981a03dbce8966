"""Measure the bundled model: ``python -m worker.emoji.evaluate [MODEL]``.

Every measure looks at pictures that the model drew, and judges them by the corpus: subjects by distance to the corpus'
own renders, backgrounds by the border's colour, styles by their statistics. Prints a table; ``--json`` and ``--sheets``
keep the numbers and the pictures. The font is needed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from worker.emoji.autoencoder import reconstruct
from worker.emoji.corpus import (
    COLORS,
    CORE_SUBJECTS,
    SIZE,
    STYLES,
    SUBJECTS,
    Scene,
    Subject,
    caption,
    draw_scene,
    render,
    stream,
    with_article,
)
from worker.emoji.dataset import Pictures
from worker.emoji.drawing import Prompt, Pull, Start, draw, load, sheet
from worker.emoji.effort import QUICK, Effort
from worker.emoji.measures import Measure, table, write_measures
from worker.emoji.recognition import StyleJudge, SubjectJudge, background_of, pixels

WEIGHTS = Path(__file__).parent / "weights"
"""The weights that ship with the farm."""

_PATCH = (24, 40, 72, 88)
_PATCH_COLOR = (220, 50, 47)
_STARTS, _STEPS = (6, 10, 14), 20
_NOT_BLUE = ("red", "black", "orange", "green")
_PULL = 25.0  # the scale that the README advises
_STRANGE = 2.1  # hardly any render of the corpus is stranger


class Evaluation:
    """The measures of one model; each also leaves its pictures in ``sheets`` by name."""

    def __init__(self, model: Path, effort: Effort) -> None:
        self.effort = effort
        self.model = load(model)
        self.subjects = known_subjects(model)
        self.judge = SubjectJudge.of(self.subjects)
        self.styles = StyleJudge.through(self._reconstruct, effort.renders)
        self.sheets: dict[str, Image.Image] = {}

    def run(self) -> list[Measure]:
        """Every measure, in the order of the table."""
        groups: Sequence[Callable[[], list[Measure]]] = (
            self.subjects_drawn,
            self.backgrounds_drawn,
            self.styles_drawn,
            self.unprompted,
            self.reconstruction,
            self.mixes,
            self.starts_from_images,
            self.pulled_towards_blue,
            self.seeds_differ,
            self.speed,
        )
        return [measure for group in groups for measure in group()]

    def subjects_drawn(self) -> list[Measure]:
        """How often the subject is the nearest one, under three guidances."""
        few = self._some(self.subjects, self.effort.subjects)
        usual = [self._hits(few, guidance=4, steps=20, seed=seed) for seed in range(self.effort.seeds)]
        unguided = self._hits(few, guidance=1, steps=20, seed=0)
        return [
            Measure("subject nearest, guidance 4, 20 steps", float(np.mean(usual)), 0.95),
            Measure("gain from guidance 1 to 4", usual[0] - unguided, 0.01),
            Measure("subject nearest, guidance 7.5, 30 steps", self._hits(few, guidance=7.5, steps=30, seed=0), 0.80),
        ]

    def _hits(self, subjects: Sequence[Subject], guidance: float, steps: int, seed: int) -> float:
        seeds = [1000 * seed + index for index in range(len(subjects))]
        images = self._draw(
            f"subjects-g{guidance:g}-s{steps}-{seed}",
            [subject.phrase for subject in subjects],
            columns=14,
            guidance=guidance,
            steps=steps,
            seeds=seeds,
        )
        return _share(self.judge.nearest(image) == subject for image, subject in zip(images, subjects, strict=True))

    def backgrounds_drawn(self) -> list[Measure]:
        """How often the named background is the border's colour, and the subject still right."""
        colors = list(COLORS)
        scenes = [
            Scene(subject, colors[index % len(colors)])
            for index, subject in enumerate(self._some(self.subjects, self.effort.scenes, seed="backgrounds"))
        ]
        prompts = [on_color(scene.subject, scene.background) for scene in scenes]
        images = self._draw("backgrounds", prompts, columns=10)
        pairs = list(zip(images, scenes, strict=True))
        return [
            Measure(
                "background named", _share(background_of(image) == scene.background for image, scene in pairs), 0.95
            ),
            Measure(
                "subject on it", _share(self.judge.nearest(image) == scene.subject for image, scene in pairs), 0.90
            ),
        ]

    def styles_drawn(self) -> list[Measure]:
        """How often each style has its own statistics."""
        measures = []
        for style in STYLES[1:]:
            subjects = self._some(self.subjects, max(self.effort.few, self.effort.scenes // 2), seed=style)
            images = self._draw(style, [caption(Scene(subject, style=style)) for subject in subjects], columns=10)
            measures.append(
                Measure(f"style {style}", _share(self.styles.style_of(image) == style for image in images), 0.80)
            )
        return measures

    def unprompted(self) -> list[Measure]:
        """How often the empty prompt gives a picture whose statistics are those of one of the styles."""
        count = 2 * self.effort.few
        images = self._draw("empty-prompt", [""] * count, columns=8, seeds=range(count))
        return [
            Measure(
                "empty prompt plausible", _share(self.styles.strangeness(image) < _STRANGE for image in images), 0.75
            )
        ]

    def reconstruction(self) -> list[Measure]:
        """The autoencoder's peak signal-to-noise ratio in decibels, averaged over renders that no training has seen.

        They are drawn as the training's are: jittered, on any background, in any style.
        """
        rng = stream("held out")
        scenes = [draw_scene(rng, self.subjects) for _ in range(self.effort.reconstructions)]
        originals: Pictures = np.stack([np.asarray(render(scene, rng)) for scene in scenes])
        again = self._reconstruct(originals)
        errors = np.square((originals.astype(np.float64) - again) / 255).mean((1, 2, 3))
        both = np.concatenate([originals[:12], again[:12]])
        self.sheets["autoencoder"] = sheet([Image.fromarray(picture) for picture in both], columns=12)
        return [Measure("autoencoder PSNR, dB", float(-10 * np.log10(errors).mean()), 27.0)]

    def mixes(self) -> list[Measure]:
        """How often both parents of an even mix are among the ten nearest subjects."""
        parents = [self._some(self.subjects, 2, seed=f"pair {index}") for index in range(self.effort.mixes)]
        prompts: list[Prompt] = [[(one.phrase, 0.5), (other.phrase, 0.5)] for one, other in parents]
        measures = []
        for guidance in self.effort.guidances_of_mixes:
            images = self._draw(f"mixes-g{guidance:g}", prompts, columns=10, guidance=guidance)
            nearest = [set(self.judge.ranking(image)[:10]) for image in images]
            both = (set(pair) <= ten for pair, ten in zip(parents, nearest, strict=True))
            measures.append(Measure(f"both parents of a mix among ten, guidance {guidance:g}", _share(both), 0.5))
        return measures

    def starts_from_images(self) -> list[Measure]:
        """Whether a drawn patch keeps its place and colour the more, the later the schedule is entered."""
        patch = Image.new("RGB", (SIZE, SIZE), "white")
        ImageDraw.Draw(patch).ellipse(_PATCH, fill=_PATCH_COLOR)
        prompts = [subject.phrase for subject in self._some(self.subjects, self.effort.few, seed="image to image")]
        changes = [
            _patch_error(
                self._draw(f"from-image-{step}", prompts, columns=8, steps=_STEPS, start=Start(patch, step)), patch
            )
            for step in _STARTS
        ]
        return [
            Measure(f"patch kept better from step {later} than {earlier}", before - after, 0.0)
            for earlier, later, before, after in zip(_STARTS, _STARTS[1:], changes, changes[1:], strict=False)
        ]

    def pulled_towards_blue(self) -> list[Measure]:
        """How much the blue loss raises mean blue, and how often the subject survives it."""
        subjects = self._some(self.subjects, self.effort.pairs, seed="blue")
        prompts = [on_color(subject, color) for subject, color in zip(subjects, cycle(_NOT_BLUE), strict=False)]
        without = self._draw("blue-without", prompts, columns=10, steps=_STEPS)
        pulled = self._draw("blue-pulled", prompts, columns=10, steps=_STEPS, pull=Pull(_PULL))
        raised = np.mean([pixels(image)[..., 2] for image in pulled]) - np.mean([pixels(i)[..., 2] for i in without])
        kept = _share(self.judge.nearest(image) == subject for image, subject in zip(pulled, subjects, strict=True))
        return [Measure("blue loss raises mean blue", float(raised), 0.1), Measure("subject survives it", kept, 0.5)]

    def seeds_differ(self) -> list[Measure]:
        """The mean difference between two seeds' pictures of one caption, 0..1, at its smallest."""
        prompts = [subject.phrase for subject in self._some(self.subjects, self.effort.few, seed="seeds")]
        one, other = (self._draw(f"seed-{seed}", prompts, columns=8, seeds=seed) for seed in (1, 2))
        return [Measure("seeds differ", min(_difference(a, b) for a, b in zip(one, other, strict=True)), 0.003)]

    def speed(self) -> list[Measure]:
        """The seconds of one core that a picture of 20 steps with guidance takes."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        started = time.process_time()
        draw(self.model, ["a cat"], steps=20)
        seconds = time.process_time() - started
        torch.set_num_threads(threads)
        return [Measure("seconds of one core a picture", seconds, 2.0, at_most=True)]

    def _draw(self, name: str, prompts: Sequence[Prompt], columns: int, **options: Any) -> list[Image.Image]:
        options = {"seeds": list(range(len(prompts))), "steps": self.effort.steps, **options}
        images = draw(self.model, prompts, **options)
        self.sheets[name] = sheet(images, columns)
        return images

    def _reconstruct(self, pictures: Pictures) -> Pictures:
        return reconstruct(self.model.vae, pictures, torch.device("cpu"))

    def _some(self, subjects: Sequence[Subject], most: int | None, seed: str = "") -> list[Subject]:
        """At most ``most`` of the subjects, drawn by a seed; without a limit all, in order."""
        if most is None or most >= len(subjects):
            return list(subjects)
        return stream(seed).sample(list(subjects), most)


def known_subjects(model: Path) -> list[Subject]:
    """The subjects that a model was trained on, by its training record; the core ones if it has none."""
    path = model / "training.json"
    if not path.is_file():
        return list(CORE_SUBJECTS)
    return [SUBJECTS[name] for name in json.loads(path.read_text(encoding="utf-8"))["subjects"]]


def on_color(subject: Subject, color: str) -> str:
    """The caption of a subject on a background that is always named, white too."""
    return f"{subject.phrase} on {with_article(color)} background"


def _share(flags: Iterable[bool]) -> float:
    return float(np.mean(list(flags)))


def _difference(one: Image.Image, other: Image.Image) -> float:
    return float(np.abs(pixels(one) - pixels(other)).mean())


def _patch_error(images: Sequence[Image.Image], patch: Image.Image) -> float:
    """The mean absolute difference of the images from the patch, where the patch is."""
    return float(np.mean([_difference(image.crop(_PATCH), patch.crop(_PATCH)) for image in images]))


def main() -> None:
    """Parse the command line, measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m worker.emoji.evaluate", description="Measure the bundled model.")
    parser.add_argument(
        "model", type=Path, nargs="?", default=WEIGHTS, help="model directory (default: the shipped one)"
    )
    parser.add_argument("--quick", action="store_true", help="fewer pictures: about a minute")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    parser.add_argument("--sheets", type=Path, help="directory for the pictures")
    options = parser.parse_args()
    evaluation = Evaluation(options.model, QUICK if options.quick else Effort())
    measures = evaluation.run()
    print(table(measures))
    if options.json:
        write_measures(measures, options.json)
    if options.sheets:
        options.sheets.mkdir(parents=True, exist_ok=True)
        for name, picture in evaluation.sheets.items():
            picture.save(options.sheets / f"{name}.png")


if __name__ == "__main__":
    main()
