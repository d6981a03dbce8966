"""The init picture of a job, fetched and made to fit, so that the engine neither waits for it nor keeps more; and the
mask of a job that redoes only a part of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from PIL import Image

from farm.bucket.storage import Storage
from farm.errors import InvalidInput, ObjectMissing, ObjectTooLarge
from farm.jobs.spec import InitReference, ResolvedSpec
from farm.pictures import images, masks
from worker.diffusion import canvas
from worker.diffusion.canvas import Canvas
from worker.diffusion.fitting import fit
from worker.engine.request import Pixels
from worker.job.retry import Retrier
from worker.leases.keeper import Holding


def init_picture(storage: Storage, retrier: Retrier, holding: Holding, spec: ResolvedSpec) -> Image.Image | None:
    """The init picture at the size of the job; None for a job without one.

    Raises `InvalidInput` for an object that is missing, too large, or not what was submitted; and what `Retrier` does.
    """
    reference = spec.start.image
    if reference is None:
        return None
    data = _fetched(storage, retrier, holding, reference, "init")
    return fit(images.decode(data, name=reference.key), spec.width, spec.height, spec.start.fit)


@dataclass(frozen=True, eq=False)
class Masked:
    """The init picture of a job with a mask, and the mask, at the size of the job; the files that they are of, and what
    to know of them.

    The files are decoded again in the end, for decoded they may take a hundred times as much, for as long as the job is
    rendered.
    """

    picture: Image.Image
    mask: Image.Image
    spec: ResolvedSpec
    files: tuple[bytes, bytes | None]
    warnings: tuple[str, ...]

    @classmethod
    def of(cls, spec: ResolvedSpec, files: tuple[bytes, bytes | None]) -> Masked:
        """Raises `InvalidInput` for files that are no picture, or no mask of it."""
        laid_out = _laid_out(spec, files)
        warnings = tuple(filter(None, (canvas.unseen(laid_out, spec),)))
        return cls(*canvas.given(laid_out, spec), spec, files, warnings)

    def put_back(self, pixels: Pixels) -> Pixels:
        """The picture of which all that is masked is as it was rendered, and all else as it was."""
        return canvas.put_back(_laid_out(self.spec, self.files), self.spec, pixels)


def masked_picture(storage: Storage, retrier: Retrier, holding: Holding, spec: ResolvedSpec) -> Masked | None:
    """The init picture and the mask; None for a job that redoes all of its picture. Raises as `init_picture`."""
    start = spec.start
    if start.image is None or not start.is_masked:
        return None
    picture = _fetched(storage, retrier, holding, start.image, "init")
    mask = None if start.mask is None else _fetched(storage, retrier, holding, start.mask, "mask")
    return Masked.of(spec, (picture, mask))


def _laid_out(spec: ResolvedSpec, files: tuple[bytes, bytes | None]) -> Canvas:
    start, (picture, mask) = spec.start, files
    decoded = None if mask is None else masks.decode(mask, name="the mask", redo=start.redo)
    return canvas.lay_out(start, images.decode_with_alpha(picture, name="the init picture"), decoded)


def _fetched(storage: Storage, retrier: Retrier, holding: Holding, reference: InitReference, field: str) -> bytes:
    try:
        data = retrier.until_done(
            holding,
            lambda: storage.get(reference.key, limit=images.MAX_BYTES),
            final=(ObjectMissing, ObjectTooLarge),
        )
    except ObjectMissing as error:
        raise InvalidInput(f"the init image {reference.key} is not in the bucket", field=field) from error
    except ObjectTooLarge as error:
        raise InvalidInput(error.message, field=field) from error
    if hashlib.sha256(data).hexdigest() != reference.sha256:
        raise InvalidInput(
            f"{reference.key} in the bucket is not the picture that was put there",
            field=field,
            hint="remove that object, and submit the job again",
        )
    return data
