"""When a worker takes jobs, and when not."""

from __future__ import annotations

import threading

from tests.waiting import eventually
from worker.queue.intake import Intake


def test_it_is_open_until_somebody_has_a_reason() -> None:
    intake = Intake()
    assert intake.is_open and intake.reason is None
    with intake.paused("first"), intake.paused("second"):
        assert not intake.is_open
        assert intake.reason == "first"
        with intake.entering() as admitted:
            assert not admitted
    assert intake.is_open


def test_closing_is_for_good() -> None:
    intake = Intake()
    intake.close("it is leaving")
    with intake.paused("something else"):
        assert intake.reason == "it is leaving"
    assert not intake.is_open


def test_alone_waits_for_those_inside_and_lets_nobody_in() -> None:
    intake = Intake()
    inside, leave, alone = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        with intake.entering() as admitted:
            assert admitted
            inside.set()
            leave.wait(60)

    def be_alone() -> None:
        with intake.alone("a suspect") as is_alone:
            assert is_alone
            alone.set()

    worker, suspect = threading.Thread(target=work), threading.Thread(target=be_alone)
    worker.start()
    assert inside.wait(60)
    suspect.start()
    eventually(lambda: intake.reason == "a suspect", "the suspect waits")
    with intake.entering() as admitted:
        assert not admitted
    assert not alone.is_set()
    leave.set()
    assert alone.wait(60)
    suspect.join(60)
    worker.join(60)
    assert intake.is_open


def test_only_one_is_alone() -> None:
    intake = Intake()
    with intake.alone("one") as first, intake.alone("other") as second:
        assert first
        assert not second


def test_who_waits_to_be_alone_gives_up_when_the_worker_leaves() -> None:
    intake = Intake()
    answers: list[bool] = []

    def be_alone() -> None:
        with intake.alone("a suspect") as is_alone:
            answers.append(is_alone)

    with intake.entering():
        suspect = threading.Thread(target=be_alone)
        suspect.start()
        eventually(lambda: intake.reason == "a suspect", "the suspect waits")
        intake.close("it is leaving")
        suspect.join(60)
    assert answers == [False]
