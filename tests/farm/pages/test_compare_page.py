"""The page of several jobs as HTML: their settings, pictures, frames at like noise, and curves over it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from farm.pages import compare
from farm.pages import gather as gathering
from farm.pages.gather import Seen, gather
from tests.fakes.storage import FakeStorage
from tests.farm.pages import made_up
from tests.farm.pages.test_trace_page import HOSTILE, Parsed
from tests.ledgers import BATCH

HARMLESS_TO_JSON = HOSTILE.replace("\ud800", "")


def seen_of(
    *specs: Mapping[str, Any], changed: Mapping[str, bytes | None] | None = None, **fields: Any
) -> Sequence[Seen]:
    """What jobs of these specs left; of the last of them, some of it `changed`."""
    storage, found = FakeStorage(), []
    for number, given in enumerate(specs):
        of, job = made_up.spec(**given), f"{BATCH}-{number:04d}"
        other = changed if number == len(specs) - 1 else None
        found.append(gather(storage, made_up.put(storage, of, job=job, changed=other, **fields), sharing=len(specs)))
    return found


def page_of(*specs: Mapping[str, Any], **options: Any) -> Parsed:
    return Parsed(compare.page(seen_of(*specs, **options)))


def views(found: Parsed, group: str) -> list[dict[str, str | None]]:
    return found.all("li", **{"class": "view", "data-group": group})


def test_each_job_shows_its_frame_of_the_nearest_noise() -> None:
    found = page_of({"steps": 5}, {"steps": 3})
    [ways] = found.all("ul", id="ways")
    levels = [float(level) for level in (ways["data-levels"] or "").split()]
    assert levels == pytest.approx(made_up.sigmas(5)), "of the same schedule, of which 3 steps are every other of 5"
    assert [view["data-at"] for view in views(found, "frame")] == ["0 1 2 3 4", "0 0 1 1 2"]
    [scrubber] = found.all("input")
    assert (scrubber["max"], scrubber["value"]) == ("4", "4")


def test_a_job_without_a_trace_takes_part_with_its_picture_and_settings() -> None:
    found = page_of({"steps": 6}, {"steps": 8, "level": "none"})
    assert [view["data-job"] for view in views(found, "picture")] == ["A", "B"]
    assert [view.get("data-at") for view in views(found, "frame")] == ["0 1 2 3 4 5", ""]
    assert "No frames." in found.text("p")
    assert any(text.startswith("B: This job kept no trace") for text in found.text("p"))
    assert found.text("h3") == ["A: steps 6, trace frames", "B: steps 8, trace none"] * 2
    assert len(found.all("img")) == 2 + 6


def test_jobs_without_any_trace_have_a_page_that_says_how_to_have_more() -> None:
    bare = {"level": "none", "guidance": {"scale": 7.5}}
    found = page_of(bare, bare)
    assert not found.all("input")
    assert "None of these jobs kept numbers: 'farm submit … --trace numbers' does." in found.text("p")
    assert "Nothing that is known of these jobs." in found.text("p")


def test_each_quantity_has_a_curve_for_each_job_that_has_it_and_a_job_looks_the_same_in_all() -> None:
    found = page_of({"steps": 6, "guidance": {"scale": 3.0}}, {"steps": 8}, {"steps": 10, "level": "none"})
    plots = {figure["id"]: figure for figure in found.all("figure")}
    assert list(plots) == ["guided", "angle", "distance", "x0-change", "loss-0"]
    assert all("data-noise" in figure for figure in plots.values())
    looks = [given["class"] for name, given in found.elements if name == "g"]
    in_plot_and_legend = {
        "guided": ["series s0", "series s1"] * 2,
        "angle": ["series s0", "series s1"] * 2,
        "distance": ["series s0", "series s1"] * 2,
        "x0-change": ["series s0", "series s1"] * 2,
        "loss-0": ["series s1", "series s2"] * 2,
    }
    assert looks == [look for of_plot in in_plot_and_legend.values() for look in of_plot]
    lengths = [len((line["points"] or "").split()) for line in found.all("polyline")]
    assert lengths == [6, 8, 6, 8, 6, 8, 5, 7, 4, 5]


def test_the_settings_that_differ_are_a_table_and_the_others_one_line() -> None:
    found = page_of({"steps": 6, "seed": 1}, {"steps": 8, "seed": 2})
    cells = [(given["data-job"]) for name, given in found.elements if name == "td" and "data-job" in given]
    assert cells == ["A", "B"] * 2
    assert found.text("td")[:4] == ["6", "8", "1", "2"]
    [shared] = [text for text in found.text("p") if text.startswith("The same for all:")]
    assert "sampler lms · guidance 7.5" in shared and "steps" not in shared.replace("2 steps", "")


def test_no_words_of_a_stranger_are_more_than_words() -> None:
    conditioning = {"prompts": [{"text": HARMLESS_TO_JSON}], "negative": HARMLESS_TO_JSON}
    hostile = {"device": HARMLESS_TO_JSON, "versions": {HARMLESS_TO_JSON: HARMLESS_TO_JSON}}
    found = page_of({}, {"conditioning": conditioning}, **hostile)
    plain = page_of({}, {"seed": 3})
    assert {tag for tag, _ in found.elements} == {tag for tag, _ in plain.elements}
    assert len(found.all("script")) == len(found.all("style")) == 1
    assert not [name for _, given in found.elements for name in given if name.startswith("on") or name == "style"]
    shown = "".join(text for _, text in found.words if "alert(1)" in text)
    assert "</script></style><img src=x onerror=alert(1)><!--" in shown
    assert not [sign for sign in shown if not sign.isprintable()]


def test_what_is_left_out_is_told_of_under_the_letter_of_its_job() -> None:
    strange = made_up.lines(made_up.spec(steps=6))
    strange[2]["guidance"]["angle"] = float("nan")
    changed = {"image.png": b"<svg/>", "trace.jsonl": "\n".join(map(json.dumps, strange)).encode()}
    found = page_of({"steps": 6}, {"steps": 6}, changed=changed)
    assert "B: image.png is left out: it is no PNG picture." in found.text("p")
    assert "No picture." in found.text("p")
    assert "Angle of guidance, in degrees: 1 value is no number to draw." in found.text("p")


def test_frames_of_unknown_noise_are_told_of() -> None:
    older = made_up.without("schedule", "losses")
    found = page_of({"steps": 6}, {"steps": 6}, changed={"trace.jsonl": None}, **older)
    assert "B: 6 of its frames are not here, for their noise level is not known." in found.text("p")
    assert [view.get("data-at") for view in views(found, "frame")] == ["0 1 2 3 4 5", ""]


def test_on_paper_are_a_few_frames_of_like_noise() -> None:
    found = page_of({"steps": 30}, {"steps": 2})
    printed = found.all("li", **{"class": "printed"})
    assert len(printed) == 4 + 2


def test_the_jobs_of_a_page_share_its_room_for_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(made_up.objects(made_up.spec(steps=12))["trace/0000.jpeg"])
    monkeypatch.setattr(gathering, "MAX_FRAMES_BYTES", 12 * size)
    seen = seen_of({"steps": 12}, {"steps": 12}, {"steps": 12})
    assert all(0 < sum(len(frame.data) for frame in one.frames) <= 4 * size for one in seen)
    assert all(one.frames[-1].step == 11 for one in seen)


def test_the_same_jobs_make_the_same_page() -> None:
    assert compare.page(seen_of({}, {"steps": 5})) == compare.page(seen_of({}, {"steps": 5}))
