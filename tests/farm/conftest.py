"""A real Redis and a real S3 server for the whole session, and parts of the farm that talk to them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from farm import stack
from farm.client import FarmClient
from farm.ledger import Ledger, NewJob
from farm.settings import Settings
from farm.spec import Conditioning, JobSpec, WeightedPrompt
from farm.storage import Storage

BATCH = "0" * 16
_prefixes = (f"test{number}" for number in itertools.count())


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """The servers of a local farm without workers."""
    home = tmp_path_factory.mktemp("a farm") / "home"
    try:
        yield stack.start_detached(home, workers=0)
    finally:
        stack.stop(home)


@pytest.fixture
def ledger(servers: Settings) -> Iterator[Ledger]:
    """A ledger of its own."""
    made = Ledger(servers, prefix=next(_prefixes))
    yield made
    made.close()


@pytest.fixture(scope="session")
def storage(servers: Settings) -> Storage:
    return Storage(servers)


@pytest.fixture
def client(servers: Settings) -> Iterator[FarmClient]:
    """A client of an empty farm."""
    with FarmClient(servers) as made:
        made.ledger.redis.flushdb()
        yield made


@pytest.fixture
def away_from_any_farm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An environment that names no farm."""
    for name in ("FARM_REDIS_URL", "FARM_S3_ENDPOINT", "FARM_S3_BUCKET", "FARM_MODEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FARM_HOME", str(tmp_path / "no farm"))


def job(index: int = 0, *, model: str = "emoji", priority: int = 5, steps: int = 30) -> NewJob:
    """A job of the batch `BATCH`."""
    conditioning = Conditioning(prompts=(WeightedPrompt(text="an otter"),))
    spec = JobSpec(mode="txt2img", model=model, conditioning=conditioning, steps=steps, seed=index)
    return NewJob(f"{BATCH}-{index:04d}", spec, priority, {"who": "test"})
