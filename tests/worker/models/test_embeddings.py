"""Files of textual inversion: read, or refused in one line."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save, save_file
from torch import Tensor

from farm.errors import FarmError, InvalidInput, ModelError
from tests.fuzzing import fuzz
from worker.models.embeddings import load_embeddings, read_embedding

WIDTH = 32


def numbers(count: int, width: int = WIDTH, *, seed: int = 0) -> Tensor:
    return torch.randn((count, width), generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    def make(name: str = "style.safetensors", **tensors: Tensor) -> Path:
        save_file(tensors, tmp_path / name)
        return tmp_path / name

    return make


LAYOUTS: dict[str, tuple[Mapping[str, Tensor], tuple[int, ...], int]] = {
    "A1111's": ({"emb_params": numbers(3)}, (WIDTH,), 3),
    "diffusers' of one vector": ({"<my-style>": numbers(1)[0]}, (WIDTH,), 1),
    "diffusers' of several": ({"<my-style>": numbers(2)}, (WIDTH,), 2),
    "in half precision": ({"emb_params": numbers(2).half()}, (WIDTH,), 2),
    "SDXL's": ({"clip_l": numbers(2), "clip_g": numbers(2, 48)}, (WIDTH, 48), 2),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_the_layouts_in_use_are_read(case: str, saved: Callable[..., Path]) -> None:
    tensors, widths, count = LAYOUTS[case]
    embedding = read_embedding("style", saved(**tensors))

    assert (embedding.name, embedding.widths, embedding.count) == ("style", widths, count)
    assert all(vectors.dtype == torch.float32 for vectors in embedding.vectors)
    assert torch.equal(embedding.vectors[0], next(iter(tensors.values())).float().reshape(-1, WIDTH))


REFUSED: dict[str, tuple[Mapping[str, Tensor], str]] = {
    "not a number": ({"emb_params": torch.full((1, WIDTH), torch.nan)}, "numbers that are not finite"),
    "infinite": ({"emb_params": torch.full((1, WIDTH), torch.inf)}, "numbers that are not finite"),
    "of whole numbers": ({"emb_params": torch.ones((1, WIDTH), dtype=torch.int32)}, "is of int32"),
    "of three dimensions": ({"emb_params": torch.ones((1, 1, WIDTH))}, r"has the shape \(1, 1, 32\)"),
    "a single number": ({"emb_params": torch.tensor(1.0)}, r"has the shape \(\)"),
    "of no vector": ({"emb_params": torch.ones((0, WIDTH))}, r"has the shape \(0, 32\)"),
    "of no width": ({"emb_params": torch.ones((1, 0))}, r"has the shape \(1, 0\)"),
    "longer than a chunk": ({"emb_params": torch.ones((76, 4))}, r"has the shape \(76, 4\)"),
    "too wide": ({"emb_params": torch.ones((1, 5_000))}, r"has the shape \(1, 5000\)"),
    "half of SDXL's": ({"clip_l": numbers(1)}, "holds 'clip_l'"),
    "of unlike halves": ({"clip_l": numbers(1), "clip_g": numbers(2)}, "has 1 and 2 vectors"),
    "of two words": ({"a": numbers(1), "b": numbers(1)}, "holds 'a', 'b'"),
    "empty": ({}, "holds nothing"),
    "a model": ({f"layer {number}": numbers(1) for number in range(5)}, "holds 5 tensors"),
    "enormous": ({"emb_params": torch.zeros((600, 4_096))}, "has 9,830,[0-9]+ bytes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_embedding_is_refused_in_one_line(case: str, saved: Callable[..., Path]) -> None:
    tensors, said = REFUSED[case]
    with pytest.raises(ModelError, match=said) as error:
        read_embedding("style", saved(**tensors))
    assert "\n" not in str(error.value)


def header(length: int, content: Mapping[str, Any]) -> bytes:
    text = json.dumps(content).encode()
    return (length or len(text)).to_bytes(8, "little") + text


BYTES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "it is empty"),
    "a pickle": (pickle.dumps({"emb_params": [1.0]}), "pickled whatever its name says"),
    "a page": (b"<!DOCTYPE html><title>Sign in", "a web page"),
    "a header longer than the file": (header(2**60, {}), "cut short or damaged"),
    "a huge header": ((2**18).to_bytes(8, "little") + b" " * 2**18, "a header of 262,144 bytes"),
    "weights that are not there": (
        header(0, {"emb_params": {"dtype": "F32", "shape": [1, 32], "data_offsets": [0, 128]}}),
        "cut short",
    ),
    "an enormous shape": (
        header(0, {"emb_params": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 128]}}) + bytes(128),
        "cannot be loaded",
    ),
}


@pytest.mark.parametrize("case", BYTES)
def test_hostile_files_are_refused(case: str, tmp_path: Path) -> None:
    data, said = BYTES[case]
    path = tmp_path / "style.safetensors"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=said):
        read_embedding("style", path)


@fuzz(150)
@given(st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=4)), min_size=1, max_size=4))
def test_damaged_files_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, bytes]]
) -> None:
    data = bytearray(save({"emb_params": numbers(2)}))
    for at, put in changes:
        data[at % len(data) : at % len(data) + len(put)] = put
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(data)
    try:
        assert all(vectors.isfinite().all() for vectors in read_embedding("style", path).vectors)
    except ModelError as error:
        assert len(str(error)) < 500


def test_pickles_and_files_that_are_not_there_are_refused(tmp_path: Path) -> None:
    for name in ("style.pt", "style.bin", "style.ckpt"):
        (tmp_path / name).write_bytes(pickle.dumps({}))
        with pytest.raises(ModelError, match="is pickled, and so could run code"):
            read_embedding("style", tmp_path / name)
    with pytest.raises(ModelError, match="cannot be read: No such file"):
        read_embedding("style", tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize("name", ["", "a b", "a(b)", "a:b", "-a", "x" * 65, "../x", "a\nb", "<a>"])
def test_a_name_that_no_prompt_could_have_is_refused(name: str, saved: Callable[..., Path]) -> None:
    with pytest.raises(InvalidInput, match="cannot be the name of an embedding"):
        read_embedding(name, saved(emb_params=numbers(1)))


def test_a_folder_gives_what_can_be_read_of_it(saved: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    folder = saved("bad-hands-5.safetensors", emb_params=numbers(2)).parent
    saved("nan.safetensors", emb_params=torch.full((1, WIDTH), torch.nan))
    saved("an odd name.safetensors", emb_params=numbers(1))
    (folder / "notes.txt").touch()
    other = saved("other.safetensors", emb_params=numbers(1, seed=1))

    found = load_embeddings([f"mine={other}", f"Bad-Hands-5={other}"], [folder])
    assert {(one.name, one.count) for one in found} == {("Bad-Hands-5", 1), ("other", 1), ("mine", 1)}
    assert len(caplog.records) == 2 and "numbers that are not finite" in caplog.text
    for wrong in ("mine", "mine=", str(other)):
        with pytest.raises(FarmError, match=r"--embedding: .* is not NAME=FILE"):
            load_embeddings([wrong], [])
    with pytest.raises(InvalidInput, match=r"--embedding: 'Mine' is there twice"):
        load_embeddings([f"mine={other}", f"Mine={other}"], [])
    with pytest.raises(InvalidInput, match=r"--embeddings: .* cannot be read"):
        load_embeddings([], [folder / "nowhere"])
