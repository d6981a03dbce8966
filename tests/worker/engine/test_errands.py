"""Errands: done on the engine's thread between two ticks, ahead of the pictures."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from farm.errors import InvalidInput, RenderError
from worker.engine.engine import Engine
from worker.engine.request import Cancelled, RenderRequest, SilentObserver

Engines = Callable[..., Engine]
ENOUGH = 60.0


class Holding(SilentObserver):
    """Holds the engine's thread in its job's first step until it is let go."""

    def __init__(self) -> None:
        self.done = 0
        self.begun, self.go_on = threading.Event(), threading.Event()

    def on_step(self, done: int) -> None:
        self.done = done
        self.begun.set()
        assert self.go_on.wait(ENOUGH)


def test_an_errand_is_done_on_the_engines_thread(engines: Engines) -> None:
    engine = engines()
    assert engine.errand("a", lambda: threading.current_thread().name).result(ENOUGH) == "engine"
    assert engine.errand("b", lambda: 7).result(ENOUGH) == 7


def test_errands_come_before_the_next_step_in_their_order(
    engines: Engines, request_for: Callable[..., RenderRequest]
) -> None:
    engine, picture = engines(), Holding()
    rendered = engine.submit(request_for("picture", steps=3, observer=picture))
    assert picture.begun.wait(ENOUGH)

    errands = [engine.errand(name, lambda: picture.done) for name in "abc"]
    order: list[str] = []
    last = engine.errand("d", lambda: order.append("d"))
    picture.go_on.set()

    assert [errand.result(ENOUGH) for errand in errands] == [1, 1, 1]
    last.result(ENOUGH)
    rendered.result(ENOUGH)
    assert (order, picture.done) == (["d"], 3)


def test_an_errand_that_comes_in_the_midst_of_the_last_turn_is_not_forgotten(
    engines: Engines, request_for: Callable[..., RenderRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long turn reads messages between two operators; afterwards no message comes to wake the engine."""
    engine = engines()
    errands: list[Any] = []
    finish = engine._decoder.finish

    def with_an_errand(chunk: Any) -> None:
        errands.append(engine.errand("late", lambda: "done"))
        engine._read_messages()
        finish(chunk)

    monkeypatch.setattr(engine._decoder, "finish", with_an_errand)
    engine.submit(request_for("picture", steps=1)).result(ENOUGH)
    assert errands[0].result(ENOUGH) == "done"


def test_what_goes_wrong_in_an_errand_is_its_own(engines: Engines) -> None:
    engine = engines()

    def fails(error: Exception) -> None:
        raise error

    with pytest.raises(InvalidInput, match="told"):
        engine.errand("a", lambda: fails(InvalidInput("told"))).result(ENOUGH)
    with pytest.raises(RenderError, match="out of memory while answering job b") as told:
        engine.errand("b", lambda: fails(torch.OutOfMemoryError("CUDA out of memory"))).result(ENOUGH)
    assert told.value.kind == "memory"
    assert engine.errand("c", lambda: 1).result(ENOUGH) == 1


def test_a_long_errand_shows_that_it_lives(engines: Engines) -> None:
    engine, noted = engines(), []
    engine._note_progress = lambda: noted.append(1)  # type: ignore[method-assign]

    def work() -> None:
        until = threading.Event()
        for _ in range(4):
            until.wait(0.03)  # longer than a turn goes without a look
            torch.zeros(1).add(1).sum()

    before = len(noted)
    engine.errand("a", work).result(ENOUGH)
    assert len(noted) >= before + 3


def test_what_was_not_begun_when_the_engine_ends_is_cancelled(
    engines: Engines, request_for: Callable[..., RenderRequest]
) -> None:
    engine, picture = engines(), Holding()
    rendered = engine.submit(request_for("picture", steps=3, observer=picture))
    assert picture.begun.wait(ENOUGH)
    errand = engine.errand("a", lambda: 1)
    stopping = threading.Thread(target=engine.stop)
    stopping.start()
    while engine._inbox.qsize() < 4:  # the errand, that all is dropped, and the end
        assert stopping.is_alive()
    picture.go_on.set()
    stopping.join(ENOUGH)

    with pytest.raises(Cancelled):
        errand.result(ENOUGH)
    with pytest.raises(Cancelled):
        rendered.result(ENOUGH)
