"""How much memory is taken is read now and then, and hinders nobody."""

from __future__ import annotations

import logging
import mmap
import os
import threading

import pytest

from farm.jobs.status import MemoryUse
from tests.waiting import eventually
from worker.host.memory import MemoryGauge, of_host

GPU = MemoryUse(total=80 * 2**30, used=50 * 2**30, own=40 * 2**30)


def test_of_the_machine_it_is_known_what_there_is_and_what_this_process_has() -> None:
    host = of_host()
    assert 0 < host.total <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert host.own is not None and host.used is not None
    assert 2**20 < host.own < host.total, "an interpreter takes some MiB"
    with mmap.mmap(-1, 128 * 2**20) as ballast:  # pages that are new, whatever was freed before
        for page in range(0, len(ballast), mmap.PAGESIZE):
            ballast[page] = 1
        more = of_host().own
    assert more is not None and more - host.own > 64 * 2**20


def test_a_driver_that_hangs_holds_up_nobody() -> None:
    hangs, asked = threading.Event(), threading.Event()

    def of_device() -> MemoryUse | None:
        asked.set()
        hangs.wait()
        return GPU

    gauge = MemoryGauge(of_device, seconds=0.01)
    gauge.start()
    assert asked.wait(30)
    assert gauge.device is None
    gauge.stop()
    hangs.set()
    eventually(lambda: gauge.device == GPU, "it answers after all")


def test_what_cannot_be_read_is_not_known_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    answers: list[MemoryUse | Exception] = [GPU, RuntimeError("the GPU is lost"), RuntimeError("the GPU is lost"), GPU]

    def of_device() -> MemoryUse:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    gauge = MemoryGauge(of_device, seconds=60)
    known = []
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            gauge.read()
            known.append(gauge.device)
    assert known == [GPU, None, None, GPU]
    assert [record.getMessage() for record in caplog.records] == [
        "how much memory is taken is not known: the GPU is lost"
    ]
