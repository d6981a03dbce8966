"""Recorded UNets: the same numbers for every number of rows and every size, dealt to lanes, and never wrong ones."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.adapters import adapter, attention
from tests.tiny import build_tiny_model
from worker.diffusion.adapters import Stack, Use
from worker.diffusion.additions import Additions
from worker.diffusion.conditioning import Conditioning
from worker.diffusion.prompts import How
from worker.models.device import place
from worker.models.loader import ModelLoader
from worker.models.model import LoadedModel
from worker.models.recording import Original
from worker.models.registry import LocalDirectory
from worker.models.torchscript import RecordedUNet, recorded

CORES = 3


@pytest.fixture(scope="module", autouse=True)
def threads_restored() -> Iterator[None]:
    """Forwards on several cores set how many threads torch has."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    directory = build_tiny_model(tmp_path_factory.mktemp("tiny"))
    model = ModelLoader(place("cpu"), cache=directory / "cache").load("tiny", LocalDirectory(directory))
    return replace(model, recorded=None)


@pytest.fixture(scope="module")
def model(plain: LoadedModel) -> LoadedModel:
    """Recorded for three cores, whatever this machine has."""
    unet = recorded(plain, CORES)
    assert unet is not None
    return replace(plain, recorded=unet)


@torch.no_grad()
def predicted(
    model: LoadedModel, count: int, *, height: int = 8, width: int = 8, conditioning: Conditioning | None = None
) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    rows = torch.randn((count, 4, height, width), generator=generator)
    if conditioning is None:
        prompts = ("a cat", "an otter", "", "a red apple")
        known = [model.conditioned(model.prompts.encode(prompt)) for prompt in prompts]
        conditioning = Conditioning.stacked([known[row % len(known)] for row in range(count)])
    return model.predict(rows, torch.linspace(1, 999, count), conditioning)


@pytest.mark.long
@pytest.mark.parametrize("count", [1, 2, 3, 4, 8])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (16, 8), (24, 32)])
def test_it_predicts_what_the_unet_does(
    plain: LoadedModel, model: LoadedModel, count: int, height: int, width: int
) -> None:
    expected = predicted(plain, count, height=height, width=width)

    torch.testing.assert_close(predicted(model, count, height=height, width=width), expected, rtol=1e-4, atol=1e-5)


def test_it_takes_prompts_of_any_number_of_chunks(plain: LoadedModel, model: LoadedModel) -> None:
    long = model.conditioned(model.prompts.encode("a cat BREAK (an otter:1.3) BREAK red", How("weighted")))
    conditioning = Conditioning.stacked([long] * 3)
    assert model.recorded and model.recorded.fits(torch.zeros((3, 4, 8, 8)), conditioning)

    expected = predicted(plain, 3, conditioning=conditioning)
    torch.testing.assert_close(predicted(model, 3, conditioning=conditioning), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("count", "dealt"), [(1, [1]), (2, [1, 1]), (3, [1, 1, 1]), (4, [2, 2]), (8, [3, 3, 3])])
def test_rows_are_dealt_to_all_cores(
    model: LoadedModel, count: int, dealt: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    lanes: list[tuple[int, str, int]] = []
    call = RecordedUNet.in_one_lane

    def noted(unet: RecordedUNet, *part: Tensor) -> Tensor:
        lanes.append((len(part[0]), threading.current_thread().name, torch.get_num_threads()))
        return call(unet, *part)

    monkeypatch.setattr(RecordedUNet, "in_one_lane", noted)
    predicted(model, count)

    assert sorted(rows for rows, _, _ in lanes) == dealt
    assert sum(not name.startswith("lane") for _, name, _ in lanes) == 1, "the caller's own thread has a part"
    assert {threads for _, _, threads in lanes} == {CORES // len(dealt)}, "cores that have no lane help those"
    assert torch.get_num_threads() == CORES


def test_what_was_not_recorded_runs_as_it_is(plain: LoadedModel, model: LoadedModel) -> None:
    embeddings = Conditioning.stacked([Conditioning(model.prompts.encode("a cat").embedding)] * 2)

    assert torch.equal(predicted(model, 2, conditioning=embeddings), predicted(plain, 2, conditioning=embeddings))
    assert torch.equal(predicted(model, 2, height=9), predicted(plain, 2, height=9)), "the UNet halves a side twice"


@pytest.mark.parametrize("where", ["lane 1", "MainThread"])
def test_an_error_in_a_lane_is_the_callers_and_leaves_nothing_behind(
    plain: LoadedModel, model: LoadedModel, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = RecordedUNet.in_one_lane

    def failing(unet: RecordedUNet, *part: Tensor) -> Tensor:
        if threading.current_thread().name.startswith(where):
            raise RuntimeError("in a lane")
        return call(unet, *part)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="in a lane"):
        patch.setattr(RecordedUNet, "in_one_lane", failing)
        predicted(model, 8)

    assert torch.get_num_threads() == CORES
    torch.testing.assert_close(predicted(model, 4), predicted(plain, 4), rtol=1e-4, atol=1e-5)


def test_a_unet_that_was_recorded_wrongly_is_not_used(plain: LoadedModel, caplog: pytest.LogCaptureFixture) -> None:
    class DependsOnRows(torch.nn.Module):
        """Python that looks at the batch: of a recording it has the answer for two rows for ever."""

        def __init__(self) -> None:
            super().__init__()
            self.real = plain.unet
            self.config = plain.unet.config

        def forward(self, rows: Tensor, *arguments: Any, **keywords: Any) -> tuple[Tensor]:
            return (self.real(rows, *arguments, **keywords)[0] * (1 if len(rows) == 2 else 2),)

    unet: Any = DependsOnRows()

    assert recorded(replace(plain, unet=unet), 2) is None
    assert "the model 'tiny' runs as it is: recorded, it differs by 0.5 of its output" in caplog.text


def test_a_unet_that_cannot_be_recorded_is_not_used(plain: LoadedModel, caplog: pytest.LogCaptureFixture) -> None:
    class Refuses(torch.nn.Module):
        config = plain.unet.config

        def forward(self, *_: Any, **__: Any) -> tuple[Tensor]:
            raise ValueError("not like this\nand more of it")

    unet: Any = Refuses()

    assert recorded(replace(plain, unet=unet), 2) is None
    assert "the model 'tiny' cannot be recorded, so it runs as it is: not like this\n" in caplog.text


def test_a_unet_that_gives_no_numbers_when_recorded_is_not_used(
    plain: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RecordedUNet, "in_one_lane", lambda _, rows, *__: rows * torch.nan)

    assert recorded(plain, 2) is None


def test_want_of_memory_while_recording_is_no_reason_to_do_without(
    plain: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*_: Any) -> Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes")

    monkeypatch.setattr(RecordedUNet, "in_one_lane", out_of_memory)

    with pytest.raises(RuntimeError, match="can't allocate"):
        recorded(plain, 2)


@pytest.mark.long
@pytest.mark.parametrize("cores", [1, 3, 8])
def test_it_adds_what_rows_adapters_say_in_every_lane(plain: LoadedModel, cores: int) -> None:
    model = replace(plain, recorded=recorded(plain, cores))
    given = [plain.adapting.of((Use(adapter(plain, n, rank=1 + n)),)) if n % 3 else None for n in range(7)]

    torch.testing.assert_close(adding(model, given), adding(plain, given), rtol=1e-4, atol=1e-5)
    assert torch.equal(adding(model, given)[0], predicted(model, 7)[0]), "the first row has none"
    assert not torch.allclose(adding(model, given)[1], predicted(model, 7)[1], atol=1e-3)


def test_forwards_with_adapters_that_cannot_be_recorded_run_as_they_are(
    plain: LoadedModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any) -> Any:
        raise ValueError("not like this")

    model = replace(plain, recorded=recorded(plain, 2))
    monkeypatch.setattr("worker.models.torchscript.recording_of", refuse)
    given = [plain.adapting.of((Use(adapter(plain)),))] * 2

    assert torch.equal(adding(model, given), adding(plain, given))
    assert "forwards with adapters cannot be recorded, so they run as they are: not like this" in caplog.text


@pytest.fixture
def fresh(plain: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> LoadedModel:
    """One for which no forward with adapters has been recorded, by no other model of its configuration either."""
    monkeypatch.setattr("worker.models.recording._recordings", {})
    return replace(plain, recorded=recorded(plain, CORES))


def stacks(model: LoadedModel) -> tuple[Stack, Stack]:
    """Of which neither kind covers the other: of fewer layers and with gains, of all and without."""
    return (Use(adapter(model, 1, unet=attention, magnitude=True)),), (Use(adapter(model, 2)),)


@pytest.mark.long
def test_no_step_records_what_the_model_got_ready_for(fresh: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor what rows of several kinds need together."""
    threads = [threading.Thread(target=fresh.get_ready, args=(stack,)) for stack in stacks(fresh)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    monkeypatch.delattr(torch.jit, "trace")
    one, two = (fresh.adapting.of(stack) for stack in stacks(fresh))

    assert fresh.recorded is not None
    assert all(fresh.recorded.adds(given) for given in ([one], [two, None], [one, None, two]))
    torch.testing.assert_close(
        adding(fresh, [one, None, two]), adding(replace(fresh, recorded=None), [one, None, two]), rtol=1e-4, atol=1e-5
    )


@pytest.mark.long
def test_it_gets_ready_on_one_core_and_not_for_what_leaves_the_unet_as_it_is(
    fresh: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    computing: list[int] = []
    forward = Original.forward

    def noted(*given: Any) -> Tensor:
        computing.append(torch.get_num_threads())
        return forward(*given)

    monkeypatch.setattr(Original, "forward", noted)
    torch.set_num_threads(CORES)
    fresh.get_ready(())
    fresh.get_ready((Use(adapter(fresh), unet=0.0),))
    assert computing == []

    fresh.get_ready(stacks(fresh)[0])
    assert set(computing) == {1}
    assert torch.get_num_threads() == CORES


@pytest.mark.long
def test_want_of_memory_while_getting_ready_is_left_to_the_step(
    fresh: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*_: Any) -> Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes")

    stack, _ = stacks(fresh)
    given = [fresh.adapting.of(stack)]
    assert fresh.recorded is not None
    with monkeypatch.context() as patch:
        patch.setattr("worker.models.torchscript.recording_of", out_of_memory)
        fresh.get_ready(stack)
        with pytest.raises(RuntimeError, match="can't allocate"):
            fresh.recorded.adds(given)
    assert fresh.recorded.adds(given)


@torch.no_grad()
def adding(model: LoadedModel, additions: list[Additions | None]) -> Tensor:
    count = len(additions)
    rows = torch.randn((count, 4, 8, 8), generator=torch.Generator().manual_seed(count))
    known = [model.conditioned(model.prompts.encode(prompt)) for prompt in ("a cat", "an otter", "", "a red apple")]
    conditioning = Conditioning.stacked([known[row % len(known)] for row in range(count)])
    return model.predict(rows, torch.linspace(1, 999, count), conditioning, additions)


@pytest.mark.long
def test_models_of_one_configuration_share_a_recording_but_no_weights(
    plain: LoadedModel, model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever they are loaded from."""
    directory = build_tiny_model(tmp_path, seed=1)
    monkeypatch.delattr(torch.jit, "trace")
    another = ModelLoader(place("cpu"), cache=tmp_path / "cache").load("another", LocalDirectory(directory))
    assert another.recorded is not None

    expected = predicted(replace(another, recorded=None), 4)
    torch.testing.assert_close(predicted(another, 4), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(predicted(model, 4), predicted(plain, 4), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(expected, predicted(plain, 4), atol=1e-2)


@pytest.mark.long
def test_a_model_that_is_dropped_is_gone_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pool counts it as gone; the recording, which stays, must not hold the weights that it was made with."""
    monkeypatch.setattr("worker.models.recording._recordings", {})
    directory = build_tiny_model(tmp_path)
    loaded = ModelLoader(place("cpu"), cache=tmp_path / "cache").load("tiny", LocalDirectory(directory))
    assert loaded.recorded is not None
    weight = weakref.ref(next(loaded.unet.parameters()))
    gc.disable()
    try:
        del loaded
        assert weight() is None
    finally:
        gc.enable()


def test_a_loaded_model_is_recorded_on_a_cpu(tmp_path: Path) -> None:
    directory = build_tiny_model(tmp_path)

    loaded = ModelLoader(place("cpu"), cache=tmp_path / "cache").load("tiny", LocalDirectory(directory))

    assert loaded.recorded is not None
    assert loaded.called_unet is loaded.recorded.module


def test_a_thread_that_loads_a_model_computes_with_all_cores(tmp_path: Path) -> None:
    """It may have begun during a forward, whose lanes leave other threads as many as they have themselves."""
    directory = build_tiny_model(tmp_path)
    torch.set_num_threads(CORES)
    loader = ModelLoader(place("cpu"), cache=tmp_path / "cache")
    torch.set_num_threads(1)
    threads: list[int] = []

    def load() -> None:
        loader.load("tiny", LocalDirectory(directory))
        threads.append(torch.get_num_threads())

    thread = threading.Thread(target=load)
    thread.start()
    thread.join()
    assert threads == [CORES]
