"""Places for files: found out before anything is rendered, and left as they were."""

from __future__ import annotations

import os
import resource
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from farm.cli.main import farm
from farm.errors import InvalidInput
from farm.host.places import check_file, check_folder, folder_for, replacing

NOBODY = 65_534


@contextmanager
def not_as_root() -> Iterator[None]:
    """Root may write anywhere."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@contextmanager
def no_room() -> Iterator[None]:
    """Files may not grow, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that everybody can look into, as pytest's own is not."""
    made = Path(tempfile.mkdtemp())
    made.chmod(0o755)
    yield made
    made.chmod(0o755)
    shutil.rmtree(made)


def test_a_place_that_will_do_is_left_as_it_was(folder: Path) -> None:
    before = folder.stat()
    check_folder(folder, option="--out")
    check_folder(folder / "a" / "b", option="--out")
    check_file(folder / "c" / "sheet.png", option="--out")
    assert list(folder.iterdir()) == []
    assert folder.stat().st_mode == before.st_mode


@pytest.mark.parametrize("name", ["", "a/b"])
def test_a_folder_that_is_read_only(folder: Path, name: str) -> None:
    folder.chmod(0o555)
    with not_as_root(), pytest.raises(InvalidInput, match=r"^--out: .* cannot be (written to|made): Permission denied"):
        check_folder(folder / name, option="--out")


def test_a_folder_in_one_that_nobody_may_look_into(folder: Path) -> None:
    (folder / "renders").mkdir()
    folder.chmod(0o000)
    with not_as_root(), pytest.raises(InvalidInput, match="Permission denied"):
        check_folder(folder / "renders", option="--out")


@pytest.mark.parametrize("name", ["file", "file/renders", "link", "x" * 300, "a/" + "x" * 300])
def test_a_name_that_no_folder_can_have(folder: Path, name: str) -> None:
    (folder / "file").touch()
    (folder / "link").symlink_to("nowhere")
    with pytest.raises(InvalidInput, match="cannot be"):
        check_folder(folder / name, option="--out")
    assert sorted(path.name for path in folder.iterdir()) == ["file", "link"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc here")
@pytest.mark.parametrize("place", ["/proc", "/proc/renders", "/sys/renders"])
def test_a_file_system_that_takes_no_files(place: str) -> None:
    with pytest.raises(InvalidInput, match=f"{place} cannot be"):
        check_folder(Path(place), option="--out")


@pytest.mark.parametrize("name", ["", "a/b"])
def test_a_disk_without_room(folder: Path, name: str) -> None:
    with no_room(), pytest.raises(InvalidInput, match="File too large"):
        check_folder(folder / name, option="--out")
    assert list(folder.iterdir()) == []


def test_a_file_that_is_read_only(folder: Path) -> None:
    file = folder / "sheet.png"
    file.touch(mode=0o444)
    folder.chmod(0o777)
    with not_as_root(), pytest.raises(InvalidInput, match="cannot be written: Permission denied"):
        check_file(file, option="--out")


def test_a_file_that_is_none(folder: Path) -> None:
    os.mkfifo(folder / "sheet.png")
    with pytest.raises(InvalidInput, match="cannot be written"):
        check_file(folder / "sheet.png", option="--out")


def test_a_file_is_replaced_whole_or_not_at_all(folder: Path) -> None:
    file = folder / "new" / "sheet.png"
    with replacing(file, option="--out") as unfinished:
        unfinished.write_bytes(b"old")
        assert not file.exists()
    with (
        no_room(),
        pytest.raises(InvalidInput, match=r"--out: .*sheet\.png cannot be written: File too large"),
        replacing(file, option="--out") as unfinished,
    ):
        unfinished.write_bytes(bytes(2_000))
    assert file.read_bytes() == b"old"
    assert [path.name for path in file.parent.iterdir()] == ["sheet.png"]
    assert stat.S_IMODE(file.stat().st_mode) & 0o600 == 0o600


def test_a_folder_that_was_made_in_vain_is_gone_again(folder: Path) -> None:
    deep = folder / "a" / "b"
    with folder_for(deep):
        assert deep.is_dir()
    assert list(folder.iterdir()) == []

    with folder_for(deep):
        (deep / "c.png").touch()
    with folder_for(deep):
        (deep / "c.png").unlink()
    assert deep.is_dir(), "it was there before"


def test_a_file_that_could_not_be_written_leaves_no_folder(folder: Path) -> None:
    with no_room(), pytest.raises(InvalidInput), replacing(folder / "a" / "b" / "c.png", option="--out") as unfinished:
        unfinished.write_bytes(bytes(2_000))
    assert list(folder.iterdir()) == []


@pytest.mark.usefixtures("away_from_any_farm")
@pytest.mark.parametrize(
    "arguments",
    [
        ("submit", "txt2img", "x", "--out"),
        ("submit", "txt2img", "x", "--previews-to"),
        ("watch", "0kz3", "--previews-to"),
        ("fetch", "0kz3", "--out"),
        ("demo", "--out"),
        ("bench", "--out"),
    ],
    ids=" ".join,
)
def test_every_folder_is_looked_at_before_all_else(
    arguments: tuple[str, ...], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.execv", lambda *_: pytest.fail("it was not looked at"))
    monkeypatch.setattr("farm.stack.start_detached", lambda *_: pytest.fail("it was not looked at"))
    (folder / "file").touch()
    place = folder / "file" / "renders"
    done = CliRunner().invoke(farm, [*arguments, str(place)])
    assert done.exit_code == 2, done.output
    assert done.stderr == f"farm: {arguments[-1]}: {place} cannot be made: Not a directory\n"
    assert not place.exists()


@pytest.mark.usefixtures("away_from_any_farm")
def test_a_sheet_has_a_place_before_its_pictures_are_read(folder: Path) -> None:
    (folder / "file").touch()
    sheet = folder / "file" / "sheet.png"
    done = CliRunner().invoke(farm, ["sheet", "0kz3", "--out", str(sheet)])
    assert done.exit_code == 2
    assert done.stderr == f"farm: --out: {sheet} cannot be written: Not a directory\n"


def test_a_sheet_that_cannot_be_written_leaves_the_old_one(folder: Path) -> None:
    Image.new("RGB", (64, 64)).save(folder / "a.png")
    sheet = folder / "sheet.png"
    sheet.write_bytes(b"old")
    folder.chmod(0o555)
    with not_as_root():
        done = CliRunner().invoke(farm, ["sheet", str(folder / "a.png"), "--out", str(sheet), "--overwrite"])
    assert done.exit_code == 2, done.output
    assert sheet.read_bytes() == b"old"
