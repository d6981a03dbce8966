"""Names that may be meant by one that nobody knows."""

from __future__ import annotations

import pytest

from farm.alike import alike, did_you_mean

KNOWN = ("emoji", "sd14", "Pastel-Style", "xl-turbo", "xl-turbo-2", "xl-turbo-3", "xl-turbo-4")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("emogi", ["emoji"]),
        ("EMOJI", ["emoji"]),
        ("sd1.4", ["sd14"]),
        ("pastel_style", ["Pastel-Style"]),
        ("pastel", ["Pastel-Style"]),
        ("zzz", []),
        ("emoji", []),
    ],
)
def test_names_are_alike_by_their_letters_or_as_parts(name: str, meant: list[str]) -> None:
    assert alike(name, KNOWN) == meant


def test_few_are_named_the_likeliest_first() -> None:
    first, *others = alike("xl-turbos", KNOWN)
    assert first == "xl-turbo" and len(others) == 2


def test_a_hint_asks_for_those_that_may_be_meant() -> None:
    assert did_you_mean(["emogi", "sd15"], KNOWN, "see 'farm models'") == (
        "did you mean 'emoji' or 'sd14'? see 'farm models'"
    )
    assert did_you_mean(["zzz"], KNOWN, "see 'farm models'") == "see 'farm models'"
