"""The browser in which pages are looked at.

Chromium's headless shell draws pages as Chromium does and has no windows of its own, which take most of what Chromium
takes of a machine.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, _NAMES)), None)
MISSING = "there is no Chromium here: apt-get install chromium-headless-shell"

expect.set_options(timeout=30_000)  # milliseconds: on a busy machine pages take longer than people would wait

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason=MISSING)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A running browser."""
    with sync_playwright() as playwright:
        # The sandbox needs what containers and root do not have; only this package's own pages are opened.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()
