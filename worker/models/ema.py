"""Averaged weights: beside a UNet, or in its place, a file may hold the average of its training (EMA), under names that
have lost their dots."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from worker.models.kinds import UNET

_AVERAGED = "model_ema.diffusion_model"
_BLOCK = r"(?:input|output)_blocks\d{1,2}(?=\d)"  # and then the layer in it, of one digit
_WORDS = (
    "time_embed|label_emb|middle_block|in_layers|out_layers|emb_layers|skip_connection|transformer_blocks|proj_in|"
    "proj_out|attn[12]|norm[123]|norm|to_[qkv]|to_out|ff|net|proj|conv|op|out|weight|bias"
)
_PIECE = re.compile(rf"{_BLOCK}|{_WORDS}|\d")
_NUMBER = re.compile(r"(?<=blocks)(?=\d)")


def averaged_unet(keys: Collection[str]) -> Mapping[str, str]:
    """Where the average of each weight of the UNet is, by the name that the weight itself has. Empty without any."""
    found = ((key, _PIECE.findall(key.removeprefix(_AVERAGED))) for key in keys if key.startswith(_AVERAGED))
    return {UNET + _NUMBER.sub(".", ".".join(pieces)): key for key, pieces in found}
