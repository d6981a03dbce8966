"""Which forwards become graphs and what these read, with graphs that compute on the CPU: those of a GPU replay kernels
at the same addresses, which `python -m tests.gpu` shows there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.adapters import adapter, attention, everything, transformers
from worker.diffusion.adapters import Use
from worker.diffusion.additions import Additions, Layout
from worker.diffusion.conditioning import Conditioning
from worker.engine.beats import beats
from worker.models import cuda_graphs
from worker.models.cuda_graphs import GraphedUNet
from worker.models.model import LoadedModel

MOST = 8
NEAR = 1e-5
"""Graphs read rows in channels_last, in which a CPU sums in another order, and add zero to rows without adapters."""
ROOM = 2**24


class Replayed:
    """A graph: what was launched once is computed again, from wherever it read then."""

    def __init__(self, launch: Callable[[], Tensor]) -> None:
        self.out = launch()
        self.graph = self
        self.replays = 0
        self._launch = launch

    def replay(self) -> None:
        self.replays += 1
        self.out.copy_(self._launch())


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Replayed]]:
    """All graphs that are made."""
    made: list[Replayed] = []

    def capture(_: object, launch: Callable[[], Tensor]) -> Replayed:
        made.append(Replayed(launch))
        return made[-1]

    monkeypatch.setattr(cuda_graphs._Graphs, "_captured", capture)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    monkeypatch.setattr(torch.cuda, "device", nullcontext)
    yield made


@pytest.fixture
def launched(tiny_model: LoadedModel) -> LoadedModel:
    return replace(tiny_model, recorded=None)


def graphed(launched: LoadedModel, *, most: int = MOST, room: int = ROOM) -> LoadedModel:
    any_row = launched.conditioned(launched.prompts.encode(""))
    return replace(launched, graphed=GraphedUNet(launched, any_row, most=most, room=room))


def given(model: LoadedModel, count: int, seed: int) -> tuple[Tensor, Tensor, Conditioning]:
    draw = torch.Generator().manual_seed(seed)
    prompts = [model.conditioned(model.prompts.encode(text)) for text in ("a cat", "an owl")]
    rows = torch.randn((count, *model.row_shape), generator=draw)
    return rows, 999 * torch.rand(count, generator=draw), Conditioning.stacked([prompts[n % 2] for n in range(count)])


@torch.no_grad()
def compared(one: LoadedModel, other: LoadedModel, additions: Sequence[Additions | None] = (), *, seed: int) -> float:
    """How far two models are from each other for some rows."""
    what = given(one, max(2, len(additions)), seed)
    return float((one.predict(*what, additions) - other.predict(*what, additions)).abs().max())


@pytest.mark.long
def test_the_second_forward_of_a_number_becomes_a_graph_and_later_ones_replay_it(
    launched: LoadedModel, captured: list[Replayed]
) -> None:
    model = graphed(launched)
    with torch.no_grad():
        for seed, count in enumerate((3, 2, 3, 2, 3, 3)):
            what = given(model, count, seed)
            assert (model.predict(*what) - launched.predict(*what)).abs().max() < NEAR

    assert [graph.replays for graph in captured] == [3, 1]
    assert [len(graph.out) for graph in captured] == [3, 2]


def test_more_rows_than_there_is_room_for_are_launched(launched: LoadedModel, captured: list[Replayed]) -> None:
    model = graphed(launched, most=2)
    with torch.no_grad():
        for seed in range(3):
            assert torch.equal(model.predict(*given(model, 3, seed)), launched.predict(*given(model, 3, seed)))

    assert not captured


def test_a_graph_that_cannot_be_made_is_done_without(
    launched: LoadedModel,
    captured: list[Replayed],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> Replayed:
        raise RuntimeError("operation not permitted when stream is capturing\nsee above")

    monkeypatch.setattr(cuda_graphs._Graphs, "_captured", fail)
    model = graphed(launched)

    assert max(compared(model, launched, seed=seed) for seed in range(9)) < NEAR
    assert len(caplog.messages) == cuda_graphs._MOST_FAILURES, "what else is done may be why it failed"
    assert caplog.messages[0].endswith("for 2 rows made no graph: operation not permitted when stream is capturing")


def stacks(model: LoadedModel) -> list[Additions | None]:
    """Of unlike layers, ranks and kinds."""
    return [
        model.adapting.of((Use(one, strength),))
        for one, strength in (
            (adapter(model, 1, unet=everything, rank=4), 1.0),
            (adapter(model, 2, unet=transformers, rank=3), -0.5),
            (adapter(model, 3, unet=attention, magnitude=True), 0.8),
        )
    ]


def test_rows_with_adapters_are_replayed_whatever_adapters_come_next(
    launched: LoadedModel, captured: list[Replayed]
) -> None:
    model = graphed(launched, most=2 * MOST)
    one, two, three = stacks(launched)
    batches = [[one, two, three, None], [three, None, one, two], [None, one, two, three], [two, three, None, one]]
    far = [compared(model, launched, batch, seed=seed) for seed, batch in enumerate(batches)]

    assert max(far) < NEAR
    assert [graph.replays for graph in captured] == [3]
    assert compared(model, launched, seed=9) < NEAR


def test_what_a_job_that_ended_added_is_not_added_to_the_next_one(
    launched: LoadedModel, captured: list[Replayed]
) -> None:
    model = graphed(launched, most=2 * MOST)
    beside, there = adapter(launched, 4), adapter(launched, 5)
    stays = launched.adapting.of((Use(beside),))
    for seed in range(2):
        goes = launched.adapting.of((Use(there, 1.0 + seed),))
        assert compared(model, launched, [stays, goes, None], seed=seed) < NEAR
        del goes

    assert compared(model, launched, [stays, None, None], seed=7) < NEAR
    assert [graph.replays for graph in captured] == [2]


def test_factors_that_have_no_room_and_deterministic_forwards_are_launched(
    launched: LoadedModel, captured: list[Replayed], monkeypatch: pytest.MonkeyPatch
) -> None:
    additions = stacks(launched)
    layout = launched.adapting.layout(additions)
    assert layout
    small = graphed(launched, room=2 * layout.size).graphed
    assert small and small.adds(additions[:2]) and not small.adds(additions)
    enough = graphed(launched).graphed
    assert enough and enough.adds(additions)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert not enough.adds(additions)
    assert enough.adds([None])


RANKS = (1, 5, 9, 17, 33, 65)
"""Each pads to another."""


@pytest.mark.long
def test_where_more_layouts_take_turns_than_there_are_places_the_others_are_launched(
    launched: LoadedModel, captured: list[Replayed]
) -> None:
    model = graphed(launched)
    each = [[launched.adapting.of((Use(adapter(launched, r, unet=attention, rank=r)),))] * 2 for r in RANKS]
    for seed in range(3):
        assert max(compared(model, launched, additions, seed=seed) for additions in each) < NEAR

    assert [graph.replays for graph in captured] == [2] * cuda_graphs._MOST_LAYOUTS


def test_layouts_that_nobody_uses_any_more_make_room(
    launched: LoadedModel, captured: list[Replayed], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda_graphs, "_IN_USE", 3)
    model = graphed(launched)
    assert isinstance(model.graphed, GraphedUNet)
    for rank in RANKS:
        additions = [launched.adapting.of((Use(adapter(launched, rank, unet=attention, rank=rank)),))] * 2
        assert [compared(model, launched, additions, seed=seed) < NEAR for seed in range(3)] == [True] * 3

    assert len(model.graphed.numbers_adding) == cuda_graphs._MOST_LAYOUTS
    assert len(captured) == 6


def test_factors_for_which_memory_ran_out_are_not_taken_for_those_that_were_there(
    launched: LoadedModel, captured: list[Replayed], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = graphed(launched, most=2 * MOST)
    one, two, three = (launched.adapting.of((Use(adapter(launched, n)),)) for n in (1, 2, 3))
    assert compared(model, launched, [one, one, two], seed=0) < NEAR
    with monkeypatch.context() as scarce:
        scarce.setattr(Layout, "pack", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError))
        with pytest.raises(torch.OutOfMemoryError):
            compared(model, launched, [one, one, three], seed=1)

    assert compared(model, launched, [one, one, three], seed=2) < NEAR


def test_without_room_for_slots_forwards_with_adapters_are_launched(
    launched: LoadedModel, captured: list[Replayed], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(Layout, "room", fail)
    model = graphed(launched)
    assert max(compared(model, launched, stacks(launched), seed=seed) for seed in range(3)) < NEAR
    assert not captured


def test_compiled_code_runs_compiled_within_graphs_and_amid_anybodys_turns(
    launched: LoadedModel, captured: list[Replayed]
) -> None:
    compiled: list[str] = []

    class Compiled:
        module = launched.unet

        def fits(self, rows: Tensor, conditioning: Conditioning) -> bool:
            return len(rows) <= MOST and bool(conditioning.tensors)

        def __call__(self, rows: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
            compiled.extend(map(str, torch.overrides._get_current_function_mode_stack()))
            return launched.predict(rows, timesteps, conditioning)

    model = graphed(replace(launched, compiled=Compiled()))
    with torch.no_grad(), beats(lambda: None, in_parts=False):
        for seed in range(3):
            model.predict(*given(model, 2, seed))

    assert not compiled, "Dynamo guards that no function mode acts"


def test_nobody_takes_a_turn_amid_a_forward_that_may_be_recorded(
    launched: LoadedModel, captured: list[Replayed]
) -> None:
    model = graphed(launched)
    amid: list[None] = []
    with torch.no_grad():
        what = given(model, 2, 0)
        for _ in range(3):
            with beats(lambda: amid.append(None), in_parts=False):
                assert isinstance(model.graphed, GraphedUNet)
                model.graphed(*what)

    assert len(amid) < 100, "a forward has hundreds of operators"
