from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from farm.errors import InvalidInput, ModelError
from worker.models.registry import (
    BUILT_IN,
    Bucket,
    Hub,
    LocalDirectory,
    ModelRegistry,
    Options,
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
    for text in (
        "owner/local",
        "one.safetensors#config=my models",
        "s3://bucket/x",
        "owner/name@1234",
        "owner/local#vae=one.safetensors#prediction=v#ztsnr",
        "one.safetensors#config=my models#vae=one.safetensors#prediction=epsilon",
        "s3://bucket/x#vae=one.safetensors",
        "hub:owner/name@1234#ztsnr#prediction=v",
    ):
        source = parse_source(text)
        assert parse_source(str(source)) == source


def test_options_of_every_kind_of_source(here: Path) -> None:
    vae = here / "one.safetensors"
    v = Options(vae, "v_prediction", zero_snr=True)
    said = "#vae=one.safetensors&prediction=v#ztsnr"
    assert parse_source(f"owner/local{said}") == LocalDirectory(here / "owner/local", v)
    assert parse_source(f"s3://bucket/x/{said}") == Bucket("s3://bucket/x", v)
    assert parse_source(f"owner/name@1234{said}") == Hub("owner/name", "1234", v)
    assert parse_source(f"one.safetensors{said}#config=my models") == SingleFile(vae, here / "my models", v)
    assert parse_source("one.safetensors#prediction=epsilon") == SingleFile(vae, None, Options(predicts="epsilon"))


def test_options_may_begin_with_an_ampersand(here: Path) -> None:
    vae = here / "one.safetensors"
    v = Options(vae, "v_prediction", zero_snr=True)
    for said in ("&vae=one.safetensors#prediction=v&ztsnr", "&ztsnr&prediction=v&vae=one.safetensors"):
        assert parse_source(f"owner/local{said}") == LocalDirectory(here / "owner/local", v)
        assert parse_source(f"owner/name@1234{said}") == Hub("owner/name", "1234", v)
    assert parse_source("s3://bucket/salt&pepper") == Bucket("s3://bucket/salt&pepper")


def test_a_number_sign_may_be_part_of_a_path(here: Path) -> None:
    for name in ("c#", "v#one", "a&b=c", "salt&pepper"):
        (here / name).mkdir()
        assert parse_source(name) == LocalDirectory(here / name)
        shutil.copy(here / "one.safetensors", here / name)
        assert parse_source(f"{name}/one.safetensors#ztsnr&prediction=v") == SingleFile(
            here / name / "one.safetensors", None, Options(predicts="v_prediction", zero_snr=True)
        )


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
    "flux.gguf": r"'flux\.gguf' is quantised, .*use the model's \.safetensors file",
    "./not-there": "is not a model source .*an existing directory",
    "NONE.SAFETENSORS": r"there is no file .*NONE\.SAFETENSORS",
    "~nobody-at-all/x": "'~nobody-at-all/x' is in the home of somebody who is not known here",
    "~nobody-at-all/x.safetensors": "is in the home of somebody",
    "one.safetensors#cofnig=my models": r"has the option 'cofnig', which no source has \(did you mean 'config'",
    "one.safetensors#wide=2": r"has the option 'wide', .*there are #config=DIRECTORY, #vae=FILE, #prediction=v or eps",
    "one.safetensors#config=": r"says nothing with 'config' \(write #config=DIRECTORY",
    "one.safetensors#vae": r"says nothing with 'vae' \(write #vae=FILE",
    "one.safetensors#ztsnr=yes": r"says something with 'ztsnr' \(write #ztsnr alone",
    "one.safetensors#ztsnr#ztsnr": "says 'ztsnr' twice",
    "one.safetensors#prediction=sample": r"cannot predict 'sample' \(write prediction=v or =epsilon",
    "one.safetensors#vae=none.safetensors": "there is no file .*none.safetensors",
    "one.safetensors#vae=my models": r"'my models' is no \.safetensors file, .*vae/diffusion_pytorch_model",
    "one.safetensors#vae=old.pt": "'old.pt' is pickled",
    "owner/local#config=my models": r"'owner/local' is given a configuration, .*leave out #config=my models",
    "owner/name@1234#config=my models": "is given a configuration",
    "https://example.org/x#vae=one.safetensors": "is an address",
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
    for again in ("mine=owner/local", "mine", "mine=old.ckpt"):
        with pytest.raises(InvalidInput, match=r"--model: 'mine' is there twice"):
            ModelRegistry.from_options(["mine=owner/local", "sd14", again])


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
    with pytest.raises(ModelError, match=r"there is no model 'sd1\.4' \(did you mean 'sd14'\? this worker has: "):
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
