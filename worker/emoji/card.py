"""Make what a model's card shows: ``python -m worker.emoji.card MODEL``.

Measures the model as ``worker.emoji.evaluate`` does, and leaves in its directory ``evaluation.json``, ``samples.png``,
``subjects.png``, ``modes.png`` and ``autoencoder.png``. Prints the table of the card's text. The font is needed.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from worker.emoji.corpus import SIZE
from worker.emoji.drawing import draw, sheet
from worker.emoji.effort import Effort
from worker.emoji.evaluate import Evaluation
from worker.emoji.measures import Measure, write_measures
from worker.emoji.train import SAMPLE_CAPTIONS

_SUBJECTS = "subjects-g4-s20-0"
_MODES = (
    "backgrounds", "watercolor", "sketch", "pixel", "oil", "hats", "mixes-g6", "shares",
    "from-image-6", "from-image-10", "from-image-14", "blue-without", "blue-pulled", "empty-prompt",
)  # fmt: skip
_COLUMNS = 8
_HATTED = ("an otter", "a cat", "a penguin", "a red apple", "a pumpkin", "an owl", "a robot", "a frog")
_SHARES = (0.8, 0.7, 0.6, 0.5, 0.5, 0.4, 0.3, 0.2)


def make_card(model: Path, effort: Effort) -> list[Measure]:
    """Measure the model, write the numbers and the pictures into its directory, and return the measures.

    The sheets have 256 colours, for each version of them stays in the repository's history.
    """
    evaluation = Evaluation(model, effort)
    measures = evaluation.run()
    write_measures(measures, model / "evaluation.json")
    sheets = evaluation.sheets | {
        "hats": sheet(draw(evaluation.model, [f"{subject} in a top hat" for subject in _HATTED]), _COLUMNS),
        "shares": sheet(
            draw(evaluation.model, [[("a lion", share), ("a rose", 1 - share)] for share in _SHARES]), _COLUMNS
        ),
    }
    sheet(draw(evaluation.model, SAMPLE_CAPTIONS), _COLUMNS).save(model / "samples.png")
    _halved(sheets[_SUBJECTS]).quantize(256).save(model / "subjects.png")
    _halved(_first_rows(sheets)).quantize(256).save(model / "modes.png")
    sheets["autoencoder"].resize((1152, 192), Image.Resampling.LANCZOS).quantize(256).save(model / "autoencoder.png")
    return measures


def markdown(measures: list[Measure]) -> str:
    """The measures as the table of the card's text."""
    rows = [
        f"| {measure.name} | {measure.value:.3f} | {'≤' if measure.at_most else '≥'} {measure.bound:g}"
        f"{'' if measure.passed else ' (missed)'} |"
        for measure in measures
    ]
    return "\n".join(["| measure | value | bound |", "| --- | --- | --- |", *rows])


def _first_rows(sheets: Mapping[str, Image.Image]) -> Image.Image:
    """The first pictures of each mode, a row each."""
    return sheet([sheets[name].crop((0, 0, _COLUMNS * SIZE, SIZE)) for name in _MODES], columns=1)


def _halved(picture: Image.Image) -> Image.Image:
    return picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.LANCZOS)


def main() -> None:
    """Parse the command line, measure, write and print."""
    parser = argparse.ArgumentParser(prog="python -m worker.emoji.card", description="Make what a model's card shows.")
    parser.add_argument("model", type=Path, help="model directory, which the pictures and numbers go to")
    print(markdown(make_card(parser.parse_args().model, Effort())))


if __name__ == "__main__":
    main()
