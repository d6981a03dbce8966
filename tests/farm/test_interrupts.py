"""Ctrl-C, while something must be done to its end."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from farm.host.interrupts import uninterrupted


def test_it_does_nothing_during_the_block_and_what_it_did_afterwards() -> None:
    with uninterrupted():
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_another_thread_changes_nothing() -> None:
    before = signal.getsignal(signal.SIGINT)

    def look() -> object:
        with uninterrupted():
            return signal.getsignal(signal.SIGINT)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(look).result() is before
