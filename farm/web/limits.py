"""How much one caller may ask of the site, so that none keeps the others from it."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from farm.client.lora_files import MAX_LORA_BYTES
from farm.web.problems import later

_MOST_KNOWN = 10_000


@dataclass(frozen=True)
class Limits:
    """Of each caller, unless it says otherwise."""

    requests: float = 50.0
    """A second, on average; four times as many at once."""
    refusals: float = 0.2
    """Wrong tokens and codes of an address, a second; ten at once."""
    body: int = 64 * 2**10
    """Bytes of a request that brings no picture."""
    large_body: int = 64 * 2**20
    """Bytes of one that may: an init picture of 32 MiB fits, in base64 too."""
    buffered: int = 256 * 2**20
    """Bytes of all bodies that are being read, of all callers."""
    body_seconds: float = 300.0
    """Within so many seconds a body has to be there."""
    model: int = 16 * 10**9
    """Bytes of a model that is sent."""
    lora: int = MAX_LORA_BYTES
    """Bytes of a LoRA that is sent."""
    uploads: int = 2
    """Models and LoRAs that are being sent and kept at once, of all callers."""
    pause_seconds: float = 60.0
    """The longest that whoever sends one may pause."""
    spare: int = 10**9
    """Bytes of the home's disk that are left free."""
    pixels: float = 20e6
    """Of init pictures, a second, on average; 200 million at once."""
    streams: int = 100
    """Open streams of events and requests that wait."""
    jobs: int = 1_000
    """Of one submission."""
    wait_seconds: float = 600.0
    """The longest that a submission can be waited for."""


class Rate:
    """Buckets that fill by `each` a second up to `most`, one for each key; thread-safe. `clock` gives seconds."""

    def __init__(self, each: float, most: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._each, self._most, self._clock = each, most, clock
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def wait(self, key: str, amount: float = 1.0) -> float:
        """Take `amount` out of a bucket; or how many seconds to wait for that, and nothing is taken."""
        amount = min(amount, self._most)
        with self._lock:
            now = self._clock()
            level = self._level(key, now)
            if level < amount:
                return (amount - level) / self._each
            self._levels[key] = (level - amount, now)
            self._levels.move_to_end(key)
            while len(self._levels) > _MOST_KNOWN:
                self._levels.popitem(last=False)
            return 0.0

    def _level(self, key: str, now: float) -> float:
        level, then = self._levels.get(key, (self._most, now))
        return min(self._most, level + (now - then) * self._each)


class Usage:
    """What callers have asked for so far. Methods raise `Refused`: 429, with when to come again."""

    def __init__(self, limits: Limits, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self._requests = Rate(limits.requests, 4 * limits.requests, clock=clock)
        self._refusals = Rate(limits.refusals, 10, clock=clock)
        self._pixels = Rate(limits.pixels, 10 * limits.pixels, clock=clock)
        self._streams: Counter[str] = Counter()

    def request(self, caller: str) -> None:
        """One more request."""
        if wait := self._requests.wait(caller):
            raise later(429, "too-many-requests", f"more than {self.limits.requests:g} requests a second", wait)

    def refusal(self, address: str) -> None:
        """One more wrong token or code from an address."""
        if wait := self._refusals.wait(address):
            raise later(429, "too-many-refusals", "too many wrong tokens or codes from this address", wait)

    def pixels(self, caller: str, number: int) -> None:
        """So many pixels are about to be decoded."""
        if wait := self._pixels.wait(caller, number):
            detail = f"init pictures of more than {self.limits.pixels / 1e6:g} million pixels a second"
            raise later(429, "too-many-pixels", detail, wait)

    @contextmanager
    def stream(self, caller: str) -> Iterator[None]:
        """A stream or a request that waits, for as long as it lasts."""
        if self._streams[caller] >= self.limits.streams:
            detail = f"more than {self.limits.streams} streams are open"
            raise later(429, "too-many-streams", detail, 5, hint="close one; one stream can follow many jobs")
        self._streams[caller] += 1
        try:
            yield
        finally:
            self._streams[caller] -= 1
            if not self._streams[caller]:
                del self._streams[caller]
