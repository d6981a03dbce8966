"""The page of a job as HTML: what is on it, and that nobody's words are more than words."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any

import pytest

from farm.pages import gather as gathering
from farm.pages.gather import gather
from farm.pages.trace import page
from tests.fakes.storage import FakeStorage
from tests.farm.pages import made_up

HOSTILE = "</script></style><img src=x onerror=alert(1)><!-- \x1b[2J\u202e\ud800 {{ 7 * 7 }} & \"'"
_ALONE = {"meta", "link", "img", "input", "line", "circle", "rect", "polyline"}


class Parsed(HTMLParser):
    """The elements of a page, with their attributes and the words in them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[tuple[str, list[str]]] = []
        self.words: list[tuple[str, str]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in _ALONE:
            self._open.append((tag, []))

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open[-1][0] == tag, f"</{tag}> closes {self._open[-1][0]}"
        _, words = self._open.pop()
        text = " ".join("".join(words).split())
        self.words.append((tag, text))
        if self._open:
            self._open[-1][1].append(text)

    def handle_data(self, data: str) -> None:
        if self._open:
            self._open[-1][1].append(data)

    def all(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        return [
            given
            for name, given in self.elements
            if name == tag and all(given.get(key) == value for key, value in attributes.items())
        ]

    def text(self, tag: str) -> list[str]:
        return [words for name, words in self.words if name == tag]


def page_of(changed: Mapping[str, bytes | None] | None = None, *, of: Any = None, **fields: Any) -> Parsed:
    storage = FakeStorage()
    made = page(gather(storage, made_up.put(storage, of or made_up.spec(steps=12), changed=changed, **fields)))
    made.encode("utf-8")
    return Parsed(made)


def points(found: Parsed) -> int:
    return sum(len((line["points"] or "").split()) for line in found.all("polyline"))


def test_the_page_has_all_that_a_traced_job_left() -> None:
    found = page_of(of=made_up.spec(steps=20, start=12))
    assert found.text("h2") == [
        *("The picture", "The way there", "Prompts", "Noise schedule", "Step by step", "Losses"),
        *("Where the time went", "What made it"),
    ]
    assert found.text("h3") == [
        "Prompt 1 of 2 × 0.75",
        "Prompt 2 of 2 × 0.25",
        "Negative prompt",
    ]
    assert {"an</w> 300", "otter</w> 301", "dog</w> 301"} <= set(found.text("li"))
    assert found.text("del") == ["with whiskers"]
    assert [figure["id"] for figure in found.all("figure", **{"class": "plot"})] == [
        *("schedule", "predictions", "angle", "distance", "latents", "x0-change", "losses", "losses-scaled"),
    ]
    assert len(found.all("p", **{"class": "remark"})) == 1, "that of the words that were cut"
    assert len([1 for name, given in found.elements if name == "li" and given.get("data-step")]) == 8
    assert len(found.all("img")) == 8 + 2
    assert "20, from step 12" in found.text("dd")
    assert {"cpu", "2.13.0", "bundled", "blue × 20, every 2 steps"} <= set(found.text("dd"))
    assert "Spacing: karras." in found.text("p")


def test_tokens_are_shown_by_chunk_with_their_weights() -> None:
    tokens = [
        {"id": 320, "piece": "a</w>"},
        {"id": 736, "piece": "red</w>", "weight": 1.3},
        *({"piece": "bad-hands", "vector": k} for k in (0, 1)),
    ]
    read = {"role": "negative", "weight": 1.0, "tokens": tokens}
    found = page_of(prompts=[{**read, "chunks": [2, 0, 2]}])
    assert {"a</w> 320", "red</w> × 1.3 736", "bad-hands vector 1", "bad-hands vector 2"} <= set(found.text("li"))
    assert [words for words in found.text("p") if words.startswith("Chunk")] == [
        *("Chunk 1 of 3", "Chunk 2 of 3: no token", "Chunk 3 of 3"),
    ]
    assert len(found.all("ol", **{"class": "tokens"})) == 2
    of_one = page_of(prompts=[{**read, "chunks": []}])
    assert not any(words.startswith("Chunk") for words in of_one.text("p")), "of a worker that does not say"
    assert len(of_one.all("ol", **{"class": "tokens"})) == 1


def test_every_number_is_a_point_of_its_plot_and_a_cell_of_its_table() -> None:
    found = page_of(of=made_up.spec(steps=20, start=12))
    due = 4
    of_schedule, of_others = 20, (3 + 1 + 1 + 3) * 8 + 7 + 2 * due
    assert points(found) == of_schedule + of_others
    assert len(found.all("circle")) == of_schedule + of_others
    rows = [given["data-step"] for name, given in found.elements if name == "tr" and "data-step" in given]
    assert len(rows) == 20 + 5 * 8 + 2 * due
    assert {"0.26", "5.2"} <= set(found.text("td")), "blue at step 12, alone and times 20"


def test_an_older_result_says_what_it_lacks() -> None:
    old = made_up.lines(made_up.spec(steps=12))
    for line in old:
        del line["guidance"], line["x0_change"]
        for name in ("x_next", "conditional", "unconditional"):
            del line["norms"][name]
    numbers = "\n".join(map(json.dumps, old)).encode()
    lacking = made_up.without("prompts", "losses", "schedule")
    found = page_of({"trace.jsonl": numbers}, timings={"model": 1, "render": 2, "decode": 1, "total": 5}, **lacking)
    remarks = [text for text in found.text("p") if "older" in text or "does not" in text]
    assert remarks == [
        "Its result has no tokens, for it is of an older worker.",
        "Its result has no schedule, for it is of an older worker.",
        "What guidance does is not here, for its trace is of an older worker.",
        "Its result has no losses, for it is of an older worker.",
        "Its result does not say how long these took: queued, text, published.",
    ]
    assert [figure["id"] for figure in found.all("figure", **{"class": "plot"})] == [
        *("schedule", "predictions", "latents", "losses", "losses-scaled"),
    ]


def test_a_job_without_a_trace_has_the_page_without_those_parts() -> None:
    found = page_of(of=made_up.spec(level="none"))
    assert "Step by step" not in found.text("h2")
    assert any("'farm submit … --trace frames'" in text for text in found.text("p"))
    assert [figure["id"] for figure in found.all("figure", **{"class": "plot"})] == [
        "schedule",
        "losses",
        "losses-scaled",
    ]
    assert not found.all("input")


def test_the_time_is_a_bar_of_its_parts() -> None:
    found = page_of()
    bars = [given for given in found.all("rect") if "height" in given and given["height"] == "26"]
    assert [float(bar["width"] or 0) for bar in bars] == pytest.approx(
        [1000 * part / 3 for part in (0.4, 0.2, 0.1, 1.5, 0.3, 0.2, 0.3)], abs=0.01
    )
    shown = [text for text in found.text("li") if re.search(r"\d s$", text)]
    assert shown == [
        *("queued 0.40 s", "model 0.20 s", "text 0.10 s", "denoised 1.50 s", "decoded 0.30 s"),
        *("published 0.20 s", "the rest 0.30 s"),
    ]


def test_no_words_of_a_stranger_are_more_than_words() -> None:
    conditioning = {"prompts": [{"text": HOSTILE.replace("\ud800", "")}], "negative": HOSTILE.replace("\ud800", "")}
    of = made_up.spec(steps=12, conditioning=conditioning)
    tokens = [{"id": 5, "piece": HOSTILE}]
    hostile: dict[str, Any] = {
        "prompts": [
            {"role": role, "weight": 1.0, "tokens": tokens, "cut": [HOSTILE]} for role in ("prompt", "negative")
        ],
        "schedule": {"spacing": HOSTILE, "timesteps": [], "sigmas": [1.0, 0.5]},
        "device": HOSTILE,
        "dtype": HOSTILE,
        "worker": HOSTILE,
        "versions": {HOSTILE: HOSTILE},
        "warnings": [HOSTILE],
        "model": {"name": HOSTILE, "source": HOSTILE, "revision": HOSTILE, "sha256": HOSTILE, "vae": HOSTILE},
    }
    found = page_of(of=of, **{name: _without_surrogates(value) for name, value in hostile.items()})
    plain = page_of()
    assert {tag for tag, _ in found.elements} <= {tag for tag, _ in plain.elements} | {"del"}
    assert len(found.all("script")) == len(found.all("style")) == 1
    assert not [name for _, given in found.elements for name in given if name.startswith("on") or name == "style"]
    shown = "".join(text for _, text in found.words if "alert(1)" in text)
    assert "</script></style><img src=x onerror=alert(1)><!--" in shown
    assert "{{ 7 * 7 }}" in shown
    assert not [sign for sign in shown if not sign.isprintable()]


def _without_surrogates(value: Any) -> Any:
    """JSON has them escaped, which readers of results refuse."""
    return json.loads(json.dumps(value).replace("\\ud800", ""))


def test_a_lone_surrogate_does_not_keep_the_page_from_being_written() -> None:
    storage = FakeStorage()
    seen = gather(storage, made_up.put(storage, made_up.spec(steps=12)))
    seen.result = seen.result.model_copy(update={"device": "a\ud800b"})
    assert "a b" in Parsed(page(seen)).text("dd")


def test_nothing_but_what_is_embedded_is_loaded_and_only_this_script_runs() -> None:
    storage = FakeStorage()
    made = page(gather(storage, made_up.put(storage, made_up.spec(steps=20, start=12))))
    found = Parsed(made)
    loaded = [given[name] or "" for _, given in found.elements for name in ("src", "href") if name in given]
    assert loaded and all(address.startswith("data:") for address in loaded)
    [policy] = [given["content"] or "" for given in found.all("meta", **{"http-equiv": "Content-Security-Policy"})]
    assert policy.startswith("default-src 'none'; img-src data:; media-src data:; ")
    for tag, source in (("script", "script-src"), ("style", "style-src")):
        [text] = re.findall(f"<{tag}>(.*?)</{tag}>", made, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{source} 'sha256-{digest}'" in policy


def test_numbers_that_are_none_are_told_of_and_not_drawn() -> None:
    strange = made_up.lines(made_up.spec(steps=12))
    strange[3]["norms"]["x"] = float("nan")
    strange[4]["guidance"]["angle"] = float("inf")
    strange[5]["x0_change"] = 10**400
    numbers = "\n".join(map(json.dumps, strange)).encode()
    losses, schedule = {"blue": [[0, float("nan")], [2, 1.0]]}, {"spacing": "", "timesteps": [], "sigmas": [1e300, 1.0]}
    found = page_of(
        {"trace.jsonl": numbers}, losses=losses, schedule=schedule, timings={"render": 1e308, "total": -5.0}
    )
    told = [text for text in found.text("p") if "no number to draw" in text]
    assert told == [
        "Noise level: 1 value is no number to draw.",
        "Angle of guidance, in degrees: 1 value is no number to draw.",
        "Norms of the latents: 1 value is no number to draw.",
        "Change of x₀: 1 value is no number to draw.",
        "Losses: 1 value is no number to draw.",
        "Losses × scale: 1 value is no number to draw.",
    ]
    drawn = [given["points"] or "" for given in found.all("polyline")]
    assert not [line for line in drawn if re.search("[a-df-z]", line)]
    assert found.text("td").count("no number") == 6


def test_the_same_job_makes_the_same_page() -> None:
    first, second = FakeStorage(), FakeStorage()
    of = made_up.spec(steps=12)
    assert page(gather(first, made_up.put(first, of))) == page(gather(second, made_up.put(second, of)))


@pytest.mark.long
def test_a_page_of_the_longest_job_stays_in_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the frames as many as may be, and every number of a thousand steps."""
    monkeypatch.setattr(gathering, "MAX_FRAMES", 20)
    storage = FakeStorage()
    of = made_up.spec(steps=1_000, level="frames")
    made = page(gather(storage, made_up.put(storage, of)))
    found = Parsed(made)
    assert len(found.all("img")) == 20 + 1
    assert points(found) == 1_000 * (1 + 3 + 1 + 1 + 3) + 999 + 2 * 500
    assert len(made) < 4 * 2**20
