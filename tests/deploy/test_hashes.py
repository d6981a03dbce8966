"""What `make` installs is checked against PyPI's hashes, and is what constraints.txt names."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
LOCKS = ("run.txt", "tools.txt")
# The one package that each platform has another build of.
BY_PLATFORM = {"torch"}
TESTED = ("local", "worker", "web", "bench", "test")


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonical(name): version for name, version in pins}


def locked(name: str) -> dict[str, tuple[str, list[str]]]:
    """The version and the hashes of each package in a lock file."""
    text = (ROOT / "deploy" / "requirements" / name).read_text(encoding="utf-8").replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        match = re.match(r"([\w.-]+)==(\S+)", line)
        assert match, line
        found[canonical(match[1])] = (match[2], re.findall(r"--hash=sha256:([0-9a-f]{64})(?=\s|$)", line))
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_package_has_hashes_and_the_version_of_the_constraints(name: str) -> None:
    pins = constraints()
    for package, (version, hashes) in locked(name).items():
        assert hashes, package
        assert version == pins.get(package, version), package


def test_all_that_is_constrained_is_locked_but_what_each_platform_has_its_own_build_of() -> None:
    assert set(constraints()) - set(locked("tools.txt")) == BY_PLATFORM


def test_the_tools_are_locked_with_the_same_files_as_the_farm() -> None:
    assert locked("run.txt").items() <= locked("tools.txt").items()


def test_make_installs_only_torch_and_this_clone_without_hashes() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    installing = re.findall(r"^\t\$\(PIP(?:_LOWEST)?\) (.*)$", makefile, re.MULTILINE)
    assert [command for command in installing if "--require-hashes" not in command] == [
        "--constraint constraints.txt torch",
        "--no-deps --no-build-isolation --editable .",
        "torch==$(LOWEST_TORCH)",
        "--no-deps --no-build-isolation --editable .",
    ]
    locks = {f"--require-hashes --requirement deploy/requirements/{name}" for name in (*LOCKS, "lowest.txt")}
    assert locks <= set(installing)


def test_what_is_said_to_be_the_lowest_version_is_what_make_lowest_tests_with() -> None:
    """Other packages may ask for more than our own range: then nobody can have its lowest version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *(one for extra in TESTED for one in extras[extra])]
    said = {canonical(one.name): one.specifier for one in map(Requirement, asked)}
    lowest = {name: Version(version) for name, (version, hashes) in locked("lowest.txt").items() if hashes}

    for name in said.keys() - BY_PLATFORM:
        [floor] = [Version(part.version) for part in said[name] if part.operator == ">="]
        assert lowest[name] == floor, name
