"""Contact sheets: captions from the pictures themselves, room for any shape, bounds."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from farm.errors import InvalidInput
from farm.pictures import sheet
from farm.pictures.fonts import Fonts
from farm.pictures.lettering import Lettering, Line
from farm.pictures.provenance import SPEC_KEY
from farm.pictures.sheet import Tile, contact_sheet, tile_of
from tests.farm.pictures.test_lettering import DEJAVU
from tests.ledgers import job


def png(*, spec: str | None = None, size: tuple[int, int] = (64, 64)) -> bytes:
    info = PngInfo()
    if spec is not None:
        info.add_itxt(SPEC_KEY, spec)
    file = io.BytesIO()
    Image.new("RGB", size, "teal").save(file, "PNG", pnginfo=info)
    return file.getvalue()


def test_a_rendered_picture_is_captioned_by_its_spec() -> None:
    tile = tile_of(png(spec=job(7).spec.to_json()), name="x/y.png")
    assert (tile.title, tile.detail) == ("an otter", "txt2img · seed 7 · 30 steps · lms")


@pytest.mark.parametrize("spec", [None, "{}", "not json"])
def test_any_other_picture_is_captioned_by_its_name(spec: str | None) -> None:
    tile = tile_of(png(spec=spec), name="x/y.png")
    assert (tile.title, tile.detail) == ("y.png", "")


@pytest.mark.parametrize("number", [1, 2, 7, 12])
def test_pictures_of_any_shape_fit(number: int) -> None:
    tiles = [
        Tile(Image.new("RGB", (8 + 300 * (n % 3), 8 + 200 * (n % 2)), "teal"), "a title " * n) for n in range(number)
    ]
    page = contact_sheet(tiles, columns=4)
    columns = min(4, number)
    assert page.width == 80 + 256 * columns + 24 * (columns - 1)
    assert contact_sheet(tiles, columns=4, labels=False).height < page.height


def test_a_long_word_stays_in_its_column() -> None:
    page = contact_sheet([Tile(Image.new("RGB", (8, 8), "teal"), title="w" * 500)])
    margin = page.crop((page.width - 40, 0, page.width, page.height))
    assert len(margin.getcolors() or ()) == 1


@pytest.mark.parametrize("number", [0, 1_001])
def test_none_and_too_many_are_refused(number: int) -> None:
    with pytest.raises(InvalidInput, match="a sheet takes 1 to 1,000 pictures"):
        contact_sheet([Tile(Image.new("RGB", (8, 8)))] * number)


def test_a_caption_read_from_the_right_ends_there() -> None:
    page = contact_sheet([Tile(Image.new("RGB", (256, 8), "teal"), title="אב")], lettering=Lettering(Fonts([DEJAVU])))
    beneath = ImageOps.invert(page.crop((40, 60, 296, page.height)).convert("L")).point(
        lambda value: 255 * (value > 60)
    )
    left, _, right, _ = beneath.getbbox() or (0, 0, 0, 0)
    assert left > 200 and right > 250


@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1), (6_000, 6_000)])
def test_a_picture_of_any_shape_is_shown(size: tuple[int, int]) -> None:
    page = contact_sheet([Tile(Image.new("RGB", size, "teal"))])
    assert page.getpixel((40 + 127, 40)) == (0, 128, 128)


@pytest.mark.parametrize("size", [(1, 70_000), (70_000, 1)])
def test_a_side_that_takes_memory_to_read_is_refused_unread(size: tuple[int, int]) -> None:
    with pytest.raises(InvalidInput, match="pixels, but a side may have at most 65,535"):
        tile_of(png(size=size), name="x.png")


def test_signs_that_no_font_has_are_told_to_the_caller() -> None:
    lettering = Lettering(Fonts([]))
    contact_sheet([Tile(Image.new("RGB", (8, 8)), "水獺", "é")], lettering=lettering)
    assert lettering.missing == {"水", "獺", "é"}
    contact_sheet([Tile(Image.new("RGB", (8, 8)), "字")], labels=False, lettering=lettering)
    assert "字" not in lettering.missing


def test_details_are_broken_between_their_parts() -> None:
    parts = ["img2img", "seed 2527840723", "30 steps from step 12", "dpmpp_2m", "guidance 7.5", "blue x25"]
    said = [words(line) for line in details(" · ".join(parts))]
    assert len(said) == 3 and [part for line in said for part in line.split(" · ")] == parts
    (first, second, last) = (words(line) for line in details(" · ".join([*parts, *parts])))
    assert (first, second) == tuple(said[:2]) and last.endswith("…")
    assert details("") == []


def details(text: str) -> Sequence[Line]:
    return sheet._caption(Tile(Image.new("RGB", (8, 8)), detail=text), Lettering(Fonts([DEJAVU]))).detail


def words(line: Line) -> str:
    return "".join(run.text for run in line.runs)
