"""Imports all that a worker does, as it does: what the fork server of `tests.launching` loads once."""

from __future__ import annotations

from worker.host.runtime import importing, settle

settle()
with importing():
    import worker.app  # noqa: F401
