"""A preview: how a job looks while it is rendered, as a small picture in the bucket, one pixel per latent."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Self

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from farm import keys
from farm.errors import ObjectDamaged
from farm.jobs.spec import MAX_SIDE
from farm.pictures.images import without_warnings

MAX_BYTES = 2**20
_ABOUT = "render-farm-preview"


@dataclass(frozen=True, eq=False)
class Preview:
    """How a job looked after `step` steps of an attempt: an RGB picture, smaller than the finished one's `size`."""

    job: str
    attempt: int
    step: int
    size: tuple[int, int]
    """Width and height."""
    picture: Image.Image

    @property
    def moment(self) -> tuple[int, int]:
        """What tells a newer preview of a job from an older one."""
        return self.attempt, self.step

    def enlarged(self) -> Image.Image:
        """The picture at the size that it will have."""
        return self.picture.resize(self.size, Image.Resampling.BICUBIC)

    def to_png(self) -> bytes:
        """A PNG file that `from_png` reads."""
        about = PngInfo()
        fields = {"job": self.job, "attempt": self.attempt, "step": self.step, "size": self.size}
        about.add_text(_ABOUT, json.dumps(fields))
        file = io.BytesIO()
        self.picture.save(file, "PNG", pnginfo=about)
        return file.getvalue()

    @classmethod
    def from_png(cls, data: bytes, *, key: str) -> Self:
        """The preview that was found under `key`. Raises `ObjectDamaged` for anything else, however hostile."""
        try:
            with without_warnings(), Image.open(io.BytesIO(data), formats=("PNG",)) as opened:
                about = json.loads(opened.info[_ABOUT])
                attempt, step, width, height = map(int, (about["attempt"], about["step"], *about["size"]))
                if not (opened.width <= width <= MAX_SIDE and opened.height <= height <= MAX_SIDE):
                    raise ValueError(f"{opened.width}×{opened.height} pixels cannot preview {width}×{height}")
                return cls(keys.job_id(about["job"]), attempt, step, (width, height), opened.convert("RGB"))
        except Exception as error:  # what a decoder makes of hostile bytes
            raise ObjectDamaged(f"{key} is not a preview: {error!s:.200}") from error
