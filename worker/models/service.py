"""Which models a worker serves: those that it was given and that can be loaded, and those that the farm keeps."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Any

from farm.errors import FarmError, ModelError, ModelUnavailable, StorageError
from worker.models.pool import ModelPool

_log = logging.getLogger(__name__)

FIRST_WAIT, LONGEST_WAIT = 60.0, 3_600.0
"""Seconds until a model is tried again for the first time; then twice as many each time, up to an hour."""
CAN_PASS = (ModelUnavailable, StorageError)
"""What keeps a model from being loaded for a while only."""


class ModelService:
    """Loads all models that it was given. One that cannot be loaded is refused, and does not affect the others.

    If the cause can pass, it is tried again now and then, until it is served. Models that it is `offered` later are
    loaded when there are jobs for them, which is somebody else's to see to. Whoever that is says which models' jobs are
    `taken`; unless somebody does, all are.
    """

    def __init__(self, names: Sequence[str], pool: ModelPool[Any], *, ask_bucket: Callable[[], None]) -> None:
        """`ask_bucket` raises `StorageError` if the farm's own bucket does not answer."""
        self._given = tuple(names)
        self._pool = pool
        self._ask_bucket = ask_bucket
        self._errors: dict[str, FarmError] = {}
        self._loaded: list[str] = []
        self._offered: tuple[str, ...] = ()
        self._taken: frozenset[str] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The models that are served, or that are still to be tried."""
        errors = dict(self._errors)
        return tuple(name for name in dict.fromkeys((*self._given, *self._offered)) if name not in errors)

    @property
    def served(self) -> tuple[str, ...]:
        """Those with which jobs can be rendered: loaded once, or offered and not found wanting."""
        errors, loaded = dict(self._errors), tuple(self._loaded)
        return tuple(name for name in dict.fromkeys((*loaded, *self._offered)) if name not in errors)

    @property
    def taken(self) -> frozenset[str]:
        """Those whose jobs this worker takes now."""
        names = frozenset(self.names)
        return names if self._taken is None else names & self._taken

    def take(self, names: Collection[str]) -> None:
        """From now on take jobs of these alone."""
        self._taken = frozenset(names)

    @property
    def loaded(self) -> tuple[str, ...]:
        """Those that have been loaded: in the end, all that are served."""
        return tuple(self._loaded)

    @property
    def refused(self) -> dict[str, str]:
        """Why each of the others is not."""
        return {name: str(error) for name, error in dict(self._errors).items()}

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def load(self) -> None:
        """Try every model. Raises `ModelError` if none can be loaded, and `StorageError` while the bucket is away.

        A model in a bucket that refuses, while the farm's own answers, is refused as any other: to wait for it would
        keep the others waiting.
        """
        for name in self._given:
            _log.info("loading the model '%s'", name)
            try:
                with self._pool.using(name):
                    self._loaded.append(name)
            except ModelError as error:
                self._refuse(name, error)
            except StorageError as error:
                self._ask_bucket()
                self._refuse(name, error)
        if not self.names:
            raise self._none()

    def offer(self, name: str) -> None:
        """A model can be had, or another under its name: whatever was wrong with it is over."""
        if name not in self._offered:
            self._offered += (name,)
        self._errors.pop(name, None)

    def withdraw(self, name: str) -> None:
        """A model cannot be had any more."""
        self._offered = tuple(other for other in self._offered if other != name)
        self._loaded = [other for other in self._loaded if other != name]
        self._errors.pop(name, None)
        if name in self._given:
            self._note(name, ModelError("the farm keeps it no longer"))

    def refuse(self, name: str, error: FarmError) -> None:
        """A model that was offered cannot be loaded."""
        self._refuse(name, error)

    @property
    def passing(self) -> tuple[str, ...]:
        """Offered models that are refused for a cause that can pass."""
        errors = dict(self._errors)
        return tuple(name for name in self._offered if isinstance(errors.get(name), CAN_PASS))

    def keep_trying(self, leaving: threading.Event, on_served: Callable[[str], None]) -> None:
        """Try those again whose cause can pass, until none is left or the worker leaves. Tells `on_served`."""
        wait = FIRST_WAIT
        while self._may_come and not leaving.wait(wait):
            for name in self._may_come:
                if self._try_again(name):
                    on_served(name)
            wait = min(2 * wait, LONGEST_WAIT)

    @property
    def _may_come(self) -> tuple[str, ...]:
        errors = dict(self._errors)
        return tuple(
            name for name, error in errors.items() if isinstance(error, CAN_PASS) and name not in self._offered
        )

    def _try_again(self, name: str) -> bool:
        """Whether the model is served now. Why not is logged only if that is for good."""
        try:
            with self._pool.using(name):
                self._loaded.append(name)
        except CAN_PASS as error:
            self._note(name, error)
            return False
        except ModelError as error:
            self._refuse(name, error)
            return False
        self._errors.pop(name, None)
        _log.info("the model '%s' is served now", name)
        return True

    def _refuse(self, name: str, error: FarmError) -> None:
        later = "; it is tried again from time to time" if isinstance(error, CAN_PASS) else ""
        _log.error("the model '%s' is not served: %s%s", name, str(error), later)
        self._note(name, error)

    def _note(self, name: str, error: FarmError) -> None:
        # The error itself would hold on to what was loaded when it came up.
        self._errors[name] = type(error)(error.message, hint=error.hint)

    def _none(self) -> FarmError:
        errors = list(self._errors.values())
        if len(errors) == 1:
            return errors[0]
        return ModelError("; ".join(map(str, errors)), hint="a worker needs one model that can be loaded")
