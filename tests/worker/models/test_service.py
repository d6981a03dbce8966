"""Which models a worker serves when some of them cannot be loaded."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from farm.errors import FarmError, ModelError, ModelUnavailable, StorageError
from worker.models.pool import ModelPool
from worker.models.registry import LocalDirectory, ModelRegistry, Source
from worker.models.service import FIRST_WAIT, LONGEST_WAIT, ModelService


@dataclass(eq=False)
class FakeModel:
    size: int = 1


BROKEN = ModelError("the model 'bad' is broken", hint="mend it")
AWAY = StorageError("the bucket does not answer")


def answers() -> None: ...


def is_away() -> None:
    raise AWAY


def service(
    models: Mapping[str, Exception | None], ask_bucket: Callable[[], None] = answers
) -> tuple[ModelService, ModelPool[FakeModel]]:
    """Of models that are loaded, or fail with an error."""

    def load(name: str, _: Source) -> FakeModel:
        if error := models[name]:
            raise error
        return FakeModel()

    pool = ModelPool(ModelRegistry({name: LocalDirectory(Path(name)) for name in models}), 100, load)
    return ModelService(tuple(models), pool, ask_bucket=ask_bucket), pool


def test_all_are_served_if_all_can_be_loaded() -> None:
    served, pool = service({"a": None, "b": None})
    assert served.names == ("a", "b"), "before it is known"
    assert served.loaded == ()
    served.load()
    assert served.names == served.loaded == pool.warm == ("a", "b")
    assert served.refused == {}


@pytest.mark.parametrize("models", [{"good": None, "bad": BROKEN}, {"bad": BROKEN, "good": None}])
def test_one_that_cannot_be_loaded_keeps_no_other_from_being_served(
    models: Mapping[str, Exception | None], caplog: pytest.LogCaptureFixture
) -> None:
    served, pool = service(models)
    served.load()
    assert served.names == pool.warm == ("good",)
    assert "good" in served and "bad" not in served
    assert served.refused == {"bad": "the model 'bad' is broken (mend it)"}
    assert "the model 'bad' is not served: the model 'bad' is broken (mend it)" in caplog.text


def test_what_was_loaded_of_a_refused_model_is_freed() -> None:
    loaded: list[weakref.ref[FakeModel]] = []

    def load(name: str, _: Source) -> FakeModel:
        model = FakeModel()
        loaded.append(weakref.ref(model))
        if name == "bad":
            raise ModelError("it is broken")
        return model

    registry = ModelRegistry({name: LocalDirectory(Path(name)) for name in ("bad", "good")})
    served = ModelService(registry.names, ModelPool(registry, 100, load), ask_bucket=answers)
    served.load()
    gc.collect()
    assert [model() is None for model in loaded] == [True, False]


def test_without_any_there_is_nothing_to_do() -> None:
    with pytest.raises(ModelError, match=r"^the model 'bad' is broken \(mend it\)$"):
        service({"bad": BROKEN})[0].load()
    with pytest.raises(ModelError, match=r"the model 'bad' is broken \(mend it\); no such file \(a worker needs one"):
        service({"bad": BROKEN, "worse": ModelError("no such file")})[0].load()


def test_while_the_bucket_is_away_nothing_is_refused_for_good() -> None:
    """No picture could be stored either: the worker ends, and whoever started it tries again."""
    served, _ = service({"good": None, "far": AWAY}, is_away)
    with pytest.raises(StorageError, match="the bucket does not answer"):
        served.load()
    assert served.refused == {}


def test_a_bucket_that_refuses_alone_is_that_models_fault() -> None:
    served, _ = service({"far": StorageError("access denied"), "good": None})
    served.load()
    assert served.names == ("good",)
    assert served.refused == {"far": "access denied"}


class Clock(threading.Event):
    """An event that is never set in so many waits, and notes how long each was asked for."""

    def __init__(self, waits: int) -> None:
        super().__init__()
        self.left, self.asked = waits, list[float]()

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.asked.append(timeout)
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize("cause", [StorageError("no such bucket"), ModelUnavailable("the hub does not answer")])
def test_a_model_is_tried_again_until_it_can_be_had(cause: FarmError, caplog: pytest.LogCaptureFixture) -> None:
    models: dict[str, Exception | None] = {"good": None, "late": cause, "bad": BROKEN}
    served, pool = service(models)
    served.load()
    assert f"the model 'late' is not served: {cause}; it is tried again from time to time" in caplog.text
    said = len(caplog.records)
    clock, came = Clock(waits=20), list[str]()

    served.keep_trying(clock, came.append)
    assert clock.asked[:3] == [FIRST_WAIT, 2 * FIRST_WAIT, 4 * FIRST_WAIT]
    assert max(clock.asked) == clock.asked[-1] == LONGEST_WAIT
    assert (served.names, came, len(caplog.records)) == (("good",), [], said), "told once"

    models["late"] = None
    served.keep_trying(Clock(waits=20), came.append)
    assert came == ["late"]
    assert served.names == pool.warm == ("good", "late")
    assert served.loaded == ("good", "late")
    assert served.refused.keys() == {"bad"}


def test_a_model_that_came_and_is_malformed_is_not_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    models: dict[str, Exception | None] = {"good": None, "late": ModelUnavailable("the disk is full")}
    served, _ = service(models)
    served.load()
    models["late"] = BROKEN
    clock = Clock(waits=20)
    served.keep_trying(clock, lambda _: None)
    assert clock.asked == [FIRST_WAIT]
    assert served.refused == {"late": str(BROKEN)}
    assert caplog.messages[-1] == f"the model 'late' is not served: {BROKEN}"


def test_a_bug_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        service({"good": None, "bug": ZeroDivisionError()})[0].load()
