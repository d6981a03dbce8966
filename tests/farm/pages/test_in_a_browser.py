"""Pages in a real browser: they move by keyboard and pointer, ask nobody for anything, and shut nobody out."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from farm.pages import compare
from farm.pages.gather import gather
from farm.pages.table import written as html_of_table
from farm.pages.trace import page as html_of
from farm.pictures.table import Cell, Table
from farm.pictures.table import Page as SheetPage
from tests.browsers import chromium, needs_chromium
from tests.fakes.storage import FakeStorage
from tests.farm.pages import made_up, test_roundtrip_page
from tests.farm.pages.test_compare_page import seen_of
from tests.farm.pages.test_table_page import png
from tests.farm.pages.test_trace_page import HOSTILE

PHONE = {"width": 390, "height": 844}
START, STEPS = 12, 20
PALER = made_up.picture(shade=138)
"""A picture whose red is 6 levels more than that of the others, and its blue 6 less."""
_HEADER = PALER[12:26] + b"\x01" + PALER[27:29]
BROKEN = PALER[:12] + _HEADER + zlib.crc32(_HEADER).to_bytes(4) + PALER[33:]
"""A picture by its size alone: it is packed in a way that no browser knows."""

pytestmark = [
    pytest.mark.long,
    needs_chromium,
]

Show = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages of a job with a trace from a picture, of one without a trace, of one with hostile words; of sheets."""
    storage, folder = FakeStorage(), tmp_path_factory.mktemp("pages")
    words = HOSTILE.replace("\ud800", "")
    prompts = {"prompts": [{"text": words}], "negative": words}
    results: dict[str, dict[str, Any]] = {
        "traced": {"of": made_up.spec(steps=STEPS, start=START)},
        "plain": {"of": made_up.spec(level="none"), **made_up.without("prompts", "schedule", "losses")},
        "hostile": {"of": made_up.spec(conditioning=prompts), "device": words, "versions": {words: words}},
    }
    made = {}
    for name, given in results.items():
        made[name] = folder / f"{name}.html"
        made[name].write_text(html_of(gather(storage, made_up.put(storage, **given))), encoding="utf-8")
    made["roundtrip"] = folder / "roundtrip.html"
    made["roundtrip"].write_text(test_roundtrip_page.html(warnings=[words]), encoding="utf-8")
    for name, said in (("table", "an otter"), ("hostile table", words)):
        made[name] = folder / f"{name}.html"
        made[name].write_text(table_of(said), encoding="utf-8")
    several = {
        "compared": ({"steps": 6}, {"steps": 12, "start": 4}, {"steps": 9, "level": "none"}),
        "strange": ({"steps": 6}, {"steps": 6, "conditioning": prompts}),
    }
    for name, specs in several.items():
        changed = {"image.png": PALER if name == "compared" else BROKEN}
        made[name] = folder / f"{name}.html"
        made[name].write_text(compare.page(seen_of(*specs, changed=changed)), encoding="utf-8")
    return made


def table_of(words: str) -> str:
    """A page of a sheet of two pages, each of two rows and three columns, the middle cell of the first one empty."""
    shown, empty = Cell(data=png(), name=words, title=words, detail=words), Cell(note=f"failed: {words}")
    cells = [[shown, empty, shown], [shown, shown, shown]]
    pages = [SheetPage(f"seed {seed}", cells) for seed in (1, 2)]
    return html_of_table(Table(words, words, [f"steps {n}" for n in (10, 20, 30)], ["lms", "euler"], pages))


@pytest.fixture
def show(browser: Browser, files: dict[str, Path]) -> Iterator[Show]:
    """Opens a page in a window of its own; at the end, it has said nothing and asked for nothing but itself."""
    said: list[str] = []
    contexts = []

    def open_page(name: str, **options: object) -> Page:
        context = browser.new_context(**options)  # type: ignore[arg-type]
        contexts.append(context)
        page = context.new_page()
        own = files[name].as_uri()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.on(
            "request", lambda asked: said.append(asked.url) if asked.url != own and asked.url[:5] != "data:" else None
        )
        page.goto(own)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []


def shown_step(page: Page) -> int:
    [step] = [int(item.get_attribute("data-step") or -1) for item in page.locator("#frames > li:visible").all()]
    return step


def test_the_keys_move_the_frames(show: Show) -> None:
    page = show("traced")
    scrubber = page.get_by_label("Step", exact=True)
    assert shown_step(page) == STEPS - 1
    for key, step in (("ArrowLeft", 18), ("Home", START), ("ArrowRight", START + 1), ("End", STEPS - 1)):
        scrubber.press(key)
        assert shown_step(page) == step, key
    page.locator("h1").click()
    page.keyboard.press("ArrowLeft")
    assert shown_step(page) == 18
    expect(scrubber).to_have_attribute("aria-valuetext", f"step 18, σ {made_up.sigmas(STEPS)[18]:.4g}")
    expect(page.locator("#where")).to_have_text(f"step 18, σ {made_up.sigmas(STEPS)[18]:.4g}")


def test_the_pointer_moves_the_frames(show: Show) -> None:
    page = show("traced")
    page.get_by_label("Step", exact=True).click()  # in its middle
    assert shown_step(page) in (15, 16)
    plot = page.locator("#angle > svg")
    box = plot.bounding_box()
    assert box
    plot.click(position={"x": box["width"] * 0.98, "y": box["height"] / 2})
    assert shown_step(page) == STEPS - 1


@pytest.mark.parametrize("by", ["button", "space"])
def test_it_plays_from_the_first_to_the_last(show: Show, by: str) -> None:
    page = show("traced")
    seen = page.evaluate_handle(
        """() => {
            const told = [];
            const where = document.querySelector('#where'), play = document.querySelector('#play');
            new MutationObserver(() => told.push([where.textContent.split(',')[0], play.textContent]))
                .observe(where, {childList: true});
            return told;
        }"""
    )
    if by == "button":
        page.get_by_role("button", name="Play").click()
    else:
        page.get_by_label("Step", exact=True).press(" ")
    page.wait_for_function(f"told => told.length >= {STEPS - START}", arg=seen)
    names = ["Pause"] * (STEPS - START - 1) + ["Play"]
    assert seen.json_value()[1:] == [
        [f"step {step}", name] for step, name in zip(range(START + 1, STEPS), names[1:], strict=True)
    ]
    assert shown_step(page) == STEPS - 1


def test_all_curves_show_the_step_of_the_frame(show: Show) -> None:
    page = show("traced")
    page.get_by_label("Step", exact=True).press("Home")
    for plot in page.locator(".plot").all():
        place = plot.locator("circle").first if plot.get_attribute("id") != "schedule" else plot.locator(".mark")
        name = "cx" if plot.get_attribute("id") != "schedule" else "x1"
        if plot.get_attribute("id") != "x0-change":  # of the first step there is no change
            assert float(plot.locator(".cursor").get_attribute("x1") or 0) == pytest.approx(
                float(place.get_attribute(name) or -1), abs=0.01
            )
        expect(plot.locator(".cursor")).to_have_attribute("visibility", "visible")
    assert page.locator("#angle .value").all_inner_texts() == ["17"]
    assert page.locator("#predictions .value").all_inner_texts() == ["28.4", "25", "28"]


def test_each_plot_has_a_point_for_each_number(show: Show) -> None:
    page = show("traced")
    numbers = {plot.get_attribute("id"): plot.locator("circle").count() for plot in page.locator(".plot").all()}
    assert numbers == {
        **{"schedule": 20, "predictions": 24, "angle": 8, "distance": 8, "latents": 24, "x0-change": 7},
        **{"losses": 4, "losses-scaled": 4},
    }


def shown_of_each(page: Page) -> list[str]:
    return page.locator(".here").all_inner_texts()


def test_one_scrubber_moves_the_frames_of_all_jobs_to_like_noise(show: Show) -> None:
    page = show("compared")
    first, last = made_up.sigmas(6), made_up.sigmas(12)
    scrubber = page.get_by_label("Noise level", exact=True)
    scrubber.press("Home")
    assert shown_of_each(page) == [f"step 0, σ {first[0]:.4g}", f"step 4, σ {last[4]:.4g}"]
    expect(scrubber).to_have_attribute("aria-valuetext", "σ 14.6")
    scrubber.press("End")
    assert shown_of_each(page) == [f"step 5, σ {first[5]:.4g}", f"step 11, σ {last[11]:.4g}"]
    assert page.locator(".frames > li:visible").count() == 2
    plot = page.locator("#angle > svg")
    box = plot.bounding_box()
    assert box
    plot.click(position={"x": box["width"] * 0.55, "y": box["height"] / 2})
    assert shown_of_each(page) == [f"step 2, σ {first[2]:.4g}", f"step 5, σ {last[5]:.4g}"]
    assert page.locator("#angle .value").all_inner_texts() == ["7", "10"], "each at the step of its frame"


def test_differences_are_drawn_amplified_and_told_in_levels(show: Show) -> None:
    page = show("compared")
    paler = page.locator(".view[data-group=picture][data-job=C]")
    page.get_by_label("Difference to").select_option("A")
    page.get_by_label("amplified").select_option("16")
    expect(paler.locator(".apart")).to_have_text("|C − A| × 16: 4.00 of 255 levels on average, 6 at most")
    expect(paler.locator("img")).to_be_hidden()
    pixel = "canvas => [...canvas.getContext('2d').getImageData(5, 5, 1, 1).data]"
    assert paler.locator("canvas").evaluate(pixel) == [96, 0, 96, 255]
    expect(page.locator(".view[data-group=picture][data-job=B] .apart")).to_have_text(
        "|B − A| × 16: the same in every pixel"
    )
    expect(page.locator(".view[data-group=picture][data-job=A] img")).to_be_visible()
    frame = page.locator(".view[data-group=frame][data-job=B] .apart")
    before = frame.inner_text()
    page.get_by_label("Noise level", exact=True).press("Home")
    expect(frame).not_to_have_text(before)
    page.get_by_label("Difference to").select_option("C")
    expect(frame).to_have_text("No difference: C has none here.")
    page.get_by_label("Difference to").select_option("")
    expect(paler.locator("img")).to_be_visible()
    expect(paler.locator("canvas")).to_be_hidden()


@pytest.mark.parametrize(
    ("name", "scheme"),
    [(name, scheme) for name in ("traced", "compared", "roundtrip") for scheme in ("light", "dark")],
)
def test_the_page_shuts_nobody_out(show: Show, name: str, scheme: str) -> None:
    page = show(name, color_scheme=scheme)
    for details in page.locator("details").all():
        details.evaluate("element => { element.open = true; }")
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


def test_the_theme_can_be_chosen(show: Show) -> None:
    page = show("plain", color_scheme="light")

    def paper() -> str:
        colour: str = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return colour

    light = paper()
    page.get_by_role("button", name="Dark").click()
    dark = paper()
    assert dark != light
    page.get_by_role("button", name="Light").click()
    assert paper() == light
    page.emulate_media(color_scheme="dark")
    assert paper() == light, "what was chosen stays"


@pytest.mark.parametrize("name", ["traced", "hostile", "compared", "strange", "roundtrip"])
def test_a_phone_needs_no_scrolling_to_the_side(show: Show, name: str) -> None:
    page = show(name, viewport=PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]


def test_paper_has_frames_instead_of_controls(show: Show) -> None:
    page = show("traced")
    page.emulate_media(media="print")
    assert page.locator("#frames > li:visible").count() == STEPS - START
    expect(page.locator("#scrubber")).to_be_hidden()
    expect(page.locator("#theme")).to_be_hidden()


def test_without_its_script_every_frame_is_there(show: Show) -> None:
    page = show("traced", java_script_enabled=False)
    assert page.locator("#frames > li:visible").count() == STEPS - START
    expect(page.locator("#scrubber")).to_be_hidden()


def test_hostile_words_do_nothing(show: Show) -> None:
    page = show("hostile")
    assert "</script></style><img src=x onerror=alert(1)>" in page.locator("h1").inner_text()
    assert page.locator("script").count() == 1
    page.get_by_label("Step", exact=True).press("Home")
    assert shown_step(page) == 0


def test_the_policy_lets_no_other_script_run(show: Show, files: dict[str, Path], browser: Browser) -> None:
    """As if the template had let one through."""
    forged = files["plain"].with_name("forged.html")
    text = files["plain"].read_text(encoding="utf-8")
    forged.write_text(text.replace("</main>", "<img src=x onerror=\"document.title='run'\"></main>"), encoding="utf-8")
    page = browser.new_page()
    refused: list[str] = []
    page.on("console", lambda message: refused.append(message.text))
    page.goto(forged.as_uri())
    assert page.title() != "run"
    assert any("Content Security Policy" in text for text in refused)
    page.close()


@pytest.mark.parametrize("name", ["table", "hostile table"])
def test_the_cells_of_a_sheet_open_and_go_on_by_keys(show: Show, name: str) -> None:
    page = show(name)
    place, picture = page.locator(".place"), page.locator("dialog img")
    page.locator(".cell").first.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.place") == "steps 30, lms, seed 1", (
        "an empty cell is passed over"
    )
    page.keyboard.press("Enter")
    expect(picture).to_be_visible()
    for key, where in (
        *(("ArrowDown", "steps 30, euler, seed 1"), ("ArrowLeft", "steps 20, euler, seed 1")),
        *(("ArrowUp", "steps 20, euler, seed 1"), ("PageDown", "steps 20, euler, seed 2")),
        *(("ArrowRight", "steps 30, euler, seed 2"), ("PageUp", "steps 30, euler, seed 1")),
    ):
        page.keyboard.press(key)
        expect(place).to_have_text(where)
    page.keyboard.press("Escape")
    expect(picture).to_be_hidden()
    page.wait_for_function("document.activeElement.dataset.place === 'steps 30, euler, seed 1'")


def test_the_cells_of_a_sheet_open_and_close_by_the_pointer(show: Show) -> None:
    page = show("table")
    page.locator(".cell").nth(2).click()
    expect(page.locator(".place")).to_have_text("steps 10, euler, seed 1")
    expect(page.locator("dialog .title")).to_have_text("an otter")
    page.get_by_role("button", name="Close").click()
    expect(page.locator("dialog")).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["table", "hostile table"])
def test_a_sheet_shuts_nobody_out(show: Show, name: str, scheme: str) -> None:
    page = show(name, color_scheme=scheme, bypass_csp=True)
    for opened in (False, True):
        if opened:
            page.locator(".cell").first.click()
        found = Axe().run(page)
        assert found.violations_count == 0, found.generate_report()


def test_hostile_words_and_pictures_in_a_comparison_do_nothing(show: Show) -> None:
    page = show("strange")
    assert "</script></style><img src=x onerror=alert(1)>" in page.locator(".settings").inner_text()
    page.get_by_label("Difference to").select_option("B")
    told = page.locator(".view[data-group=picture][data-job=A] .apart")
    expect(told).to_have_text("No difference: one of the two cannot be read.")
    expect(page.locator(".view[data-group=frame][data-job=A] .apart")).to_have_text(
        "|A − B| × 4: the same in every pixel"
    )
