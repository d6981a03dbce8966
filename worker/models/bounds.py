"""Bounds on the numbers of a model's configuration, far above those of Stable Diffusion 2.

A configuration decides how many layers are made and how large they are, before any weight is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from farm.errors import ModelError

_CHANNELS, _LEVELS, _ANY = 8_192, 8, 1_000_000

_MOST: dict[str, int] = {
    "layers_per_block": 8,
    "transformer_layers_per_block": 32,
    "reverse_transformer_layers_per_block": 32,
    "block_out_channels": _CHANNELS,
    "cross_attention_dim": _CHANNELS,
    "attention_head_dim": 1_024,
    "num_attention_heads": 1_024,
    "norm_num_groups": 1_024,
    "in_channels": 64,
    "out_channels": 64,
    "latent_channels": 64,
    "conv_in_kernel": 15,
    "conv_out_kernel": 15,
    "num_class_embeds": 10_000,
    "time_embedding_dim": 65_536,
    "addition_time_embed_dim": _CHANNELS,
    "encoder_hid_dim": _CHANNELS,
    "projection_class_embeddings_input_dim": 65_536,
    "hidden_size": _CHANNELS,
    "intermediate_size": 65_536,
    "projection_dim": _CHANNELS,
    "num_hidden_layers": 96,
    "max_position_embeddings": 4_096,
    "vocab_size": 500_000,
}
"""The largest number under each key, alone or in a list; every other number is at most a million."""

_PER_LEVEL = ("block_out_channels", "down_block_types", "up_block_types")


def check_numbers(name: str, component: str, config: Mapping[str, Any]) -> None:
    """Raise `ModelError` if a number in a component's configuration is beyond reason, or a list of levels is."""
    for key, value in config.items():
        most = _MOST.get(key, _ANY)
        for number in _numbers(value):
            if not abs(number) <= most or (key in _MOST and number < 1):  # so put that NaN is refused
                raise ModelError(
                    f"the {component} of the model '{name}' says {key} = {number!r:.40}",
                    hint=f"models have {'1 to' if key in _MOST else 'at most'} {most:,}",
                )
        if key in _PER_LEVEL and isinstance(value, list) and not 1 <= len(value) <= _LEVELS:
            raise ModelError(
                f"the {component} of the model '{name}' has {len(value):,} {key}", hint=f"models have 1 to {_LEVELS}"
            )


def _numbers(value: Any) -> Iterator[float]:
    """All numbers in a value of JSON, however deep."""
    waiting = [value]
    while waiting:
        match waiting.pop():
            case bool():
                pass
            case int() | float() as number:
                yield number
            case list() as items:
                waiting += items
            case dict() as items:
                waiting += items.values()
