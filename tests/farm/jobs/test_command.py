"""The command that is told for a job asks for the very same."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from farm.cli.main import farm
from farm.jobs.command import command
from farm.jobs.request import JobRequest
from farm.jobs.spec import InitReference, JobSpec, ResolvedSpec
from farm.pictures.images import check_init
from tests.farm.web.test_v1 import png

PLAIN = {"prompt": "an otter", "seed": 7}


def asked_again(spec: JobSpec, **more: Any) -> tuple[JobSpec, dict[str, Any]]:
    """What the command makes, and all that it says of the job."""
    written = command(spec, **more)
    assert written
    program, submit, mode, *words = shlex.split(written)
    assert program == "farm"
    done = CliRunner().invoke(farm, [submit, mode, "--dry-run", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    [told] = json.loads(done.stdout)["jobs"]
    return JobSpec.model_validate(told["spec"]), told


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"prompt": "--help; rm -rf ~ $(x) 'quoted' \"twice\"\na second line", "negative": "-ugly"},
        {"guidance": 7.3, "steps": 12, "width": 256, "height": 512, "trace": "frames", "trace_every": 3},
        {"sampler": "DPM++ 2M Karras", "clip_skip": 2, "reading": "plain", "time_limit": 0.1},
        {"sampler": "ddim", "eta": 0.35},
        {"prompt": ["a giraffe", "a cat"], "mix": 0.7, "path": "spherical", "mode": "mix"},
        {"loras": [{"name": "a", "weight": 0.1 + 0.2}, {"name": "B.2", "unet": -1, "text": 0.5}]},
        {"mode": "guided", "losses": [{"name": "blue", "scale": 0.1}, {"name": "symmetry", "every": 2}]},
    ],
    ids=str,
)
def test_it_asks_for_the_very_same(fields: dict[str, Any]) -> None:
    [spec] = JobRequest.parse({**PLAIN, **fields}).specs(None, default_model="emoji")
    again, _ = asked_again(spec)
    weights = [prompt.weight for prompt in spec.conditioning.prompts]
    assert [prompt.weight for prompt in again.conditioning.prompts] == pytest.approx(weights)
    plain = {"conditioning": again.conditioning.model_copy(update={"prompts": spec.conditioning.prompts})}
    assert again.model_copy(update=plain) == spec
    assert [prompt.text for prompt in again.conditioning.prompts] == [p.text for p in spec.conditioning.prompts]


def test_words_that_look_like_a_tag_stay_words() -> None:
    [plain] = JobRequest.parse({**PLAIN, "prompt": "a <lora:a:1>", "reading": "plain"}).specs(
        None, default_model="emoji"
    )
    assert asked_again(plain)[0] == plain
    weighted = plain.conditioning.model_copy(update={"reading": "weighted"})
    again, _ = asked_again(plain.model_copy(update={"conditioning": weighted}))
    assert (again.loras, again.prompt) == ((), r"a <\lora:a:1>")


def test_of_a_resolved_spec_what_the_model_chose_is_said() -> None:
    [spec] = JobRequest.parse(PLAIN).specs(None, default_model="emoji")
    again, _ = asked_again(ResolvedSpec.of(spec, width=128, height=128, scale=5.0))
    assert (again.width, again.height, again.guidance.scale) == (128, 128, 5.0)


def test_an_init_picture_is_named_by_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {**PLAIN, "mode": "img2img", "init": png(), "strength": 0.4, "fit": "pad", "encode": "mean"}
    image = check_init(png(), name="it")
    reference = InitReference(sha256=image.sha256, extension="png", width=64, height=64)
    [spec] = JobRequest.parse(fields).specs(reference, default_model="emoji")
    monkeypatch.chdir(tmp_path)
    Path(f"{image.sha256[:8]}.png").write_bytes(png())

    again, told = asked_again(spec, labels={"project": "a = b", "who": "me"}, priority=8)

    assert again == spec
    assert (told["labels"], told["priority"]) == ({"project": "a = b", "who": "me"}, 8)


def test_a_study_is_asked_in_another_way() -> None:
    [spec] = JobRequest.parse({"mode": "tokens", "prompt": "a cat"}).specs(None, default_model="emoji")
    assert command(spec) is None
