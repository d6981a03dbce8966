"""The adapters of a job's LoRAs, fetched and read for its model, so that the engine waits for none of them."""

from __future__ import annotations

from farm.errors import ModelError, ModelUnavailable, RenderError
from farm.jobs.loras import LoraUse
from farm.jobs.spec import ResolvedSpec
from worker.bucket.adapters import Adapters
from worker.diffusion.adapters import Adapter, Stack, Use
from worker.job.retry import Retrier
from worker.leases.keeper import Holding
from worker.models.model import LoadedModel


def stack_of(adapters: Adapters, retrier: Retrier, holding: Holding, spec: ResolvedSpec, model: LoadedModel) -> Stack:
    """What a job adds to its model. LoRAs without any strength are left out, so that such a job is one without them.

    Raises `RenderError` for a LoRA that is gone, damaged, or not for this model; `ModelUnavailable` where this disk has
    no room for it; and what `Retrier` does.
    """

    def adapter(use: LoraUse) -> Adapter:
        try:
            return retrier.until_done(holding, lambda: adapters.get(use, model))
        except ModelUnavailable:
            raise
        except ModelError as error:
            raise RenderError("lora", error.message, hint=error.hint) from error

    return tuple(Use(adapter(use), use.unet, use.text) for use in spec.loras if use.unet or use.text)


def used_in_part(spec: ResolvedSpec, stack: Stack, model: LoadedModel) -> tuple[str, ...]:
    """What to tell of LoRAs of whose weights some are for no layer of the model, by the names that the job has."""
    unfit = {use.adapter.sha256: use.adapter.unfit for use in stack}
    return tuple(
        f"the LoRA '{use.name}' is used in part with the model '{model.name}': {said}"
        for use in spec.loras
        if (use.unet or use.text) and (said := unfit.get(use.sha256 or ""))
    )
