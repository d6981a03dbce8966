"""What many pages want is found out once, and nobody waits longer for it than they said."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from farm.errors import LedgerUnavailable
from farm.web.kept import Kept

pytestmark = pytest.mark.anyio


async def test_it_is_asked_for_once_and_an_old_answer_is_better_than_none() -> None:
    asked = 0
    may_answer = asyncio.Event()

    async def ask() -> int:
        nonlocal asked
        asked += 1
        await may_answer.wait()
        return asked

    kept = Kept(ask, seconds=0.0)
    assert await kept(within=0.01) is None, "there is none yet"
    may_answer.set()
    assert await asyncio.gather(*(kept() for _ in range(5))) == [1] * 5
    may_answer.clear()
    assert await kept(within=0.01) == 1, "the new one takes too long"
    assert asked == 2
    may_answer.set()
    assert await kept() == 2
    lasting = Kept(ask, seconds=60)
    assert await lasting() == await lasting() == 3


async def test_what_cannot_be_told_is_asked_again() -> None:
    answers: Iterator[int | Exception] = iter([LedgerUnavailable("away"), 7])

    async def ask() -> int:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    kept = Kept(ask, seconds=60)
    with pytest.raises(LedgerUnavailable):
        await kept(within=1)
    assert await kept(within=1) == 7
