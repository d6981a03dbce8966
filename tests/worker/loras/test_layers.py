"""The names of layers, of models of full size without any numbers in them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from farm.lora_keys import UNET, parse
from tests.worker.models.headers import empty_modules
from tests.worker.models.original_layout import UNET as ORIGINALLY
from tests.worker.models.original_layout import original_unet, read_config
from worker.diffusion.cross_attention import cache_cross_attention
from worker.families.every import family_of
from worker.loras.layers import layers_of
from worker.models.architecture import SHIPPED
from worker.models.model import LoadedModel


def empty_model(architecture: str) -> LoadedModel:
    """What a LoRA is read for: a UNet and text encoders."""
    modules = empty_modules(architecture)
    family = family_of(read_config(SHIPPED / architecture, "unet"))
    encoders = tuple(SimpleNamespace(module=modules[part.folder]) for part in family.encoders)
    cache_cross_attention(modules["unet"])
    return cast(LoadedModel, SimpleNamespace(unet=modules["unet"], family=family, encoders=encoders))


SDXL = {
    "lora_unet_input_blocks_0_0": "conv_in",
    "lora_unet_input_blocks_1_0_in_layers_2": "down_blocks.0.resnets.0.conv1",
    "lora_unet_input_blocks_3_0_op": "down_blocks.0.downsamplers.0.conv",
    "lora_unet_input_blocks_4_0_skip_connection": "down_blocks.1.resnets.0.conv_shortcut",
    "lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_k": (
        "down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k.projection"
    ),
    "lora_unet_input_blocks_8_1_proj_out": "down_blocks.2.attentions.1.proj_out",
    "lora_unet_middle_block_1_transformer_blocks_9_ff_net_0_proj": (
        "mid_block.attentions.0.transformer_blocks.9.ff.net.0.proj"
    ),
    "lora_unet_middle_block_2_out_layers_3": "mid_block.resnets.1.conv2",
    "lora_unet_output_blocks_0_0_emb_layers_1": "up_blocks.0.resnets.0.time_emb_proj",
    "lora_unet_output_blocks_2_2_conv": "up_blocks.0.upsamplers.0.conv",
    "lora_unet_output_blocks_5_1_transformer_blocks_0_attn1_to_out_0": (
        "up_blocks.1.attentions.2.transformer_blocks.0.attn1.to_out.0"
    ),
    "lora_unet_out_2": "conv_out",
    "lora_unet_time_embed_0": "time_embedding.linear_1",
    "lora_unet_label_emb_0_2": "add_embedding.linear_2",
    "lora_te1_text_model_encoder_layers_11_self_attn_q_proj": "encoder.layers.11.self_attn.q_proj",
    "lora_te2_text_model_encoder_layers_31_mlp_fc2": "text_model.encoder.layers.31.mlp.fc2",
    "lora_te2_text_projection": "text_projection",
}
SD = {
    "lora_unet_input_blocks_11_0_in_layers_2": "down_blocks.3.resnets.1.conv1",
    "lora_unet_output_blocks_2_1_conv": "up_blocks.0.upsamplers.0.conv",
    "lora_unet_output_blocks_11_1_proj_in": "up_blocks.3.attentions.2.proj_in",
    "lora_unet_down_blocks_2_downsamplers_0_conv": "down_blocks.2.downsamplers.0.conv",
    "lora_te_text_model_encoder_layers_0_self_attn_out_proj": "encoder.layers.0.self_attn.out_proj",
}


@pytest.mark.long
@pytest.mark.parametrize(("architecture", "names"), [("sd1", SD), ("sd2", SD), ("sdxl", SDXL)])
def test_every_layer_of_a_published_model_has_its_names(architecture: str, names: dict[str, str]) -> None:
    model = empty_model(architecture)
    layers = layers_of(model)

    for name, path in names.items():
        key = parse(f"{name}.alpha")
        assert key is not None
        found = layers[key.owner, key.layer]
        inside: Any = found.path.removeprefix("text_model.") if found.owner != UNET else found.path
        assert inside == (path.removeprefix("text_model.") if found.owner != UNET else path)

    own = {layer.name for layer in layers.values() if layer.owner == UNET}
    original = original_unet({f"{name}.weight": torch.tensor(0) for name in own}, model.unet.config)
    for name, renamed in zip(own, original, strict=True):
        called = renamed.removeprefix(ORIGINALLY).removesuffix(".weight").replace(".", "_")
        assert layers[UNET, called].name == name
        assert layers[UNET, name.replace(".", "_")].name == name
    for layer in layers.values():
        if layer.owner == UNET:
            assert model.unet.get_submodule(layer.path).weight is layer.weight
