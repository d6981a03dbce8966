"""The init picture of a job, fetched and made to fit, so that the engine neither waits for it nor keeps more."""

from __future__ import annotations

import hashlib

from PIL import Image

from farm.bucket.storage import Storage
from farm.errors import InvalidInput, ObjectMissing, ObjectTooLarge
from farm.jobs.spec import ResolvedSpec
from farm.pictures import images
from worker.diffusion.fitting import fit
from worker.job.retry import Retrier
from worker.leases.keeper import Holding


def init_picture(storage: Storage, retrier: Retrier, holding: Holding, spec: ResolvedSpec) -> Image.Image | None:
    """The init picture at the size of the job; None for a job without one.

    Raises `InvalidInput` for an object that is missing, too large, or not what was submitted; and what `Retrier` does.
    """
    reference = spec.start.image
    if reference is None:
        return None
    try:
        data = retrier.until_done(
            holding,
            lambda: storage.get(reference.key, limit=images.MAX_BYTES),
            final=(ObjectMissing, ObjectTooLarge),
        )
    except ObjectMissing as error:
        raise InvalidInput(f"the init image {reference.key} is not in the bucket", field="init") from error
    except ObjectTooLarge as error:
        raise InvalidInput(error.message, field="init") from error
    if hashlib.sha256(data).hexdigest() != reference.sha256:
        raise InvalidInput(
            f"{reference.key} in the bucket is not the picture that was put there",
            field="init",
            hint="remove that object, and submit the job again",
        )
    return fit(images.decode(data, name=reference.key), spec.width, spec.height, spec.start.fit)
