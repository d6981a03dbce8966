"""The recipes of CONTRIBUTING.md, followed to the letter in a copy of the packages: what they add works."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from farm.ledger.ledger import Ledger
from farm.settings import Settings
from tests import launching
from tests.ledgers import BATCH, job

ROOT = Path(__file__).parents[2]
RECIPES = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
LOSSES = (ROOT / "deploy" / "docs" / "losses.md").read_text(encoding="utf-8")
_ANEW = """
import sys
for name in [name for name in sys.modules if name.partition(".")[0] in ("farm", "worker")]:
    del sys.modules[name]
"""
"""The packages are imported anew, as they are changed, where torch is imported already."""
_BLOCK = re.compile(r"(A new file|At the end of|In)\s`([\w/]+\.\w+)`:\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks() -> Iterator[tuple[str, str, str]]:
    """Of each block of the recipes: where it goes (`A new file`, `At the end of`, `In`), the file, and the block."""
    for found in _BLOCK.finditer(RECIPES):
        yield found[1], found[2], found[3]


def follow(where: str, file: Path, block: str) -> None:
    """Do to the file what the recipe says."""
    if where == "A new file":
        file.write_text(block, encoding="utf-8")
        return
    before = file.read_text(encoding="utf-8")
    if where == "At the end of":
        file.write_text(f"{before}\n\n{block}", encoding="utf-8")
        return
    lines = block.splitlines(keepends=True)
    old = "".join(line[1:] for line in lines if line[0] != "+")
    new = "".join(line[1:] for line in lines if line[0] != "-")
    assert before.count(old) == 1, f"{file} has not once:\n{old}"
    file.write_text(before.replace(old, new), encoding="utf-8")


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages as they are after all the recipes, the loss of the other page among them."""
    folder = tmp_path_factory.mktemp("changed")
    for package in ("farm", "worker"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("weights", "__pycache__"))
    for where, file, block in blocks():
        follow(where, folder / file, block)
    [module] = re.findall(r"^```python\n(# greenery\.py\n.*?)^```$", LOSSES, re.MULTILINE | re.DOTALL)
    (folder / "greenery.py").write_text(module, encoding="utf-8")
    [declared] = re.findall(r"^```toml\n(.*?)^```$", LOSSES, re.MULTILINE | re.DOTALL)
    [(name, target)] = tomllib.loads(declared)["project"]["entry-points"]["farm.losses"].items()
    installed = folder / "greenery-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: greenery\nVersion: 1.0\n", encoding="utf-8")
    (installed / "entry_points.txt").write_text(f"[farm.losses]\n{name} = {target}\n", encoding="utf-8")
    return folder


def run(changed: Path, *arguments: str, **variables: str) -> str:
    """What a Python says that finds the changed packages."""
    path = os.pathsep.join((str(changed), str(ROOT)))
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=changed,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "100", **variables},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def rendered(changed: Path) -> dict[str, Any]:
    """What `rendering_recipes` prints."""
    script = (Path(__file__).parent / "rendering_recipes.py").read_text(encoding="utf-8")
    path = os.pathsep.join((str(changed), str(ROOT)))
    done = launching.run(
        [str(changed / "model")],
        environment={**os.environ, "PYTHONPATH": path},
        folder=changed,
        script=_ANEW + script.replace("from __future__ import annotations\n", ""),
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def queue(servers: Settings) -> Iterator[tuple[Ledger, str]]:
    """A ledger with two queued jobs, and the address of its Redis for another process."""
    url = re.sub(r"/\d+$", "/9", servers.redis_url)
    ledger = Ledger(Settings(redis_url=url))
    ledger.redis.flushdb()
    ledger.create(BATCH, [job(0), job(1)])
    yield ledger, url
    ledger.redis.flushdb()
    ledger.close()


def test_each_block_of_the_recipes_is_followed() -> None:
    recipes = RECIPES[RECIPES.index("## Recipes") :]
    assert len(list(blocks())) == recipes.count("```") / 2 > 4


@pytest.mark.long
def test_the_sampler_renders(rendered: dict[str, Any]) -> None:
    """In two steps the picture of LMS, which has no more to remember by then."""
    assert rendered["lms_2"] == pytest.approx(rendered["lms"], abs=0.01)
    assert rendered["history"] == 1


@pytest.mark.long
def test_the_family_renders(rendered: dict[str, Any]) -> None:
    assert rendered["family"] == "summing"
    assert rendered["summing"] != pytest.approx(rendered["green"], abs=0.01), "another model"


@pytest.mark.long
def test_the_loss_guides(rendered: dict[str, Any]) -> None:
    (_, before, _), (_, after, _) = rendered["lms"], rendered["green"]
    assert after > before + 1


def test_the_command_is_listed_and_runs(changed: Path, queue: tuple[Ledger, str]) -> None:
    assert "oldest      Name the job that has waited for the longest." in run(changed, "-m", "farm", "--help")
    told = run(changed, "-m", "farm", "oldest", FARM_REDIS_URL=queue[1])
    assert told.strip() == job(0).id


def test_the_operation_of_the_ledger_gives_a_job_other_labels(changed: Path, queue: tuple[Ledger, str]) -> None:
    ledger, url = queue
    script = """if True:
        import sys
        from farm.ledger.ledger import Ledger
        from farm.settings import load
        ledger = Ledger(load())
        print([ledger.relabel(sys.argv[1], {"of": "otters"}) for _ in range(2)])
    """
    assert run(changed, "-c", script, job(1).id, FARM_REDIS_URL=url).strip() == "['queued', 'queued']"

    assert ledger.get(job(1).id).labels == {"of": "otters"}
