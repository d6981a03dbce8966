"""What a LoRA file is, told without PyTorch, and what is refused as something else."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given

from farm.bucket.models import Kind
from farm.client import lora_files
from farm.client.lora_files import look_at
from farm.errors import InvalidInput
from farm.lora_keys import Key, parse
from tests.fuzzing import fuzz, spoilt
from tests.models_on_disk import ORIGINAL, write_weights

Shapes = dict[str, tuple[int, ...]]

BLOCK = "down_blocks.1.attentions.0.transformer_blocks.0"
KOHYA = f"lora_unet_{BLOCK.replace('.', '_')}"


def pair(name: str, wide: int, *, rank: int = 4, tall: int = 640) -> Shapes:
    return {f"{name}.lora_down.weight": (rank, wide), f"{name}.lora_up.weight": (tall, rank), f"{name}.alpha": ()}


LAYER = BLOCK.replace(".", "_")
NAMES: dict[str, Key] = {
    f"{KOHYA}_attn2_to_k.lora_down.weight": Key("unet", f"{LAYER}_attn2_to_k", "down"),
    f"{KOHYA}_attn1_to_out_0.lora_up.weight": Key("unet", f"{LAYER}_attn1_to_out_0", "up"),
    f"{KOHYA}_ff_net_2.alpha": Key("unet", f"{LAYER}_ff_net_2", "alpha"),
    f"lora_unet.{BLOCK}.ff.net.2.alpha": Key("unet", f"{LAYER}_ff_net_2", "alpha"),
    "lora_unet_input_blocks_3_0_op.lora_mid.weight": Key("unet", "input_blocks_3_0_op", "lora_mid"),
    "lora_te_text_model_encoder_layers_0_mlp_fc1.dora_scale": Key(
        "text_encoder", "text_model_encoder_layers_0_mlp_fc1", "dora_scale"
    ),
    "lora_te1_text_model_encoder_layers_0_mlp_fc1.hada_w1_a": Key(
        "text_encoder", "text_model_encoder_layers_0_mlp_fc1", "hada_w1_a"
    ),
    "lora_te2_text_projection.lokr_w2": Key("text_encoder_2", "text_projection", "lokr_w2"),
    f"unet.{BLOCK}.attn2.to_k.lora_A.weight": Key("unet", f"{LAYER}_attn2_to_k", "down"),
    f"unet.{BLOCK}.attn2.to_k.lora_B.default.weight": Key("unet", f"{LAYER}_attn2_to_k", "up"),
    f"unet.{BLOCK}.attn2.to_k.lora.down.weight": Key("unet", f"{LAYER}_attn2_to_k", "down"),
    f"unet.{BLOCK}.attn2.processor.to_out_lora.up.weight": Key("unet", f"{LAYER}_attn2_to_out_0", "up"),
    f"{BLOCK}.attn2.processor.to_v_lora.down.weight": Key("unet", f"{LAYER}_attn2_to_v", "down"),
    "text_encoder.text_model.encoder.layers.0.self_attn.to_out_lora.up.weight": Key(
        "text_encoder", "text_model_encoder_layers_0_self_attn_out_proj", "up"
    ),
    "text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.down.weight": Key(
        "text_encoder_2", "text_model_encoder_layers_0_self_attn_q_proj", "down"
    ),
    f"base_model.model.{BLOCK}.attn2.to_k.lora_magnitude_vector": Key("unet", f"{LAYER}_attn2_to_k", "magnitude"),
    "base_model.model.text_model.encoder.layers.0.mlp.fc1.lora_A.weight": Key(
        "text_encoder", "text_model_encoder_layers_0_mlp_fc1", "down"
    ),
    "base_model.model.unet.conv_in.lora_magnitude_vector.default.weight": Key("unet", "conv_in", "magnitude"),
    "diffusion_model.output_blocks.5.2.conv.lora_A.weight": Key("unet", "output_blocks_5_2_conv", "down"),
    "lycoris_mid_block_attentions_0_proj_in.lokr_t2": Key("unet", "mid_block_attentions_0_proj_in", "lokr_t2"),
}


FLOATS: dict[str, tuple[int, int, int]] = {
    "F16": (2, 0x7C00, 0x7E01),
    "BF16": (2, 0x7F80, 0x7FC1),
    "F32": (4, 0x7F800000, 0x7FC00001),
}
"""Of each kind: its bytes, infinity, and one that is not a number. One less than infinity is the largest number."""


def of_numbers(path: Path, kind: str, data: bytes) -> Path:
    """A LoRA in which one weight has such numbers, and another after it."""
    size = FLOATS[kind][0]
    up, down = f"{KOHYA}_attn2_to_k.lora_up.weight", f"{KOHYA}_attn2_to_k.lora_down.weight"
    zeros = bytes(4 * 768 * size)
    header = {
        up: {"dtype": kind, "shape": [len(data) // size // 4, 4], "data_offsets": [0, len(data)]},
        down: {"dtype": kind, "shape": [4, 768], "data_offsets": [len(data), len(data) + len(zeros)]},
    }
    said = json.dumps(header).encode()
    path.write_bytes(len(said).to_bytes(8, "little") + said + data + zeros)
    return path


@pytest.mark.parametrize("sign", [0, 1])
@pytest.mark.parametrize("kind", FLOATS)
def test_numbers_that_are_none_are_found(tmp_path: Path, kind: str, sign: int) -> None:
    size, infinite, none = FLOATS[kind]
    negative = sign << (8 * size - 1)
    largest, least, zero = ((bits | negative).to_bytes(size, "little") for bits in (infinite - 1, 1, 0))
    assert look_at(str(of_numbers(tmp_path / "fine.safetensors", kind, (largest + least + zero + least) * 2))).unet
    for bits in (infinite, none):
        for before in (0, 7, 600_003):  # the last beyond what is read at once
            data = largest * before + (bits | negative).to_bytes(size, "little") + least * 8
            file = of_numbers(tmp_path / "bad.safetensors", kind, data[: len(data) // size // 4 * 4 * size])
            with pytest.raises(InvalidInput, match=r"is damaged: '.*lora_up.weight' has numbers that are not finite"):
                look_at(str(file))


@pytest.mark.parametrize("name", NAMES)
def test_names_of_all_programs_say_the_same(name: str) -> None:
    assert parse(name) == NAMES[name]


@pytest.mark.parametrize("name", ["", "alpha", ".alpha", "lora_unet_.alpha", "lora_down.weight", f"{KOHYA}.w_norm"])
def test_a_name_that_says_no_layer_or_no_part_says_nothing(name: str) -> None:
    assert parse(name) is None


TO_K = f"{KOHYA}_attn2_to_k"
KINDS: dict[str, tuple[Shapes, Mapping[str, str], Kind]] = {
    "texts of width 768": (pair(TO_K, 768), {}, "sd1"),
    "texts of width 1024": (pair(TO_K, 1024), {}, "sd2"),
    "texts of width 2048": (pair(TO_K, 2048), {"ss_base_model_version": "sd_v1"}, "sdxl"),
    "texts of a width of its own": (pair(TO_K, 32), {"ss_base_model_version": "sd_v1"}, "sd"),
    "two widths": (pair(TO_K, 768) | pair(f"{KOHYA}_attn2_to_v", 1024), {}, "sd"),
    "a LoHa": ({f"{TO_K}.hada_w1_a": (640, 4), f"{TO_K}.hada_w1_b": (4, 2048)}, {}, "sdxl"),
    "a LoKr": ({f"{TO_K}.lokr_w1": (8, 24), f"{TO_K}.lokr_w2_a": (80, 4), f"{TO_K}.lokr_w2_b": (4, 32)}, {}, "sd1"),
    "a LoKr of full matrices": ({f"{TO_K}.lokr_w1": (8, 32), f"{TO_K}.lokr_w2": (80, 32)}, {}, "sd2"),
    "a second text encoder": (pair("lora_te2_text_model_encoder_layers_0_mlp_fc1", 1280), {}, "sdxl"),
    "deep attention": (pair(f"{KOHYA[:-1]}7_ff_net_2", 2560), {}, "sdxl"),
    "sizes read": (pair("lora_unet_label_emb_0_0", 2816), {}, "sdxl"),
    "its trainer's word": (pair(f"{KOHYA}_ff_net_2", 2560), {"ss_base_model_version": "sd_v1"}, "sd1"),
    "another program's word": (
        pair(f"{KOHYA}_ff_net_2", 2560),
        {"modelspec.architecture": "stable-diffusion-v2-768-v/lora"},
        "sd2",
    ),
    "an old word": (pair(f"{KOHYA}_ff_net_2", 2560), {"ss_v2": "True"}, "sd2"),
    "a wide text encoder": (pair("lora_te_text_model_encoder_layers_0_self_attn_q_proj", 1024), {}, "sd2"),
    "a text encoder of both": (pair("lora_te_text_model_encoder_layers_0_self_attn_q_proj", 768), {}, "sd"),
    "nothing that tells": (pair(f"{KOHYA}_ff_net_2", 2560), {}, "sd"),
}


@pytest.mark.parametrize("case", KINDS)
def test_what_a_lora_is_for_is_told(tmp_path: Path, case: str) -> None:
    shapes, metadata, kind = KINDS[case]
    assert look_at(str(write_weights(tmp_path / "x.safetensors", shapes, metadata=metadata))).kind == kind


def test_what_is_in_a_lora_is_told(tmp_path: Path) -> None:
    shapes = {
        **pair(TO_K, 768, rank=16),
        **pair(f"{KOHYA}_attn1_to_q", 640, rank=8),
        **pair("lora_te_text_model_encoder_layers_0_mlp_fc1", 768, rank=8),
        "lora_te_text_model_embeddings.w_norm": (3,),
    }
    words = {"ss_output_name": "my\x1b[2Jstyle\n", "ss_base_model_version": "sd_v1", "ss_tag_frequency": "{" * 9_000}
    path = write_weights(tmp_path / "Style.SafeTensors", shapes, fill=7, metadata=words)

    lora = look_at(str(path))

    assert (lora.file.path, lora.size, lora.kind, lora.ranks) == (path, path.stat().st_size, "sd1", (8, 16))
    assert (lora.unet, lora.text) == (True, True)
    assert (lora.title, lora.base) == ("my [2Jstyle", "sd_v1")


def test_a_link_of_the_hub_s_cache_is_followed(tmp_path: Path) -> None:
    path = write_weights(tmp_path / ("0" * 64), pair(TO_K, 768))
    (tmp_path / "style.safetensors").symlink_to(path)
    assert look_at(str(tmp_path / "style.safetensors")).file.path == path


@pytest.mark.parametrize(
    ("name", "unet", "text"),
    [(TO_K, True, False), ("lora_te2_text_projection", False, True)],
)
def test_it_is_told_what_is_added_to(tmp_path: Path, name: str, unet: bool, text: bool) -> None:
    lora = look_at(str(write_weights(tmp_path / "x.safetensors", pair(name, 768), metadata={"ss_output_name": "None"})))
    assert (lora.unet, lora.text, lora.title, lora.base) == (unet, text, None, None)


def test_the_short_hash_is_of_the_weights_alone(tmp_path: Path) -> None:
    files = [
        write_weights(tmp_path / f"{word}.safetensors", pair(TO_K, 768), fill=3, metadata={"ss_output_name": word})
        for word in ("one", "another")
    ]
    weights = b"\x03" * (4 * 768 + 640 * 4 + 1)
    assert {look_at(str(file)).short_hash for file in files} == {hashlib.sha256(weights).hexdigest()[:12]}


@pytest.mark.parametrize(("said", "taken"), [("AB" * 32, True), ("ab" * 6, False), ("<script>", False), ("", False)])
def test_a_hash_that_its_trainer_wrote_is_taken_if_it_is_one(tmp_path: Path, said: str, taken: bool) -> None:
    path = write_weights(tmp_path / "x.safetensors", pair(TO_K, 768), metadata={"sshs_model_hash": said})
    assert (look_at(str(path)).short_hash == "ab" * 6) is taken


FLUX = "lora_unet_double_blocks_0_img_attn_proj"
OTHERS: dict[str, tuple[Shapes, str]] = {
    "Flux by kohya": (pair(FLUX, 3072), "is for Flux"),
    "Flux by diffusers": (
        {"transformer.single_transformer_blocks.0.attn.to_k.lora_A.weight": (4, 3072)},
        "is for Flux",
    ),
    "SD3 by kohya": (pair("lora_unet_joint_blocks_0_x_block_attn_proj", 1536), "is for Stable Diffusion 3"),
    "SD3 by diffusers": (
        {"transformer.transformer_blocks.0.attn.to_k.lora_A.weight": (4, 1536)},
        "is for Stable Diffusion 3",
    ),
    "something newer": (
        pair("diffusion_model.blocks.0.cross_attn.k", 1536),
        r"such as 'diffusion_model.blocks.0.cross_attn.k.alpha'",
    ),
    "a checkpoint": ({ORIGINAL: (320, 768), "first_stage_model.x": (1,)}, "is a whole checkpoint.*farm models add"),
    "a UNet": ({"conv_in.weight": (1,), "down_blocks.0.resnets.0.norm1.weight": (8,)}, "is a UNet, and no LoRA"),
    "a VAE": ({"decoder.conv_in.weight": (1,)}, r"is an autoencoder \(VAE\)"),
    "a text encoder": ({"text_model.embeddings.token_embedding.weight": (4, 4)}, "is a text encoder"),
    "a ControlNet": ({"controlnet_cond_embedding.conv_in.weight": (4, 4)}, "is a ControlNet"),
    "an IP-Adapter": ({"image_proj.proj.weight": (4, 4)}, "is an IP-Adapter"),
    "a motion LoRA": (
        {"down_blocks.0.motion_modules.0.x.processor.to_q_lora.down.weight": (4, 4)},
        "is a motion module",
    ),
    "A1111's embedding": ({"emb_params": (2, 768)}, "is a textual inversion.*--embedding"),
    "diffusers' embedding": ({"<my-style>": (768,)}, "is a textual inversion"),
    "an OFT": ({f"{TO_K}.oft_blocks": (4, 8, 8), f"{TO_K}.alpha": ()}, "is an OFT"),
    "an IA3": ({f"{TO_K}.weight": (640, 1), f"{TO_K}.on_input": ()}, "is an IA3"),
    "words": ({f"layer {number}": (1,) for number in range(9)}, "names such as 'layer 0', 'layer 1'"),
    "forged lines": ({f"x\n\x1b[2J{number}": (1,) for number in range(9)}, r"names such as 'x  \[2J0'"),
    "nothing": ({}, "has no weights"),
    "no numbers": ({**pair(TO_K, 768), f"{TO_K}.lora_up.weight": (640, 0)}, "to_k.lora_up.weight' has no numbers"),
    "a rank of a million": (pair(TO_K, 1, rank=1_000_000, tall=1), "a rank of 1,000,000 is more than 4,096"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_is_no_lora_is_told(tmp_path: Path, case: str) -> None:
    shapes, said = OTHERS[case]
    with pytest.raises(InvalidInput, match=f"FILE: .*{said}") as caught:
        look_at(str(write_weights(tmp_path / "x.safetensors", shapes)))
    assert "\n" not in str(caught.value)


def test_files_of_other_sorts_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = write_weights(tmp_path / "whole.safetensors", pair(TO_K, 768)).read_bytes()
    contents = {
        "old.pt": (pickle.dumps({}), "is pickled, which can run code"),
        "disguised.safetensors": (pickle.dumps({}), "is pickled whatever its name says"),
        "zipped.safetensors": (b"PK\x03\x04", "is pickled whatever its name says"),
        "notes.txt": (b"hello", "is no .safetensors file"),
        "empty.safetensors": (b"", "is empty"),
        "page.safetensors": (b"<!doctype html>", "is a web page, not the file itself"),
        "cut.safetensors": (whole[:-1], "is cut short or damaged"),
        "long.safetensors": ((2**24 + 1).to_bytes(8, "little") + b" " * (2**24 + 1), "a header of 16,777,217 bytes"),
    }
    for name, (data, said) in contents.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InvalidInput, match=f"FILE: .*{said}"):
            look_at(str(tmp_path / name))
    for source, said in {str(tmp_path): "is a folder", str(tmp_path / "nowhere.safetensors"): "No such file"}.items():
        with pytest.raises(InvalidInput, match=said):
            look_at(source)
    monkeypatch.setattr(lora_files, "MAX_LORA_BYTES", 1_000)
    with pytest.raises(InvalidInput, match=r"has [\d,]+ bytes, more than 1,000.*is it a whole model"):
        look_at(str(tmp_path / "whole.safetensors"))


@pytest.mark.long
def test_a_header_of_many_weights_is_refused(tmp_path: Path) -> None:
    def weight(number: int) -> dict[str, object]:
        return {"dtype": "U8", "shape": [1], "data_offsets": [number, number + 1]}

    said = json.dumps({f"{number}.alpha": weight(number) for number in range(50_001)}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(said).to_bytes(8, "little") + said + bytes(50_001))
    with pytest.raises(InvalidInput, match="names 50,001 weights"):
        look_at(str(path))


WELL = {
    "__metadata__": {"ss_output_name": "style", "ss_base_model_version": "sd_v1", "sshs_model_hash": "0" * 64},
    f"{TO_K}.lora_down.weight": {"dtype": "U8", "shape": [4, 768], "data_offsets": [0, 3072]},
    f"{TO_K}.lora_up.weight": {"dtype": "U8", "shape": [640, 4], "data_offsets": [3072, 5632]},
}


@pytest.mark.long
@fuzz(200)
@given(spoilt(WELL))
def test_headers_of_strangers_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, document: object) -> None:
    said = json.dumps(document).encode()
    path = tmp_path_factory.getbasetemp() / "spoilt.safetensors"
    path.write_bytes(len(said).to_bytes(8, "little") + said + bytes(5632))
    try:
        lora = look_at(str(path))
    except InvalidInput as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 1_000
    else:
        assert len(lora.short_hash) == 12
        assert (lora.title or "").isprintable()
