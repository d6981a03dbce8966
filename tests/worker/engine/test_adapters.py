"""Jobs under adapters are what a model with these in its weights renders: alone, in unlike company, in all modes."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import replace
from typing import Any
from weakref import ref

import numpy as np
import pytest
import torch
from torch import Tensor

from farm.errors import InvalidInput
from tests.adapters import adapter, attention, everything, fused, nothing, transformers
from tests.worker.diffusion.loop import Job, render_by_diffusers
from tests.worker.engine.test_company import JOBS, latents_alone, latents_in_company
from tests.worker.engine.test_suspending import suspended
from worker.diffusion.adapters import Stack, Use
from worker.diffusion.losses import load_losses
from worker.engine.engine import Engine
from worker.engine.memory import Budget
from worker.engine.preparing import batch_key_of, prepare
from worker.engine.request import Pixels, RenderRequest, SilentObserver, StepRecord
from worker.engine.room import Room
from worker.engine.rows import run_step
from worker.engine.turns import Turns
from worker.families.sdxl import SDXL
from worker.models.model import LoadedModel, MemoryProfile
from worker.models.recording import Original
from worker.models.torchscript import recorded

Engines = Callable[..., Engine]
Request = Callable[..., RenderRequest]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Layers this small lose more by waiting for a second thread than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=["sd", "sdxl"])
def family(request: pytest.FixtureRequest, model: LoadedModel, xl: LoadedModel) -> LoadedModel:
    """A model of each family."""
    return {"sd": model, "sdxl": xl}[request.param]


def of_attention(model: LoadedModel) -> Stack:
    return (Use(adapter(model, 1, unet=attention)),)


def of_blocks(model: LoadedModel) -> Stack:
    return (Use(adapter(model, 2, unet=transformers, rank=7), unet=-0.7),)


def of_all_layers(model: LoadedModel) -> Stack:
    return (Use(adapter(model, 3, rank=2), unet=1.3),)


def of_text_alone(model: LoadedModel) -> Stack:
    return (Use(adapter(model, 4, unet=nothing, text=everything)),)


def of_text_and_unet_apart(model: LoadedModel) -> Stack:
    return (Use(adapter(model, 5, text=everything, rank=3), unet=0.4, text=-1.2),)


def but_for_the_text(model: LoadedModel) -> Stack:
    return (Use(adapter(model, 5, text=everything), text=0.0),)


def but_for_the_unet(model: LoadedModel) -> Stack:
    return (Use(adapter(model, 5, text=everything), unet=0.0),)


def of_two(model: LoadedModel) -> Stack:
    return (*of_all_layers(model), *of_blocks(model))


def of_one_twice(model: LoadedModel) -> Stack:
    (use,) = of_attention(model)
    return replace(use, unet=0.25), replace(use, unet=0.5)


def of_dora(model: LoadedModel) -> Stack:
    return (Use(adapter(model, 6, unet=attention, text=everything, magnitude=True), unet=0.6, text=0.5),)


def of_dora_and_another(model: LoadedModel) -> Stack:
    return (Use(adapter(model, 7, rank=5, magnitude=True)), *of_blocks(model))


def of_keys_of_prompts(model: LoadedModel) -> Stack:
    return (Use(adapter(model, 8, unet=lambda path: "attn2.to_k" in path, size=2.0)),)


STACKS = (
    of_attention,
    of_blocks,
    of_all_layers,
    of_text_alone,
    of_text_and_unet_apart,
    but_for_the_text,
    but_for_the_unet,
    of_two,
    of_one_twice,
    of_dora,
    of_dora_and_another,
    of_keys_of_prompts,
)


@pytest.mark.long
@pytest.mark.parametrize("stack_of", STACKS)
def test_latents_are_those_of_diffusers_with_the_adapters_in_the_weights(
    request_for: Request, family: LoadedModel, stack_of: Callable[[LoadedModel], Stack]
) -> None:
    """By SD's recorded forwards and by SDXL's modules: a recording is held against the modules as it is made."""
    stack = stack_of(family)
    model = replace(family, recorded=None) if family.family is SDXL else family
    request = replace(request_for("job", of=model, sampler="euler", steps=3, negative="red"), stack=stack)

    expected = render_by_diffusers(fused(family, stack), Job("euler", 3, seed=1, prompt="a cat", negative="red"))
    found = latents_alone(request, padded_rows=None)

    assert float((found - expected[0]).abs().max()) <= 1e-4 * max(1.0, float(expected.abs().max()))
    plain = latents_alone(replace(request, stack=()), padded_rows=None)
    assert float((found - plain).abs().max()) > 2e-3, "it changes the picture"


def unlike(model: LoadedModel, count: int = 16) -> list[Stack]:
    """Stacks of unlike adapters, ranks, layers and strengths."""
    picks = (attention, transformers, everything)
    made = [
        adapter(model, number, unet=picks[number % 3], text=attention, rank=1 + number % 5, magnitude=number % 7 == 3)
        for number in range(count)
    ]
    return [
        (Use(one, unet=0.9 - 0.2 * number), *([Use(made[number - 1], text=0.5)] if number % 4 == 1 else []))
        for number, one in enumerate(made)
    ]


@pytest.fixture
def crowd(request_for: Request, family: LoadedModel) -> list[RenderRequest]:
    """Jobs of all modes and samplers, sixteen of them under unlike stacks and the others under none."""
    fields = list(JOBS.values())
    given = [*unlike(family), *[()] * 4]
    plain = [
        request_for(f"job {n}", of=family, **{**fields[n % len(fields)], "seed": n, "steps": 3})
        for n in range(len(given))
    ]
    return [replace(request, stack=stack) for request, stack in zip(plain, given, strict=True)]


@pytest.mark.long
def test_sixteen_unlike_stacks_and_jobs_without_are_in_company_what_they_are_alone(crowd: list[RenderRequest]) -> None:
    """Alone by the UNet's modules: recording what each of them adds would take most of the time."""
    assert len({batch_key_of(request) for request in crowd}) == 2, "one for each number of chunks"

    together = latents_in_company(crowd, padded_rows=None, rows=20, joining=8)

    plainly = replace(crowd[0].model, recorded=None)
    for request in crowd:
        alone = latents_alone(replace(request, model=plainly), padded_rows=None)
        assert float((alone - together[request.id]).abs().max()) <= 1e-4, request.id


@pytest.mark.long
def test_in_company_a_step_of_each_is_its_own(crowd: list[RenderRequest]) -> None:
    states = [prepare(request, load_losses(), 0, Future()) for request in crowd]
    states = [state for state in states if state.batch_key == states[0].batch_key]

    together = run_step(states, padded_rows=None, gradient_chunk=4)

    plainly = replace(crowd[0].model, recorded=None)
    for index, state in enumerate(states):
        by_itself = prepare(replace(state.request, model=plainly), load_losses(), 0, Future())
        alone = run_step([by_itself], padded_rows=None, gradient_chunk=4)
        assert float((alone.out[0] - together.out[index]).abs().max()) <= 1e-5, state.id


@pytest.mark.long
@pytest.mark.parametrize("recorded", [True, False])
def test_jobs_without_adapters_keep_their_bits_beside_jobs_with_them(
    request_for: Request, family: LoadedModel, recorded: bool
) -> None:
    model = family if recorded else replace(family, recorded=None)
    requests = [request_for(f"job {n}", of=model, seed=n) for n in range(5)]
    given = [(), *unlike(family, 3), ()]
    beside = [replace(request, stack=stack) for request, stack in zip(requests, given, strict=True)]

    plain, mixed = (
        run_step([prepare(one, load_losses(), 0, Future()) for one in jobs], padded_rows=None, gradient_chunk=4)
        for jobs in (requests, beside)
    )

    for index, stack in enumerate(given):
        assert torch.equal(plain.out[index], mixed.out[index]) == (not stack)


@pytest.mark.long
@pytest.mark.parametrize("recorded", [True, False])
def test_deterministic_bits_do_not_depend_on_company(crowd: list[RenderRequest], recorded: bool) -> None:
    crowd = crowd[:: 2 if recorded else 4]
    if not recorded:
        crowd = [replace(request, model=replace(crowd[0].model, recorded=None)) for request in crowd]
    together = latents_in_company(crowd, padded_rows=8, rows=4, joining=2)

    for request in crowd:
        assert torch.equal(latents_alone(request, padded_rows=8), together[request.id]), request.id


@pytest.mark.long
def test_deterministic_jobs_without_adapters_have_the_bytes_that_they_ever_had(
    engines: Engines, crowd: list[RenderRequest]
) -> None:
    plain = [request for request in crowd if not request.stack]
    quiet, crowded = engines(deterministic=True), engines(deterministic=True)
    alone = {request.id: quiet.submit(request).result(60).pixels for request in plain}

    futures = {request.id: crowded.submit(request) for request in crowd[-8:]}

    assert all(np.array_equal(futures[id].result(60).pixels, pixels) for id, pixels in alone.items())


def test_ranks_share_a_forward_unless_bits_count(request_for: Request, model: LoadedModel) -> None:
    small, same, large = (replace(request_for("job"), stack=(Use(adapter(model, rank=r)),)) for r in (3, 4, 5))
    fewer = replace(request_for("job"), stack=(Use(adapter(model, rank=4, unet=attention)),))
    requests = (small, same, large, fewer, request_for("job"))

    assert len({batch_key_of(request) for request in requests}) == 1
    assert len({batch_key_of(request, deterministic=True) for request in requests}) == 4


@pytest.mark.long
@pytest.mark.parametrize("fields", [{"sampler": "dpmpp_sde"}, {"sampler": "lms", "from_image": True, "start_step": 2}])
def test_a_job_goes_on_under_its_adapters(engines: Engines, request_for: Request, fields: dict[str, Any]) -> None:
    model = request_for("job").model
    request = replace(request_for("job", steps=8, **fields), stack=of_two(model))
    whole = engines(deterministic=True).submit(request).result(60)

    snapshot = suspended(engines(deterministic=True), request, 4)
    again = engines(deterministic=True).submit(replace(request, picture=None, resume=snapshot)).result(60)

    assert np.array_equal(again.pixels, whole.pixels)
    plain = engines(deterministic=True).submit(replace(request, stack=())).result(60)
    assert not np.array_equal(plain.pixels, whole.pixels)


@pytest.mark.long
def test_others_go_on_while_a_model_gets_ready_for_adapters(
    engines: Engines, request_for: Request, model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those too whose forwards are not recorded, and so call the modules of the UNet."""
    monkeypatch.setattr("worker.models.recording._recordings", {})
    model = replace(model, recorded=recorded(model, 1))
    odd = request_for("odd", of=model, width=72, steps=3)
    requests = [request_for("job", of=model, steps=3), odd, replace(odd, id="adapted", stack=of_dora(model))]
    alone = {request.id: engines(deterministic=True).submit(request).result(60).pixels for request in requests}
    forward, begun, go_on = Original.forward, threading.Event(), threading.Event()
    recording: list[Original] = []

    def held_up(original: Original, *given: Any) -> Tensor:
        recording.append(original)
        begun.set()
        assert go_on.wait(60)
        return forward(original, *given)

    monkeypatch.setattr(Original, "forward", held_up)
    getting_ready = threading.Thread(target=model.get_ready, args=(of_all_layers(model),))
    getting_ready.start()
    try:
        assert begun.wait(60)
        copy: Any = recording[0].unet
        assert not {*map(id, copy.modules())} & {*map(id, model.unet.modules())}, "a recording changes modules"
        assert [*map(id, copy.parameters())] == [*map(id, model.unet.parameters())], "of the same weights"
        engine = engines(deterministic=True)
        futures = {request.id: engine.submit(request) for request in requests}
        assert all(np.array_equal(futures[id].result(60).pixels, pixels) for id, pixels in alone.items())
    finally:
        go_on.set()
        getting_ready.join()


class Watching(SilentObserver):
    """Keeps what is said of a job, and asks for a preview at its start."""

    def __init__(self) -> None:
        self.records: list[StepRecord] = []
        self.previews: list[Pixels] = []
        self.losses: list[Mapping[str, float]] = []

    def on_trace(self, record: StepRecord, frame: Pixels | None) -> None:
        assert frame is not None
        self.records.append(record)

    def on_preview(self, done: int, pixels: Pixels) -> None:  # noqa: ARG002 - it is told so
        self.previews.append(pixels)

    def on_losses(self, values: Mapping[str, float]) -> None:
        self.losses.append(values)


@pytest.mark.long
def test_traces_previews_and_losses_are_told_of_jobs_under_adapters(
    engines: Engines, request_for: Request, model: LoadedModel
) -> None:
    watching = Watching()
    fields = {"steps": 24, "losses": [{"name": "blue", "every": 2}], "trace": "frames"}
    engine, stack = engines(), of_dora_and_another(model)
    future = engine.submit(replace(request_for("job", observer=watching, **fields), stack=stack))
    engine.want_preview("job")
    future.result(60)

    assert len(watching.records) == 24
    assert len(watching.losses) == 12
    assert [preview.shape for preview in watching.previews] == [(8, 8, 3)]


@pytest.mark.long
def test_in_parts_and_row_by_row_it_is_the_same(request_for: Request, model: LoadedModel) -> None:
    request = replace(request_for("job", width=528, height=512), stack=of_two(model))
    assert model.is_large((64, 66))
    state = prepare(request, load_losses(), 0, Future())

    whole, sliced = (
        run_step([state], padded_rows=None, gradient_chunk=4, row_by_row=sliced) for sliced in (False, True)
    )

    torch.testing.assert_close(whole.out, sliced.out, rtol=1e-3, atol=1e-4)


def test_a_turn_in_the_midst_of_anothers_forward_adds_its_own(request_for: Request, model: LoadedModel) -> None:
    """As where a small picture cuts in on a large one."""
    plainly = replace(model, recorded=None)
    requests = [request_for(f"job {n}", of=plainly, seed=n) for n in range(3)]
    given = [of_two(model), of_attention(model), ()]
    states = [
        prepare(replace(request, stack=stack), load_losses(), 0, Future())
        for request, stack in zip(requests, given, strict=True)
    ]
    alone = [run_step([state], padded_rows=None, gradient_chunk=4).out for state in states]
    within: list[Tensor] = []

    def cut_in(*_: Any) -> None:
        if not within:
            within.append(torch.zeros(0))
            within[:] = [run_step([state], padded_rows=None, gradient_chunk=4).out for state in states[1:]]

    handle = model.unet.mid_block.register_forward_hook(cut_in)
    try:
        outer = run_step(states[:1], padded_rows=None, gradient_chunk=4).out
    finally:
        handle.remove()

    assert all(torch.equal(found, expected) for found, expected in zip([outer, *within], alone, strict=True))


def test_factors_are_on_the_device_once_and_for_as_long_as_jobs_have_them(
    request_for: Request, model: LoadedModel
) -> None:
    shared = adapter(model, 1)
    stacks: list[Stack] = [(Use(shared),), (Use(shared),), (Use(shared, unet=0.5), Use(adapter(model, 2)))]
    states = [prepare(replace(request_for("job"), stack=stack), load_losses(), 0, Future()) for stack in stacks]
    first, second, third = (state.additions for state in states)
    assert first is not None and first is second and third is not None
    assert first.parts[0][0] is third.parts[0][0], "one copy"

    run_step(states, padded_rows=None, gradient_chunk=4)
    gathered = [ref(kept.which) for batch in model.adapting._latest for kept in batch.values() if kept]
    placed = ref(first.parts[0][0])
    assert gathered
    del first, second, third
    states.pop()
    assert placed() is not None, "others have it still"
    states.clear()
    gc.collect()
    assert placed() is None
    assert not any(reference() is not None for reference in gathered)


def test_prompts_are_encoded_anew_under_what_acts_on_text_alone(request_for: Request, model: LoadedModel) -> None:
    of_text = adapter(model, 1, text=everything)

    def prompt(*stack: Use) -> Tensor:
        state = prepare(replace(request_for("job"), stack=stack), load_losses(), 0, Future())
        return state.prompt.embedding

    assert prompt(Use(of_text, unet=0.1)) is prompt(Use(of_text, unet=0.9)), "what acts on the UNet is not asked"
    assert prompt(Use(of_text, text=0.0)) is prompt(), "nothing acts on the text"
    assert not torch.equal(prompt(Use(of_text, text=0.5)), prompt(Use(of_text)))
    assert not torch.equal(prompt(Use(of_text)), prompt())


def test_adapters_that_nobody_holds_are_not_kept_by_prompts(request_for: Request, model: LoadedModel) -> None:
    held = adapter(model, 1, text=everything)
    seen = ref(held)
    prepare(replace(request_for("job"), stack=(Use(held),)), load_losses(), 0, Future())
    del held
    gc.collect()
    assert seen() is None


def test_an_adapter_of_another_model_is_refused(
    engines: Engines, request_for: Request, model: LoadedModel, xl: LoadedModel
) -> None:
    wide = adapter(model, 2, unet=nothing, text=everything)
    path, factors = next(iter(wide.encoders[0].items()))
    unlike_text = replace(wide, encoders=({path: replace(factors, up=factors.up[1:])},))
    for of, given in ((model, adapter(xl, 1)), (xl, adapter(model, 1)), (model, unlike_text)):
        request = replace(request_for("job", of=of), stack=(Use(given),))
        with pytest.raises(InvalidInput, match=r"the adapter '.*' changes .*made for another model"):
            engines().submit(request).result(60)


def test_factors_take_room_in_every_row(request_for: Request, model: LoadedModel) -> None:
    """As much as they are padded to: by the rank of one job, and by the layers of another."""
    hungry = replace(model, memory=MemoryProfile(row=1000, picture=2000, gradient=4000))
    high, broad = adapter(model, 1, unet=attention, rank=32), adapter(model, 2, rank=4)
    given: list[Stack] = [(Use(high),), (Use(broad),), ()]
    states = [
        prepare(replace(request_for("job", of=hungry), stack=stack), load_losses(), 0, Future()) for stack in given
    ]
    numbers = sum(
        (32 if attention(path) else 4) * (len(factors.up) + factors.down[0].numel())
        for path, factors in broad.unet.items()
        if "projection" not in path
    )
    room = Room(Budget(lambda: 20 * 4 * numbers), Turns(), max_rows=64, padded_rows=None)

    assert room.rows(states[2]) == 64, "alone, without adapters"
    room.meet(states)
    assert [room.rows(state) for state in states] == [6, 6, 6], "7 tenths of 20, for twice as much and more"
