"""The text side: a CLIP tokenizer over the captions' words, a CLIP text encoder, and its supervised warm-up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from worker.emoji.corpus import ALL_SUBJECTS, COLORS, STYLES, draw_caption, draw_scene, stream
from worker.emoji.loop import LossOfStep, Stage
from worker.emoji.settings import Settings

MAX_TOKENS = 77
"""CLIP's context length; shorter captions are padded with the end token."""

_WORD_END = "</w>"
_START, _END = "<|startoftext|>", "<|endoftext|>"


def new_tokenizer(settings: Settings) -> CLIPTokenizer:
    """A CLIP tokenizer that knows each word of the captions as one token, and spells out any other word."""
    alphabet = _byte_alphabet()
    merges = _learn_merges(_words(settings))
    tokens = [*alphabet, *(letter + _WORD_END for letter in alphabet), *map("".join, merges), _START, _END]
    numbered = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=numbered, merges=merges, model_max_length=MAX_TOKENS)


def _learn_merges(words: Sequence[str]) -> list[Any]:
    """Byte-pair merges, the most frequent pair first, until every word is one piece. (Sennrich et al. 2016.)"""
    pieces = [[*word[:-1], word[-1] + _WORD_END] for word in words]
    merges = []
    while counts := Counter(pair for word in pieces for pair in pairwise(word)):
        chosen = max(counts, key=lambda pair: (counts[pair], pair))
        merges.append(chosen)
        pieces = [_merge(word, chosen) for word in pieces]
    return merges


def _merge(word: list[str], pair: tuple[str, str]) -> list[str]:
    """The word with every occurrence of the pair joined, from the left."""
    merged: list[str] = []
    for piece in word:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged


def _byte_alphabet() -> list[str]:
    """One printable character for each byte, as GPT-2 and CLIP number them: printable bytes first."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(byte) for byte in printable] + [chr(256 + number) for number in range(256 - len(printable))]


def _words(settings: Settings) -> list[str]:
    """The words of many captions, sorted."""
    rng = stream(settings.seed)
    subjects = ALL_SUBJECTS[: settings.subjects]
    drawn = (
        draw_caption(draw_scene(rng, subjects, settings.pairs, settings.hats), rng)
        for _ in range(60 * len(subjects) + 2000)
    )
    words = {word for text in drawn for word in text.replace(",", " ").split()}
    return sorted(words | set(COLORS) | {word for subject in subjects for word in subject.name.split()})


def new_text_encoder(settings: Settings, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained CLIP text encoder: token numbers (n, 77) to embeddings (n, 77, width)."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=settings.text_width,
            intermediate_size=4 * settings.text_width,
            num_hidden_layers=settings.text_layers,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=settings.text_width,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def tokenize(tokenizer: CLIPTokenizer, captions: Sequence[str]) -> Tensor:
    """Token numbers of captions, padded as the pipeline pads them: shape (n, 77)."""
    batch = tokenizer(list(captions), padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt")
    return torch.as_tensor(batch.input_ids)


class CaptionReader(nn.Module):
    """A text encoder with three heads that read subject, background and style off its end token.

    The denoiser alone teaches the encoder too slowly to tell captions apart: without this warm-up nothing followed the
    caption after a thousand steps, with it colours and outlines did after six hundred.
    """

    def __init__(self, encoder: CLIPTextModel, subjects: int) -> None:
        super().__init__()
        self.encoder = encoder
        width = encoder.config.hidden_size
        self.heads = nn.ModuleList(nn.Linear(width, classes) for classes in (subjects, len(COLORS), len(STYLES)))

    def forward(self, tokens: Tensor) -> list[Tensor]:
        """The logits of subject, background and style for token numbers (n, 77)."""
        hidden = self.encoder(tokens).last_hidden_state
        # the end token has the highest number; the padding repeats it, and argmax takes the first
        ends = tokens.argmax(1)
        at_end = hidden[torch.arange(len(tokens), device=tokens.device), ends]
        return [head(at_end) for head in self.heads]


def reading_losses(
    stage: Stage[CaptionReader], tokenizer: CLIPTokenizer, settings: Settings, device: torch.device
) -> LossOfStep:
    """The losses of the warm-up: the cross entropies of what a caption says."""
    subjects = ALL_SUBJECTS[: settings.subjects]
    rng = stream(settings.seed + stage.step)

    def losses(_progress: float) -> dict[str, Tensor]:
        scenes = [draw_scene(rng, subjects) for _ in range(stage.plan.batch)]
        tokens = tokenize(tokenizer, [draw_caption(scene, rng) for scene in scenes]).to(device)
        said = [
            [subjects.index(scene.subject) for scene in scenes],
            [list(COLORS).index(scene.background) for scene in scenes],
            [STYLES.index(scene.style) for scene in scenes],
        ]
        logits = stage.module(tokens)
        wrong = [F.cross_entropy(read, torch.tensor(true).to(device)) for read, true in zip(logits, said, strict=True)]
        return {"loss": torch.stack(wrong).sum(), "subject": wrong[0], "background": wrong[1], "style": wrong[2]}

    return losses
