"""What the demonstration submits."""

from __future__ import annotations

from collections import Counter

from farm.client import dry_run
from farm.demo import requests


def test_it_shows_every_mode_and_what_the_project_began_with() -> None:
    specs = [job.spec for job in dry_run(requests())]
    otter, giraffe, apple, puppy, *_ = specs
    assert len(specs) == 12
    assert Counter(spec.mode for spec in specs) == {"txt2img": 9, "mix": 1, "img2img": 1, "guided": 1}
    assert otter.trace.level == "video"
    assert [prompt.weight for prompt in giraffe.conditioning.prompts] == [0.5, 0.5]
    assert (apple.start.step, apple.steps) == (12, 30)
    assert puppy.guidance.losses[0].name == "blue"


def test_it_shows_the_same_everywhere() -> None:
    assert [job.spec for job in dry_run(requests())] == [job.spec for job in dry_run(requests())]
