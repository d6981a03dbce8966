"""What a person asks for: a flat `JobRequest`, as the command line and batch files give it.

A request becomes specs by resolving what was left open (weights, strength, loss arguments, seeds), so
that a spec says exactly what is rendered. Bad input fails here, naming the option, before any
connection is opened.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import ValidationError

from farm.errors import InvalidInput
from farm.jobs import emphasis, tags
from farm.jobs.asked import LoraRequest as LoraRequest
from farm.jobs.asked import LossRequest as LossRequest
from farm.jobs.asked import MixTerm as MixTerm
from farm.jobs.faults import invalid
from farm.jobs.framing import FRAMING
from farm.jobs.loras import LoraUse, added_up
from farm.jobs.losses import BUILTIN, LossDeclaration
from farm.jobs.mixing import weighted
from farm.jobs.spec import MAX_SEED, Conditioning, Guidance, InitReference, JobSpec, Start, Trace
from farm.jobs.start import MASK_BLUR, start_step_of_strength
from farm.jobs.wanted import Wanted


class JobRequest(Wanted):
    """What one submission asks for: `count` images with consecutive seeds."""

    @classmethod
    def parse(cls, fields: dict[str, Any]) -> JobRequest:
        """A request from plain fields. Raises `InvalidInput` naming the field at fault."""
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise invalid(error) from error

    def specs(
        self,
        init: InitReference | None,
        *,
        default_model: str,
        declarations: Iterable[LossDeclaration] = BUILTIN,
        mask: InitReference | None = None,
    ) -> list[JobSpec]:
        """The `count` specs of this request; without a `mask` that of one for which there is nothing to keep.

        Raises `InvalidInput`.
        """
        prompts, mix_with, loras = self._read_tags()
        self._check_prompts()
        declarations = tuple(declarations)
        first_seed = self._first_seed()
        try:
            first = JobSpec(
                mode=self.mode,
                model=self.model or default_model,
                conditioning=self._conditioning(prompts, mix_with),
                start=self._start(init, mask),
                guidance=Guidance(scale=self.guidance, losses=tuple(loss.term(declarations) for loss in self.losses)),
                sampler=self.sampler,
                schedule=self.schedule,
                eta=self.eta,
                steps=self.steps,
                seed=first_seed,
                width=self.width,
                height=self.height,
                **{field: getattr(self, field) for field in FRAMING},
                trace=Trace(level=self.trace, every=self.trace_every),
                time_limit=self.time_limit,
                noise_steps=self.noise_steps,
                loras=added_up(loras),
            )
        except ValidationError as error:
            raise invalid(error) from error
        return [first.model_copy(update={"seed": first_seed + index}) for index in range(self.count)]

    def _first_seed(self) -> int:
        """The seed that was asked for, or any. Raises `InvalidInput` where the last of `count` would be too large."""
        seed = secrets.randbits(32) if self.seed is None else self.seed
        last = seed + self.count - 1
        if last > MAX_SEED:
            raise InvalidInput(f"the last of {self.count:,} seeds would be {last}, beyond {MAX_SEED}", field="seed")
        return seed

    def _conditioning(self, prompts: Sequence[str], mix_with: Sequence[MixTerm]) -> Conditioning:
        """What is drawn, by these texts without tags."""
        return Conditioning(
            prompts=weighted(prompts, weights=self.weights, mix=self.mix, mix_with=mix_with),
            negative=self.negative,
            path=self.path,
            reading=self.reading,
            clip_skip=self.clip_skip,
        )

    def _read_tags(self) -> tuple[tuple[str, ...], tuple[MixTerm, ...], tuple[LoraUse, ...]]:
        """The prompts and further prompts without their tags, and all LoRAs that are named, whichever way.

        The negative prompt has none, as in A1111. Raises `InvalidInput` naming the field of a tag that cannot be read.
        """
        asked = tuple(lora.use for lora in self.loras)
        if self.reading == "plain":
            return self.prompts, self.mix_with, asked
        own = [_untagged("prompt", text) for text in self.prompts]
        further = [_untagged("mix_with", term.prompt) for term in self.mix_with]
        terms = tuple(
            term.model_copy(update={"prompt": text}) for term, (text, _) in zip(self.mix_with, further, strict=True)
        )
        named = tuple(use for _, uses in (*own, *further) for use in uses)
        return tuple(text for text, _ in own), terms, asked + named

    def _check_prompts(self) -> None:
        """Raise `InvalidInput` naming the field of a text that cannot be read."""
        if self.reading == "plain":
            return
        mixed = [("mix_with", term.prompt) for term in self.mix_with]
        for field, text in (*(("prompt", text) for text in self.prompts), *mixed, ("negative", self.negative)):
            try:
                emphasis.sections(text)
            except InvalidInput as error:
                raise InvalidInput(error.reason, field=field, hint=error.hint) from error

    def _start(self, init: InitReference | None, mask: InitReference | None) -> Start:
        if self.init is None:
            return Start()
        how: dict[str, Any] = {"fit": self.fit or "crop", "encode": self.encode or "sample", **self._masked(mask)}
        if self.mode == "roundtrip":
            return Start(image=init, **how)
        if self.start_step is not None:
            if self.start_step >= self.steps:
                raise InvalidInput(f"{self.start_step} leaves none of the {self.steps} steps to do", field="start_step")
            return Start(image=init, step=self.start_step, **how)
        strength = 0.75 if self.strength is None else self.strength
        return Start(image=init, step=start_step_of_strength(strength, self.steps), **how)

    @property
    def _blur(self) -> int:
        """A picture that grows is not touched, unless that is asked for."""
        return MASK_BLUR if self.outpaint is None else 0

    def _masked(self, mask: InitReference | None) -> dict[str, Any]:
        """What a start says of a mask: nothing where nothing of the picture is kept."""
        if mask is None and self.outpaint is None:
            return {}
        how: dict[str, Any] = {
            "mask": mask,
            "redo": self.redo or "white",
            "mask_blur": self._blur if self.mask_blur is None else self.mask_blur,
            "fill": self.fill or ("original" if self.outpaint is None else "blur"),
            "only_masked": self.only_masked,
            "outpaint": self.outpaint,
        }
        if self.outpaint is not None and self.only_masked is None and self.width is None and self.height is None:
            return {**how, "fit": "init"}
        return how if self.only_masked is None and self.outpaint is None else {**how, "fit": "pad"}


def _untagged(field: str, text: str) -> tuple[str, tuple[LoraUse, ...]]:
    try:
        return tags.taken_out(text)
    except InvalidInput as error:
        raise InvalidInput(error.reason, field=field, hint=error.hint) from error
