"""What is imported when: `farm` never torch, and `farm --help` next to nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "diffusers", "transformers", "worker", "av", "scipy")
NOT_FOR_HELP = ("torch", "boto3", "botocore", "celery", "redis", "pydantic", "rich", "yaml", "PIL")


def loaded_after(code: str, packages: tuple[str, ...]) -> list[str]:
    """Which of the packages a fresh interpreter has imported once it ran `code`."""
    program = f"{code}\nimport sys\nprint(*[name for name in {packages!r} if name in sys.modules], file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, encoding="utf-8", timeout=60, check=True
    )
    return done.stderr.split()


@pytest.mark.long
def test_no_module_of_farm_imports_torch() -> None:
    code = """
import importlib, pkgutil, farm
for module in pkgutil.walk_packages(farm.__path__, "farm."):
    importlib.import_module(module.name)
"""
    assert loaded_after(code, HEAVY) == []


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["submti"], ["completion", "fish"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = f"""
import contextlib, io
from farm.cli.main import farm
with contextlib.suppress(SystemExit), contextlib.redirect_stderr(io.StringIO()):
    farm({arguments!r}, prog_name="farm")
"""
    assert loaded_after(code, NOT_FOR_HELP) == []


@pytest.mark.long
def test_a_dry_run_needs_neither_redis_nor_a_bucket() -> None:
    code = """
import contextlib
from farm.cli.main import farm
with contextlib.suppress(SystemExit):
    farm(["submit", "txt2img", "x", "--dry-run"], prog_name="farm")
"""
    assert loaded_after(code, ("boto3", "celery")) == []
