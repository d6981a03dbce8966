"""Studies of prompts: the tokens of one, and how similar several are."""

from __future__ import annotations

import io
from functools import partial

import numpy as np

from farm.jobs.answers import Norms, Similar, TokenRead, Tokens
from worker.results.finished import Artifact
from worker.studies.reading import Array, Reading, read
from worker.studies.study import Answered, Asked, Compute

ARRAYS = ("tokens", "positions", "sums", "output", "pooled")


def tokens(asked: Asked, compute: Compute) -> Answered:
    """A prompt's tokens with the norms of what is made of them; the arrays themselves as `arrays.npz`."""
    (prompt,) = asked.prompts
    reading = compute(lambda: read(asked.model, prompt))
    norms = (map(float, np.linalg.norm(part, axis=1)) for part in (reading.tokens, reading.positions, reading.output))
    answer = Tokens(
        prompt=prompt,
        tokens=tuple(
            TokenRead(
                position=position,
                id=reading.ids[position],
                piece=reading.pieces[position],
                role=reading.roles[position],
                norms=Norms(token=token, position=at, output=output),
            )
            for position, (token, at, output) in enumerate(zip(*norms, strict=True))
        ),
        cut=reading.cut,
        width=reading.output.shape[1],
    )
    return Answered(answer, (Artifact("arrays.npz", "application/zip", _arrays(reading)),))


def similar(asked: Asked, compute: Compute) -> Answered:
    """The cosines of the prompts' pooled embeddings."""
    readings = [compute(partial(read, asked.model, prompt)) for prompt in asked.prompts]
    answer = Similar(
        prompts=tuple(asked.prompts),
        cosines=tuple(map(tuple, cosines(np.stack([reading.pooled for reading in readings])).tolist())),
        cut=tuple(reading.cut for reading in readings),
    )
    return Answered(answer)


def cosines(vectors: Array) -> Array:
    """The cosine of each pair of vectors [N, width], as [N, N]; 0 for those of no length."""
    wide = vectors.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    directions = wide / np.where(lengths == 0, 1, lengths)
    return np.clip(directions @ directions.T, -1, 1)


def _arrays(reading: Reading) -> bytes:
    """The ids and every array, without pickles; the same reading makes the same bytes."""
    file = io.BytesIO()
    arrays = {name: getattr(reading, name) for name in ARRAYS}
    np.savez_compressed(file, ids=np.array(reading.ids, dtype=np.int64), **arrays)
    return file.getvalue()
