"""Drawing with a trained model by the farm's own engine, for the training's sample sheets and the evaluation."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from farm.jobs.spec import Conditioning, Guidance, InitReference, JobSpec, LossTerm, WeightedPrompt
from farm.jobs.spec import Start as SpecStart
from worker.diffusion.adapters import Stack
from worker.diffusion.losses import load_losses
from worker.engine.engine import Engine
from worker.engine.request import RenderRequest, resolve
from worker.models.device import place
from worker.models.loader import ModelLoader
from worker.models.model import LoadedModel
from worker.models.registry import LocalDirectory

_ROWS = 32

Prompt = str | Sequence[tuple[str, float]]
"""A caption, or several with weights, whose embeddings are summed."""


@dataclass(frozen=True)
class Start:
    """An image to start from, at ``step`` of the schedule: the later, the more of it stays."""

    image: Image.Image
    step: int


@dataclass(frozen=True)
class Pull:
    """A pull towards blue: the loss of that name, with this scale, at every step."""

    scale: float


def load(model: Path) -> LoadedModel:
    """Load a model directory in float32 on the CPU. Raises `ModelError`."""
    with tempfile.TemporaryDirectory() as cache:
        return ModelLoader(place("cpu"), cache=Path(cache)).load(model.name, LocalDirectory(model))


def draw(
    model: LoadedModel,
    prompts: Sequence[Prompt],
    *,
    steps: int = 20,
    guidance: float = 4.0,
    seeds: Sequence[int] | int = 0,
    start: Start | None = None,
    pull: Pull | None = None,
    stack: Stack = (),
) -> list[Image.Image]:
    """Draw one picture of the model's own size for each prompt, by LMS; one seed serves all, or each has its own.

    A ``stack`` of adapters is every picture's.
    """
    each = [seeds] * len(prompts) if isinstance(seeds, int) else list(seeds)
    losses = load_losses()
    engine = Engine(losses, max_rows=_ROWS)
    engine.start()
    try:
        futures = [
            engine.submit(
                RenderRequest(
                    id=str(number),
                    spec=resolve(_spec(prompt, steps, guidance, seed, start, pull), model, losses),
                    model=model,
                    picture=start.image if start else None,
                    stack=stack,
                )
            )
            for number, (prompt, seed) in enumerate(zip(prompts, each, strict=True))
        ]
        return [Image.fromarray(future.result().pixels) for future in futures]
    finally:
        engine.stop()


def _spec(prompt: Prompt, steps: int, guidance: float, seed: int, start: Start | None, pull: Pull | None) -> JobSpec:
    weighted = [(prompt, 1.0)] if isinstance(prompt, str) else list(prompt)
    blue = (LossTerm(name="blue", scale=pull.scale, every=1),) if pull else ()
    return JobSpec(
        mode="txt2img",
        model="emoji",
        conditioning=Conditioning(prompts=tuple(WeightedPrompt(text=text, weight=share) for text, share in weighted)),
        start=_start(start) if start else SpecStart(),
        guidance=Guidance(scale=guidance, losses=blue),
        steps=steps,
        seed=seed,
    )


def _start(start: Start) -> SpecStart:
    digest = hashlib.sha256(start.image.tobytes()).hexdigest()
    return SpecStart(image=InitReference(sha256=digest, extension="png"), step=start.step)


def sheet(images: Sequence[Image.Image], columns: int) -> Image.Image:
    """The images side by side, in rows of ``columns``."""
    width, height = images[0].size
    result = Image.new("RGB", (columns * width, -(-len(images) // columns) * height), "white")
    for index, image in enumerate(images):
        result.paste(image, (index % columns * width, index // columns * height))
    return result
