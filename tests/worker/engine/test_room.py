"""Memory that runs out because others hold it, around a turn or in its midst: nobody fails for that."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from farm.errors import RenderError
from tests.worker.engine.test_engine import with_unet
from tests.worker.engine.test_turns import ENOUGH, LARGE, is_large
from worker.engine.engine import Engine
from worker.engine.request import Cancelled, RenderRequest
from worker.models.model import LoadedModel

Engines = Callable[..., Engine]
Request = Callable[..., RenderRequest]
ONE_STEP = {**LARGE, "steps": 1}


class Narrow:
    """A model with room for one forward, or one text, at a time. A large one lasts until another found no room."""

    def __init__(self, model: LoadedModel) -> None:
        self.in_midst, self.refused = threading.Event(), threading.Event()
        self._model = model
        self._is_taken = False

    def unet(self, rows: torch.Tensor, *arguments: Any, **keywords: Any) -> Any:
        self.take()
        self._is_taken = True
        try:
            while is_large(rows) and not self.refused.is_set():
                self.in_midst.set()
                torch.zeros(1)
            return self._model.unet(rows, *arguments, **keywords)
        finally:
            self._is_taken = False

    def take(self) -> None:
        if self._is_taken:
            self.refused.set()
            raise torch.OutOfMemoryError


@pytest.mark.long
def test_who_finds_no_room_in_anothers_turn_waits_for_its_end(
    engines: Engines, request_for: Request, model: LoadedModel
) -> None:
    narrow = Narrow(model)
    engine, patient = engines(max_rows=8), with_unet(model, narrow.unet)
    large = engine.submit(replace(request_for("large", **ONE_STEP), model=patient))
    assert narrow.in_midst.wait(ENOUGH)
    small = [engine.submit(replace(request_for(f"small {n}", steps=3), model=patient)) for n in range(2)]

    assert narrow.refused.wait(ENOUGH)
    assert all(future.result(ENOUGH).pixels.shape == (64, 64, 3) for future in small)
    assert large.result(ENOUGH).pixels.shape == (512, 528, 3)


class NarrowText:
    """A prompt encoder that has no room while the large picture's step is under way."""

    def __init__(self, prompts: Any, narrow: Narrow) -> None:
        self._prompts, self._narrow = prompts, narrow

    def mix(self, *arguments: Any, **options: Any) -> Any:
        self._narrow.take()
        return self._prompts.mix(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._prompts, name)


@pytest.mark.long
@pytest.mark.parametrize("cancelled", [False, True])
def test_who_cannot_even_be_prepared_in_anothers_turn_is_prepared_after_it(
    engines: Engines, request_for: Request, model: LoadedModel, cancelled: bool
) -> None:
    narrow = Narrow(model)
    engine, patient = engines(max_rows=8), with_unet(model, narrow.unet)
    large = engine.submit(replace(request_for("large", **ONE_STEP), model=patient))
    assert narrow.in_midst.wait(ENOUGH)
    prompts: Any = NarrowText(model.prompts, narrow)
    small = engine.submit(replace(request_for("small", steps=3), model=replace(patient, prompts=prompts)))
    if cancelled:
        engine.cancel("small")
        with pytest.raises(Cancelled):
            small.result(ENOUGH)
    else:
        assert small.result(ENOUGH).pixels.shape == (64, 64, 3)
    assert large.result(ENOUGH).pixels.shape == (512, 528, 3)


@pytest.mark.long
@pytest.mark.parametrize("fits_alone", [True, False])
def test_who_runs_out_after_others_cut_in_is_tried_with_all_the_room(
    engines: Engines, request_for: Request, model: LoadedModel, fits_alone: bool
) -> None:
    """As on a heap that others have torn: only what does not fit without them fails."""
    in_midst, cut_in, tries = threading.Event(), threading.Event(), []

    def call(rows: torch.Tensor, *arguments: Any, **keywords: Any) -> Any:
        if not is_large(rows):
            cut_in.set()
            return model.unet(rows, *arguments, **keywords)
        tries.append(len(rows))
        while not cut_in.is_set():
            in_midst.set()
            torch.zeros(1)
        if len(tries) == 1 or not fits_alone:
            raise torch.OutOfMemoryError
        return model.unet(rows, *arguments, **keywords)

    engine, patient = engines(max_rows=8), with_unet(model, call)
    large = engine.submit(replace(request_for("large", **ONE_STEP), model=patient))
    assert in_midst.wait(ENOUGH)
    small = engine.submit(replace(request_for("small", steps=3), model=patient))

    assert small.result(ENOUGH).pixels.shape == (64, 64, 3)
    if fits_alone:
        assert large.result(ENOUGH).pixels.shape == (512, 528, 3)
    else:
        with pytest.raises(RenderError, match="out of memory"):
            large.result(ENOUGH)
    assert tries == [1, 1]
