"""The page of a round trip, and what of it is missing or forged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from farm.jobs.answers import Channel, Noised, Roundtrip
from farm.jobs.request import JobRequest
from farm.jobs.spec import InitReference
from farm.pages.gather import gather
from farm.pages.roundtrip import page
from tests.fakes.storage import FakeStorage
from tests.farm.pages import made_up
from tests.farm.pages.made_up import SIDE, picture
from tests.farm.pages.test_trace_page import HOSTILE, Parsed

ANSWER = Roundtrip(
    encode="mean",
    pixels=(SIDE, SIDE),
    latents=(4, 8, 8),
    numbers=(12_288, 256),
    psnr=27.314,
    amplified=8,
    channels=(Channel(low=-1.5, high=2, mean=0.25, deviation=0.5),) * 4,
    sampler="lms",
    steps=15,
    noised=(Noised(step=10, timestep=285, alpha=1, sigma=2.125, psnr=None),),
)
SPEC = JobRequest.parse(
    {"mode": "roundtrip", "init": b"x", "noise_steps": [10], "steps": 15, "seed": 7, "encode": "mean"}
).specs(InitReference(sha256="0" * 64, extension="png"), default_model="emoji")[0]
OBJECTS = {
    "answer.json": ANSWER.model_dump_json().encode(),
    "original.png": picture(),
    "difference.png": picture(shade=1),
    **{f"latents/{number}.png": picture(width=8, height=8, shade=number) for number in range(4)},
    "noised/0010.png": picture(shade=2),
}


def html(**fields: Any) -> str:
    """The page of a round trip that was made as it should be."""
    storage = FakeStorage()
    return page(storage, gather(storage, made_up.put(storage, SPEC, changed=OBJECTS, **fields)))


def page_of(changed: Mapping[str, bytes | None] | None = None, **fields: Any) -> tuple[Parsed, list[str]]:
    storage = FakeStorage()
    seen = gather(storage, made_up.put(storage, SPEC, changed={**OBJECTS, **(changed or {})}, **fields))
    return Parsed(page(storage, seen)), seen.faults


def test_the_page_shows_all_that_a_round_trip_makes() -> None:
    found, faults = page_of()

    assert faults == []
    shown = [image["alt"] for image in found.all("img")]
    assert shown == [
        *("As it was encoded", "Encoded and decoded", "The difference"),
        *(f"Channel {number}" for number in range(1, 5)),
        "Step 10",
    ]
    assert [words for words in found.text("p") if "PSNR" in words or "amplified" in words or "noise;" in words] == [
        "PSNR 27.31 dB",
        "|a − b|, amplified 8 times",
        "1·latents + 2.12·noise; no pixel differs",
    ]
    assert "black is -1.5, white 2; mean 0.25 ± 0.5" in found.text("p")
    assert "4 channels of 8×8, 256 numbers: 48 times fewer" in found.text("dd")
    assert not [words for words in found.text("p") if words.startswith("This job")]


def test_what_is_missing_or_forged_is_left_out_with_a_remark() -> None:
    changed = {"difference.png": None, "latents/2.png": picture(), "noised/0010.png": b"<svg/>"}
    found, faults = page_of(changed)
    assert faults == [
        "latents/2.png is left out: it is a picture of 64×64 pixels.",
        "noised/0010.png is left out: it is no PNG picture.",
    ]
    assert set(faults) <= set(found.text("p"))
    assert len(found.all("img")) == 5

    found, faults = page_of({"answer.json": b'{"study": "roundtrip"}'})
    assert len(faults) == 1 and "does not answer 'roundtrip'" in faults[0]
    assert [image["alt"] for image in found.all("img")] == [
        "As it was encoded",
        "Encoded and decoded",
        "The difference",
    ]


def test_words_of_strangers_are_escaped() -> None:
    found, _ = page_of(warnings=[HOSTILE.replace("\ud800", "")])
    assert not found.all("img", src="x")
    assert any("alert(1)" in words and "\x1b" not in words for words in found.text("p"))
