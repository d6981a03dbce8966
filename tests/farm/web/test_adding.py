"""Models and LoRAs that are sent to the site: checked, kept once, and nothing of them is left lying about."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from farm import keys
from farm.bucket.loras import LORAS
from farm.bucket.models import MODELS
from farm.client import FarmClient, loras
from farm.web.limits import Limits
from farm.web.v1.adding import uploads_of
from tests.farm.client.test_loras import LAYER, a_file
from tests.farm.web.asgi import SECONDS, Connection, bearer, happens
from tests.farm.web.conftest import Opening, Web
from tests.models_on_disk import checkpoint, write_weights

pytestmark = pytest.mark.anyio

FLUX = {"lora_unet_double_blocks_0_img_attn_proj.lora_down.weight": (4, 8)}
PIECE = 2**20


@pytest.fixture(autouse=True)
def an_empty_shelf(client: FarmClient) -> Iterator[None]:
    """The bucket is of the whole session."""
    yield
    for key in [*client.storage.list(keys.LORAS), *client.storage.list(keys.MODELS)]:
        client.storage.delete(key.key)


@pytest.fixture
async def site(client: FarmClient, opened: Opening) -> AsyncIterator[Web]:
    """A site that has a home."""
    async with opened(client, at_home=True) as made:
        yield made


def folder(web: Web) -> Path:
    """Where files come to."""
    assert web.site.parts.uploads
    return web.site.parts.uploads._folder


def lying_about(web: Web) -> list[Path]:
    return [*folder(web).iterdir()] if folder(web).exists() else []


def a_model(path: Path, *, fill: int = 0) -> Path:
    return write_weights(path, checkpoint(), fill=fill)


async def put(http: httpx2.AsyncClient, path: str, content: Any, **options: Any) -> Any:
    answer = await http.put(f"/api/v1/{path}", content=content, **options)
    return {"status": answer.status_code, **answer.json()}


async def test_a_lora_that_is_sent_is_kept_as_the_command_keeps_it(
    site: Web, client: FarmClient, tmp_path: Path
) -> None:
    file = a_file(tmp_path / "add_detail.safetensors")
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    async with site.having("operate") as http:
        made = await put(http, "loras/Detail", file.read_bytes(), params={"file": "C:\\loras\\add_detail.safetensors"})

        assert (made["status"], made["name"], made["kind"], made["ranks"]) == (201, "Detail", "sd1", [4])
        assert (made["sha256"], made["size"], made["sent"]) == (sha256, file.stat().st_size, file.stat().st_size)
        kept = LORAS.read(client.storage, "Detail")
        assert kept.source == "add_detail.safetensors, sent by operate-0"
        by_command = loras.add(client.ledger, client.storage, "by-command", str(file)).lora
        same = {"name", "source", "added"}
        assert kept.model_dump(exclude=same) == by_command.model_dump(exclude=same)
        assert client.storage.get(keys.lora_blob(sha256)) == file.read_bytes()
        assert [told["name"] for told in (await http.get("/api/v1/loras")).json()] == ["Detail", "by-command"]
    assert lying_about(site) == []


async def test_a_model_that_is_sent_is_kept(site: Web, client: FarmClient, tmp_path: Path) -> None:
    file = a_model(tmp_path / "mine.safetensors")
    async with site.having("operate") as http:
        made = await put(http, "models/mine", file.read_bytes())
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    assert (made["status"], made["kind"], made["sent"]) == (201, "sd1", file.stat().st_size)
    assert made["files"] == {keys.MODEL_FILE: {"sha256": sha256, "size": file.stat().st_size}}
    assert MODELS.read(client.storage, "mine").source == "mine.safetensors, sent by operate-0"


async def test_the_same_again_sends_nothing_and_another_takes_a_name_only_if_it_is_to(
    site: Web, client: FarmClient, tmp_path: Path
) -> None:
    first, second = (a_file(tmp_path / f"{fill}.safetensors", fill=fill).read_bytes() for fill in (0, 1))
    async with site.having("operate") as http:
        await put(http, "loras/a", first)
        again = await put(http, "loras/a", first)
        assert (again["status"], again["sent"], again["before"]) == (200, 0, None)
        assert (await put(http, "loras/a", first, params={"again": True}))["sent"] == len(first), "it is mended"

        taken = await put(http, "loras/a", second)
        assert (taken["status"], taken["type"]) == (409, "urn:render-farm:name-taken")
        assert taken["detail"] == "the farm has another LoRA 'a', from a.safetensors, sent by operate-0"
        assert taken["hint"] == "choose another name, or put this one in its place with replace=true"
        replaced = await put(http, "loras/a", second, params={"replace": True})
        assert replaced["status"] == 201
        assert replaced["before"] == {"sha256": hashlib.sha256(first).hexdigest(), "deleted": True, "names": []}
    assert LORAS.read(client.storage, "a").file.sha256 == hashlib.sha256(second).hexdigest()


async def test_what_it_is_instead_is_told_in_the_command_s_words_and_of_the_request_s_parts(
    site: Web, client: FarmClient, tmp_path: Path
) -> None:
    lora = a_file(tmp_path / "lora.safetensors").read_bytes()
    flux = write_weights(tmp_path / "flux.safetensors", FLUX).read_bytes()
    model = a_model(tmp_path / "model.safetensors").read_bytes()
    cases: list[tuple[str, bytes, dict[str, str], str, str]] = [
        ("loras/x", flux, {}, "body", "x.safetensors is for Flux, or a model built like it"),
        ("loras/x", model, {"file": "mine.safetensors"}, "body", "mine.safetensors is a whole checkpoint, and no LoRA"),
        ("models/x", lora, {}, "body", "x.safetensors is a LoRA, and no whole model"),
        ("models/x", lora[:-1], {}, "body", "x.safetensors is cut short or damaged"),
        ("models/x", b"<!doctype html>", {}, "body", "x.safetensors is a web page, not the file itself"),
        ("models/x", b"", {}, "body", "x.safetensors is empty"),
        ("models/x", model, {"file": "x.ckpt"}, "body", "x.ckpt is pickled, which can run code, and is never opened"),
        ("loras/x", lora, {"file": "x.zip"}, "body", "x.zip is no .safetensors file"),
        ("loras/x", b"PK\x03\x04", {}, "body", "x.safetensors is pickled whatever its name says"),
        ("loras/x", lora, {"file": "../\x1b[2J.safetensors"}, "", ""),
        ("models/emoji", model, {}, "name", "'emoji' is a model that comes with the farm"),
        ("models/X", model, {}, "name", "'X' cannot name a model"),
        ("loras/.x", lora, {}, "name", "'.x' cannot name a LoRA"),
        ("models/x", model, {"config": "/etc"}, "config", "a folder cannot be sent"),
    ]
    async with site.having("operate") as http:
        for path, body, asked, field, said in cases:
            told = await put(http, path, body, params=asked)
            if field:
                assert (told["status"], told["field"]) == (422, field), told
                assert told["detail"].startswith(f"{field}: {said}"), told["detail"]
        form = await http.put("/api/v1/loras/x", files={"file": ("x.safetensors", lora)})
        assert (form.status_code, form.json()["hint"]) == (422, "curl -T FILE")
    assert LORAS.manifests(client.storage).keys() == {"x"} and MODELS.manifests(client.storage) == {}
    assert LORAS.read(client.storage, "x").source == "[2J.safetensors, sent by operate-0"
    assert lying_about(site) == []


async def test_only_who_may_operate_adds_and_nothing_is_read_of_others(site: Web, tmp_path: Path) -> None:
    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("it was read")
        yield b""

    async with site.having("submit") as http:
        for path in ("loras/x", "models/x"):
            assert (await put(http, path, never()))["type"] == "urn:render-farm:role-too-small"
        assert (await http.get("/api/v1/uploads")).status_code == 403
    async with site.anyone() as stranger:
        assert (await put(stranger, "loras/x", never()))["status"] == 401


async def test_a_body_that_is_too_large_is_refused_by_what_it_says_or_as_it_comes(
    client: FarmClient, opened: Opening, tmp_path: Path
) -> None:
    file = a_file(tmp_path / "a.safetensors").read_bytes()
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1_000):
            sent += 1_000
            yield bytes(1_000)

    async with opened(client, limits=Limits(lora=len(file), model=len(file) - 1), at_home=True) as web:
        async with web.having("operate") as http:
            refused = await put(http, "models/x", file)
            assert (refused["status"], refused["detail"]) == (413, f"the body has more than {len(file) - 1:,} bytes")
            huge = await put(http, "loras/x", b"x", headers={"Content-Length": str(10**15)})
            assert huge["type"] == "urn:render-farm:body-too-large"
            assert (await put(http, "loras/x", endless()))["type"] == "urn:render-farm:body-too-large"
            assert sent < len(file) + 10_000
            assert (await put(http, "loras/x", file))["status"] == 201
        assert lying_about(web) == []


class Sender:
    """Somebody who sends a file piece by piece."""

    def __init__(self, web: Web, path: str, *, size: int | None) -> None:
        self.web, self.connection = web, Connection()
        self._pieces: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        headers = {"host": "127.0.0.1:8170", **bearer(web, "operate")}
        headers |= {"transfer-encoding": "chunked"} if size is None else {"content-length": str(size)}
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "PUT",
            "scheme": "http",
        }
        scope |= {"path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"", "headers": raw}
        self._asking = asyncio.ensure_future(web.site.app(scope, self._pieces.get, self.connection.sent.put))

    def send(self, data: bytes, *, more: bool = True) -> None:
        self._pieces.put_nowait({"type": "http.request", "body": data, "more_body": more})

    def go(self) -> None:
        self._pieces.put_nowait({"type": "http.disconnect"})

    async def told(self) -> tuple[int, dict[str, Any]]:
        answer = await self.connection.status(), await self.connection.json()
        await asyncio.wait_for(self._asking, SECONDS)
        return answer


def large(tmp_path: Path, shapes: dict[str, tuple[int, ...]] | None = None) -> bytes:
    """A LoRA, or another file, of 3 MiB."""
    layer = {f"{LAYER}.lora_down.weight": (4, 768), f"{LAYER}.lora_up.weight": (3 * PIECE // 4, 4)}
    return write_weights(tmp_path / "large.safetensors", shapes or layer).read_bytes()


async def test_who_goes_away_in_the_middle_leaves_nothing(site: Web, client: FarmClient, tmp_path: Path) -> None:
    file = large(tmp_path)
    sender = Sender(site, "/api/v1/loras/x", size=len(file))
    sender.send(file[: 2 * PIECE])
    await happens(lambda: [path.stat().st_size for path in lying_about(site)] == [len(file)], "it comes")
    [path] = lying_about(site)
    assert path.stat().st_mode & 0o777 == 0o600 and folder(site).stat().st_mode & 0o777 == 0o700

    sender.go()

    assert (await sender.told())[1]["type"] == "urn:render-farm:body-not-whole"
    assert lying_about(site) == [] and LORAS.manifests(client.storage) == {}
    async with site.having("operate") as http:
        assert (await put(http, "loras/x", file))["status"] == 201, "its place is free again"


async def test_a_body_is_as_long_as_it_says_and_does_not_pause(
    client: FarmClient, opened: Opening, tmp_path: Path
) -> None:
    file = large(tmp_path)
    async with opened(client, limits=Limits(pause_seconds=0.2), at_home=True) as web:
        for data, said in ((file + b"x", "body-too-long"), (file[:-1], "body-not-whole")):
            sender = Sender(web, "/api/v1/loras/x", size=len(file))
            sender.send(data, more=False)
            status, told = await sender.told()
            assert (status, told["type"]) == (400, f"urn:render-farm:{said}")
        sender = Sender(web, "/api/v1/loras/x", size=len(file))
        sender.send(file[:PIECE])
        assert (await sender.told())[0] == 408
        assert lying_about(web) == [] and LORAS.manifests(client.storage) == {}

        unmeasured = Sender(web, "/api/v1/loras/x", size=None)
        for start in range(0, len(file), PIECE):
            unmeasured.send(file[start : start + PIECE])
        unmeasured.send(b"", more=False)
        assert (await unmeasured.told())[0] == 201


async def test_a_wrong_file_is_refused_as_soon_as_its_header_has_come(site: Web, tmp_path: Path) -> None:
    flux = large(tmp_path, {**FLUX, "x": (3 * PIECE,)})
    sender = Sender(site, "/api/v1/loras/x", size=len(flux))
    sender.send(flux[: PIECE + 1])
    status, told = await sender.told()
    assert (status, told["detail"]) == (422, "body: x.safetensors is for Flux, or a model built like it")
    assert lying_about(site) == []


async def test_numbers_that_are_none_are_told_when_all_of_a_lora_has_come(site: Web, tmp_path: Path) -> None:
    file = large(tmp_path).replace(b'"U8", "shape": [4, 768]', b'"F16","shape": [2, 768]')
    begin = len(file) - 3 * PIECE - 4 * 768
    broken = file[: begin + 10] + b"\x00\x7c" + file[begin + 12 :]
    async with site.having("operate") as http:
        told = await put(http, "loras/x", broken)
        assert (told["status"], told["field"]) == (422, "body")
        assert told["detail"].startswith("body: x.safetensors is damaged: ")
        assert told["detail"].endswith("has numbers that are not finite")
        assert (await put(http, "loras/x", file))["status"] == 201


async def test_one_of_a_name_and_two_in_all_come_at_once(site: Web, client: FarmClient, tmp_path: Path) -> None:
    file = large(tmp_path)
    first = Sender(site, "/api/v1/loras/x", size=len(file))
    first.send(file[:PIECE])
    async with site.having("operate") as http:
        await happens(lambda: len(lying_about(site)) == 1, "one comes")
        [told] = (await http.get("/api/v1/uploads")).json()
        assert (told["what"], told["name"], told["doing"]) == ("LoRA", "x", "receiving")
        assert (told["done"], told["total"], told["by"]) == (PIECE, len(file), "operate-0")
        same = await http.put("/api/v1/loras/x", content=file)
        assert (same.status_code, same.json()["type"]) == (409, "urn:render-farm:upload-under-way")
        assert same.headers["Retry-After"]

        second = Sender(site, "/api/v1/models/x", size=len(file))
        await happens(lambda: len(lying_about(site)) == 2, "another comes")
        third = await http.put("/api/v1/loras/y", content=file)
        assert (third.status_code, third.json()["type"]) == (503, "urn:render-farm:busy")
        assert int(third.headers["Retry-After"]) > 10
        second.go()
        await second.told()
        assert (await put(http, "loras/y", file))["status"] == 201

        first.send(file[PIECE:], more=False)
        assert (await first.told())[0] == 201
        assert (await http.get("/api/v1/uploads")).json() == []
    assert lying_about(site) == []


async def test_how_far_it_has_got_is_told_until_it_is_kept_whoever_waits(
    site: Web, client: FarmClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, goes_on = large(tmp_path), threading.Event()
    upload = client.storage.upload

    def slow(key: str, path: Path, *, sent: Callable[[int], None]) -> None:
        sent(5)
        assert goes_on.wait(SECONDS)
        upload(key, path, sent=lambda _: None)

    monkeypatch.setattr(client.storage, "upload", slow)
    sender = Sender(site, "/api/v1/loras/x", size=len(file))
    sender.send(file, more=False)
    async with site.having("view") as looking, site.having("operate") as http:
        await happens(
            lambda: [one.doing for one in uploads_of(site.site.parts).under_way.values()] == ["sending"], "so"
        )
        [told] = (await http.get("/api/v1/uploads")).json()
        assert (told["doing"], told["done"], told["total"]) == ("sending", 5, len(file))
        assert (await looking.get("/api/v1/uploads")).status_code == 403
    sender.go()
    goes_on.set()
    assert (await sender.told())[0] == 201
    assert LORAS.read(client.storage, "x").size == len(file) and lying_about(site) == []


async def test_a_disk_that_is_full_is_said_before_and_while_it_fills(
    site: Web, client: FarmClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = large(tmp_path)
    write, room = os.write, [PIECE]

    def filling(descriptor: int, data: bytes) -> int:
        """A disk of so many bytes."""
        if not str(Path(f"/dev/fd/{descriptor}").resolve()).endswith(".part"):
            return write(descriptor, data)
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = write(descriptor, data[: room[0]])
        room[0] -= done
        return done

    async with site.having("operate") as http:
        monkeypatch.setattr(os, "write", filling)
        full = await put(http, "loras/x", file)
        assert (full["status"], full["type"]) == (507, "urn:render-farm:disk-full")
        assert lying_about(site) == []
        monkeypatch.undo()

        free = shutil.disk_usage(folder(site)).free
        for spare in (free + 1, free - len(file) // 2):
            parts = site.site.parts
            assert parts.uploads
            monkeypatch.setattr(parts.uploads, "_limits", Limits(spare=spare))
            assert (await put(http, "loras/x", file))["status"] == 507
        monkeypatch.undo()
        assert (await put(http, "loras/x", file))["status"] == 201
    assert client.storage.get(keys.lora_blob(hashlib.sha256(file).hexdigest())) == file


async def test_what_a_server_left_that_was_killed_is_swept_and_what_comes_is_not(
    site: Web, client: FarmClient, opened: Opening, tmp_path: Path
) -> None:
    file = large(tmp_path)
    sender = Sender(site, "/api/v1/loras/x", size=len(file))
    sender.send(file[:PIECE])
    await happens(lambda: len(lying_about(site)) == 1, "it comes")
    left = folder(site) / "0123456789abcdef.part"
    left.write_bytes(b"of a server that was killed")

    async with opened(client, at_home=True):
        assert left not in lying_about(site) and len(lying_about(site)) == 1

    sender.send(file[PIECE:], more=False)
    assert (await sender.told())[0] == 201


async def test_a_site_without_a_home_takes_no_files(web: Web) -> None:
    async with web.having("operate") as http:
        assert (await put(http, "loras/x", b"x"))["type"] == "urn:render-farm:no-uploads"
