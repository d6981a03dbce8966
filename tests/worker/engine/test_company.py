"""A job gives the same picture alone and in company: to rounding, and bit for bit in deterministic mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from worker.diffusion.losses import load_losses
from worker.engine.engine import Engine
from worker.engine.preparing import prepare
from worker.engine.request import RenderRequest
from worker.engine.request_state import RequestState
from worker.engine.rows import run_step
from worker.models.model import LoadedModel
from worker.models.torchscript import recorded

JOBS: dict[str, dict[str, Any]] = {
    "lms": {"steps": 6, "seed": 11},
    "euler from an image": {"sampler": "euler", "from_image": True, "strength": 0.6, "steps": 5, "seed": 12},
    "ancestral without guidance": {"sampler": "euler_a", "guidance": 1.0, "steps": 4, "seed": 13},
    "ddim with a negative prompt": {"sampler": "ddim", "negative": "a dog", "guidance": 3.0, "steps": 4, "seed": 14},
    "dpm++ under losses": {
        "sampler": "dpmpp_2m",
        "losses": [{"name": "blue", "every": 2}, {"name": "contrast", "every": 3}],
        "steps": 4,
        "seed": 15,
    },
    "heun from an image": {"sampler": "heun", "from_image": True, "start_step": 2, "steps": 4, "seed": 17},
    "dpm++ sde under a loss": {
        "sampler": "dpmpp_sde",
        "losses": [{"name": "blue", "every": 1}],
        "steps": 3,
        "seed": 18,
    },
    "pndm": {"sampler": "pndm", "steps": 5, "seed": 19},
    "three chunks with weights": {
        "prompt": "a (red:1.3) cat BREAK [blue] " + "otter " * 80,
        "negative": "a dog",
        "steps": 4,
        "seed": 20,
    },
    "a mix under a loss": {
        "prompt": ["a cat", "a dog"],
        "mix": 0.3,
        "losses": [{"name": "color"}],
        "steps": 4,
        "seed": 16,
    },
}

FRAMED: dict[str, dict[str, Any]] = {
    "of a large original": {"original_size": "4096x4096", "steps": 4, "seed": 21},
    "cut off on the left": {"sampler": "euler", "crop": "40,0", "from_image": True, "steps": 4, "seed": 22},
    "cut to another size": {"target_size": "96x128", "guidance": 1.0, "steps": 4, "seed": 23},
}
"""Of the family that is told so."""

ONE_OF_EACH_WAY = ("lms", "ancestral without guidance", "dpm++ sde under a loss", "three chunks with weights")
"""Two rows, one, gradients in each of two evaluations, and texts of another length: the ways through a forward."""


@pytest.fixture
def threads_restored() -> Iterator[None]:
    """Forwards on several cores set how many threads torch has."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def latents_alone(request: RenderRequest, *, padded_rows: int | None) -> Tensor:
    state = _board(request, 0, padded_rows is not None)
    while not state.is_done:
        _step([state], padded_rows)
    return state.x


def latents_in_company(
    requests: list[RenderRequest], *, padded_rows: int | None, rows: int = 5, joining: int = 1
) -> dict[str, Tensor]:
    """Jobs join so many at a time, a step apart, and share forwards of at most `rows` jobs in changing order."""
    deterministic = padded_rows is not None
    waiting = [_board(request, arrival, deterministic) for arrival, request in enumerate(requests)]
    flying: list[RequestState] = []
    finished: dict[str, Tensor] = {}
    while waiting or flying:
        flying += waiting[:joining]
        del waiting[:joining]
        flying = flying[1:] + flying[:1]
        _step([state for state in flying if state.batch_key == flying[0].batch_key][:rows], padded_rows)
        finished |= {state.id: state.x for state in flying if state.is_done}
        flying = [state for state in flying if not state.is_done]
    return finished


def _board(request: RenderRequest, arrival: int, deterministic: bool) -> RequestState:
    from concurrent.futures import Future

    return prepare(request, load_losses(), arrival, Future(), deterministic=deterministic)


def _step(states: list[RequestState], padded_rows: int | None) -> None:
    step = run_step(states, padded_rows=padded_rows, gradient_chunk=1 if padded_rows else 4)
    for index, state in enumerate(states):
        state.commit(step.x[index], step.history[index], step.x0[index], step.losses[index])


@pytest.fixture(params=["sd", "sdxl"])
def family(request: pytest.FixtureRequest, model: LoadedModel, xl: LoadedModel) -> LoadedModel:
    """A model of each family."""
    return {"sd": model, "sdxl": xl}[request.param]


def jobs_of(family: LoadedModel) -> dict[str, dict[str, Any]]:
    return JOBS | FRAMED if family.family.reads_frame else JOBS


@pytest.mark.long
def test_latents_agree_to_rounding(request_for: Callable[..., RenderRequest], family: LoadedModel) -> None:
    requests = [request_for(name, of=family, **fields) for name, fields in jobs_of(family).items()]

    together = latents_in_company(requests, padded_rows=None)

    for request in requests:
        alone = latents_alone(request, padded_rows=None)
        difference = float((alone - together[request.id]).abs().max())
        assert difference <= 1e-4, request.id


@pytest.mark.long
@pytest.mark.parametrize(
    ("cores", "padded_rows", "names"),
    [
        *((cores, padded_rows, ()) for cores, padded_rows in [(1, 12), (3, 8)]),  # all of them
        *((cores, padded_rows, ONE_OF_EACH_WAY) for cores, padded_rows in [(3, 12), (5, 8), (8, 8), (20, 8)]),
    ],
    ids=lambda value: f"{len(value) or 'all'} jobs" if isinstance(value, tuple) else None,
)
def test_latents_are_equal_bit_for_bit_when_deterministic(
    request_for: Callable[..., RenderRequest],
    family: LoadedModel,
    threads_restored: None,
    cores: int,
    padded_rows: int,
    names: tuple[str, ...],
) -> None:
    """How rows are dealt to cores knows nothing of samplers: there, a job of each way through a forward is enough."""
    torch.set_num_threads(cores)
    jobs = jobs_of(family)
    requests = [request_for(name, of=family, **jobs[name]) for name in names or jobs]
    model = replace(requests[0].model, recorded=recorded(requests[0].model, cores))
    requests = [replace(request, model=model) for request in requests]

    together = latents_in_company(requests, padded_rows=padded_rows, rows=padded_rows // 2)

    for request in requests:
        assert torch.equal(latents_alone(request, padded_rows=padded_rows), together[request.id]), request.id


@pytest.mark.long
def test_pixels_of_the_engine_are_equal_when_deterministic(
    engines: Callable[..., Engine], request_for: Callable[..., RenderRequest], model: LoadedModel, xl: LoadedModel
) -> None:
    """Beside jobs of the same model, and of one of another family whose rows have the same size."""
    requests = [request_for(name, **fields) for name, fields in JOBS.items()]
    others = [*ONE_OF_EACH_WAY, *FRAMED]
    requests += [request_for(f"{name} by SDXL", of=xl, **jobs_of(xl)[name]) for name in others]
    quiet = engines(deterministic=True)
    alone = {request.id: quiet.submit(request).result() for request in requests}

    crowded = engines(deterministic=True)
    futures = {request.id: crowded.submit(request) for request in requests}

    for name, future in futures.items():
        assert np.array_equal(alone[name].pixels, future.result().pixels), name
    names = list(JOBS)
    assert not np.array_equal(alone[names[0]].pixels, alone[f"{names[0]} by SDXL"].pixels)
