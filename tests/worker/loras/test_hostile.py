"""LoRA files that are damaged, made up, or for something else: refused in one line, or told to be used in part."""

from __future__ import annotations

import json
import logging
import pickle
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save as as_bytes
from torch import Tensor

from farm.errors import ModelError
from farm.lora_keys import UNET
from tests.fuzzing import bounded_memory, fuzz
from tests.worker.loras.written import Named, diffusers, draw, kohya, numbers, original_names, save
from worker.diffusion.adapters import Adapter
from worker.loras import reading
from worker.loras.reading import read_adapter
from worker.models.model import LoadedModel

NAME = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
DOWN, UP, ALPHA, DORA = (f"{NAME}.{part}" for part in ("lora_down.weight", "lora_up.weight", "alpha", "dora_scale"))
GOOD: Named = {DOWN: numbers(4, 32, seed=1), UP: numbers(32, 4, seed=2), ALPHA: torch.tensor(4.0)}


def read(path: Path, model: LoadedModel) -> Adapter:
    return read_adapter(path, "style", "0" * 64, model)


def refused(path: Path, model: LoadedModel) -> str:
    began = time.monotonic()
    with pytest.raises(ModelError) as caught, bounded_memory():
        read(path, model)
    assert time.monotonic() - began < 20
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 700
    return said


WRONG: dict[str, tuple[Mapping[str, Tensor | None], str]] = {
    "no up": ({UP: None}, "it has down and no up"),
    "no down": ({DOWN: None}, "it has up and no down"),
    "a magnitude alone": ({UP: None, DOWN: None, DORA: torch.ones(32, 1)}, "and no "),
    "halves of unlike ranks": ({UP: numbers(32, 5, seed=1)}, r"up has the shape \(32, 5\), where the layer has"),
    "another input": ({DOWN: numbers(4, 31, seed=1)}, r"down has the shape \(4, 31\)"),
    "another output": ({UP: numbers(31, 4, seed=1)}, r"up has the shape \(31, 4\)"),
    "a kernel for a linear layer": ({DOWN: numbers(4, 32, 3, 3, seed=1)}, r"down has the shape \(4, 32, 3, 3\)"),
    "a single number": ({DOWN: torch.tensor(1.0)}, r"down has the shape \(\)"),
    "a row": ({UP: torch.ones(32)}, r"up has the shape \(32,\)"),
    "a rank of none": ({DOWN: torch.ones(0, 32), UP: torch.ones(32, 0)}, r"down has the shape \(0, 32\)"),
    "a rank of many": ({DOWN: torch.ones(4_097, 32), UP: torch.ones(32, 4_097)}, "a rank of 4,097 is more than 4,096"),
    "not a number": ({DOWN: torch.full((4, 32), torch.nan)}, "numbers that are not finite"),
    "infinite": ({UP: torch.full((32, 4), torch.inf)}, "numbers that are not finite"),
    "infinite once halved": (
        {UP: torch.full((32, 4), 1e300, dtype=torch.float64)},
        "numbers that are not finite",
    ),
    "infinite by its alpha": (
        {UP: torch.full((32, 4), 3e38), ALPHA: torch.tensor(1e9)},
        "too large for a number",
    ),
    "an alpha of nothing": ({ALPHA: torch.tensor(0.0)}, "its alpha is 0"),
    "an alpha that is none": ({ALPHA: torch.tensor(torch.nan)}, "its alpha is nan"),
    "an endless alpha": ({ALPHA: torch.tensor(torch.inf)}, "its alpha is inf"),
    "an alpha of many": ({ALPHA: torch.ones(2)}, r"its alpha has the shape \(2,\)"),
    "an alpha of none": ({ALPHA: torch.ones(0)}, r"its alpha has the shape \(0,\)"),
    "an alpha that is no number": ({ALPHA: torch.tensor([True])}, "is of BOOL, and not"),
    "whole numbers": ({DOWN: torch.ones((4, 32), dtype=torch.int8)}, "is of I8, and not of float32"),
    "eight bits": ({DOWN: torch.ones((4, 32)).to(torch.float8_e4m3fn)}, "is of F8_E4M3, and not"),
    "two forms": ({f"{NAME}.lokr_w1": torch.ones(2, 2)}, "do not go together"),
    "half a LoHa": ({UP: None, DOWN: None, f"{NAME}.hada_w1_a": torch.ones(32, 4)}, "and no hada_w1_b"),
    "a LoKr that does not part": (
        {UP: None, DOWN: None, f"{NAME}.lokr_w1": torch.ones(5, 2), f"{NAME}.lokr_w2": torch.ones(4, 16)},
        "lokr_w1 is 5×2, by which 32×32 cannot be parted",
    ),
    "norms of another layer": ({DORA: torch.ones(31, 1)}, r"dora_scale has the shape \(31, 1\)"),
    "norms that are none": ({DORA: torch.full((32, 1), torch.nan)}, "numbers that are not finite"),
    "norms twice": (
        {DORA: torch.ones(32, 1), f"{NAME}.lora_magnitude_vector": torch.ones(32)},
        "it has both magnitude and dora_scale",
    ),
    "a layer twice": (
        {"lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q.lora_up.weight": torch.ones(32, 4)},
        r"has both 'lora_unet_.*', which are for the up of one layer",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_is_refused_in_one_line(case: str, sd: LoadedModel, tmp_path: Path) -> None:
    changes, said = WRONG[case]
    tensors = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    path = save(tmp_path / "x.safetensors", {**tensors, **_another()})
    assert re.search(f"the LoRA 'style' .*{said}", refused(path, sd))


def test_a_lora_of_another_model_is_told_by_the_first_weight_that_does_not_fit(sd: LoadedModel, tmp_path: Path) -> None:
    wider = {DOWN: numbers(4, 320, seed=1), UP: numbers(320, 4, seed=2), ALPHA: torch.tensor(4.0)}
    said = refused(save(tmp_path / "x.safetensors", wider), sd)
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q of the UNet"
    shapes = f"up has the shape (320, 4), where the layer has (32, 4); it is '{UP}' in the file"
    hint = (
        "use it with a model like the one that it was trained for, or leave it out; 'farm loras' says what each is for"
    )
    assert said == f"the LoRA 'style' does not fit the model '{sd.name}', at {layer}: {shapes} ({hint})"


def _another() -> Named:
    """A layer that is well, before the one that is not."""
    return {"conv_in.lora_A.weight": numbers(1, 4, 3, 3, seed=1), "conv_in.lora_B.weight": numbers(32, 1, seed=2)}


def header(length: int, content: Mapping[str, Any]) -> bytes:
    text = json.dumps(content).encode()
    return (length or len(text)).to_bytes(8, "little") + text


WHOLE = as_bytes(GOOD)
ENORMOUS = {DOWN: {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 128]}}
BYTES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "it is empty"),
    "cut short": (WHOLE[:-4], "cut short"),
    "cut in its header": (WHOLE[:40], "cut short or damaged"),
    "a pickle": (pickle.dumps({}), "pickled whatever its name says"),
    "a page": (b"<!DOCTYPE html><title>Sign in", "a web page"),
    "a header longer than the file": (header(2**60, {}), "cut short or damaged"),
    "a header bomb": ((2**24 + 1).to_bytes(8, "little") + b"[" * (2**24 + 1), "a header of 16,777,217 bytes"),
    "an enormous shape": (header(0, ENORMOUS) + bytes(128), "cannot be loaded"),
}


@pytest.mark.parametrize("case", BYTES)
def test_damaged_files_are_refused(case: str, sd: LoadedModel, tmp_path: Path) -> None:
    data, said = BYTES[case]
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    assert said in refused(path, sd)


def test_pickles_and_files_that_are_not_there_are_refused(sd: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(pickle.dumps({}))
    assert "is pickled, and so could run code" in refused(tmp_path / "x.pt", sd)
    assert "cannot be read: No such file" in refused(tmp_path / "nowhere.safetensors", sd)


def test_files_and_factors_beyond_the_bounds_are_refused(
    sd: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = save(tmp_path / "small.safetensors", GOOD)
    monkeypatch.setattr(reading, "MAX_BYTES", 1_000)
    assert "bytes, more than 1,000" in refused(small, sd)
    monkeypatch.setattr(reading, "MAX_BYTES", small.stat().st_size)
    read(small, sd)
    monkeypatch.setattr(reading, "_NUMBER", 400)
    assert "would take more than" in refused(small, sd)
    monkeypatch.setattr(reading, "_MAX_WEIGHTS", 2)
    assert "names 3 weights, more than 2" in refused(small, sd)


def test_a_little_that_is_for_no_layer_is_told(
    sd: LoadedModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    strange = {"lora_unet_no_such_layer.alpha": torch.tensor(1.0), "x\n\x1b[2J": torch.ones(1)}
    with caplog.at_level(logging.WARNING):
        adapter = read(save(tmp_path / "x.safetensors", {**GOOD, **strange}), sd)
    assert len(adapter.unet) == 1
    (record,) = caplog.records
    assert record.getMessage() == (
        "the LoRA 'style' is used in part with the model 'tiny': 2 of its 5 weights are for no layer of it: "
        "'lora_unet_no_such_layer.alpha', 'x  [2J'"
    )
    assert adapter.unfit == record.getMessage().partition("'tiny': ")[2]
    assert read(save(tmp_path / "whole.safetensors", GOOD), sd).unfit is None


def test_an_alpha_whose_layer_was_taken_out_does_no_harm(sd: LoadedModel, tmp_path: Path) -> None:
    adapter = read(save(tmp_path / "x.safetensors", {**GOOD, "lora_unet_conv_in.alpha": torch.tensor(1.0)}), sd)
    assert list(adapter.unet) == ["down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"]


def of_flux(_: LoadedModel, __: LoadedModel, ___: Path) -> Named:
    return {"lora_unet_double_blocks_0_img_attn_proj.lora_down.weight": torch.ones(4, 8)}


def of_an_encoder_that_it_lacks(_: LoadedModel, xl: LoadedModel, __: Path) -> Named:
    return kohya([one for one in draw(xl) if one.layer.owner == "text_encoder_2"], two=True)


def of_sdxl(_: LoadedModel, xl: LoadedModel, folder: Path) -> Named:
    drawn = draw(xl)
    return kohya(drawn, two=True, called=original_names(folder, drawn))


def of_words(_: LoadedModel, __: LoadedModel, ___: Path) -> Named:
    return {"emb_params": torch.ones(2, 32)}


def of_nothing(_: LoadedModel, __: LoadedModel, ___: Path) -> Named:
    return {}


OTHERS: dict[Callable[[LoadedModel, LoadedModel, Path], Named], str] = {
    of_flux: "is not for the model 'tiny': 1 of its 1 weights are for no layer of it: 'lora_unet_double_blocks",
    of_an_encoder_that_it_lacks: "weights are for no layer of it: 'lora_te2_text_model",
    of_sdxl: "'style' is ",
    of_words: "is a textual inversion",
    of_nothing: "is a file without any weights",
}


@pytest.mark.parametrize("made", OTHERS)
def test_what_is_for_another_model_is_refused(
    made: Callable[[LoadedModel, LoadedModel, Path], Named],
    sd: LoadedModel,
    xl: LoadedModel,
    xl_folder: Path,
    tmp_path: Path,
) -> None:
    path = save(tmp_path / "x.safetensors", made(sd, xl, xl_folder))
    assert OTHERS[made] in refused(path, sd)


SETTINGS: dict[str, tuple[str, str]] = {
    "no JSON": ("{", "cannot be read"),
    "a list": ("[]", "it is no JSON object"),
    "a bomb": ("[" * 100_000, "cannot be read"),
    "a word": ('{"unet.lora_alpha": "8"}', "its alpha is '8'"),
    "not a number": ('{"unet.lora_alpha": NaN}', "its alpha is nan"),
    "enormous": (f'{{"unet.lora_alpha": {"9" * 400}}}', "its alpha is enormous"),
    "a pattern that runs for ever": (
        json.dumps({"unet.lora_alpha": 1, "unet.alpha_pattern": {"(a+)+$": 1}}),
        "by the pattern",
    ),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_that_cannot_be_are_refused(case: str, sd: LoadedModel, tmp_path: Path) -> None:
    settings, said = SETTINGS[case]
    drawn = [one for one in draw(sd) if one.layer.owner == UNET][:2]
    path = save(tmp_path / "x.safetensors", diffusers(drawn), {"lora_adapter_metadata": settings})
    assert said in refused(path, sd)


@pytest.mark.long
@fuzz(150)
@given(st.lists(st.tuples(st.integers(0, 2_000), st.binary(min_size=1, max_size=4)), min_size=1, max_size=4))
def test_files_with_other_bytes_are_read_or_refused(
    sd: LoadedModel, tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, bytes]]
) -> None:
    data = bytearray(WHOLE)
    for at, put in changes:
        data[at % len(data) : at % len(data) + len(put)] = put
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(data)
    try:
        factors = read(path, sd).unet.values()
    except ModelError as error:
        assert len(str(error)) < 700
    else:
        assert all(bool(one.up.isfinite().all() and one.down.isfinite().all()) for one in factors)
