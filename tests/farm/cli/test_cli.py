"""The command line without a farm: help, parsing, dry runs, and the message of every mistake."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import click
import pytest
from click.shell_completion import BashComplete
from click.testing import CliRunner, Result
from PIL import Image

from farm.cli.main import SECTIONS, farm
from farm.errors import StackError
from farm.host import homes
from farm.jobs.spec import JobSpec
from farm.pictures.images import MAX_BYTES
from tests.farm.rendering import png_of
from tests.pictures import enormous_png

BATCH = "0kz3mw7c9d2f4g5h"
EXAMPLE = Path(__file__).parents[1] / "data" / "otters.yaml"
INIT = str(resources.files("farm").joinpath("demo_init.png"))
PATHS = [
    *((name,) for section in SECTIONS.values() for name in section),
    *(("submit", mode) for mode in ("txt2img", "img2img", "mix", "guided", "roundtrip", "batch", "grid")),
]


@pytest.fixture(autouse=True)
def _no_farm(away_from_any_farm: None) -> None: ...


def run(*arguments: str, input: str | bytes | None = None) -> Result:
    result = CliRunner().invoke(farm, arguments, prog_name="farm", input=input)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def planned(*arguments: str) -> list[dict[str, Any]]:
    """The specs that `farm submit … --dry-run` prints."""
    result = run("submit", *arguments, "--dry-run")
    assert result.exit_code == 0, result.stderr
    return [job["spec"] for job in json.loads(result.stdout)["jobs"]]


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_every_command_has_help(path: tuple[str, ...]) -> None:
    result = run(*path, "--help")
    assert result.exit_code == 0
    assert f"Usage: farm {' '.join(path)}" in result.stdout


def test_the_short_helps_are_the_commands_own() -> None:
    with click.Context(farm, info_name="farm") as ctx:
        for name in farm.list_commands(ctx):
            command = farm.get_command(ctx, name)
            assert command is not None and command.help


def test_help_is_in_sections_with_examples() -> None:
    shown = run("--help").stdout
    assert [shown.index(f"\n{title}:") for title in SECTIONS] == sorted(shown.index(f"\n{t}:") for t in SECTIONS)
    assert "farm submit txt2img" in shown


def test_a_mistyped_command_is_guessed() -> None:
    result = run("stauts")
    assert result.exit_code == 2
    assert "there is no command 'stauts'; did you mean 'status'?" in result.stderr


def test_txt2img_with_every_option() -> None:
    (spec, _) = planned(
        *("txt2img", "an otter", "--negative", "a cat", "--steps", "20", "--guidance", "3.5", "--seed", "7"),
        *("--count", "2", "--width", "64", "--height", "128", "--sampler", "euler", "--model", "mine"),
        *("--trace", "frames", "--trace-every", "2", "--time-limit", "60", "--mix-with", "a hat: red:0.25"),
    )
    assert spec["conditioning"] == {
        "prompts": [{"text": "an otter", "weight": 0.75}, {"text": "a hat: red", "weight": 0.25}],
        "negative": "a cat",
        "reading": "weighted",
    }
    assert (spec["steps"], spec["guidance"]["scale"], spec["seed"], spec["model"]) == (20, 3.5, 7, "mine")
    assert (spec["width"], spec["height"], spec["sampler"], spec["time_limit"]) == (64, 128, "euler", 60)
    assert spec["trace"] == {"level": "frames", "every": 2}


def test_prompts_are_read_with_weights_unless_they_are_plain() -> None:
    (spec,) = planned("txt2img", "a (cat:1.3)", "--clip-skip", "2", "--mix-with", "a [dog:] (x:2):0.25")
    assert (spec["conditioning"]["reading"], spec["conditioning"]["clip_skip"]) == ("weighted", 2)
    assert [prompt["text"] for prompt in spec["conditioning"]["prompts"]] == ["a (cat:1.3)", "a [dog:] (x:2)"]

    (spec,) = planned("txt2img", "a (cat:1000)", "--plain-prompt")
    assert spec["conditioning"] == {"prompts": [{"text": "a (cat:1000)", "weight": 1.0}], "negative": ""}


def test_labels_and_priority_are_kept_beside_the_spec() -> None:
    result = run("submit", "txt2img", "x", "--label", "a=b=c", "--priority", "9", "--dry-run")
    (job,) = json.loads(result.stdout)["jobs"]
    assert (job["labels"], job["priority"]) == ({"a": "b=c"}, 9)


def test_img2img_starts_where_it_is_told(tmp_path: Path) -> None:
    picture = tmp_path / "a b.png"
    Image.new("RGB", (64, 64)).save(picture)
    (by_step,) = planned("img2img", "x", "--init", str(picture), "--start-step", "12", "--steps", "30")
    (by_strength,) = planned("img2img", "x", "--init", str(picture), "--strength", "0.6")
    assert by_step["start"] == by_strength["start"]
    assert by_step["start"]["step"] == 12
    assert by_step["start"]["image"]["extension"] == "png"


@pytest.mark.parametrize(
    ("arguments", "weights"),
    [
        (("a", "b"), [0.5, 0.5]),
        (("a", "b", "--mix", "0.7"), [0.7, 0.3]),
        (("a", "b", "--mix", "1.5"), [1.5, -0.5]),
        (("a", "b", "--mix", "-0.5"), [-0.5, 1.5]),
        (("a", "b", "--weights", "0.2,0.8"), [0.2, 0.8]),
        (("a", "b", "c", "--weights", "2, 1, 1"), [0.5, 0.25, 0.25]),
    ],
)
def test_mix_weighs_prompts(arguments: tuple[str, ...], weights: list[float]) -> None:
    (spec,) = planned("mix", *arguments)
    assert [prompt["weight"] for prompt in spec["conditioning"]["prompts"]] == pytest.approx(weights)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--loss", "color:red=0.1,blue=0.9,scale=100,every=2"),
        (
            *("--loss", "color", "--loss-arg", "red=0.1", "--loss-arg", "blue=0.9"),
            *("--loss-scale", "100", "--loss-every", "2"),
        ),
        ("--loss", "color:red=0.1,blue=0.9,scale=7", "--loss-scale", "100", "--loss-every", "2"),
    ],
)
def test_a_loss_is_given_inline_or_by_options(arguments: tuple[str, ...]) -> None:
    (spec,) = planned("guided", "x", *arguments)
    assert spec["guidance"]["losses"] == [
        {"name": "color", "arguments": {"red": 0.1, "green": 0.5, "blue": 0.9}, "scale": 100.0, "every": 2}
    ]


def test_modes_compose(tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    Image.new("RGB", (64, 64)).save(picture)
    (spec,) = planned("mix", "a", "b", "--init", str(picture), "--loss", "blue", "--loss", "symmetry:scale=3")
    assert spec["start"]["step"] == 8
    assert [(loss["name"], loss["scale"]) for loss in spec["guidance"]["losses"]] == [("blue", None), ("symmetry", 3)]


def test_a_batch_file_is_expanded() -> None:
    assert len(planned("batch", str(EXAMPLE))) == 10
    result = run("submit", "batch", "-", "--dry-run", input=EXAMPLE.read_bytes())
    assert len(json.loads(result.stdout)["jobs"]) == 10


def test_of_most_options_the_last_counts() -> None:
    (spec,) = planned("txt2img", "x", "--steps", "10", "--seed", "1", "--steps", "20", "--seed", "2")
    assert (spec["steps"], spec["seed"]) == (20, 2)


def test_words_that_look_like_tags_are_warned_of_in_a_dry_run_too() -> None:
    result = run("submit", "txt2img", "an otter [lora:soft:1]", "--dry-run")
    assert result.exit_code == 0
    assert "warning: '[lora:soft:1]' is read as words, for a LoRA is named so: <lora:soft:1>" in result.stderr


def test_many_jobs_want_a_yes(tmp_path: Path) -> None:
    file = tmp_path / "many.json"
    file.write_text(json.dumps({"jobs": [{"prompt": "x", "product": {"seed": list(range(11))}}]}), encoding="utf-8")
    refused = run("submit", "batch", str(file), "--max-jobs", "10", "--dry-run")
    assert refused.exit_code == 2
    assert refused.stderr == f"farm: {file}: makes 11 jobs, more than 10\n  add --yes if you mean it\n"
    assert len(planned("batch", str(file), "--max-jobs", "10", "--yes")) == 11


def test_a_grid_has_a_job_at_every_crossing() -> None:
    command = ("grid", "a red apple", "--x", "guidance=1,7.5", "--y", "steps=10,20", "--z", "prompt=apple,rose")
    result = run("submit", *command, "--label", "who=me", "--dry-run")
    jobs = json.loads(result.stdout)["jobs"]
    assert len(jobs) == 8 and len({job["spec"]["seed"] for job in jobs}) == 1
    spec, labels = jobs[5]["spec"], jobs[5]["labels"]
    assert (spec["guidance"]["scale"], spec["steps"], spec["conditioning"]["prompts"][0]["text"]) == (
        7.5,
        10,
        "a red rose",
    )
    assert labels == {"who": "me", "grid.x": "guidance=7.5", "grid.y": "steps=10", "grid.z": "prompt=rose"}


@pytest.mark.parametrize(
    ("arguments", "mode"),
    [
        (("a",), "txt2img"),
        (("a", "b"), "mix"),
        (("a", "--init", INIT), "img2img"),
        (("a", "--loss", "blue"), "guided"),
        (("a", "--loss", "blue", "--init", INIT), "img2img"),
        (("a", "--y", f"init={INIT}"), "img2img"),
    ],
)
def test_a_grid_is_of_the_mode_that_its_options_make(arguments: tuple[str, ...], mode: str) -> None:
    assert [spec["mode"] for spec in planned("grid", *arguments, "--x", "steps=10,20")] == [mode, mode]


def test_a_grid_over_what_a_picture_starts_from() -> None:
    specs = planned("grid", "a", "--init", INIT, "--x", "start-step=0,12", "--y", "sampler=lms,euler")
    assert [(spec["start"]["step"], spec["sampler"]) for spec in specs] == [
        *((0, "lms"), (12, "lms"), (0, "euler"), (12, "euler"))
    ]


def test_a_grid_over_a_mix_and_over_a_loss() -> None:
    mixes = planned("grid", "a", "b", "--mix", "0.1", "--x", "mix=0,0.25,1")
    assert [spec["conditioning"]["prompts"][0]["weight"] for spec in mixes] == [0, 0.25, 1]
    weights = planned("grid", "a", "b", "--weights", "1,1", "--x", "weights.0=1,3")
    assert [spec["conditioning"]["prompts"][0]["weight"] for spec in weights] == [0.5, 0.75]
    losses = planned("grid", "a", "--loss", "blue", "--x", "loss-scale=0,25", "--y", "losses.0.target=0.2,0.9")
    assert [
        (spec["guidance"]["losses"][0]["scale"], spec["guidance"]["losses"][0]["arguments"]) for spec in losses
    ] == [*((0, {"target": 0.2}), (25, {"target": 0.2}), (0, {"target": 0.9}), (25, {"target": 0.9}))]


def test_a_morph_goes_from_one_prompt_to_the_other_with_one_seed() -> None:
    result = run("morph", "a giraffe", "a cat", "--frames", "5", "--steps", "9", "--dry-run")
    specs = [job["spec"] for job in json.loads(result.stdout)["jobs"]]
    shares = [[prompt["weight"] for prompt in spec["conditioning"]["prompts"]] for spec in specs]
    assert shares == [[1, 0], [0.75, 0.25], [0.5, 0.5], [0.25, 0.75], [0, 1]]
    assert {(spec["mode"], spec["steps"]) for spec in specs} == {("mix", 9)}
    assert len({spec["seed"] for spec in specs}) == 1
    assert all("path" not in spec["conditioning"] for spec in specs), "straight, as earlier versions read it"
    arc = json.loads(run("morph", "a", "b", "--path", "spherical", "--frames", "2", "--dry-run").stdout)["jobs"]
    assert [job["spec"]["conditioning"]["path"] for job in arc] == ["spherical"] * 2
    assert planned("mix", "a", "b", "--path", "spherical", "--mix", "0.3")[0]["conditioning"]["path"] == "spherical"
    chosen = run("morph", "a", "b", "--frames", "2", "--seed", "8", "--dry-run")
    assert [job["spec"]["seed"] for job in json.loads(chosen.stdout)["jobs"]] == [8, 8]


@pytest.mark.parametrize("number", [1, 3])
def test_files_make_a_film(number: int, tmp_path: Path) -> None:
    files = []
    for index in range(number):
        files.append(str(tmp_path / f"{index}.png"))
        Image.new("RGB", (64, 48), (40 * index, 0, 0)).save(files[-1])
    out = tmp_path / "of" / "film.mp4"
    result = run("film", *files, "--out", str(out))
    assert result.stdout == f"{out}  {number} frame{'s' if number > 1 else ''}, 64×48 pixels\n"
    assert out.read_bytes()[4:8] == b"ftyp"
    assert "already exists" in run("film", *files, "--out", str(out)).stderr
    assert run("film", *files, "--out", str(out), "--overwrite").exit_code == 0


def test_without_pyav_a_film_is_an_animated_picture(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    files = [str(tmp_path / f"{colour}.png") for colour in ("red", "blue")]
    for file in files:
        Image.new("RGB", (64, 48), Path(file).stem).save(file)
    result = run("film", *files, "--out", str(tmp_path / "film.mp4"))
    assert result.stderr.startswith("PyAV is not installed here, so the film is an animated WebP\n")
    assert result.stdout == f"{tmp_path}/film.webp  2 frames, 64×48 pixels\n"
    with Image.open(tmp_path / "film.webp") as film:
        assert getattr(film, "n_frames", 1) == 2


def test_files_are_laid_out_by_what_they_say_of_themselves(tmp_path: Path) -> None:
    jobs = json.loads(run("submit", "grid", "a cat", "--x", "steps=1,2", "--y", "seed=1,2", "--dry-run").stdout)["jobs"]
    files = [str(tmp_path / f"{index}.png") for index in range(len(jobs))]
    for file, job in zip(files, jobs, strict=True):
        Path(file).write_bytes(png_of(JobSpec.model_validate(job["spec"])))
    out, page = tmp_path / "sheet.png", tmp_path / "sheet.html"
    result = run("sheet", *files, "--x", "seed", "--y", "steps", "--out", str(out), "--html", str(page))
    assert result.stdout.startswith(f"{out}  4 pictures, ") and f"\n{page}  4 pictures, " in result.stdout
    assert result.stderr == ""
    assert "seed 2, steps 1" in page.read_text(encoding="utf-8")
    result = run("sheet", *files, "--y", "steps", "--out", str(out), "--overwrite")
    assert result.stderr == "farm: --x: the sheet needs columns\n  name the field that they differ in\n"
    Image.new("RGB", (8, 8)).save(files[0])
    result = run("sheet", *files, "--x", "seed", "--y", "steps", "--out", str(out), "--overwrite")
    assert result.stderr == f"{files[0]} does not say how it was made, and is left out\n"
    assert "3 pictures" in result.stdout
    result = run("sheet", files[0], "--x", "seed", "--out", str(out), "--overwrite")
    assert (result.exit_code, result.stderr.splitlines()[1:]) == (
        2,
        ["farm: nothing here says how it was made", "  only the farm's own pictures have a place"],
    )


WRONG = [
    (("submit", "grid", "a"), "Missing option '--x'"),
    (("submit", "grid", "--x", "steps=1"), "Missing argument 'PROMPT…'"),
    (
        ("submit", "grid", "a", "--x", "steps"),
        "farm: --x: 'steps' is not FIELD=VALUE,…\n  such as --x guidance=1,3,7.5",
    ),
    (("submit", "grid", "a", "--x", "stepz=1"), "farm: --x: there is no field 'stepz'\n  did you mean 'steps'?"),
    (("submit", "grid", "a", "--x", "steps=1", "--y", "seed=1,x"), "farm: --y: seed=x: 'x': input should be a valid"),
    (("submit", "grid", "a", "--x", "steps=1", "--z", "steps=2"), "farm: --z: steps is on --x already"),
    (("submit", "grid", "a", "--x", "prompt=b,c"), "farm: --x: 'b' is not in the prompt"),
    (("submit", "grid", "a", "--x", "model=a b"), "farm: --x: model='a b': 'a b' cannot name a model"),
    (("submit", "grid", "a", "--x", "init=/no.png"), "farm: --x: init='/no.png': /no.png cannot be read: No such file"),
    (("submit", "grid", "a", "--x", "steps=1", "--init", "/no.png"), "farm: --init: /no.png cannot be read: No such"),
    (("submit", "grid", "a", "--x", "loss-scale=1"), "farm: --x: losses.0.scale is of a loss that is not there"),
    (("submit", "grid", "a", "--loss", "blue", "--x", "losses.0.target=2"), "farm: --x: losses.0.arguments.target=2: "),
    (
        ("submit", "grid", "a", "--x", "steps=1", "--guidance", "-101"),
        "farm: --guidance: -101.0: input should be",
    ),
    (("submit", "grid", "a", "--x", "seed=1,2", "--count", "2"), "farm: --count: goes with one seed, and an axis is"),
    (
        ("submit", "grid", "a", "--init", INIT, "--start-step", "12", "--x", "steps=20,12"),
        "farm: --start-step: with steps=12: 12 leaves none of the 12 steps to do",
    ),
    (
        ("submit", "grid", "a", "--x", "steps=1,2,3", "--y", "seed=1,2,3", "--max-jobs", "8"),
        "farm: makes 9 jobs, more than 8\n  add --yes if you mean it",
    ),
    (("submit", "grid", "a", "--x", "steps=1,2", "--count", "60000"), "farm: makes 120,000 jobs, more than 100,000"),
    (("morph", "a"), "Missing argument 'PROMPT'"),
    (
        ("submit", "mix", "a", "b", "c", "--path", "spherical"),
        "farm: the spherical path goes between exactly two prompts",
    ),
    (("morph", "a", "b", "--frames", "1"), "Invalid value for '--frames': 1 is not in the range 2<=x<=1000"),
    (("morph", "a", "b", "--count", "2"), "No such option '--count'"),
    (("morph", "a", "b", "--steps", "0"), "farm: --steps: 0: input should be greater than or equal to 1"),
    (("film", "/no.png", "--out", "film.gif"), "farm: --out: film.gif ends neither in .mp4 nor in .webp"),
    (("film", "/no.png", "--out", "/tmp/none/film.mp4"), "farm: /no.png cannot be read: No such file or directory"),
    (("film", str(EXAMPLE), "--out", "/tmp/none/film.mp4"), f"farm: {EXAMPLE} is not a PNG, JPEG or WebP image"),
    (("sheet", INIT, "--x", "stepz"), "farm: --x: there is no field 'stepz'\n  did you mean 'steps'?"),
    (("sheet", INIT, "--y", "steps", "--out", "/tmp/none/s.png"), "farm: nothing here says how it was made"),
    (("sheet", INIT, "--x", "seed", "--columns", "3"), "farm: --columns: a sheet with axes has as many as there are"),
    (("sheet", INIT, "--html", "x.htm"), "farm: --html: x.htm does not end in .html"),
    (
        ("sheet", INIT, "--html", "/tmp/none/x.html", "--out", "/tmp/none/s.png"),
        "farm: --html: needs a sheet with axes",
    ),
    (("submit", "txt2img"), "Missing argument 'PROMPT'"),
    (("submit", "txt2img", "x", "y"), "unexpected extra argument"),
    (("submit", "txt2img", "x", "--setps", "3"), "No such option '--setps'. (Did you mean"),
    (("submit", "txt2img", "x", "--steps", "three"), "Invalid value for '--steps': 'three' is not a valid integer"),
    (("submit", "txt2img", "x", "--steps", "0"), "farm: --steps: 0: input should be greater than or equal to 1"),
    (("submit", "txt2img", "x", "--guidance", "nan"), "farm: --guidance: nan: input should be a finite number"),
    (("submit", "txt2img", "x", "--guidance", "1e400"), "farm: --guidance: inf: input should be a finite number"),
    (("submit", "txt2img", "x", "--width", "100"), "farm: --width: 100: input should be a multiple of 8"),
    (
        ("submit", "txt2img", "x", "--seed", "-2"),
        "farm: --seed: must be 0 to 9223372036854775807, or -1 for a random one",
    ),
    (("submit", "txt2img", "x\udcff"), "farm: PROMPT: 'x\\udcff' is not UTF-8 text from character 2 on"),
    (("submit", "mix", "x", "y\udcff"), "farm: PROMPT: 'y\\udcff' is not UTF-8 text from character 2 on"),
    (("submit", "txt2img", "x", "--negative", "\udcff"), "farm: --negative: '\\udcff' is not UTF-8 text"),
    (("submit", "txt2img", "x", "--mix-with", "\udcff:0.5"), "farm: --mix-with: '\\udcff' is not UTF-8 text"),
    (("submit", "txt2img", "x", "--label", "a=\udcff"), "farm: --label: '\\udcff' is not UTF-8 text"),
    (("submit", "txt2img", "x", "--fit", "pad"), "farm: --fit needs an init image: give --init FILE"),
    (("submit", "img2img", "x", "--init", INIT, "--fit", "init", "--height", "64"), "farm: --fit init takes the size"),
    (("submit", "txt2img", "x", "--count", "0"), "farm: --count: 0: input should be greater than or equal to 1"),
    (("submit", "txt2img", "x", "--priority", "10"), "farm: --priority: 10: input should be less than or equal to 9"),
    (("submit", "txt2img", "x", "--sampler", "plums"), "--sampler: there is no sampler 'plums'"),
    (("submit", "txt2img", "x", "--sampler", "ddim", "--schedule", "karras"), "--schedule: 'ddim' does not follow the"),
    (("submit", "txt2img", "x", "--sampler", "lms", "--eta", "1"), "--eta: 'lms' has no eta"),
    (("submit", "txt2img", "x", "--sampler", "ddim", "--eta", "2"), "--eta: 2.0: input should be less than or equal"),
    (("submit", "txt2img", "x", "--model", "../x"), "'../x' cannot name a model"),
    (("submit", "txt2img", "x", "--trace-every", "0"), "farm: --trace-every: 0: input should be greater"),
    (("submit", "txt2img", "x", "--time-limit", "0"), "farm: --time-limit: 0.0: input should be greater than 0"),
    (("submit", "txt2img", "x" * 4_001), "farm: PROMPT: 'xxx"),
    (("submit", "txt2img", "a (cat:1000)"), "farm: PROMPT: 'cat' weighs 1e+03, and nothing may weigh more than ±100"),
    (("submit", "txt2img", "(" * 101), "farm: PROMPT: '((("),
    (
        ("submit", "txt2img", "x", "--clip-skip", "13"),
        "farm: --clip-skip: 13: input should be less than or equal to 12",
    ),
    (("submit", "txt2img", "x", "--label", "a"), "farm: --label: 'a' is not KEY=VALUE"),
    (("submit", "txt2img", "x", "--label", "a b=c"), "farm: --label: 'a b': string should match pattern"),
    (("submit", "txt2img", "x", "--mix-with", "cat"), "farm: --mix-with: 'cat' is not PROMPT:WEIGHT"),
    (("submit", "txt2img", "x", "--mix-with", "a cat:b"), "--mix-with: the weight of 'a cat' is 'b', which is not a"),
    (("submit", "txt2img", "x", "--mix-with", "cat:1.5"), "farm: --mix-with: 1.5: input should be less than 1"),
    (("submit", "txt2img", "x", "--start-step", "3"), "--start-step and --strength need an init image"),
    (("submit", "img2img", "x"), "farm: img2img needs an init image: give --init FILE"),
    (("submit", "img2img", "x", "--init", "/no.png"), "farm: --init: /no.png cannot be read: No such file"),
    (("submit", "img2img", "x", "--init", str(EXAMPLE)), "is not a PNG, JPEG or WebP image"),
    (("submit", "mix", "a"), "farm: mix needs at least two prompts"),
    (("submit", "mix", "a", "b", "--weights", "1,x"), "farm: --weights: a weight is 'x', which is not a number"),
    (("submit", "mix", "a", "b", "--weights", "1,1_0"), "farm: --weights: a weight is '1_0', which is not a number"),
    (("submit", "mix", "a", "b", "--weights", "1"), "farm: there are 2 prompts, and 1 of --weights"),
    (("submit", "mix", "a", "b", "c", "--mix", "0.5"), "--mix goes with exactly two prompts; give --weights for more"),
    (("submit", "guided", "x"), "farm: guided needs a loss: give --loss NAME"),
    (("submit", "guided", "x", "--loss", "bleu"), "farm: --loss: there is no loss 'bleu'\n  did you mean 'blue'?"),
    (("submit", "guided", "x", "--loss", "blue:red=1"), "farm: --loss: loss 'blue' has no argument 'red'"),
    (("submit", "guided", "x", "--loss", "blue:target"), "farm: --loss: 'target' is not KEY=VALUE"),
    (("submit", "guided", "x", "--loss", "blue:every=2.5"), "farm: --loss: every: 2.5: input should be a valid"),
    (("submit", "guided", "x", "--loss-scale", "3"), "farm: --loss-scale: needs a --loss NAME"),
    (
        ("submit", "guided", "x", "--loss", "blue", "--loss", "color", "--loss-arg", "red=1"),
        "farm: --loss-arg: belongs to one --loss, and there are 2\n  write it inline: --loss color:red=0.1",
    ),
    (("submit", "guided", "x", "--loss", "blue:scale=1e7"), "farm: --loss: scale: 10000000.0: input should be less"),
    (("submit", "guided", "x", "--loss", "blue", "--loss-scale", "nan"), "farm: --loss: scale: nan: input should be"),
    (("submit", "guided", "x", "--loss", "blue:target=nan"), "farm: --loss: target: nan: input should be a finite"),
    (("submit", "guided", "x", "--loss", "blue", "--loss-every", "0"), "farm: --loss: every: 0: input should be"),
    (("submit", "txt2img", "x", "--steps", "1001"), "farm: --steps: 1001: input should be less than or equal to 1000"),
    (("submit", "txt2img", "x", "--steps", "9" * 30), f"farm: --steps: {'9' * 30}: input should be less than or"),
    (("submit", "txt2img", "x", "--width", "2056"), "farm: --width: 2056: input should be less than or equal to 2048"),
    (("submit", "txt2img", "x", "--height", "8" * 30), f"farm: --height: {'8' * 30}: input should be less than or"),
    (("submit", "txt2img", "x", "--height", "-64"), "farm: --height: -64: input should be greater than or equal to 64"),
    (("submit", "txt2img", "x", "--count", "10001"), "farm: --count: 10001: input should be less than or equal to"),
    (("submit", "txt2img", "x", "--seed", str(2**63)), f"farm: --seed: {2**63}: input should be less than or equal to"),
    (("submit", "txt2img", "x", "--model", ""), "farm: --model: '' cannot name a model (use up to 64 of"),
    (("submit", "txt2img", "x", "--model", "a b"), "farm: --model: 'a b' cannot name a model (use up to 64 of"),
    (("submit", "txt2img", "x", "--init", ""), "farm: --init: . is not a file"),
    (("submit", "img2img", "x", "--init", INIT, "--start-step", "30"), "farm: --start-step: 30 leaves none of the 30"),
    (("submit", "img2img", "x", "--init", INIT, "--start-step", "9" * 30), "leaves none of the 30 steps to do"),
    (("submit", "img2img", "x", "--init", INIT, "--start-step", "-1"), "farm: --start-step: -1: input should be"),
    (("submit", "img2img", "x", "--init", INIT, "--strength", "0"), "farm: --strength: 0 is not above 0 and up to 1"),
    (("submit", "img2img", "x", "--init", INIT, "--strength", "-1"), "farm: --strength: -1 is not above 0 and up to 1"),
    (("submit", "img2img", "x", "--init", INIT, "--strength", "1e9"), "farm: --strength: 1e+09 is not above 0 and up"),
    (("submit", "img2img", "x", "--init", INIT, "--strength", "1e-9"), "farm: --strength: 1e-09 of 30 steps leaves no"),
    (
        ("submit", "img2img", "x", "--init", INIT, "--strength", "nan"),
        "farm: --strength: nan: input should be a finite",
    ),
    (
        ("submit", "img2img", "x", "--init", INIT, "--strength", "0.5", "--start-step", "3"),
        "farm: give --start-step or --strength, not both",
    ),
    (("submit", "mix", "a", "b", "--mix", "nan"), "farm: --mix: nan: input should be a finite number"),
    (("submit", "mix", "a", "b", "--mix", "-100"), "farm: --mix: -100.0: input should be greater than or equal to -99"),
    (("submit", "mix", "a", "b", "--weights", "1,nan"), "farm: --weights: nan: input should be a finite number"),
    (("submit", "mix", "a", "b", "--weights", "0,0"), "farm: --weights: the weights sum to 0; their sum must be above"),
    (
        ("submit", "mix", "a", "b", "--weights", "1e308,1e308"),
        "farm: --weights: the weights sum to inf; their sum must",
    ),
    (("submit", "mix", "a", "b", "--weights", "1,-0.99999"), "farm: --weights: 1 is more than 100 times the weights'"),
    (("submit", "mix", "a", "b", "--weights", "1,2", "--mix", "0.5"), "farm: give --mix or --weights, not both"),
    (("submit", "txt2img", "x", "--mix-with", "cat:nan"), "farm: --mix-with: nan: input should be a finite number"),
    (("down", "--timeout", "nan"), "Invalid value for '--timeout': nan is not a number of seconds."),
    (("worker", "--grace", "nan"), "Invalid value for '--grace': nan is not a number of seconds."),
    (("worker", "--grace", "inf"), "Invalid value for '--grace': inf is not a number of seconds."),
    (("up", "--model", "bad/x"), "farm: --model: 'bad/x' cannot name a model\n  use up to 64 of"),
    (("up", "--model", "My Model"), "farm: --model: 'My Model' cannot name a model\n  use up to 64 of"),
    (("up", "--model", "mine=./no.safetensors"), "farm: --model: 'mine' comes from ./no.safetensors, which does not"),
    (("up", "--model", "mine=~no such user/x"), "farm: --model: 'mine' comes from ~no such user/x, which does not"),
    (("sheet", str(EXAMPLE)), f"farm: {EXAMPLE} is not a PNG, JPEG or WebP image"),
    (("sheet", INIT, "--out", f"{EXAMPLE}/s.png"), f"farm: --out: {EXAMPLE}/s.png cannot be written: "),
    (("submit", "batch", "/no.yaml"), "farm: /no.yaml: cannot be read: No such file or directory"),
    (("submit", "batch", "/"), "farm: /: cannot be read: Is a directory"),
    (("list", "--state", "lost"), "Invalid value for '--state': 'lost' is not one of 'queued'"),
    (("cancel",), "farm: name the jobs or batches to cancel, or give --all"),
    (("cancel", "x", "--all"), "farm: name the jobs or batches to cancel, or give --all"),
    (("priority", "x"), "farm: give --set, the priority they are to have, or --by, how much to raise it"),
    (("priority", "x", "--set", "1", "--by", "1"), "farm: give --set, the priority they are to have, or --by, how"),
    (("priority", "x", "--set", "10"), "Invalid value for '--set': 10 is not in the range 0<=x<=9"),
    (("fetch",), "Missing argument 'JOB|BATCH…'"),
    (("sheet", "/no.png", "--out", "/tmp/none/sheet.png"), "farm: /no.png cannot be read: No such file or directory"),
    (("sheet", "/no.png", "--out", "sheet.jpeg"), "farm: --out: sheet.jpeg does not end in .png"),
    (("worker", "--slots", "0"), "Invalid value for '--slots': 0 is not in the range 1<=x<=1024"),
    (
        ("submit", "grid", "x", "--x", "steps=1,2", "--x", "guidance=3"),
        "--x is there twice, 'steps=1,2' and 'guidance=3'",
    ),
    (
        ("submit", "txt2img", "x", "--negative", "a", "--negative", "b"),
        "--negative is there twice, 'a' and 'b': put all",
    ),
    (("submit", "mix", "x", "y", "--weights", "1", "--weights", "2"), "--weights is there twice, '1' and '2': put all"),
    (
        ("submit", "txt2img", "x", "--init", "a.png", "--init", "b.png"),
        "--init is there twice, 'a.png' and 'b.png': a job",
    ),
    (
        ("submit", "txt2img", "x", "--mask", "a.png", "--mask", "alpha"),
        "--mask is there twice, 'a.png' and 'alpha': a job",
    ),
    (
        ("submit", "txt2img", "x", "--outpaint", "left=8", "--outpaint", "top=8"),
        "twice, 'left=8' and 'top=8': put all sides",
    ),
    (
        ("submit", "roundtrip", "--init", "a.png", "--init", "b.png"),
        "--init is there twice, 'a.png' and 'b.png': a round",
    ),
    (("submit", "txt2img", "x", "--label", "a=1", "--label", "a=2"), "farm: --label: a is there twice, as '1' and '2'"),
    (
        ("submit", "txt2img", "x", "--loss", "blue:every=1,every=2"),
        "farm: --loss: every is there twice, as 1.0 and 2.0",
    ),
    (("submit", "txt2img", "x", "--lora", "a:unet=1,unet=2"), "farm: --lora: unet is there twice, as 1.0 and 2.0"),
    (("rerun", "x.png", "--set", "steps=1", "--set", "steps=2"), "farm: --set: steps is there twice, as 1 and 2"),
    (("rerun", "x.png", "--mask", "a", "--mask", "b"), "--mask is there twice, 'a' and 'b'"),
    (("sheet", "x.png", "--y", "steps", "--y", "guidance"), "--y is there twice, 'steps' and 'guidance': the columns'"),
    (("list", "--state", "done", "--state", "failed"), "--state is there twice, 'done' and 'failed': name one state"),
    (("up", "--model", "a=one", "--model", "a=two"), "farm: --model: 'a' is there twice\n  give each model a name"),
    (
        ("rerun", "no.png"),
        "farm: no.png cannot be read: No such file or directory\n  name a PNG that this farm made, or a",
    ),
    (("rerun", f"r/{BATCH}-0003.png"), f"cannot be read: No such file or directory\n  did you mean '{BATCH}-0003'?"),
    (("film", f"r/{BATCH}-0003.png"), f"cannot be read: No such file or directory\n  did you mean '{BATCH}-0003'?"),
    (("completion", "tcsh"), "'tcsh' is not one of 'bash', 'zsh', 'fish'"),
]


@pytest.mark.long
@pytest.mark.parametrize(
    ("arguments", "message"), WRONG, ids=lambda value: value[:50] if isinstance(value, str) else ""
)
def test_wrong_input_is_said_in_one_line_and_exits_with_2(arguments: tuple[str, ...], message: str) -> None:
    dry = ["--dry-run"] if arguments[0] == "submit" else []
    result = run(*arguments, *dry)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Path(INIT).read_bytes()[:300], "is damaged: "),
        (lambda: b"\x89PNG\r\n\x1a\n", "is not a PNG, JPEG or WebP image"),
        (enormous_png, "has over 178,956,970 pixels, more than 40 million"),
        (lambda: bytes(MAX_BYTES + 2**20), "has 33 MiB, more than 32"),
    ],
)
def test_a_wrong_init_image_is_said(make: Callable[[], bytes], message: str, tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(make())
    result = run("submit", "img2img", "x", "--init", str(picture))
    assert result.exit_code == 2
    assert result.stderr.startswith(f"farm: --init: {picture} {message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"\xff\xfe", "stdin: is not UTF-8 text: invalid start byte at byte 0\n  save it in UTF-8"),
        (b"jobs: [\n{prompt: x\n", "stdin: line 3, column 1: "),
        (b"jobs:\n- {prompt: x, stepz: 3}\n", "stdin: job 1: there is no field 'stepz'\n  did you mean 'steps'?"),
        (b"jobs:\n- {prompt: x, steps: 0}\n", "stdin: job 1: steps: 0: input should be greater than or equal to 1"),
        (
            b"jobs:\n- {prompt: x}\n- {prompt: 5}\n",
            "stdin: job 2: prompt: 5 is a number, but should be text; put it in quotes",
        ),
        (b"jobs:\n- {prompt: x}\n- {prompt: x, init: no.png}\n", "stdin: job 2: init: no.png cannot be read: "),
        (b"jobs:\n- {prompt: x}\n- {prompt: [a, b], weights: [1, -1]}\n", "stdin: job 2: weights: the weights sum"),
        (b"jobs:\n- {prompt: x}\n- {prompt: x, losses: [{name: bleu}]}\n", "stdin: job 2: loss: there is no loss"),
        (b"jobs:\n- {prompt: x, losses: [{name: blue, every: 0}]}\n", "stdin: job 1: losses.0.every: 0: input should"),
        (b"#" * (2 * 2**20 + 1), "stdin: is larger than 2 MiB"),
    ],
)
@pytest.mark.parametrize("dry", [(), ("--dry-run",)], ids=["for real", "dry run"])
def test_a_wrong_batch_file_is_said(text: bytes, message: str, dry: tuple[str, ...]) -> None:
    result = run("submit", "batch", "-", *dry, input=text)
    assert result.exit_code == 2
    assert f"farm: {message}" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("submit", "txt2img", "x"),
        ("list",),
        ("status", "0kz3"),
        ("watch", "0kz3"),
        ("cancel", "0kz3"),
        ("priority", "0kz3", "--set", "9"),
        ("retry", "0kz3"),
        ("fetch", "0kz3"),
        ("workers",),
        ("models",),
    ],
)
def test_without_a_farm_one_line_says_what_to_do(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.stderr == (
        "farm: no farm found\n"
        "  start one on this machine with 'farm up --detach', or set FARM_REDIS_URL and FARM_S3_ENDPOINT\n"
    )


@pytest.mark.parametrize("command", [("list",), ("up", "--detach"), ("up",), ("down",), ("demo",), ("recover",)])
@pytest.mark.parametrize("home", ["file", "file/home", "open", "circle", "~nobody of that name"])
def test_a_home_that_cannot_be_used_is_one_line(
    command: tuple[str, ...], home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FARM_HOME", home)
    Path("file").touch()
    Path("open").mkdir()
    Path("open").chmod(0o777)
    Path("circle").symlink_to("circle")
    result = run(*command, "--out", "renders") if command == ("demo",) else run(*command)
    assert result.exit_code == 1
    line, hint = result.stderr.splitlines()
    assert line.startswith("farm: ")
    assert hint.startswith("  ")


@pytest.mark.long
def test_what_a_killed_farm_left_is_used_by_no_command(tmp_path: Path) -> None:
    """Somebody else may have its ports by now. The supervisor that is named lives, as an unrelated process may."""
    home = tmp_path / "no farm"
    homes.make(home)
    with socket.create_server(("127.0.0.1", 0)) as thief:
        url = f"redis://:topsecret@127.0.0.1:{thief.getsockname()[1]}/0"
        state = {"redis_url": url, "s3_bucket": "farm", "s3_endpoint": "http://127.0.0.1:1"}
        (home / "farm.json").write_text(json.dumps(state | {"s3_access_key": "key", "s3_secret_key": "topsecret"}))
        (home / "farm.lock").write_text(str(os.getpid()))
        for command in (("list",), ("status", "0kz3"), ("watch", "0kz3"), ("workers",), ("recover",), ("doctor",)):
            result = run(*command)
            assert result.exit_code == 1
            assert "is not running" in result.stdout + result.stderr
            assert "farm up --detach" in result.stdout + result.stderr
        thief.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody has come
            thief.accept()


def test_errors_are_json_where_json_is_wanted() -> None:
    result = run("list", "--json")
    assert result.exit_code == 1
    error = json.loads(result.stdout)["error"]
    assert (error["type"], error["message"]) == ("NotConfigured", "no farm found")


def test_misuse_is_json_too_where_json_is_wanted() -> None:
    result = run("list", "--limit", "many", "--json")
    assert result.exit_code == 2
    error = json.loads(result.stdout)["error"]
    assert error["type"] == "BadParameter"
    assert error["message"].startswith("Invalid value for '--limit': 'many'")
    assert "Usage: farm list" in result.stderr


def test_losses_are_listed_without_a_farm() -> None:
    assert "wanted red" in run("losses").stdout
    (blue, *_) = json.loads(run("losses", "--json").stdout)
    assert blue["arguments"][0] == {
        "name": "target",
        "default": 0.9,
        "minimum": 0.0,
        "maximum": 1.0,
        "help": "wanted value of the blue channel",
    }


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_printed(shell: str) -> None:
    assert "_FARM_COMPLETE" in run("completion", shell).stdout


def completed(*words: str) -> list[str]:
    """What the shell would offer for the last word."""
    *before, beginning = words
    completer = BashComplete(farm, {}, "farm", "_FARM_COMPLETE")
    return [item.value for item in completer.get_completions(before, beginning)]


def test_commands_losses_and_samplers_are_completed() -> None:
    assert completed("st") == ["status"]
    assert completed("submit", "t") == ["txt2img"]
    assert completed("submit", "guided", "x", "--loss", "s") == ["saturation", "symmetry", "sharpness"]
    assert completed("submit", "guided", "x", "--sampler", "euler") == ["euler", "euler_a"]
    assert completed("watch", "0") == []


def test_a_sheet_names_the_signs_that_no_font_has(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("farm.pictures.fonts._folders", tuple)
    Image.new("RGB", (8, 8)).save(tmp_path / "水獺.png")
    result = run("sheet", str(tmp_path / "水獺.png"), "--out", str(tmp_path / "sheet.png"))
    assert result.stderr.splitlines()[0] == "warning: no font here has 2 characters of the captions, such as 水 獺"
    assert result.exit_code == 0


def test_the_end_of_a_log_in_an_error_is_shown_indented(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise StackError("redis did not start; the end of redis.log:\nfarm: all is well\x1b[2J\nbye", hint="try again")

    monkeypatch.setattr("farm.stack.stop", fail)
    assert run("down").stderr.splitlines() == [
        "farm: redis did not start; the end of redis.log:",
        "    farm: all is well [2J",
        "    bye",
        "  try again",
    ]


def test_a_mistake_with_escape_codes_in_it_is_inert() -> None:
    assert "\x1b" not in run("list", "--limit", "\x1b[2J").stderr


def test_how_a_picture_was_framed_is_written_as_one_says_it() -> None:
    (spec,) = planned("txt2img", "x", "--original-size", "4096x2048", "--crop", "128,0", "--target-size", "64X96")
    assert [spec[field] for field in ("original_size", "crop", "target_size")] == [
        {"width": 4096, "height": 2048},
        {"x": 128, "y": 0},
        {"width": 64, "height": 96},
    ]
    assert not {"original_size", "crop", "target_size"} & planned("txt2img", "x")[0].keys(), "as before"
    said = run("submit", "txt2img", "x", "--dry-run", "--crop", "128").stderr
    assert "farm: --crop: '128' is not X,Y: the pixels cut off on the left and above, such as 128,0" in said


def test_a_mask_is_a_file_or_what_is_transparent_in_the_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cut_out = Image.new("RGBA", (64, 64), (9, 9, 9, 255))
    cut_out.paste((0, 0, 0, 0), (0, 0, 32, 64))
    cut_out.save("cut-out.png")
    masked = Image.new("L", (64, 64))
    masked.paste(255, (0, 0, 8, 8))
    masked.save("alpha", "PNG")
    submit = ("img2img", "x", "--init", "cut-out.png", "--seed", "1")
    (own,), (file,) = (planned(*submit, "--mask", word, "--invert-mask") for word in ("alpha", "./alpha"))
    assert file["start"]["mask"]["sha256"] == hashlib.sha256(Path("alpha").read_bytes()).hexdigest()
    assert own["start"]["mask"]["sha256"] != file["start"]["mask"]["sha256"]
    assert own["start"]["redo"] == file["start"]["redo"] == "black"
    (grown,) = planned("txt2img", "x", "--init", "cut-out.png", "--outpaint", "left=8,top=16", "--only-masked", "4")
    assert grown["start"]["outpaint"] == {"left": 8, "top": 16, "right": 0, "bottom": 0}
    assert grown["start"]["only_masked"] == 4
