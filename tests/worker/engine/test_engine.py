"""The engine's loop: company, cancellation, deadlines, priorities, traces, and errors that stay with their job."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from farm.errors import InvalidInput, RenderError
from tests.waiting import eventually
from tests.worker.engine.conftest import spec_of
from worker.diffusion.losses import load_losses
from worker.engine.engine import Engine
from worker.engine.preparing import prepare
from worker.engine.request import Cancelled, Pixels, RenderRequest, SilentObserver, StepRecord, resolve
from worker.models.model import LoadedModel

Make = Callable[..., RenderRequest]


class Watcher(SilentObserver):
    """Notes what it is told, and can hold the engine at a step until it is let go."""

    def __init__(self, *, hold_at: int | None = None) -> None:
        self.steps: list[int] = []
        self.traced: list[tuple[StepRecord, Pixels | None]] = []
        self.reached = threading.Event()
        self.let_go = threading.Event()
        self._hold_at = hold_at

    def on_step(self, done: int) -> None:
        self.steps.append(done)
        if done == self._hold_at:
            self.reached.set()
            assert self.let_go.wait(30)

    def on_trace(self, record: StepRecord, frame: Pixels | None) -> None:
        self.traced.append((record, frame))


def test_a_picture_has_the_size_asked_for(engines: Callable[..., Engine], request_for: Make) -> None:
    rendered = engines().submit(request_for("j", width=96, height=64)).result()

    assert rendered.pixels.shape == (64, 96, 3)
    assert rendered.pixels.dtype == np.uint8
    assert {"render", "decode"} <= rendered.timings.keys()


def test_every_step_is_reported_once(engines: Callable[..., Engine], request_for: Make) -> None:
    watcher = Watcher()
    engines().submit(request_for("j", steps=5, observer=watcher)).result()

    assert watcher.steps == [1, 2, 3, 4, 5]


def test_an_image_start_does_only_the_steps_left(engines: Callable[..., Engine], request_for: Make) -> None:
    watcher = Watcher()
    engines().submit(request_for("j", from_image=True, start_step=4, steps=10, observer=watcher)).result()

    assert watcher.steps == [1, 2, 3, 4, 5, 6]


def test_a_cancelled_job_stops_at_the_next_step(engines: Callable[..., Engine], request_for: Make) -> None:
    engine, watcher = engines(), Watcher(hold_at=3)
    future = engine.submit(request_for("j", steps=500, observer=watcher))
    assert watcher.reached.wait(30)

    engine.cancel("j")
    watcher.let_go.set()

    with pytest.raises(Cancelled):
        future.result(30)
    assert watcher.steps[-1] == 3


def test_how_many_rows_the_last_step_had_is_known_until_it_rests(
    engines: Callable[..., Engine], request_for: Make
) -> None:
    engine, watcher = engines(), Watcher(hold_at=2)
    assert engine.rows == 0
    future = engine.submit(request_for("j", steps=3, observer=watcher))
    assert watcher.reached.wait(30)
    assert engine.rows == 2, "a job under guidance takes two"
    watcher.let_go.set()
    future.result(30)
    eventually(lambda: engine.rows == 0, "it has nothing to do")


def test_other_jobs_go_on_when_one_is_cancelled(engines: Callable[..., Engine], request_for: Make) -> None:
    engine, watcher = engines(), Watcher(hold_at=2)
    cancelled = engine.submit(request_for("gone", steps=500, observer=watcher))
    other = engine.submit(request_for("other", steps=20))
    assert watcher.reached.wait(30)
    engine.cancel("gone")
    watcher.let_go.set()

    assert other.result(30).pixels.any()
    assert isinstance(cancelled.exception(30), Cancelled)


def test_a_job_past_its_time_limit_fails_and_says_how_far_it_came(
    engines: Callable[..., Engine], request_for: Make
) -> None:
    watcher = Watcher(hold_at=1)
    future = engines().submit(request_for("j", steps=900, time_limit=0.05, observer=watcher))
    assert watcher.reached.wait(30)
    assert not watcher.let_go.wait(0.1), "the limit passes while the engine is held"
    watcher.let_go.set()

    with pytest.raises(RenderError, match=r"not done within its time limit of 0.05 s: \d+ of 900 steps") as caught:
        future.result(30)
    assert caught.value.kind == "timeout"


def test_a_more_urgent_job_overtakes_and_the_other_goes_on(engines: Callable[..., Engine], request_for: Make) -> None:
    order: list[str] = []
    engine = engines(max_rows=2)
    first = Watcher(hold_at=2)
    slow = engine.submit(request_for("slow", steps=30, observer=first))
    assert first.reached.wait(30)
    fast = engine.submit(request_for("fast", steps=10, priority=9))
    slow.add_done_callback(lambda _: order.append("slow"))
    fast.add_done_callback(lambda _: order.append("fast"))
    first.let_go.set()
    wait([slow, fast], 60)

    assert order == ["fast", "slow"]
    assert first.steps == list(range(1, 31))


def test_a_trace_has_numbers_losses_and_frames(engines: Callable[..., Engine], request_for: Make) -> None:
    watcher = Watcher()
    fields = {"trace": "frames", "trace_every": 2, "steps": 6, "losses": [{"name": "blue", "every": 2}]}
    engines().submit(request_for("j", observer=watcher, **fields)).result()

    assert [record.step for record, _ in watcher.traced] == [0, 2, 4, 5], "every second step, and the last"
    sigmas = [record.sigma for record, _ in watcher.traced]
    assert sigmas == sorted(sigmas, reverse=True)
    assert all(record.norms["x"] > 0 for record, _ in watcher.traced)
    assert [sorted(record.losses) for record, _ in watcher.traced] == [["blue"], ["blue"], ["blue"], []]
    assert all(frame is not None and frame.shape == (64, 128, 3) for _, frame in watcher.traced)


def test_a_job_without_a_trace_is_not_traced(engines: Callable[..., Engine], request_for: Make) -> None:
    watcher = Watcher()
    engines().submit(request_for("j", observer=watcher)).result()

    assert watcher.traced == []


def test_numbers_that_are_not_finite_fail_their_job_alone(
    engines: Callable[..., Engine], request_for: Make, model: LoadedModel
) -> None:
    def poisonous_at_large_noise(rows: torch.Tensor, timesteps: torch.Tensor, **keywords: Any) -> Any:
        sample = model.unet(rows, timesteps, **keywords).sample
        return _Sample(torch.where((timesteps > 900).view(-1, 1, 1, 1), torch.nan, sample))

    poisoned = with_unet(model, poisonous_at_large_noise)
    engine = engines()
    bad = engine.submit(replace(request_for("bad"), model=poisoned))
    good = engine.submit(replace(request_for("good", from_image=True, start_step=3), model=poisoned))

    assert good.result(60).pixels.any()
    with pytest.raises(RenderError, match="step 0 gave numbers that are not finite") as caught:
        bad.result(30)
    assert caught.value.kind == "nan"


def test_a_forward_too_large_for_memory_is_tried_job_by_job(
    engines: Callable[..., Engine], request_for: Make, model: LoadedModel
) -> None:
    def only_small_batches(rows: torch.Tensor, *arguments: Any, **keywords: Any) -> Any:
        if len(rows) > 2:
            raise torch.OutOfMemoryError
        return model.unet(rows, *arguments, **keywords)

    cramped = with_unet(model, only_small_batches)
    engine = engines(max_rows=8)
    futures = [engine.submit(replace(request_for(f"j{n}", seed=n), model=cramped)) for n in range(4)]

    pictures = [future.result(60).pixels for future in futures]

    expected = engines().submit(request_for("same", seed=0)).result().pixels
    assert np.abs(pictures[0].astype(int) - expected.astype(int)).max() <= 1


def test_a_job_that_does_not_fit_alone_fails_for_memory(
    engines: Callable[..., Engine], request_for: Make, model: LoadedModel
) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError

    error = engines().submit(replace(request_for("j"), model=with_unet(model, never))).exception(30)

    assert isinstance(error, RenderError)
    assert error.kind == "memory"


def test_two_rows_without_room_take_turns(
    engines: Callable[..., Engine], request_for: Make, model: LoadedModel
) -> None:
    sizes: list[int] = []
    cramped = _with_room_for_one_row(model, sizes)
    engine = engines(max_rows=8)
    pictures = [engine.submit(replace(request_for(f"j{n}", seed=n), model=cramped)) for n in range(2)]

    expected = engines().submit(request_for("same", seed=0)).result().pixels
    assert np.abs(pictures[0].result(60).pixels.astype(int) - expected.astype(int)).max() <= 1
    assert pictures[1].result(60).pixels.any()
    assert sum(size > 1 for size in sizes) <= 4, "what did not fit is not tried again at every step"


def test_in_deterministic_mode_rows_never_take_turns(
    engines: Callable[..., Engine], request_for: Make, model: LoadedModel
) -> None:
    """Their bits would depend on how much memory was free."""
    cramped = _with_room_for_one_row(model, [])
    engine = engines(max_rows=2, deterministic=True)
    # the first two are short of memory together, which leaves their group one row
    requests = [request_for(f"j{n}", guidance=guidance) for n, guidance in enumerate((1, 1, 7.5))]
    errors = [future.exception(30) for future in [engine.submit(replace(r, model=cramped)) for r in requests]]

    assert [getattr(error, "kind", None) for error in errors] == ["memory"] * 3


@pytest.mark.long
@pytest.mark.parametrize("knows", ["what is free", "only when it is too late"])
def test_a_picture_without_room_is_decoded_in_tiles(
    engines: Callable[..., Engine],
    request_for: Make,
    model: LoadedModel,
    monkeypatch: pytest.MonkeyPatch,
    knows: str,
) -> None:
    large = {"width": 256, "height": 256, "steps": 2}
    expected = engines().submit(request_for("whole", **large)).result(60).pixels
    decode = model.vae.decode

    def only_tiles(z: torch.Tensor) -> Any:
        if not model.vae.use_tiling:
            raise torch.OutOfMemoryError
        return decode(z)

    monkeypatch.setattr(model.vae, "decode", only_tiles)
    memory = model.memory
    assert memory is not None
    options = {"free": lambda: 10 * memory.picture} if knows == "what is free" else {}
    rendered = engines(**options).submit(request_for("tiled", **large)).result(60)

    assert rendered.warnings == ("the picture was decoded in tiles, because memory was short: their seams may show",)
    assert rendered.pixels.shape == expected.shape
    assert np.abs(rendered.pixels.astype(int) - expected.astype(int)).mean() < 16
    assert not model.vae.use_tiling, "the next picture is decoded whole"


def test_an_error_in_one_decode_fails_that_job_alone(
    engines: Callable[..., Engine], request_for: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker.diffusion import latents

    decode, marked = latents.decode, torch.tensor(0.0)

    def fails_for_one(vae: Any, batch: torch.Tensor) -> torch.Tensor:
        if any(torch.equal(row, marked) for row in batch):
            raise torch.OutOfMemoryError
        return decode(vae, batch)

    watcher = Watcher(hold_at=6)
    engine = engines()
    bad = engine.submit(request_for("bad", seed=5, observer=watcher))
    assert watcher.reached.wait(30)
    marked = engine._jobs.active["bad"].x.clone()
    monkeypatch.setattr(latents, "decode", fails_for_one)
    good = engine.submit(request_for("good", seed=6))
    watcher.let_go.set()

    assert good.result(30).pixels.any()
    error = bad.exception(30)
    assert isinstance(error, RenderError)
    assert error.kind == "memory"


def test_what_cannot_be_prepared_is_refused(engines: Callable[..., Engine], request_for: Make) -> None:
    wrong = request_for("j")
    unknown = wrong.spec.model_copy(
        update={
            "guidance": wrong.spec.guidance.model_copy(
                update={"losses": spec_of(losses=[{"name": "blue"}]).guidance.losses}
            )
        }
    )
    term = unknown.guidance.losses[0].model_copy(update={"name": "greenish"})
    forged = unknown.model_copy(update={"guidance": unknown.guidance.model_copy(update={"losses": (term,)})})

    with pytest.raises(InvalidInput, match="there is no loss 'greenish'"):
        engines().submit(replace(wrong, spec=forged)).result(30)


def test_words_beyond_the_encoders_length_are_reported(engines: Callable[..., Engine], request_for: Make) -> None:
    rendered = engines().submit(request_for("j", prompt="cat " * 90 + "otter", reading="plain")).result()

    assert len(rendered.warnings) == 1
    assert rendered.warnings[0].startswith("the prompt is longer than the model reads; it did not see: ")
    assert rendered.warnings[0].endswith("otter")


def test_jobs_of_unlike_numbers_of_chunks_are_in_forwards_of_their_own(
    engines: Callable[..., Engine], request_for: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens: list[tuple[int, int]] = []
    predict = LoadedModel.predict

    def noted(model: LoadedModel, rows: Any, timesteps: Any, conditioning: Any, *more: Any) -> Any:
        tokens.append((len(rows), conditioning.text.shape[1]))
        return predict(model, rows, timesteps, conditioning, *more)

    monkeypatch.setattr(LoadedModel, "predict", noted)
    first = Watcher(hold_at=1)
    engine = engines()
    futures = [engine.submit(request_for("first", steps=3, observer=first))]
    assert first.reached.wait(30)
    prompts = {"short": "a dog", "broken": "a cat BREAK a cat", "long": "otter " * 80, "against": "a cat"}
    negatives = {"against": "otter " * 80}
    for name, prompt in prompts.items():
        futures.append(engine.submit(request_for(name, steps=3, prompt=prompt, negative=negatives.get(name, ""))))
    first.let_go.set()
    reports = [future.result(30).report for future in futures]

    assert [read.chunks for read in reports[2].prompts] == [(2, 2), (0,)]
    assert [read.chunks for read in reports[4].prompts] == [(2,), (75, 5)]
    assert set(tokens) >= {(2, 77), (4, 77), (6, 154)}, "those of two chunks together, and apart from those of one"


def test_a_prompt_that_is_too_long_to_encode_fails_its_job_alone(
    engines: Callable[..., Engine], request_for: Make
) -> None:
    engine = engines()
    with pytest.raises(InvalidInput, match="a prompt of 81 chunks, by its BREAKs, is longer than 80"):
        engine.submit(request_for("long", prompt="cat BREAK " * 80 + "cat")).result(30)
    with pytest.raises(InvalidInput, match="clip_skip: 12 is more than the text encoder"):
        engine.submit(request_for("early", clip_skip=12)).result(30)
    assert engine.submit(request_for("short")).result(30).pixels.any()


def test_a_loss_that_no_step_is_due_for_is_reported(engines: Callable[..., Engine], request_for: Make) -> None:
    fields = {"from_image": True, "start_step": 6, "steps": 10, "losses": [{"name": "blue", "every": 5}]}
    late = {**fields, "losses": [{"name": "blue", "every": 20}]}

    assert engines().submit(request_for("due", **{**fields, "start_step": 5})).result().warnings == ()
    assert engines().submit(request_for("late", **late)).result().warnings == (
        "the loss 'blue' had no effect: no step from 6 to 9 is a multiple of 20",
    )


def test_memory_that_came_short_for_many_is_enough_for_half_as_many(
    engines: Callable[..., Engine], request_for: Make, model: LoadedModel
) -> None:
    widths: list[int] = []

    def small_batches(rows: torch.Tensor, *arguments: Any, **keywords: Any) -> Any:
        widths.append(len(rows))
        if len(rows) > 4:
            raise torch.OutOfMemoryError
        return model.unet(rows, *arguments, **keywords)

    cramped = with_unet(model, small_batches)
    engine = engines(max_rows=8)
    watcher = Watcher(hold_at=1)
    first = engine.submit(replace(request_for("j0", observer=watcher, steps=8), model=cramped))
    assert watcher.reached.wait(30)
    others = [engine.submit(replace(request_for(f"j{n}", steps=8), model=cramped)) for n in range(1, 4)]
    watcher.let_go.set()
    for future in (first, *others):
        assert future.result(60).pixels.any()

    assert widths.count(8) == 1, "the same company is not tried twice"
    assert 4 in widths, "half as many go together"


def test_a_stopped_engine_cancels_what_it_holds(request_for: Make) -> None:
    engine, watcher = Engine(load_losses(), max_rows=8), Watcher(hold_at=1)
    engine.start()
    future = engine.submit(request_for("j", steps=500, observer=watcher))
    assert watcher.reached.wait(30)
    stopper = threading.Thread(target=engine.stop)
    stopper.start()
    watcher.let_go.set()
    stopper.join(30)

    assert isinstance(future.exception(1), Cancelled)
    assert not engine.is_alive


def test_sizes_and_guidance_left_open_are_the_models_own(model: LoadedModel) -> None:
    spec = resolve(spec_of(guidance=None), model, load_losses())

    assert (spec.width, spec.height, spec.guidance.scale) == (64, 64, model.defaults.guidance)


@pytest.mark.parametrize(
    ("picture", "size"), [((600, 300), (64, 64)), ((64, 64), (64, 64)), (None, (64, 64)), ((90, 90), (64, 64))]
)
def test_a_job_takes_the_shape_of_its_picture_within_the_models_pixels(
    model: LoadedModel, picture: tuple[int, int] | None, size: tuple[int, int]
) -> None:
    large = replace(model, default_width=128, default_height=128)
    spec = spec_of(from_image=True, fit="init")
    known = {"width": picture[0], "height": picture[1]} if picture else {}
    image = spec.start.image.model_copy(update=known) if spec.start.image else None
    spec = spec.model_copy(update={"start": spec.start.model_copy(update={"image": image})})

    ours, theirs = resolve(spec, model, load_losses()), resolve(spec, large, load_losses())

    assert (ours.width, ours.height) == size
    assert (theirs.width, theirs.height) == {
        (600, 300): (184, 88),
        (64, 64): (64, 64),
        None: (128, 128),
        (90, 90): (88, 88),
    }[picture]


class _Sample:
    def __init__(self, sample: torch.Tensor) -> None:
        self.sample = sample


class _Unet:
    """Stands for the model's UNet where a test needs one that fails."""

    def __init__(self, real: Any, call: Callable[..., Any]) -> None:
        self.config, self._call = real.config, call

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._call(*arguments, **keywords)


def with_unet(model: LoadedModel, call: Callable[..., Any]) -> LoadedModel:
    unet: Any = _Unet(model.unet, call)
    return replace(model, unet=unet, recorded=None)


def _with_room_for_one_row(model: LoadedModel, sizes: list[int]) -> LoadedModel:
    """A model that runs out of memory with more than a row, and notes how many it was asked for."""

    def only_one_row(rows: torch.Tensor, *arguments: Any, **keywords: Any) -> Any:
        sizes.append(len(rows))
        if len(rows) > 1:
            raise torch.OutOfMemoryError
        return model.unet(rows, *arguments, **keywords)

    return with_unet(model, only_one_row)


def test_a_mix_along_the_arc_has_another_conditioning_with_the_same_ends(
    request_for: Callable[..., RenderRequest],
) -> None:
    def apart(share: float) -> float:
        straight, arc = (
            prepare(
                request_for(path, mode="mix", prompt=["a cat", "a red apple"], mix=share, path=path),
                load_losses(),
                0,
                Future(),
            ).conditional.text
            for path in ("linear", "spherical")
        )
        return float((straight - arc).abs().max())

    assert apart(0.5) > 1e-3
    assert apart(1) < 1e-6
