"""What the engine says of a job, carried from its thread to the one that writes it down."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Mapping
from concurrent.futures import Future

from PIL import Image

from farm.bucket.preview import Preview
from farm.jobs.spec import ResolvedSpec
from worker.engine.request import Pixels, Rendered, Snapshot, StepRecord
from worker.leases.keeper import Holding
from worker.results.previews import Previews

Event = tuple[StepRecord, Pixels | None] | Pixels | Snapshot
"""A traced step with its frame, the noised picture that the job starts from, or where it has got to."""


class EventQueue:
    """A job's observer: notes its progress, shows its previews, and queues everything else that it hears."""

    def __init__(self, holding: Holding, spec: ResolvedSpec, previews: Previews) -> None:
        self._holding = holding
        self._size = spec.width, spec.height
        self._previews = previews
        self._queue: queue.SimpleQueue[Event | None] = queue.SimpleQueue()

    def on_step(self, done: int) -> None:
        self._holding.step = done

    def on_losses(self, values: Mapping[str, float]) -> None:
        self._holding.losses = {**self._holding.losses, **values}

    def on_start(self, frame: Pixels) -> None:
        self._queue.put(frame)

    def on_trace(self, record: StepRecord, frame: Pixels | None) -> None:
        self._queue.put((record, frame))

    def on_snapshot(self, snapshot: Snapshot) -> None:
        self._queue.put(snapshot)

    def on_preview(self, done: int, pixels: Pixels) -> None:
        claim = self._holding.claim
        self._previews.show(Preview(claim.job, claim.attempt, done, self._size, Image.fromarray(pixels)))

    def close(self, _: Future[Rendered]) -> None:
        """The job is over."""
        self._queue.put(None)

    def until_closed(self) -> Iterator[Event]:
        """What was said, as it comes, until the job is over."""
        while (event := self._queue.get()) is not None:
            yield event
