"""The index of pictures: how long searches of 100,000 take, and what the file takes on the disk.

`python -m tests.benchmarks.gallery [PICTURES]`. Prints JSON.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from farm import keys
from farm.bucket.results import ResultObject
from farm.web.index import query
from farm.web.index.database import Reader, Writer
from farm.web.index.entry import Entry

PICTURES = 100_000
PAGE = 100
REPEATS = 5
SEARCHES = (
    *("", "otter", "ott", "o", "w", "word42", '"red apple"', "otter fox -dog", "-otter", "model:emoji"),
    *("model:emoji otter seed:77", "w model:sd14", "label:project=otters sampler:lms", "otter after:2026-01"),
)
_COMMON = ("otter", "fox", "red", "apple", "watercolor", "mountain", "lake", "storm", "dog", "cat", "oil", "sketch")
_RARE = [f"word{number}" for number in range(5_000)]
_BEGAN = datetime(2025, 1, 1, tzinfo=UTC)


def main() -> None:
    """Measure, and print what was found."""
    number = int(sys.argv[1]) if len(sys.argv) > 1 else PICTURES
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.sqlite"
        writer = Writer(path)
        began = time.perf_counter()
        for start in range(0, number, 200):
            with writer.whole():
                writer.put(map(made_up, range(start, min(number, start + 200))))
        writer.tidy()
        taken = time.perf_counter() - began
        found = {asked: _measured(Reader(path), asked) for asked in SEARCHES}
        about = {"pictures": number, "made_seconds": round(taken, 1), "mebibytes": round(path.stat().st_size / 2**20)}
        print(json.dumps({**about, "milliseconds": found}, indent=1))
        writer.close()


def _measured(reader: Reader, asked: str) -> dict[str, float]:
    """Milliseconds of a search with its number of pictures: of the first page, and of the one in the middle."""
    wanted = query.read(asked)
    number = reader.count(wanted)
    return {"found": number, **{name: _page(reader, wanted, skip) for name, skip in _places(number).items()}}


def _places(number: int) -> dict[str, int]:
    return {"first": 0, "middle": number // 2}


def _page(reader: Reader, wanted: query.Query, skip: int) -> float:
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        reader.count(wanted)
        reader.page(wanted, before=None, skip=skip, limit=PAGE)
        times.append(1000 * (time.perf_counter() - began))
    return round(statistics.median(times), 1)


def made_up(index: int) -> Entry:
    """A picture of its own prompt, four to a batch."""
    chosen = random.Random(index)
    digits = "".join(keys._ALPHABET[index // 4 >> shift & 31] for shift in range(60, -1, -5))
    job = keys.job_in_batch(f"0kz{digits}", index % 4)
    words = [chosen.choice(_COMMON if chosen.random() < 0.6 else _RARE) for _ in range(14)]
    about: dict[str, Any] = {
        "model": chosen.choice(["emoji", "sd14"]),
        "sampler": chosen.choice(["lms", "euler"]),
        "labels": {"project": chosen.choice(["otters", "foxes"])},
    }
    return Entry(
        job=job,
        finished=_BEGAN + timedelta(minutes=5 * index),
        mode="txt2img",
        prompts=(f"a {' '.join(words)}",),
        negative="blurry",
        schedule="model",
        steps=30,
        seed=index,
        guidance=7.5,
        width=512,
        height=512,
        losses=(),
        loras=(),
        traced=False,
        picture=ResultObject(key=f"jobs/{job}/1/image.png", sha256="0" * 64, size=1, content_type="image/png"),
        result=f"jobs/{job}/1/result.json",
        **about,
    )


if __name__ == "__main__":
    main()
