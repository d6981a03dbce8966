"""Mixed jobs under all faults at random, for as long as is asked; then the audit.

    python -m tests.faults.soak --minutes 10 --seed 1

The time to recover, for each job that was in hand when a fault began (in the hands of the worker that it was done
to, if it was done to one): from the beginning of a worker's fault, or the end of a server's, until that job was at
work again, which is a new claim, a further step or its end.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import redis
from PIL import Image

from farm import keys
from farm.errors import FarmError, LedgerUnavailable, StorageError
from farm.jobs.request import JobRequest
from farm.jobs.spec import SAMPLERS
from farm.jobs.status import TERMINAL
from farm.ledger.timing import TIMING, Timing
from tests.faults.audit import Audit
from tests.faults.farm import FaultyFarm
from tests.faults.faults import Fault
from tests.faults.history import History
from tests.faults.plugin import paced
from tests.faults.sabotage import SABOTAGE, NothingToDo, Sabotage
from tests.tiny import build_tiny_model

WORKERS = 3
_END_WITHIN = 600.0


@dataclass(frozen=True)
class Recovery:
    """What faults of one kind did: how many, to how many jobs in hand, and how long until those were at work again."""

    kind: str
    injected: int
    in_hand: int
    median_seconds: float | None
    worst_seconds: float | None


@dataclass(frozen=True)
class Report:
    """A soak and what its audit found."""

    seed: int
    minutes: float
    jobs: int
    states: dict[str, int]
    reasons: dict[str, int]
    attempts: int
    lost: int
    duplicated: int
    complaints: list[str]
    faults: list[Recovery]
    endings: list[str]
    """Workers that nobody had killed or asked to leave, and that ended all the same, with their last words."""

    def __str__(self) -> str:
        lines = [f"{'fault':20}{'injected':>10}{'in hand':>10}{'median s':>10}{'worst s':>10}"]
        for one in self.faults:
            times = [f"{value:.1f}" if value is not None else "–" for value in (one.median_seconds, one.worst_seconds)]
            lines.append(f"{one.kind:20}{one.injected:>10}{one.in_hand:>10}{times[0]:>10}{times[1]:>10}")
        ends = ", ".join(f"{count} {state}" for state, count in sorted(self.states.items()))
        why = f" ({', '.join(f'{count} {kind}' for kind, count in self.reasons.items())})" if self.reasons else ""
        lines += [
            "",
            f"{self.minutes:g} minutes, seed {self.seed}: {self.jobs} jobs, {self.attempts} attempts: {ends}{why}",
            f"lost {self.lost}, duplicated {self.duplicated}, complaints {len(self.complaints)}",
            *self.complaints[:20],
            *(f"ended by itself: {ending}" for ending in self.endings),
        ]
        return "\n".join(lines)


class Soak:
    """One soak of a farm of its own in `folder`.

    So many jobs are kept `outstanding`, waiting or in hand; between two faults of a saboteur are at the most so many
    seconds' `pause`.
    """

    def __init__(
        self,
        folder: Path,
        minutes: float,
        seed: int,
        timing: Timing = TIMING,
        *,
        outstanding: int = 30,
        pause: float = 5.0,
    ) -> None:
        self._minutes = minutes
        self._outstanding = outstanding
        self._pause = (pause / 10, pause)
        self._seed = seed
        self._chance = random.Random(seed)
        self._over = threading.Event()
        self._broken: list[BaseException] = []
        self._endings: list[str] = []
        self._picture = folder / "init.png"
        Image.linear_gradient("L").resize((64, 64)).convert("RGB").save(self._picture)
        self.farm = FaultyFarm(folder / "home", build_tiny_model(folder / "tiny"), timing)

    def run(self) -> Report:
        """Submit, sabotage, stop, wait for the end of every job, and audit. Ends all processes, whatever happens.

        A saboteur that is in the middle of something then finds the farm closed, and can start nothing.
        """
        try:
            self.farm.start(*(self.farm.worker(f"w{number}", "--slots", "6") for number in range(1, WORKERS + 1)))
            supervising = threading.Event()
            supervisor = self._thread(lambda: self._supervise(supervising))
            saboteurs = [
                self._thread(lambda kinds=kinds, seed=f"{self._seed} {on}": self._sabotage(kinds, random.Random(seed)))
                for on, kinds in SABOTAGE.items()
            ]
            self._submit_until(time.monotonic() + 60 * self._minutes)
            self._over.set()
            for thread in saboteurs:
                thread.join()
            self.farm.until_over(self.farm.submitted, within=_END_WITHIN)
            supervising.set()
            supervisor.join()
            if self._broken:
                raise self._broken[0]
            return self._report(self.farm.audit())
        finally:
            self._over.set()
            self.farm.close()

    # Submitting

    def _submit_until(self, end: float) -> None:
        while time.monotonic() < end and not self._broken:
            with contextlib.suppress(LedgerUnavailable, StorageError):
                counts = self.farm.client.ledger.counts()
                if counts["queued"] + counts["running"] < self._outstanding:
                    self._submit(keys.new_batch_id())
                if self._chance.random() < 0.1:
                    self._cancel_one()
            time.sleep(self._chance.uniform(0, 0.5))

    def _submit(self, batch: str) -> None:
        """Until it is acknowledged, as whoever wants the pictures would."""
        request = self._request()
        while True:
            try:
                submission = self.farm.client.submit([request], batch=batch)
            except FarmError:  # also a loss that no worker announces, while none lives
                time.sleep(0.5)
            else:
                self.farm.submitted += submission.jobs
                return

    def _request(self) -> JobRequest:
        chance = self._chance
        steps = chance.choice([3, 10, 20, 50])
        fields: dict[str, Any] = {
            "mode": (mode := chance.choice(["txt2img", "img2img", "mix", "guided"])),
            "prompt": ["a cat", "an otter"] if mode == "mix" else "a cat",
            "model": "tiny",
            "steps": steps,
            "count": chance.randrange(1, 5),
            "seed": chance.randrange(10**6),
            "priority": chance.randrange(10),
            "sampler": chance.choice(SAMPLERS),
            "guidance": chance.choice([1, 7.5]),
            "trace": chance.choice(["none", "none", "numbers", "frames", "video"]),
            "trace_every": 5,
        }
        if mode == "img2img":
            fields |= {"init": self._picture, "start_step": chance.randrange(steps)}
        if mode == "mix":
            fields["mix"] = 0.5
        if mode == "guided":
            fields["losses"] = [{"name": "blue"}]
        elif chance.random() < 0.3:
            fields |= paced(0.1)
        return JobRequest.parse(fields)

    def _cancel_one(self) -> None:
        """And now and then bring back one that was cancelled."""
        for status in self.farm.client.list(limit=20):
            if status.state == "cancelled" and self._chance.random() < 0.2:
                self.farm.client.retry([status.id])
                return
            if status.state not in TERMINAL and self._chance.random() < 0.2:
                self.farm.client.cancel([status.id])
                return

    # Faults

    def _sabotage(self, kinds: Sequence[Sabotage], chance: random.Random) -> None:
        """Inject faults one after the other: each kind once before any comes again."""
        while not self._over.is_set():
            for sabotage in chance.sample(kinds, len(kinds)):
                if self._over.wait(chance.uniform(*self._pause)):
                    return
                with contextlib.suppress(NothingToDo, FarmError, redis.RedisError):
                    sabotage(self.farm, chance)

    def _supervise(self, done: threading.Event) -> None:
        """Start every worker again that has ended, as what runs workers does."""
        started: dict[str, float] = defaultdict(float)
        while not done.wait(1.0):
            for name, worker in self.farm.workers.items():
                if worker.is_running:
                    continue
                if not any(fault.worker == name and fault.began > started[name] for fault in self.farm.faults):
                    self._endings.append(f"{name}, status {worker.wait()}: {worker.last_words.splitlines()[-1]}")
                started[name] = time.time()
                worker.start()

    def _thread(self, work: Any) -> threading.Thread:
        def guarded() -> None:
            try:
                work()
            except BaseException as error:
                self._broken.append(error)

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        return thread

    # Reporting

    def _report(self, found: Audit) -> Report:
        failed = [status.error for status in self.farm.statuses(self.farm.submitted) if status.state == "failed"]
        return Report(
            seed=self._seed,
            minutes=self._minutes,
            jobs=found.jobs,
            states=dict(found.states),
            reasons=dict(Counter(error.kind for error in failed if error)),
            attempts=found.attempts,
            lost=found.lost,
            duplicated=found.duplicated,
            complaints=found.complaints,
            faults=recoveries(self.farm.faults, self.farm.history, self.farm.submitted),
            endings=self._endings,
        )


def recoveries(faults: Sequence[Fault], history: History, jobs: Sequence[str]) -> list[Recovery]:
    """What each kind of fault did to jobs that were in hand."""
    by_kind: dict[str, list[list[float]]] = defaultdict(list)
    for fault in faults:
        by_kind[fault.kind].append([t for job in jobs if (t := _time_to_recover(fault, history, job)) is not None])
    return [
        Recovery(
            kind=kind,
            injected=len(times),
            in_hand=len(flat := [seconds for one in times for seconds in one]),
            median_seconds=round(statistics.median(flat), 2) if flat else None,
            worst_seconds=round(max(flat), 2) if flat else None,
        )
        for kind, times in sorted(by_kind.items())
    ]


def _time_to_recover(fault: Fault, history: History, job: str) -> float | None:
    """Seconds until a job that the fault found in hand was at work again; None for one that was not in hand."""
    events = history.of(job)
    holder: str | None = None
    for event in events:
        if event.at >= fault.began:
            break
        if event.is_claim:
            holder = event.worker
        elif event.state != "running":
            holder = None
    if holder is None or fault.worker not in (None, holder.rpartition("-")[0]):
        return None
    ended = fault.ended if fault.ended is not None else fault.began
    since = fault.began if fault.worker else ended
    for event in events:
        moved = event.is_claim or event.state in TERMINAL or (event.step is not None and event.at >= ended)
        if moved and event.at >= since:
            return event.at - since
    return None


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="farm-soak-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _evidence(farm: FaultyFarm) -> Path:
    """A new folder with the logs of a farm and a list of all that was done to it."""
    folder = Path(tempfile.mkdtemp(prefix="farm-soak-evidence-"))
    shutil.copytree(farm.home / "logs", folder / "logs")
    lines = []
    for fault in sorted(farm.faults, key=lambda fault: fault.began):
        seconds = (fault.ended or fault.began) - fault.began
        lines.append(f"{datetime.fromtimestamp(fault.began)} {seconds:6.1f} s {fault.kind} {fault.worker or ''}")
    (folder / "faults.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def main() -> int:
    """Soak, print the table, and exit with 1 if anything was lost, doubled or unexplained."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None, help="repeat the choices of an earlier soak")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the report to FILE as well")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.randrange(10**6)
    print(f"soaking for {options.minutes:g} minutes, seed {seed}", flush=True)
    try:
        with _folder() as folder:
            soak = Soak(folder, options.minutes, seed)
            report = soak.run()
            if report.complaints:
                print(f"the logs and what was done are kept in {_evidence(soak.farm)}")
    except KeyboardInterrupt:
        print("interrupted; every process is ended", file=sys.stderr)
        return 130
    print(report)
    if options.json:
        options.json.write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
    return 1 if report.complaints else 0


if __name__ == "__main__":
    sys.exit(main())
