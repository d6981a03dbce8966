"""The whole way over HTTP, with a real worker: submitted, followed, looked at, fetched; and servers that are killed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from PIL import Image

from farm import stack
from farm.web.tokens import Tokens
from tests.integration.conftest import LONG
from tests.integration.test_loras import write_lora
from tests.waiting import eventually

SECONDS = 120


@pytest.fixture
def http(environment: dict[str, str], home: Path) -> Iterator[httpx2.Client]:
    """A program with a token, at a `farm web` of this farm."""
    command = [sys.executable, "-m", "farm", "web", "--port", "0"]
    tokens = Tokens(home)
    token = tokens.add("tests", "submit")
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, encoding="utf-8") as process:
        assert process.stdout
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found
        headers = {"Authorization": f"Bearer {token}"}
        try:
            with httpx2.Client(base_url=found[0], headers=headers, timeout=SECONDS) as made:
                yield made
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(SECONDS) == 0
            tokens.remove("tests")


def submitted(http: httpx2.Client, **fields: object) -> str:
    request = {"prompt": "a cat", "model": "tiny", "steps": 5, "seed": 1, **fields}
    answer = http.post("/api/v1/jobs", json={"requests": [request]})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["jobs"][0])


@pytest.mark.usefixtures("worker")
def test_a_lora_that_is_sent_is_in_the_picture(http: httpx2.Client, home: Path, tmp_path: Path) -> None:
    operator = {"Authorization": f"Bearer {Tokens(home).add('operator', 'operate')}"}
    file = write_lora(tmp_path / "style.safetensors")
    sent = http.put("/api/v1/loras/sent-style", content=file.read_bytes(), headers=operator)
    assert sent.status_code == 201, sent.text
    without, styled = submitted(http), submitted(http, prompt="a cat <lora:sent-style:1>")
    with http.stream("GET", "/api/v1/events", params={"name": [without, styled]}) as stream:
        assert "event: end" in [*stream.iter_lines()]
    plain, made = (http.get(f"/api/v1/jobs/{job}/result").json() for job in (without, styled))
    assert made["spec"]["loras"][0]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert made["objects"]["image.png"]["sha256"] != plain["objects"]["image.png"]["sha256"]
    assert http.delete("/api/v1/loras/sent-style", headers=operator).status_code == 200
    Tokens(home).remove("operator")


@pytest.mark.usefixtures("worker")
def test_a_job_is_submitted_followed_looked_at_and_fetched(http: httpx2.Client) -> None:
    job = submitted(http, **LONG, trace="numbers")
    states: list[dict[str, object]] = []
    seen: list[int] = []
    with http.stream("GET", "/api/v1/events", params={"name": job}) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: {") and '"state"' in line:
                states.append(json.loads(line.removeprefix("data: ")))
                if states[-1]["state"] == "running" and len(seen) < 2:
                    preview = http.get(f"/api/v1/jobs/{job}/preview")
                    if preview.status_code == 200 and int(preview.headers["Farm-Step"]) not in seen:
                        assert Image.open(io.BytesIO(preview.content)).size == (8, 8)
                        seen.append(int(preview.headers["Farm-Step"]))
            if line == "event: end":
                break
    steps = [status["step"] for status in states]
    assert states[0]["state"] in ("queued", "running") and states[-1]["state"] == "done"
    assert steps == sorted(steps) and steps[-1] == LONG["steps"]  # type: ignore[type-var]
    assert seen == sorted(seen) and seen

    result = http.get(f"/api/v1/jobs/{job}/result").json()
    for name, stored in result["objects"].items():
        content = http.get(f"/api/v1/jobs/{job}/objects/{name}").content
        assert hashlib.sha256(content).hexdigest() == stored["sha256"], name
    assert Image.open(io.BytesIO(http.get(f"/api/v1/jobs/{job}/objects/image.png").content)).size == (64, 64)


@pytest.mark.usefixtures("worker")
def test_waiting_is_one_request_and_killed_servers_come_back_under_the_site(http: httpx2.Client, home: Path) -> None:
    request = {"prompt": "a cat", "model": "tiny", "steps": 5, "seed": 1}
    waited = http.post("/api/v1/jobs", json={"requests": [request]}, params={"wait": True})
    assert (waited.status_code, waited.json()["statuses"][0]["state"]) == (200, "done")
    job = waited.json()["jobs"][0]
    picture = http.get(f"/api/v1/jobs/{job}/objects/image.png").content

    for name in ("redis", "s3"):
        about = stack.status(home)
        assert about
        pid = next(child.pid for child in about.children if child.name == name)
        assert pid
        os.kill(pid, signal.SIGKILL)

        def is_back() -> bool:
            answer = http.get(f"/api/v1/jobs/{job}/objects/image.png")
            assert answer.status_code in (200, 503), answer.text
            return answer.content == picture

        eventually(is_back, f"the site works again after {name} was killed")
    job = submitted(http)
    eventually(lambda: http.get(f"/api/v1/jobs/{job}").json()["state"] == "done", "jobs are done again")


@pytest.mark.usefixtures("worker")
def test_a_study_is_asked_in_one_request_and_answered_as_an_object(http: httpx2.Client) -> None:
    request = {"mode": "tokens", "prompt": "a cat", "model": "tiny"}
    asked = http.post("/api/v1/jobs", json={"requests": [request]}, params={"wait": True})
    assert asked.status_code == 200, asked.text
    answer = http.get(f"/api/v1/jobs/{asked.json()['jobs'][0]}/objects/answer.json")
    assert answer.headers["content-type"] == "application/json"
    assert "cat" in answer.text
