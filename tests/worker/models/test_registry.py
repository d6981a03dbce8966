from __future__ import annotations

from pathlib import Path

import pytest

from farm.errors import InvalidInput, ModelError
from worker.models.registry import (
    BUILT_IN,
    Bucket,
    Hub,
    LocalDirectory,
    ModelRegistry,
    SingleFile,
    Stored,
    parse_option,
    parse_source,
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a model directory, one whose name has a space, and a checkpoint."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "local").mkdir(parents=True)
    (tmp_path / "my models").mkdir()
    (tmp_path / "one.safetensors").touch()
    return tmp_path


def test_every_kind_of_source(here: Path) -> None:
    assert parse_source("owner/local") == LocalDirectory(here / "owner/local")
    assert parse_source(str(here / "my models")) == LocalDirectory(here / "my models")
    assert parse_source("one.safetensors") == SingleFile(here / "one.safetensors", None)
    assert parse_source("one.safetensors#config=my models") == SingleFile(here / "one.safetensors", here / "my models")
    assert parse_source("s3://bucket/models/mine/") == Bucket("s3://bucket/models/mine")
    assert parse_source("owner/name@v1.0") == Hub("owner/name", "v1.0")
    assert parse_source("hub:owner/local@refs/pr/3") == Hub("owner/local", "refs/pr/3")


@pytest.mark.usefixtures("here")
def test_a_source_is_written_as_it_is_read() -> None:
    for text in ("owner/local", "one.safetensors#config=my models", "s3://bucket/x", "owner/name@1234"):
        source = parse_source(text)
        assert parse_source(str(source)) == source


MALFORMED = {
    "owner/name": "'owner/name' is not a directory here, and as a hub model it needs a revision .*owner/name@REVISION",
    "hub:owner/name": "as a hub model it needs a revision",
    "no/such/directory": "'no/such/directory' is not a model source .*existing directory",
    "": "'' is not a model source",
    "owner/name@": "is not a model source",
    "owner/na me@v1": "is not a model source",
    "s3://bucket": "'s3://bucket' is not s3://BUCKET/PREFIX",
    "s3:///prefix": "is not s3://BUCKET/PREFIX",
    "none.safetensors": "there is no file .*none.safetensors",
    "one.safetensors#config=nowhere": "there is no directory .*nowhere",
    "model.ckpt": r"'model\.ckpt' is pickled, which can run code, and is never opened .*save_pretrained",
    "OLD.CKPT": "'OLD.CKPT' is pickled",
    "owner/weights.pth": "is pickled",
    "https://example.org/mine.safetensors": "is an address, from which no model is downloaded .*download the file",
    "file:///models/mine": "is an address",
    "s3://bucket/mine.SafeTensors": "is one file, and in a bucket a model is a folder .*download the file",
    "./not-there": "is not a model source .*an existing directory",
    "NONE.SAFETENSORS": r"there is no file .*NONE\.SAFETENSORS",
}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("text", MALFORMED)
def test_malformed_sources_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=f"model: .*{MALFORMED[text]}"):
        parse_source(text)


@pytest.mark.usefixtures("here")
def test_options_name_models() -> None:
    registry = ModelRegistry.from_options(["mine=owner/local", "sd14"])
    assert registry.names == ("mine", "sd14")
    assert registry.source("sd14") == BUILT_IN["sd14"]


def test_a_source_that_is_not_there_keeps_its_own_model_alone_from_being_served() -> None:
    registry = ModelRegistry.from_options(["lost=/nowhere/at/all.safetensors", "sd14"])
    assert registry.names == ("lost", "sd14")
    assert registry.source("sd14") == BUILT_IN["sd14"]
    with pytest.raises(ModelError, match=r"^there is no file /nowhere/at/all\.safetensors"):
        registry.source("lost")


def test_a_worker_of_no_model_at_all_is_refused() -> None:
    with pytest.raises(InvalidInput, match="is pickled"):
        ModelRegistry.from_options(["one=old.ckpt", "two=/nowhere.safetensors"])


def test_without_options_the_built_in_models_are_served() -> None:
    assert ModelRegistry.from_options([]).names == tuple(BUILT_IN)


@pytest.mark.parametrize(
    ("option", "message"),
    [("My Model", "cannot name a model"), ("My Model=x", "cannot name a model"), ("mine=", "is not a model source")],
)
def test_malformed_options_are_refused(option: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        parse_option(option)


def test_an_unknown_model_is_refused_with_a_near_match() -> None:
    with pytest.raises(ModelError, match=r"there is no model 'sd1\.4' \(did you mean 'sd14'\?\)"):
        ModelRegistry().source("sd1.4")
    with pytest.raises(ModelError, match=r"there is no model 'xyz' \(this worker has: emoji, sd14\)"):
        ModelRegistry().source("xyz")


def test_a_name_that_is_not_built_in_is_the_farm_s() -> None:
    registry = ModelRegistry.from_options(["mine", "emoji"])
    assert registry.source("mine") == Stored("mine")
    registry.put("mine", Stored("mine", "0123456789abcdef" * 4))
    assert str(registry.source("mine")) == "farm:mine@0123456789abcdef"
    registry.drop("mine")
    with pytest.raises(ModelError, match="there is no model 'mine'"):
        registry.source("mine")
