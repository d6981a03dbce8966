"""The training loop that every stage shares: bounded in time, resumable, averaged, annealed, and logged."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from worker.emoji.settings import StagePlan

Module = TypeVar("Module", bound=nn.Module)

_WARM_UP = 0.03
_REPORT_STEPS = 100

LossOfStep = Callable[[float], dict[str, Tensor]]
"""From the progress of a stage (0..1) to its losses, of which the one named ``loss`` is minimised."""


@dataclass
class Stage(Generic[Module]):
    """One stage of a training: a module that learns, its moving average, and how far it has come."""

    name: str
    module: Module
    plan: StagePlan
    directory: Path
    seed: int
    device: torch.device
    ema_decay: float
    checkpoint_minutes: float
    step: int = 0
    seconds: float = 0.0
    average: Module = field(init=False)
    optimizer: torch.optim.Optimizer = field(init=False)
    generator: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        torch.manual_seed(self.seed)
        self.module.to(self.device)
        self.average = copy.deepcopy(self.module).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.module.parameters(), betas=(0.9, 0.98), weight_decay=self.plan.weight_decay, fused=True
        )
        self.generator = torch.Generator().manual_seed(self.seed)
        if self._checkpoint.is_file():
            self._restore()

    @property
    def progress(self) -> float:
        """The part of the plan that is done, in 0..1."""
        return min(1.0, max(self.step / self.plan.steps, self.seconds / 60 / self.plan.minutes))

    def run(self, losses_of: LossOfStep, on_checkpoint: Callable[[], None] = lambda: None) -> Module:
        """Train to the end of the plan, from the last checkpoint if there is one; return the averaged module."""
        saved_at = self.seconds
        while self.progress < 1:
            started = time.monotonic()
            losses = self._advance(losses_of)
            self.seconds += time.monotonic() - started
            if self.step % _REPORT_STEPS == 0 or self.progress == 1:
                self._report(losses)
            if self.seconds - saved_at > 60 * self.checkpoint_minutes:
                self._save()
                on_checkpoint()
                saved_at = self.seconds
        # also where there was nothing left to do: the run may have been killed between the two
        self._save()
        on_checkpoint()
        self.average.eval()
        return self.average

    def _advance(self, losses_of: LossOfStep) -> dict[str, Tensor]:
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.learning_rate * annealed(self.progress)
        losses = losses_of(self.progress)
        self.optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        self._follow()
        return losses

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the average towards the module, faster while it is young."""
        keep = min(self.ema_decay, (1 + self.step) / (20 + self.step))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.module.parameters()), 1 - keep)

    def _report(self, losses: dict[str, Tensor]) -> None:
        entry: dict[str, float | int] = {name: round(float(loss.detach()), 5) for name, loss in losses.items()}
        entry |= {"step": self.step, "seconds": round(self.seconds, 1), "progress": round(self.progress, 4)}
        with (self.directory / f"{self.name}.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(entry) + "\n")
        shown = " ".join(f"{name} {value:.4f}" for name, value in entry.items() if name in losses)
        speed = f"{self.seconds / self.step:.3f} s/step"
        print(f"{self.name} {self.progress:6.1%} step {self.step} {shown} {speed}", flush=True)

    @property
    def _checkpoint(self) -> Path:
        return self.directory / f"{self.name}.pt"

    def _save(self) -> None:
        state = {
            "module": self.module.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "noise": torch.get_rng_state(),
            "step": self.step,
            "seconds": self.seconds,
        }
        partial = self._checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self._checkpoint)  # a run killed while saving keeps its last whole checkpoint

    def _restore(self) -> None:
        state: dict[str, Any] = torch.load(self._checkpoint, map_location=self.device, weights_only=True)
        self.module.load_state_dict(state["module"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"].cpu())
        torch.set_rng_state(state["noise"].cpu())
        self.step, self.seconds = state["step"], state["seconds"]


def annealed(progress: float) -> float:
    """The learning rate at ``progress`` in 0..1, as a part of its peak: a short linear rise, then half a cosine."""
    if progress < _WARM_UP:
        return max(progress / _WARM_UP, 0.02)
    return 0.5 + 0.5 * math.cos(math.pi * (progress - _WARM_UP) / (1 - _WARM_UP))
