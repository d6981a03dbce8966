"""Where the farm is, from the environment; and what is said when that cannot be read."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu.connection import Connection

from farm import settings
from farm.errors import HomeRefused, InvalidInput, NotConfigured
from farm.host.lock import HomeLock

REDIS = "redis://:secret@host:6380/2"


def test_servers_of_the_environment_come_first(tmp_path: Path) -> None:
    found = settings.load({"FARM_REDIS_URL": REDIS, "FARM_S3_ENDPOINT": "http://s3:8333", "FARM_HOME": str(tmp_path)})

    assert (found.redis_address, found.s3_endpoint, found.s3_bucket) == ("host:6380/2", "http://s3:8333", "farm")
    assert not found.local
    assert "secret" not in repr(found)


def test_half_a_farm_is_refused() -> None:
    with pytest.raises(NotConfigured, match="FARM_REDIS_URL is not"):
        settings.load({"FARM_S3_ENDPOINT": "http://s3:8333"})


def test_no_farm_at_all_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotConfigured, match="farm up --detach"):
        settings.load({"FARM_HOME": str(tmp_path)})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("FARM_REDIS_URL", "redis://:topsecret#x@host:6379/0"),
        ("FARM_REDIS_URL", "redis://:topsecret/x@host:6379/0"),
        ("FARM_REDIS_URL", "redis://:topsecret@host:port"),
        ("FARM_REDIS_URL", "redis://:topsecret@host:70000"),
        ("FARM_REDIS_URL", "http://:topsecret@host"),
        ("FARM_REDIS_URL", "topsecret"),
        ("FARM_REDIS_URL", "redis://host/topsecret"),
        ("FARM_REDIS_URL", "redis://host/-1"),
        ("FARM_REDIS_URL", "redis://host/0/1"),
        ("FARM_REDIS_URL", "redis://user/x:topsecret@host/0"),
        ("FARM_S3_ENDPOINT", "ftp://topsecret@host"),
        ("FARM_S3_ENDPOINT", "http://topsecret:x/"),
        ("FARM_S3_PUBLIC_ENDPOINT", "topsecret"),
        ("FARM_S3_ENDPOINT", "https://who:topsecret@host"),
        ("FARM_REDIS_URL", "rediss://:topsecret@host/0?ssl_cert_reqs=none"),
        ("FARM_REDIS_URL", "redis://:topsecret@host/0?password=topsecret"),
        ("FARM_REDIS_URL", "redis://:topsecret@host/0?credential_provider=os.system"),
        ("FARM_REDIS_URL", "redis://:topsecret@host/0?ssl_ca_certs=ca.pem"),
    ],
)
def test_an_address_that_cannot_be_read_is_named_and_never_quoted(variable: str, value: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        settings.load({"FARM_REDIS_URL": REDIS, variable: value})

    assert caught.value.field == variable
    assert "topsecret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None, "a traceback would quote the password"


def test_tls_is_said_in_the_address_to_all_who_connect(tmp_path: Path) -> None:
    """kombu would take an address without these for one of no TLS."""
    files = {name: tmp_path / f"a {name}.pem" for name in ("ca", "cert", "key")}
    for file in files.values():
        file.write_text("", encoding="utf-8")
    named = {f"FARM_REDIS_{name.upper()}": str(file) for name, file in files.items()}
    url = settings.load({"FARM_REDIS_URL": "rediss://:secret@host/1", **named}).redis_url
    of_kombu: Any = Connection(url).ssl
    for part in (of_kombu, redis.connection.parse_url(url)):
        assert (part["ssl_ca_certs"], part["ssl_certfile"], part["ssl_keyfile"]) == tuple(map(str, files.values()))
    assert of_kombu["ssl_cert_reqs"] == ssl.CERT_REQUIRED

    plain = settings.load({"FARM_REDIS_URL": "rediss://:secret@host/1"})
    assert Connection(plain.redis_url).ssl == {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    assert plain.redis_address == "host:6379/1"


def test_a_certificate_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"FARM_REDIS_CA: there is no file .*nothing\.pem"):
        settings.load({"FARM_REDIS_URL": "rediss://host", "FARM_REDIS_CA": str(tmp_path / "nothing.pem")})


def test_a_certificate_without_tls_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="is redis://, which sends everything in the clear"):
        settings.load({"FARM_REDIS_URL": REDIS, "FARM_REDIS_CA": str(tmp_path)})


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000])
def test_a_damaged_state_of_the_local_farm_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "farm.json").write_text(text, encoding="utf-8")
    with running(tmp_path), pytest.raises(NotConfigured, match=r"farm\.json cannot be read") as caught:
        settings.load({"FARM_HOME": str(tmp_path)})
    assert "topsecret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("[]", "redis_url, s3_bucket, s3_endpoint, s3_access_key, s3_secret_key"),
        ("null", "redis_url, s3_bucket, s3_endpoint, s3_access_key, s3_secret_key"),
        (
            '{"redis_url": "redis://:topsecret@host", "s3_bucket": 7, "s3_endpoint": "x", "s3_access_key": ""}',
            "s3_bucket, s3_secret_key",
        ),
    ],
)
def test_what_the_state_of_the_local_farm_lacks_is_named(tmp_path: Path, text: str, fields: str) -> None:
    (tmp_path / "farm.json").write_text(text, encoding="utf-8")
    with running(tmp_path), pytest.raises(NotConfigured, match=rf"farm\.json does not say {fields} \(") as caught:
        settings.load({"FARM_HOME": str(tmp_path)})
    assert "topsecret" not in str(caught.value)


STATE = {
    "redis_url": "redis://:topsecret@127.0.0.1:1/0",
    "s3_bucket": "farm",
    "s3_endpoint": "http://127.0.0.1:2",
    "s3_access_key": "key",
    "s3_secret_key": "secret",
}


@contextmanager
def running(home: Path) -> Iterator[None]:
    """As if this process were the supervisor of the home's farm."""
    lock = HomeLock(settings.lock_file(home))
    try:
        yield
    finally:
        lock.release()


def test_what_a_killed_farm_left_is_used_by_nobody(tmp_path: Path) -> None:
    """Whoever has its ports by now would be sent its passwords."""
    settings.state_file(tmp_path).write_text(json.dumps(STATE))
    with running(tmp_path):
        assert settings.load({"FARM_HOME": str(tmp_path)}).redis_url == STATE["redis_url"]
    with pytest.raises(NotConfigured, match="is not running") as caught:
        settings.load({"FARM_HOME": str(tmp_path)})
    assert "farm up --detach" in str(caught.value)
    settings.lock_file(tmp_path).unlink()
    with pytest.raises(NotConfigured, match="is not running"):
        settings.load({"FARM_HOME": str(tmp_path)})


def test_a_farm_that_others_can_change_is_not_used(tmp_path: Path) -> None:
    settings.state_file(tmp_path).write_text(json.dumps(STATE))
    with running(tmp_path):
        settings.state_file(tmp_path).chmod(0o666)
        with pytest.raises(HomeRefused, match=r"other users can write to .*farm\.json"):
            settings.load({"FARM_HOME": str(tmp_path)})


@pytest.mark.parametrize("name", ["~nobody of that name", "circle"])
def test_a_home_that_cannot_be_found_is_told(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("circle").symlink_to("circle")
    with pytest.raises(HomeRefused, match=r"the farm's home .* cannot be"):
        settings.load({"FARM_HOME": name})


def test_a_user_without_a_home_is_told_to_name_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without HOME and an entry in the list of users. Releases of platformdirs differ."""

    def raising(_: str) -> str:
        raise RuntimeError("could not determine the home directory")

    for answer in (raising, lambda _: "~/.local/share/render-farm"):
        monkeypatch.setattr("platformdirs.user_data_dir", answer)
        with pytest.raises(HomeRefused, match="has no home folder") as caught:
            settings.home({})
        assert caught.value.hint == "set FARM_HOME to a folder"


@pytest.mark.parametrize("scheme", ["unix", "sentinel", "redis+sentinel", "REDIS+SOCKET"])
def test_other_ways_to_reach_redis_are_told_for_what_they_are(scheme: str) -> None:
    with pytest.raises(InvalidInput, match=r"^FARM_REDIS_URL: is .*://, which the farm does not speak") as caught:
        settings.load({"FARM_REDIS_URL": f"{scheme}:///tmp/redis.sock"})
    assert "password" not in str(caught.value)


@pytest.mark.parametrize("path", ["", "/", "/0", "/15"])
def test_a_database_is_a_number_or_left_out(path: str) -> None:
    assert settings.load({"FARM_REDIS_URL": f"redis://host{path}"}).redis_url == f"redis://host{path}"


@pytest.mark.parametrize(
    ("variable", "address", "hint"),
    [
        ("FARM_REDIS_URL", "redis://127.0.0.1:99999/0", "such as redis://127.0.0.1:6379/0"),
        ("FARM_REDIS_URL", "redis://127.0.0.1:6379/abc", "such as redis://127.0.0.1:6379/0"),
        ("FARM_REDIS_URL", "redis://:pass/word@host:6379/0", "percent-encode special characters of a password"),
        ("FARM_S3_ENDPOINT", "nonsense", "such as http://127.0.0.1:8333"),
    ],
)
def test_a_hint_is_of_a_password_only_where_there_may_be_one(variable: str, address: str, hint: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        settings.load({"FARM_REDIS_URL": "redis://host", variable: address})
    assert caught.value.hint == hint and "word" not in caught.value.reason
