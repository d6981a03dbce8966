"""Tokens as they are kept: hashed, for their user's eyes only, and told once."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from farm.cli.main import farm
from farm.errors import HomeRefused, InvalidInput
from farm.web.tokens import Tokens


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path / "home")


def test_only_a_hash_of_a_token_is_kept_and_only_its_user_can_read_it(tokens: Tokens, tmp_path: Path) -> None:
    secret = tokens.add("ci", "submit")
    file = tmp_path / "home" / "web-tokens.json"

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert secret not in file.read_text(encoding="utf-8")
    assert len(secret) > 40
    owner = tokens.owner(secret)
    assert owner and (owner.name, owner.role) == ("ci", "submit")
    assert tokens.owner(secret[:-1]) is None and tokens.owner("") is None and tokens.owner("\udcff") is None
    assert tokens.owner(owner.sha256) is None, "what is kept is of no use"


def test_another_process_goes_by_a_change_at_once(tokens: Tokens, tmp_path: Path) -> None:
    other = Tokens(tmp_path / "home")
    assert other.owner("x") is None
    secret = tokens.add("ci", "view")
    assert other.owner(secret)
    tokens.remove("ci")
    assert other.owner(secret) is None


def test_a_file_that_others_can_read_or_that_is_damaged_lets_nobody_in(tokens: Tokens, tmp_path: Path) -> None:
    secret, file = tokens.add("ci", "view"), tmp_path / "home" / "web-tokens.json"
    file.chmod(0o644)
    with pytest.raises(HomeRefused, match="other users can read"):
        Tokens(tmp_path / "home").owner(secret)
    file.chmod(0o600)
    for text in ("{", "[]", '{"tokens": [1]}', '{"tokens": [{"name": "x"}]}', file.read_text().replace("view", "root")):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(HomeRefused, match="cannot be used"):
            Tokens(tmp_path / "home").owner(secret)


@pytest.mark.parametrize("name", ["", "a b", "-x", "x" * 65, "ä", "a/b", "a\n"])
def test_odd_names_are_refused(tokens: Tokens, name: str) -> None:
    with pytest.raises(InvalidInput, match="cannot name a token"):
        tokens.add(name, "view")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    monkeypatch.setenv("FARM_HOME", str(tmp_path / "home"))
    return lambda *arguments: CliRunner().invoke(farm, [*arguments])


def test_the_command_makes_lists_and_removes_tokens(run: Callable[..., Result], tmp_path: Path) -> None:
    assert "no token yet" in run("token", "list").stderr
    made = run("token", "add", "ci", "--role", "submit")
    told = json.loads(run("token", "add", "gallery", "--role", "view", "--json").stdout)

    assert made.stdout.startswith("farm_") and "not shown again" in made.stderr
    assert Tokens(tmp_path / "home").owner(made.stdout.strip())
    assert Tokens(tmp_path / "home").owner(told["token"])
    listed = run("token", "list", "--json")
    assert [(one["name"], one["role"]) for one in json.loads(listed.stdout)] == [("ci", "submit"), ("gallery", "view")]
    for shown in (listed.stdout, run("token", "list").stdout):
        assert "gallery" in shown and made.stdout.strip() not in shown and "sha256" not in shown
    assert "already" in run("token", "add", "ci", "--role", "view").stderr
    assert run("token", "remove", "ci").exit_code == 0
    assert Tokens(tmp_path / "home").owner(made.stdout.strip()) is None
    again = run("token", "remove", "ci")
    assert (again.exit_code, "there is no token 'ci'" in again.stderr) == (2, True)
