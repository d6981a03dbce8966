"""Files that PEFT itself makes of a UNet add what PEFT adds: an independent reading of every form that it knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model, get_peft_model_state_dict

from tests.worker.loras.written import applied, save
from worker.loras.reading import read_adapter
from worker.models.model import LoadedModel

TARGETS = ["to_q", "to_k", "proj_in", "conv1", "conv_shortcut", "linear_1", "conv"]
PLAIN: dict[str, Any] = {"r": 2, "target_modules": TARGETS}
LYCORIS = {**PLAIN, "alpha": 2, "init_weights": False}

CONFIGS: dict[str, Any] = {
    "LoRA": LoraConfig(**PLAIN, lora_alpha=2, init_lora_weights=False),
    "LoHa": LoHaConfig(**LYCORIS),
    "LoHa in Tucker's form": LoHaConfig(**LYCORIS, use_effective_conv2d=True),
    "LoKr": LoKrConfig(**LYCORIS),
    "LoKr of two products": LoKrConfig(**{**LYCORIS, "r": 1, "alpha": 1}, decompose_both=True),
    "LoKr in Tucker's form": LoKrConfig(**LYCORIS, use_effective_conv2d=True),
    "LoKr of full matrices": LoKrConfig(**{**LYCORIS, "r": 64, "alpha": 64}),
}


@pytest.mark.long
@pytest.mark.parametrize("case", CONFIGS)
def test_what_peft_makes_is_read_as_peft_adds_it(case: str, sd: LoadedModel, sd_folder: Path, tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        trained: Any = get_peft_model(UNet2DConditionModel.from_pretrained(sd_folder / "unet"), CONFIGS[case])
        for parameter in trained.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3)
    path = save(tmp_path / "adapter_model.safetensors", get_peft_model_state_dict(trained))

    adapter = read_adapter(path, "style", "0" * 64, sd)

    changed = 0
    for name, layer in trained.base_model.model.named_modules():
        if not hasattr(layer, "get_delta_weight"):
            continue
        changed += 1
        weight, added = layer.get_base_layer().weight.detach(), layer.get_delta_weight("default").detach()
        factors = adapter.unet.get(name) or adapter.unet[f"{name}.projection"]
        assert (applied(weight, factors) - (weight + added)).abs().max() < 1e-5, name
        assert added.abs().max() > 1e-2, name
    assert changed == len(adapter.unet) > 20
