"""The pages as a whole: their routers, and which of them are open to everybody."""

from __future__ import annotations

from farm.web.pages import gallery, job, login, queue, static, submit, workers

PUBLIC = static.PUBLIC | login.PUBLIC
LARGE = workers.LARGE
"""Paths to which more than words are sent."""
ROUTERS = tuple(part.router for part in (static, login, queue, job, gallery, submit, workers))
