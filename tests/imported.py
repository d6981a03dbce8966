"""Imports all that a worker does, as it does, and all commands: what the fork server of `tests.launching` loads."""

from __future__ import annotations

from worker.host.runtime import importing, settle

settle()
with importing():
    import worker.app  # noqa: F401
    from farm.cli.main import SECTIONS

    for commands in SECTIONS.values():
        for command in commands.values():
            command.load()
