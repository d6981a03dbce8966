"""Compiled UNets: the same numbers, for the shapes that were compiled, and kernels that workers share only signed.

A compiler takes a second for each kernel, and even the smallest UNet has twenty for each number of rows. So that is
compiled for one; what several numbers do is seen with a network of one kernel.
"""

from __future__ import annotations

import hmac
import io
import logging
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel, UNet2DConditionOutput
from torch import Tensor, nn

from farm import keys
from farm.bucket.storage import Storage
from farm.errors import InvalidInput
from farm.settings import Settings
from tests.tiny import build_tiny_model
from worker.bucket import compile_cache as kernels
from worker.bucket.compile_cache import CompileCache, pack, unpack
from worker.diffusion.conditioning import Conditioning
from worker.diffusion.cross_attention import cache_cross_attention
from worker.models.compiled import numbers_of_rows
from worker.models.device import place
from worker.models.loader import ModelLoader
from worker.models.model import LoadedModel
from worker.models.registry import LocalDirectory

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, about itself

SECRET = b"known to the workers alone"
KEY = b"k" * 32


class OneKernel(nn.Module):
    """Called as a UNet is, it makes of all that it is given what one kernel can."""

    def __init__(self) -> None:
        super().__init__()
        self.config = {"in_channels": 4, "out_channels": 4}

    def forward(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, **_: Any
    ) -> UNet2DConditionOutput:
        text = encoder_hidden_states[:, 1, :4, None, None]
        return UNet2DConditionOutput(sample=torch.sin(sample) * timestep[:, None, None, None] + text)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    directory = build_tiny_model(tmp_path_factory.mktemp("tiny"))
    return ModelLoader(place("cpu"), cache=directory / "cache").load("tiny", LocalDirectory(directory))


@pytest.fixture(scope="module")
def model(tiny: LoadedModel) -> LoadedModel:
    """The tiny model with the smallest UNet there is: compilers take a minute for the tiny one."""
    torch.manual_seed(0)
    smallest = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        layers_per_block=0,
        norm_num_groups=4,
        attention_head_dim=4,
        cross_attention_dim=32,
    )
    smallest.eval().requires_grad_(False)
    return replace(tiny, unet=smallest, cross_attention=cache_cross_attention(smallest), recorded=None)


@pytest.fixture(scope="module")
def simple(tiny: LoadedModel) -> LoadedModel:
    """The tiny model with a network of one kernel."""
    network: Any = OneKernel()
    return replace(tiny, unet=network, recorded=None)


@pytest.fixture(scope="module")
def store(servers: Settings) -> Iterator[Storage]:
    storage = Storage(servers)
    storage.ensure_bucket()
    yield storage
    for stored in storage.list("kernels/"):
        storage.delete(stored.key)


@pytest.fixture(scope="module")
def compiler() -> None:
    if shutil.which("g++") is None or " " in torch.__file__:
        pytest.skip("torch cannot compile: there is no C++ compiler, or a space in the path that torch would tell it")


@pytest.fixture(scope="module")
def compiled(
    model: LoadedModel, store: Storage, compiler: None, tmp_path_factory: pytest.TempPathFactory
) -> LoadedModel:
    """The model, compiled for 2 rows, its kernels shared with nobody."""
    made = CompileCache(tmp_path_factory.mktemp("alone"), store, (2,))
    return replace(model, compiled=made.compile(model))


@pytest.fixture(scope="module")
def simple_compiled(
    simple: LoadedModel, store: Storage, compiler: None, tmp_path_factory: pytest.TempPathFactory
) -> LoadedModel:
    """The simple model, compiled for 2 and 4 rows, its kernels in the bucket."""
    made = CompileCache(tmp_path_factory.mktemp("first"), store, numbers_of_rows(4)[1:], SECRET)
    return replace(simple, compiled=made.compile(simple))


@torch.no_grad()
def predicted(model: LoadedModel, count: int, *, side: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    rows = torch.randn((count, 4, side, side), generator=generator)
    conditioning = Conditioning.stacked([model.conditioned(model.prompts.encode("a cat"))] * count)
    return model.predict(rows, torch.full((count,), 500.0), conditioning)


@pytest.mark.parametrize(
    ("most", "numbers"),
    [(2, (1, 2)), (32, (1, 2, 4, 8, 16, 32)), (64, (1, 2, 4, 8, 16, 32, 64)), (100, (2, 4, 8, 16, 32, 64, 100))],
)
def test_at_most_seven_shapes_are_compiled(most: int, numbers: tuple[int, ...]) -> None:
    assert numbers_of_rows(most) == numbers


@pytest.mark.parametrize("count", [1, 2])
def test_a_compiled_model_predicts_what_it_did(model: LoadedModel, compiled: LoadedModel, count: int) -> None:
    graphs = _graphs()
    assert compiled.compiled is not None

    torch.testing.assert_close(predicted(compiled, count), predicted(model, count), rtol=1e-4, atol=1e-4)

    assert _graphs() == graphs, "nothing is compiled while jobs wait"


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_rows_are_padded_to_a_number_that_is_compiled(
    simple: LoadedModel, simple_compiled: LoadedModel, count: int
) -> None:
    test_a_compiled_model_predicts_what_it_did(simple, simple_compiled, count)


def test_hooks_on_the_called_unet_leave_it_compiled(compiled: LoadedModel) -> None:
    called, graphs = [], _graphs()
    hook = compiled.called_unet.register_forward_hook(lambda *_: called.append(True))
    predicted(compiled, 2)
    hook.remove()

    assert called == [True]
    assert _graphs() == graphs


@pytest.mark.parametrize(("count", "side"), [(3, 8), (2, 12)])
def test_shapes_that_were_not_compiled_run_as_they_are(
    model: LoadedModel, compiled: LoadedModel, count: int, side: int
) -> None:
    graphs = _graphs()

    assert torch.equal(predicted(compiled, count, side=side), predicted(model, count, side=side))

    assert _graphs() == graphs


@pytest.mark.usefixtures("simple_compiled")
def test_the_next_worker_finds_the_kernels_in_the_bucket(
    simple: LoadedModel, store: Storage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    [before] = store.list("kernels/")
    torch.compiler.reset()

    with caplog.at_level(logging.INFO):
        CompileCache(tmp_path, store, (2, 4), SECRET).compile(simple)

    [kernels_folder] = tmp_path.iterdir()
    assert keys.kernels(kernels_folder.name) == before.key
    assert any(path.suffix == ".so" for path in kernels_folder.rglob("*"))
    assert "compiled kernels in the bucket" in caplog.text and "not used" not in caplog.text


@pytest.mark.usefixtures("simple_compiled")
@pytest.mark.parametrize("secret", [b"of somebody else's farm", None])
def test_kernels_that_others_signed_are_not_touched(
    simple: LoadedModel,
    store: Storage,
    tmp_path: Path,
    secret: bytes | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    found: list[set[Path]] = []
    monkeypatch.setattr(kernels, "compiled", lambda *_: found.append(set(tmp_path.rglob("*"))))

    CompileCache(tmp_path, store, (2, 4), secret).compile(simple)

    assert found == [set()], "nothing of theirs is on the disk as the compiler begins"
    assert ("they are not signed with this worker's FARM_KERNELS_KEY" in caplog.text) is (secret is not None)


@pytest.mark.long
def test_what_cannot_be_compiled_runs_as_it_is(
    simple: LoadedModel,
    store: Storage,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("/no/compiler",))
    torch.compiler.reset()

    assert CompileCache(tmp_path, store, (2,)).compile(simple) is None

    assert "the model 'tiny' cannot be compiled here, so it runs as it is: " in caplog.text


def test_packed_files_come_out_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "a" / "deep").mkdir(parents=True)
    (tmp_path / "a" / "deep" / "kernel.so").write_bytes(b"code")

    unpack(pack(tmp_path / "a", KEY), tmp_path / "b", KEY)

    assert (tmp_path / "b" / "deep" / "kernel.so").read_bytes() == b"code"


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "kernel.so").write_bytes(b"code")
    packed = pack(tmp_path, KEY)

    for place_of_byte in (0, len(packed) - 1):
        changed = bytearray(packed)
        changed[place_of_byte] ^= 1
        with pytest.raises(InvalidInput, match="not signed"):
            unpack(bytes(changed), tmp_path / "out", KEY)
    assert not (tmp_path / "out").exists()


def test_even_signed_files_cannot_leave_their_folder(tmp_path: Path) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("../outside"), io.BytesIO())

    with pytest.raises(tarfile.FilterError):
        unpack(hmac.digest(KEY, file.getvalue(), "sha256") + file.getvalue(), tmp_path / "in", KEY)

    assert not (tmp_path / "outside").exists()


def _graphs() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])
