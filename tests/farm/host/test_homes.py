"""Whose a farm's folder is: made for its user alone, refused where others could write or put another in its place."""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from farm.errors import HomeRefused
from farm.host import homes
from farm.web.tokens import Tokens

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")
NOBODY = 65534


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o777])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home as a farm leaves it."""
    for folder in ("home", "home/redis", "home/s3", "home/logs", "home/s3/data"):
        homes.make(tmp_path / folder)
    for file in ("home/credentials.json", "home/redis/redis.conf", "home/s3/security.toml"):
        (tmp_path / file).touch(mode=0o600)
    return tmp_path / "home"


def test_it_is_open_to_its_owner_only_whatever_the_umask(tmp_path: Path, umask: None) -> None:
    homes.prepare(tmp_path / "above" / "home")
    for made in (tmp_path / "above", tmp_path / "above" / "home"):
        assert stat.S_IMODE(made.stat().st_mode) == 0o700


def test_one_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(mode=0o755)
    homes.prepare(tmp_path / "home")
    assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o755


def test_one_that_is_ours_alone_or_not_there_passes(home: Path) -> None:
    homes.check(home)
    homes.check(home / "not there" / "at all")


@pytest.mark.parametrize(
    "path", ["", "redis", "s3", "logs", "credentials.json", "redis/redis.conf", "s3/security.toml", "s3/data"]
)
@pytest.mark.parametrize("mode", [0o002, pytest.param(0o020, marks=root_only)])
def test_what_others_can_write_is_refused_with_its_mend(home: Path, path: str, mode: int) -> None:
    changed = home / path
    changed.chmod(changed.stat().st_mode | mode)
    if mode == 0o020:
        os.chown(changed, -1, NOBODY)  # not a group of the user's own
    with pytest.raises(HomeRefused, match="other users can write to") as caught:
        homes.check(home)
    assert caught.value.hint == f"chmod go-w {changed}"
    assert "\n" not in str(caught.value)


@root_only
@pytest.mark.parametrize("path", ["", "redis", "credentials.json", "s3/security.toml"])
def test_what_is_anothers_is_refused(home: Path, path: str) -> None:
    os.chown(home / path, NOBODY, -1)
    with pytest.raises(HomeRefused, match="belongs to another user"):
        homes.check(home)


def test_a_link_counts_as_what_it_leads_to(home: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (home / "models").symlink_to(tmp_path / "elsewhere")
    (home / "broken").symlink_to(tmp_path / "nowhere")
    homes.check(home)
    (tmp_path / "elsewhere").chmod(0o777)
    with pytest.raises(HomeRefused, match=r"other users can write to .*models"):
        homes.check(home)


def test_one_that_others_could_replace_is_refused(home: Path) -> None:
    above = home.parent
    above.chmod(0o1777)
    homes.check(home)  # as in /tmp: others cannot touch what is not theirs
    above.chmod(0o777)
    with pytest.raises(HomeRefused, match="and so replace the farm's home") as caught:
        homes.check(home)
    assert caught.value.hint is not None
    assert caught.value.hint.startswith(f"chmod go-w {above}")


@root_only
def test_one_in_anothers_folder_is_refused_but_to_root(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may work in a user's clone. Anybody else trusts root alone with the folders above."""
    os.chown(home.parent, NOBODY, -1)
    homes.check(home)
    someone = 12_345
    for path in (home, *home.rglob("*")):
        os.chown(path, someone, -1)
    monkeypatch.setattr(os, "geteuid", lambda: someone)
    with pytest.raises(HomeRefused, match="is in a folder of another user"):
        homes.check(home)


@root_only
def test_a_group_of_the_users_own_is_no_other_user(home: Path) -> None:
    """Many systems give each user one, and let it write by default."""
    home.chmod(0o770)
    homes.check(home)


def test_a_file_in_its_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HomeRefused, match="is not a folder"):
        homes.check(tmp_path / "file")
    for use in (homes.check, homes.prepare):
        with pytest.raises(HomeRefused, match="file/home cannot be used: Not a directory"):
            use(tmp_path / "file" / "home")


@pytest.fixture
def no_room() -> Iterator[None]:
    """No file can have more than a few bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_one_without_room_is_refused_and_keeps_what_it_has(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    homes.check_writable(tmp_path)
    tokens, file = Tokens(tmp_path), tmp_path / "web-tokens.json"
    secret = tokens.add("ci", "view")
    before = file.read_bytes()
    request.getfixturevalue("no_room")
    with pytest.raises(HomeRefused, match=f"the farm's home {tmp_path} cannot be used: File too large"):
        homes.check_writable(tmp_path)
    with pytest.raises(HomeRefused, match=r"cannot be used: File too large \(what is in it stays: make room"):
        tokens.add("other", "view")
    assert {path.name for path in tmp_path.iterdir()} == {"web-tokens.json", "web-tokens.lock"}
    assert file.read_bytes() == before and tokens.owner(secret)
