"""A model that somebody else put into a bucket: what is fetched of it, and where it may go."""

from __future__ import annotations

import secrets
from pathlib import Path
from types import SimpleNamespace

import pytest

from farm.bucket.storage import Storage
from farm.errors import ModelError, ModelUnavailable
from farm.settings import Settings
from worker.bucket.models import _place, bucket_fetcher


@pytest.fixture
def url(servers: Settings) -> str:
    """A prefix of its own, which holds a file and one in a folder."""
    prefix = f"models/{secrets.token_hex(8)}"
    storage = Storage(servers)
    for name in ("model_index.json", "unet/config.json"):
        storage.put(f"{prefix}/{name}", name.encode(), "application/json")
    return f"s3://{servers.s3_bucket}/{prefix}"


def key(url: str, name: str) -> str:
    return f"{url.split('/', 3)[3]}/{name}"


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_all_of_a_prefix_is_fetched_but_what_is_pickled(servers: Settings, url: str, tmp_path: Path) -> None:
    storage = Storage(servers)
    for name in ("unet/diffusion_pytorch_model.bin", "old.ckpt", "vae/x.pt"):
        storage.put(key(url, name), b"never opened", "application/octet-stream")
    bucket_fetcher(servers)(url, tmp_path)
    assert files(tmp_path) == {"model_index.json", "unet/config.json"}


def test_weights_are_fetched_in_one_precision_and_nothing_that_is_not_loaded(
    servers: Settings, url: str, tmp_path: Path
) -> None:
    """Of a component whose weights have names by which they cannot be loaded, those: they are named in the error."""
    loaded = {
        *("model_index.json", "unet/config.json", "tokenizer/merges.txt", "farm.json"),
        *(
            "unet/diffusion_pytorch_model.safetensors.index.json",
            "unet/diffusion_pytorch_model-00001-of-00001.safetensors",
        ),
        *("text_encoder/model.fp16.safetensors", "vae/mine.safetensors"),
    }
    not_loaded = {
        *("unet/diffusion_pytorch_model.fp16.safetensors", "unet/flax_model.msgpack", "v1-5-pruned.safetensors"),
        *("safety_checker/model.safetensors", "README.md", "text_encoder/model.onnx", "samples/otter.png"),
    }
    storage = Storage(servers)
    for name in loaded | not_loaded:
        storage.put(key(url, name), b"{}", "application/octet-stream")
    bucket_fetcher(servers)(url, tmp_path)
    assert files(tmp_path) == loaded


def test_a_prefix_of_nothing_is_told(servers: Settings, url: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not hold a model"):
        bucket_fetcher(servers)(url + "-not", tmp_path)


def test_a_file_where_a_folder_should_be_is_told(servers: Settings, url: str, tmp_path: Path) -> None:
    (tmp_path / "unet").write_text("in the way", encoding="utf-8")
    with pytest.raises(ModelError, match="cannot be kept in"):
        bucket_fetcher(servers)(url, tmp_path)


def test_a_disk_without_room_may_have_some_later(
    servers: Settings, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=3))
    with pytest.raises(ModelUnavailable, match="has room for only 3"):
        bucket_fetcher(servers)(url, tmp_path)


@pytest.mark.parametrize("name", ["../x", "unet/../../x", "/etc/x", "unet/../../../../tmp/x"])
def test_no_object_leaves_the_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "model"
    with pytest.raises(ModelError, match="would be written outside"):
        _place(folder, name)
    assert not list(tmp_path.iterdir())


def test_no_object_goes_where_a_link_leads(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "model", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (folder / "unet").symlink_to(elsewhere)
    with pytest.raises(ModelError, match="would be written outside"):
        _place(folder, "unet/x")
