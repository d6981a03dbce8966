"""A farm's servers, as its clients reach them."""

from __future__ import annotations

from functools import cached_property
from typing import Self

from farm import settings
from farm.bucket.storage import Storage
from farm.client import tie
from farm.ledger.connection import ANSWERS_WITHIN
from farm.ledger.ledger import Ledger
from farm.queue import Queue
from farm.settings import Settings


class Connection:
    """Connections to Redis and to the bucket, made when first needed."""

    def __init__(self, where: Settings, *, answers_within: float = ANSWERS_WITHIN) -> None:
        """`answers_within` so many seconds Redis is to answer; it is asked again where it does not."""
        self.settings = where
        self._answers_within = answers_within
        self._tied = self._checked = False

    @classmethod
    def connect(cls) -> Self:
        """The farm that the environment names, or the local one. Raises `NotConfigured`."""
        return cls(settings.load())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close what was opened."""
        for part in ("ledger", "queue"):
            if part in self.__dict__:
                self.__dict__[part].close()

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger(self.settings, answers_within=self._answers_within)

    @cached_property
    def storage(self) -> Storage:
        return Storage(self.settings)

    @cached_property
    def queue(self) -> Queue:
        return Queue(self.settings)

    def check_bucket(self, *, only_to_read: bool = False) -> None:
        """Make sure, once, that the bucket is the ledger's own.

        A ledger that belongs to none is tied to it, unless it is `only_to_read`.
        Raises `WrongBucket`, `LedgerUnavailable`, `StorageError`.
        """
        if self._tied or (only_to_read and self._checked):
            return
        if only_to_read:
            tie.check(self.ledger, self.storage)
            self._checked = True
        else:
            tie.tie(self.ledger, self.storage)
            self._tied = True
