"""Which models a worker serves: those that it was given and that can be loaded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from farm.errors import FarmError, ModelError, StorageError
from worker.models.pool import ModelPool

_log = logging.getLogger(__name__)


class ModelService:
    """Loads all models once. One that cannot be loaded is refused, and keeps the others from nothing."""

    def __init__(self, names: Sequence[str], pool: ModelPool[Any], *, ask_bucket: Callable[[], None]) -> None:
        """`ask_bucket` raises `StorageError` if the farm's own bucket does not answer."""
        self._given = tuple(names)
        self._pool = pool
        self._ask_bucket = ask_bucket
        self._errors: dict[str, FarmError] = {}
        self._loaded: list[str] = []

    @property
    def names(self) -> tuple[str, ...]:
        """The models that are served, or that are still to be tried."""
        errors = dict(self._errors)
        return tuple(name for name in self._given if name not in errors)

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

    def _refuse(self, name: str, error: FarmError) -> None:
        _log.error("the model '%s' is not served: %s", name, str(error))
        # The error itself would hold on to what was loaded when it came up.
        self._errors[name] = type(error)(error.message, hint=error.hint)

    def _none(self) -> FarmError:
        errors = list(self._errors.values())
        if len(errors) == 1:
            return errors[0]
        return ModelError("; ".join(map(str, errors)), hint="a worker needs one model that can be loaded")
