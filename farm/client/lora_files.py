"""What a LoRA file on this machine is, and whether it is one, as far as its header tells.

LoRA (Hu et al. 2021, arXiv:2106.09685) and its kin: LoCon, LoHa, LoKr, DoRA. A worker checks the numbers when it reads
the file for a model.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path

from farm import lora_keys
from farm.bucket.models import Kind
from farm.client.finite import not_finite
from farm.client.given import GivenFile
from farm.client.headers import Header, Shapes, read_header
from farm.errors import InvalidInput
from farm.keys import PICKLED_WEIGHTS, WEIGHTS
from farm.words import one_line

MAX_LORA_BYTES = 4 * 2**30
_MAX_HEADER_BYTES = 16 * 2**20
_MAX_WEIGHTS = 50_000
_LONGEST_WORD = 100
_HASH_LETTERS = 12
_FULL_HASH = re.compile(r"[0-9a-f]{64}")
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x04", b"\x80\x05")

_FIELD = "FILE"
_READ = "a LoRA, LoCon, LoHa, LoKr or DoRA of Stable Diffusion 1, 2 or XL is read"
_CONVERT = "look for the same as .safetensors"
_AS_A_MODEL = "'farm models add NAME=SOURCE' adds a model"
_AS_A_WORD = "'farm worker --embedding NAME=FILE' reads one"

Parts = Mapping[str, tuple[int, ...]]
"""The shapes of what is added to a layer, by part (see `farm.lora_keys.Key`)."""


@dataclass(frozen=True)
class LoraFile:
    """A LoRA file on this machine, by its header."""

    file: GivenFile
    header: Header = field(repr=False)
    size: int
    """In bytes."""
    kind: Kind
    """Of the models that it is for; `sd` where that cannot be told, or their widths are of none that is known."""
    ranks: tuple[int, ...]
    """Every rank that occurs, ascending. Empty if nothing in it has one, as in a LoKr of full matrices."""
    unet: bool
    text: bool
    """Whether it adds to a UNet, and to text encoders."""
    title: str | None
    """What its trainer called it (`ss_output_name`)."""
    base: str | None
    """What it was trained on, in its trainer's words (`ss_base_model_version`), such as `sdxl_base_v1-0`."""

    @cached_property
    def short_hash(self) -> str:
        """Twelve hexadecimal digits, by which A1111 names the file in pictures: its weights' SHA-256, header left out.

        All of the file may have to be read for that. Raises `InvalidInput` if it cannot be.
        """
        try:
            return _short_hash(self.file.path, self.header)
        except OSError as error:
            raise _unreadable(self.file, error) from error


def look_at(source: str | GivenFile) -> LoraFile:
    """The LoRA in the file `source`.

    Raises `InvalidInput` saying what the file is instead, or what is wrong with it, and what to do.
    """
    if isinstance(source, GivenFile):
        return _finite(look_at_header(source))
    path = Path(source).expanduser()
    try:
        return _finite(_looked_at(path.name.lower(), GivenFile.at(path.resolve(), _FIELD)))
    except (OSError, RuntimeError) as error:
        raise _unreadable(GivenFile.at(path, _FIELD), error) from error


def look_at_header(file: GivenFile) -> LoraFile:
    """The LoRA in a file of which no more than the header is looked at. Raises as `look_at` does."""
    return _looked_at(file.called.lower(), file)


def _finite(lora: LoraFile) -> LoraFile:
    if (name := not_finite(lora.file.path, lora.header)) is not None:
        raise lora.file.refused(
            f"is damaged: {_named([name])} has numbers that are not finite",
            hint="fetch it again; if it is so at its source, its training went wrong",
        )
    return lora


def _unreadable(file: GivenFile, error: Exception) -> InvalidInput:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return file.refused(f"cannot be read: {reason}")


def _looked_at(name: str, file: GivenFile) -> LoraFile:
    """The file of a name, which a link in the hub's cache may call otherwise."""
    if name.endswith(PICKLED_WEIGHTS):
        raise file.refused("is pickled, which can run code, and is never opened", hint=_CONVERT)
    if file.path.is_dir():
        raise file.refused("is a folder", hint="name the .safetensors file in it")
    with file.path.open("rb") as opened:
        if opened.read(4).startswith(_PICKLES):
            raise file.refused("is pickled whatever its name says, and so could run code", hint=_CONVERT)
    if not name.endswith(WEIGHTS):
        raise file.refused(f"is no {WEIGHTS} file", hint=_READ)
    if (size := file.path.stat().st_size) > MAX_LORA_BYTES:
        raise file.refused(f"has {size:,} bytes, more than {MAX_LORA_BYTES:,}", hint="is it a whole model?")
    header = read_header(file, most=_MAX_HEADER_BYTES)
    if len(header.shapes) > _MAX_WEIGHTS:
        raise file.refused(f"names {len(header.shapes):,} weights, and no LoRA has more than {_MAX_WEIGHTS:,}")
    layers = _layers(file, header.shapes)
    ranks = {rank for parts in layers.values() if (rank := _rank(parts)) is not None}
    if ranks and max(ranks) > lora_keys.MAX_RANK:
        raise file.refused(f"is damaged: a rank of {max(ranks):,} is more than {lora_keys.MAX_RANK:,}")
    return LoraFile(
        file=file,
        header=header,
        size=size,
        kind=_kind(header, layers),
        ranks=tuple(sorted(ranks)),
        unet=any(owner == lora_keys.UNET for owner, _ in layers),
        text=any(owner != lora_keys.UNET for owner, _ in layers),
        title=_word(header, "ss_output_name"),
        base=_word(header, "ss_base_model_version"),
    )


_Layers = Mapping[tuple[str, str], Parts]


def _layers(file: GivenFile, shapes: Shapes) -> _Layers:
    """What a file adds, by owner and layer. Raises `InvalidInput` if it is anything else than a LoRA for Stable
    Diffusion."""
    found: dict[tuple[str, str], dict[str, tuple[int, ...]]] = defaultdict(dict)
    unknown = []
    for name, shape in shapes.items():
        key = lora_keys.parse(name)
        if key is None or (key.owner == lora_keys.UNET and not _OF_SD.match(key.layer)):
            unknown.append(name)
        else:
            found[key.owner, key.layer][key.part] = shape
    if other := next(((what, hint) for fits, what, hint in _OTHERS if fits(shapes)), None):
        raise file.refused(f"is {other[0]}", hint=other[1])
    if empty := [name for name, shape in shapes.items() if 0 in shape]:
        raise file.refused(f"is damaged: {_named(empty)} has no numbers", hint="fetch it again")
    if len(unknown) * 2 >= len(shapes):
        said = f"its weights have names such as {_named(unknown)}" if unknown else "it has no weights"
        raise file.refused(f"is no LoRA for Stable Diffusion: {said}", hint=_READ)
    return found


def _named(names: list[str]) -> str:
    return ", ".join(repr(one_line(name)[:_LONGEST_WORD]) for name in islice(sorted(names), 2))


def _any(pattern: str) -> Callable[[Shapes], bool]:
    search = re.compile(pattern).search
    return lambda shapes: any(search(name) for name in shapes)


def _is_embedding(shapes: Shapes) -> bool:
    flat = all(len(shape) in (1, 2) for shape in shapes.values())
    return 0 < len(shapes) <= 4 and flat and all(lora_keys.parse(name) is None for name in shapes)


_FOR_ANOTHER = f"it goes with another architecture; {_READ}"
_OF_SD = re.compile(
    r"(down_blocks|mid_block|up_blocks|conv_in|conv_out|time_embedding|add_embedding)_"
    r"|(conv_in|conv_out)$|(input_blocks|middle_block|output_blocks|time_embed|label_emb|out)_\d"
)
_OTHERS: tuple[tuple[Callable[[Shapes], bool], str, str], ...] = (
    (_any(r"motion_modules[._]"), "a motion module", _READ),
    (_any(r"^lora_controlnet$|input_hint_block|controlnet_cond_embedding|^control_model\."), "a ControlNet", _READ),
    (_any(r"^image_proj\.|^ip_adapter\."), "an IP-Adapter", _READ),
    (_any(r"^(adapter\.)?body\.\d+\.(block1|resnets)\."), "a T2I-Adapter", _READ),
    (
        _any(r"double_blocks[._]|single_(transformer_)?blocks[._]"),
        "for Flux, or a model built like it",
        _FOR_ANOTHER,
    ),
    (_any(r"joint_blocks[._]|^transformer\.transformer_blocks\."), "for Stable Diffusion 3", _FOR_ANOTHER),
    (_any(r"^model\.diffusion_model\.(?!.*\.(lora|hada|lokr)_)"), "a whole checkpoint, and no LoRA", _AS_A_MODEL),
    (_any(r"^first_stage_model\.|^(en|de)coder\.(conv_in|mid)\b"), "an autoencoder (VAE)", _READ),
    (_any(r"^(down_blocks|mid_block)\..*\.(norm\d?|conv\d)\.weight$"), "a UNet, and no LoRA", _AS_A_MODEL),
    (_any(r"^(text_model\.)?embeddings\.token_embedding\."), "a text encoder, and no LoRA", _AS_A_MODEL),
    (_any(r"\.oft_(blocks|diag)$"), "an OFT, which is not a sum of weights", _READ),
    (_any(r"\.on_input$"), "an IA3, which is not a sum of weights", _READ),
    (_any(r"\.b2\.weight$"), "a GLoRA, which is not read", _READ),
    (_any(r"^(emb_params|clip_[lg]|<.*>)$"), "a textual inversion", _AS_A_WORD),
    (_is_embedding, "a textual inversion, or something else without layers", _AS_A_WORD),
)
"""What a file is that is no LoRA for Stable Diffusion, by the names of its weights, and a hint."""

_WIDTHS: Mapping[int, Kind] = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
_CROSS_ATTENTION = re.compile(r".*attn2_to_[kv]$")
_OF_SDXL_ALONE = re.compile(r".*transformer_blocks_[1-9]|add_embedding|label_emb")
_ENCODER_ATTENTION = re.compile(r".*self_attn_[qkv]_proj$")
_BY_WORDS: tuple[tuple[str, re.Pattern[str], Kind], ...] = (
    ("ss_base_model_version", re.compile(r"sdxl"), "sdxl"),
    ("ss_base_model_version", re.compile(r"sd_v?1"), "sd1"),
    ("ss_base_model_version", re.compile(r"sd_v?2"), "sd2"),
    ("modelspec.architecture", re.compile(r"stable-diffusion-xl"), "sdxl"),
    ("modelspec.architecture", re.compile(r"stable-diffusion-v1"), "sd1"),
    ("modelspec.architecture", re.compile(r"stable-diffusion-v2"), "sd2"),
    ("ss_v2", re.compile(r"True"), "sd2"),
)


def _kind(header: Header, layers: _Layers) -> Kind:
    """By the width of the texts that a UNet reads, else by layers that only some have, else by its trainer's words."""
    widths = {
        width
        for (owner, layer), parts in layers.items()
        if owner == lora_keys.UNET and _CROSS_ATTENTION.match(layer) and (width := _width(parts))
    }
    if widths:
        return _WIDTHS.get(widths.pop(), "sd") if len(widths) == 1 else "sd"
    if any(
        owner == lora_keys.SECOND_ENCODER or (owner == lora_keys.UNET and _OF_SDXL_ALONE.match(layer))
        for owner, layer in layers
    ):
        return "sdxl"
    for word, pattern, kind in _BY_WORDS:
        if pattern.match(header.metadata.get(word, "")):
            return kind
    if any(
        owner == lora_keys.FIRST_ENCODER and _ENCODER_ATTENTION.match(layer) and _width(parts) == 1024
        for (owner, layer), parts in layers.items()
    ):
        return "sd2"  # a width of 768 have the encoder of Stable Diffusion 1 and the first of SDXL
    return "sd"


def _width(parts: Parts) -> int | None:
    """How wide what a linear layer reads is."""
    for part in ("down", "hada_w1_b"):
        if part in parts:
            return _side(parts, part)
    products = [
        _side(parts, first) * _side(parts, second)
        for first in ("lokr_w1", "lokr_w1_b")
        for second in ("lokr_w2", "lokr_w2_b")
        if first in parts and second in parts
    ]
    return products[0] if products else None


def _side(parts: Parts, part: str) -> int:
    return next(iter(parts[part][1:2]), 0)


def _rank(parts: Parts) -> int | None:
    for part in ("down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b"):
        if parts.get(part):
            return parts[part][0]
    return None


def _word(header: Header, key: str) -> str | None:
    """What its trainer says in the header, on one line; None if nothing."""
    said = one_line(header.metadata.get(key, "")[:_LONGEST_WORD]).strip()
    return said if said not in ("", "None") else None


def _short_hash(path: Path, header: Header) -> str:
    said = header.metadata.get("sshs_model_hash", "").lower()
    if _FULL_HASH.fullmatch(said):
        return said[:_HASH_LETTERS]
    with path.open("rb") as file:
        file.seek(header.begin)
        return hashlib.file_digest(file, "sha256").hexdigest()[:_HASH_LETTERS]
