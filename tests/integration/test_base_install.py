"""A submitter's machine: only the base install, without torch and the worker's other packages."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def base_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment into which only `farm/` was installed, as the README says.

    The pip of this environment installs into that one, and compiles nothing: what is imported is compiled then.
    """
    folder = tmp_path_factory.mktemp("base")
    for name in ("pyproject.toml", "README.md", "LICENSE", "constraints.txt"):
        shutil.copy(ROOT / name, folder / name)
    for package in ("farm", "worker"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("weights", "__pycache__"))
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True, timeout=120)
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    install = ["install", "-q", "--no-compile", "-c", "constraints.txt", "."]
    subprocess.run([*pip, *install], cwd=folder, check=True, timeout=300)
    return python


@pytest.mark.usefixtures("worker")
def test_the_base_install_submits_and_fetches(base_python: Path, environment: dict[str, str], tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        command = [str(base_python), "-I", "-m", "farm", *arguments]
        done = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    without_torch = "import importlib.util as u; print([n for n in ('torch', 'diffusers', 'av') if u.find_spec(n)])"
    assert subprocess.check_output([base_python, "-c", without_torch], encoding="utf-8") == "[]\n"

    [job] = json.loads(run("submit", "txt2img", "a cat", "--model", "tiny", "--steps", "3", "--json"))["jobs"]
    run("fetch", job, "--wait", "--out", "renders")

    with Image.open(tmp_path / "renders" / f"{job}.png") as image:
        assert image.size == (64, 64)
    run("trace", job, "--out", "renders")  # by files of the package that are no Python
    assert "</html>" in (tmp_path / "renders" / f"{job}.trace.html").read_text(encoding="utf-8")

    assert "1 picture" in run("sheet", job, "--x", "seed", "--html", "sheet.html")
    assert "data:image/png" in (tmp_path / "sheet.html").read_text(encoding="utf-8")
    assert run("film", job) == "film.webp  1 frame, 64×64 pixels\n"


def test_the_base_install_makes_tokens_and_says_what_the_site_needs(
    base_python: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command, own = (
            [str(base_python), "-I", "-m", "farm", *arguments],
            {**environment, "FARM_HOME": str(tmp_path / "home")},
        )
        return subprocess.run(command, env=own, capture_output=True, encoding="utf-8", timeout=60)

    assert run("token", "add", "ci", "--role", "view").stdout.startswith("farm_")
    assert "ci" in run("token", "list").stdout
    done = run("web")
    assert done.returncode == 1
    assert "this installation cannot serve: fastapi, uvicorn, python-multipart missing" in done.stderr
    assert "pip install -c constraints.txt '.[web]'" in done.stderr


def test_the_base_install_says_what_a_worker_needs(base_python: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        [base_python, "-I", "-m", "farm", "worker"], env=environment, capture_output=True, encoding="utf-8", timeout=60
    )

    assert done.returncode == 1
    assert "pip install -c constraints.txt '.[worker]'" in done.stderr
