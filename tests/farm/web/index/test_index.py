"""The index of pictures: what live events make of it, and what the bucket does, are the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from farm import keys
from farm.bucket.storage import Storage
from farm.client import FarmClient
from farm.client.forget import expire, forget
from farm.errors import InvalidInput
from farm.jobs.request import JobRequest
from farm.web.index import query
from farm.web.index.database import Reader
from farm.web.index.feeding import Feeder, Making
from farm.web.index.index import FILE, Found, Index
from farm.web.problems import Refused
from tests.farm.rendering import render

Keeping = Callable[..., Index]


@pytest.fixture
def client(client: FarmClient, storage: Storage) -> FarmClient:
    """A client of a farm whose bucket is empty too."""
    for stored in list(storage.list("")):
        storage.delete(stored.key)
    client.storage = storage
    return client


@pytest.fixture
def keeping(client: FarmClient, tmp_path: Path) -> Iterator[Keeping]:
    """Makes an index whose keeper does a turn whenever it is told to."""
    made: list[Index] = []

    def make(home: str = "home", **options: Any) -> Index:
        made.append(Index(client, tmp_path / home, **options))
        return made[-1]

    yield make
    for index in made:
        end(index)


def end(index: Index) -> None:
    index.feeder.close()
    index.feeder._let_go()


def catch_up(index: Index) -> None:
    """Let the keeper do all that there is to do."""
    feeder: Feeder = index.feeder
    feeder.turn(wait=0)
    while not feeder.is_ready:
        feeder.turn(wait=0)
    feeder.turn(wait=0)


def rendered(client: FarmClient, *requests: dict[str, Any]) -> list[str]:
    """The jobs of one batch, done in their order."""
    jobs = client.submit([JobRequest.parse({"seed": 1, "model": "emoji", **fields}) for fields in requests]).jobs
    for job in jobs:
        made = render(client, job)
        result = client.storage.get(keys.attempt_result(job, made.attempt))
        client.storage.put(keys.result(job), result, "application/json")
    return list(jobs)


def page(index: Index, text: str = "", **options: Any) -> Found:
    return index.search(text, **{"cursor": None, "skip": 0, "limit": 50, **options})


def found(index: Index, text: str = "") -> list[str]:
    """The prompts that a search finds, the newest first."""
    return [entry.prompts[0] for entry in page(index, text).entries]


def test_a_rebuilt_index_is_the_one_that_was_fed_live(client: FarmClient, keeping: Keeping) -> None:
    client.check_bucket()
    live = keeping()
    catch_up(live)
    assert page(live).entries == []
    rendered(client, {"prompt": "an otter", "labels": {"project": "otters"}}, {"prompt": "a fox"})
    asked = client.submit([JobRequest.parse({"prompt": "never done"}), JobRequest.parse({"prompt": "failed"})]).jobs
    claim = client.ledger.claim(asked[1], "w")
    assert claim and client.ledger.finish(claim, "w", "failed", {})
    [study] = client.submit([JobRequest.parse({"mode": "tokens", "prompt": "a study"})]).jobs
    render(client, study, answer={"answer.json": b"{}"})
    catch_up(live)
    assert found(live) == ["a fox", "an otter"]

    rebuilt = keeping("another")
    catch_up(rebuilt)

    assert page(rebuilt).entries == page(live).entries
    assert page(rebuilt).making is None
    [entry] = page(live, "otter").entries
    assert (entry.labels, entry.traced) == ({"project": "otters"}, True)
    assert client.storage.exists(entry.picture.key) and client.storage.exists(entry.result)


def test_a_search_has_what_was_done_before_it(client: FarmClient, keeping: Keeping) -> None:
    """Its keeper learns of it a moment later. Nobody waits while a server is away, nor for a keeper that is lost."""
    client.check_bucket()
    index = keeping()
    catch_up(index)
    rendered(client, {"prompt": "an otter"})
    with ThreadPoolExecutor(1) as pool:
        searching = pool.submit(found, index)
        with pytest.raises(TimeoutError):
            searching.result(0.3)
        index.feeder.turn(wait=0)
        assert searching.result(30) == ["an otter"]

    rendered(client, {"prompt": "a fox"})
    index.feeder._position.come_to(None)
    assert found(index) == ["an otter"]


def test_it_is_said_to_be_made_before_and_while_it_is(
    client: FarmClient, keeping: Keeping, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever finds nothing meanwhile is to ask again."""
    rendered(client, {"prompt": "an otter"})
    index, lists, counts = keeping(), client.storage.list, Reader.count
    seen: list[Making | None] = []

    def listed(*asked: Any, **options: Any) -> Any:
        seen.append(page(index).making)
        return lists(*asked, **options)

    def counted(*asked: Any) -> int:
        total = counts(*asked)
        catch_up(index)  # it is made whole at the worst moment
        return total

    monkeypatch.setattr(client.storage, "list", listed)
    index.feeder.turn(wait=0)
    assert seen[0] == Making(0, 0)
    monkeypatch.setattr(Reader, "count", counted)
    assert page(index).making is not None
    monkeypatch.undo()
    assert (page(index).making, found(index)) == (None, ["an otter"])


def test_it_is_found_by_words_labels_settings_and_dates(client: FarmClient, keeping: Keeping) -> None:
    jobs = rendered(
        client,
        {"prompt": "a Café (red:1.3) by night", "seed": 7, "sampler": "dpmpp_2m", "steps": 20},
        {"prompt": "an otter, red hat", "negative": "blurry", "labels": {"project": "Otters!"}, "width": 128},
        {"prompt": "a hat, red", "model": "other", "losses": [{"name": "blue"}]},
    )
    index = keeping()
    catch_up(index)
    cafe, otter, hat = "a Café (red:1.3) by night", "an otter, red hat", "a hat, red"
    today = f"{page(index).entries[0].finished:%Y-%m-%d}"
    searches: dict[str, list[str]] = {
        "": [hat, otter, cafe],
        "cafe": [cafe],
        "ott": [otter],
        "red hat": [hat, otter],
        '"red hat"': [otter],
        "(red:1.3)": [cafe],
        "red -hat": [cafe],
        "-hat": [cafe],
        "-hat -night": [],
        "((": [hat, otter, cafe],
        "seed:7": [cafe],
        'sampler:"DPM++ 2M"': [cafe],
        "steps:20 night": [cafe],
        "model:other": [hat],
        "MODEL:emoji red": [otter, cafe],
        "label:project": [otter],
        "label:project=otters!": [otter],
        "-label:project": [hat, cafe],
        "negative:blur": [otter],
        "blurry": [],
        "loss:blue": [hat],
        f"batch:{jobs[0][:8]}": [hat, otter, cafe],
        f"batch:{jobs[1]}": [otter],
        f"after:{today}": [hat, otter, cafe],
        f"before:{today}": [],
        "after:2020 before:2021-03": [],
        "mode:txt2img otter": [otter],
        '"; DROP TABLE words; --"': [],
        "otter\0": [otter],
    }
    for text, prompts in searches.items():
        assert found(index, text) == prompts, text
    refused = {
        "size:128xNone": "is not a size",
        "sampler:DPM++": "there is no sampler",
        "model:": "model: has no value",
        "otter -Label: x": "label: has no value",
    }
    for text, why in refused.items():
        with pytest.raises(InvalidInput, match=why):
            page(index, text)


def test_pages_follow_one_another_and_any_is_reached_at_once(client: FarmClient, keeping: Keeping) -> None:
    prompts = [f"otter {number}" for number in range(7)]
    rendered(client, *({"prompt": prompt} for prompt in prompts))
    index = keeping()
    catch_up(index)
    newest = prompts[::-1]

    first = page(index, "otter", limit=3)
    assert ([entry.prompts[0] for entry in first.entries], first.total) == (newest[:3], 7)
    rendered(client, {"prompt": "otter 8, which came meanwhile"})
    catch_up(index)
    second = page(index, "otter", limit=3, cursor=first.next)
    last = page(index, "otter", limit=3, cursor=second.next)
    seen = [entry.prompts[0] for part in (first, second, last) for entry in part.entries]
    assert (seen, last.next, last.total) == (newest, None, 8)
    jumped = page(index, "otter", limit=3, cursor=first.here, skip=5)
    assert [entry.prompts[0] for entry in jumped.entries] == newest[5:]


def test_what_is_forgotten_leaves_it_and_what_is_merely_old_does_not(client: FarmClient, keeping: Keeping) -> None:
    jobs = rendered(client, *({"prompt": prompt} for prompt in ("forgotten", "deleted", "old", "young")))
    live = keeping()
    catch_up(live)

    forget(client.ledger, client.storage, jobs[:1], objects=False)
    forget(client.ledger, client.storage, jobs[1:2], objects=True)
    client.ledger.redis.zadd("farm:state:done", {jobs[2]: 1})
    assert list(expire(client.ledger, client.storage, older_than=3_600, objects=False)) == [[jobs[2]]]
    catch_up(live)
    assert found(live) == ["young", "old"]
    rebuilt = keeping("another")
    catch_up(rebuilt)
    assert page(rebuilt).entries == page(live).entries, "also those that the ledger knows nothing of"

    client.storage.put(keys.forgotten(keys.batch_of(jobs[0])), json.dumps(jobs[3:]).encode(), "application/json")
    earlier = keeping("a third")
    catch_up(earlier)
    assert "young" not in found(earlier), "as earlier versions wrote it"


def test_a_keeper_goes_on_where_the_last_one_stopped(client: FarmClient, keeping: Keeping) -> None:
    batches = [rendered(client, {"prompt": f"otter {number}"}) for number in range(4)]
    index = keeping()
    for _ in range(2):
        index.feeder.turn(wait=0)
    assert found(index) == ["otter 3", "otter 2"] and page(index).making
    end(index)
    rendered(client, {"prompt": "otter 4"})
    client.storage.delete(keys.batch_manifest(keys.batch_of(batches[3][0])))

    again = keeping()
    again.feeder.turn(wait=0)
    assert found(again) == ["otter 4", "otter 3", "otter 2", "otter 1"], "and no batch is read twice"
    catch_up(again)
    assert len(found(again)) == 5

    end(again)
    client.ledger.redis.delete("farm:events")
    for stored in list(client.storage.list(keys.job_prefix(batches[0][0]))):
        client.storage.delete(stored.key)
    client.storage.delete(keys.batch_manifest(keys.batch_of(batches[0][0])))
    third = keeping()
    catch_up(third)
    assert found(third) == ["otter 4", "otter 2", "otter 1"], "events were missed: what is gone from the bucket is gone"


def test_a_damaged_file_is_made_anew(client: FarmClient, keeping: Keeping, tmp_path: Path) -> None:
    rendered(client, {"prompt": "an otter"})
    index = keeping()
    catch_up(index)
    path = tmp_path / "home" / FILE
    assert path.stat().st_mode & 0o077 == 0
    end(index)

    path.write_bytes(b"no database at all" * 1_000)
    again = keeping()
    catch_up(again)
    assert found(again) == ["an otter"]

    assert again.feeder._writer
    again.feeder._writer._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    path.write_bytes(path.read_bytes()[:100] + b"x" * 30_000)  # under the running keeper
    with ThreadPoolExecutor(1) as another_thread, pytest.raises(Refused, match="made anew"):
        another_thread.submit(page, again).result()
    catch_up(again)
    assert found(again) == ["an otter"]


def test_it_shows_no_farm_but_its_own(client: FarmClient, keeping: Keeping) -> None:
    rendered(client, {"prompt": "an otter"})
    index = keeping()
    with pytest.raises(Refused, match="waits for the farm"):
        page(index)
    catch_up(index)
    second = keeping()
    second.feeder.turn(wait=0)
    assert found(second) == ["an otter"], "a second server of this home reads what the first one keeps"
    assert second.feeder._writer is None
    end(index)

    client.ledger.redis.flushdb()
    client.storage.delete(keys.IDENTITY)
    for stored in list(client.storage.list("batches/")):
        client.storage.delete(stored.key)
    client._tied = client._checked = False
    client.check_bucket()
    another = keeping()
    another.feeder._knows_bucket()
    with pytest.raises(Refused, match="made anew"):
        page(another)
    catch_up(another)
    assert page(another).entries == []


@pytest.mark.parametrize(
    ("text", "reason", "hint"),
    [
        ("modell:emoji", "nothing is known as 'modell':", 'in quotes it is looked for as it is: "modell:emoji"'),
        ("steps:abc", "steps: 'abc' is not a whole number", "steps:30"),
    ],
)
def test_a_search_that_can_find_nothing_is_told_so(text: str, reason: str, hint: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        query.read(text)
    assert reason in refused.value.reason and hint in str(refused.value.hint)


def test_in_quotes_a_name_is_a_word() -> None:
    assert query.read('"modell:emoji"').match is not None
