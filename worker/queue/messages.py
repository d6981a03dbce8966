"""What a message of the queue may say: which job waits. Read from whatever is there, and written anew."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterable
from typing import Any

from farm import keys
from farm.queue import TASK

MAX_CHARACTERS = 65_536
"""Of a message: ours have a few hundred, and parsing one takes ten times its size."""
_MAX_BODY_CHARACTERS = 4_096


def job_named_by(message: object) -> str | None:
    """The job that a message of the queue names, or None if it is not one of ours."""
    match message:
        case {"headers": {"task": task}, "content-type": "application/json", "body": str(body)}:
            if task == TASK and len(body) <= _MAX_BODY_CHARACTERS:
                return _job_in(body)
    return None


def _job_in(body: str) -> str | None:
    try:
        payload = json.loads(base64.b64decode(body, validate=True))
    except (ValueError, RecursionError):
        return None
    match payload:
        case [[str(job)], {}, *_] if keys.is_job_id(job):
            return job
    return None


def wake_up(job: str, queue: str) -> dict[str, Any]:
    """A message in Celery's protocol 2 that names `job` and asks for nothing else."""
    identifier = str(uuid.uuid4())
    headers = {"lang": "py", "task": TASK, "id": identifier, "root_id": identifier, "retries": 0, "ignore_result": True}
    return {
        "body": base64.b64encode(json.dumps([[job], {}, {}]).encode()).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": headers,
        "properties": {
            "correlation_id": identifier,
            "delivery_tag": identifier,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "body_encoding": "base64",
        },
    }


def jobs_named(entries: Iterable[str]) -> set[str]:
    """The jobs that a queue's entries name, which may be anything."""
    return {job for entry in entries if (job := job_named_by(_parsed(entry)))}


def _parsed(entry: str) -> object:
    try:
        return json.loads(entry) if len(entry) <= MAX_CHARACTERS else None
    except (ValueError, RecursionError):
        return None
