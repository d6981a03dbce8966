"""The pages as a whole: their routers, and which of them are open to everybody."""

from __future__ import annotations

from fastapi import FastAPI

from farm.web.pages import gallery, job, login, queue, static, submit, workers

PUBLIC = static.PUBLIC | login.PUBLIC
LARGE = workers.LARGE
"""Paths to which more than words are sent."""


def install(app: FastAPI) -> None:
    """Make the pages a part of the site."""
    for part in (static, login, queue, job, gallery, submit, workers):
        app.include_router(part.router)
