"""What a spec asks for, in a few words: the captions of sheets, and a line of `farm status`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile

from farm.jobs.spec import JobSpec
from farm.jobs.start import MASK_BLUR, Start

BETWEEN = " · "


def describe(spec: JobSpec) -> str:
    """`mix · shares 0.7 + 0.3 · seed 7 · 30 steps from step 12 · lms · guidance 7.5 · lora detail 0.8 · blue x200`."""
    return BETWEEN.join(_parts(spec))


def common(descriptions: Iterable[str]) -> str:
    """What all of several descriptions say."""
    first, *others = (said.split(BETWEEN) for said in descriptions)
    return BETWEEN.join(part for part in first if all(part in other for other in others))


def shared_prompt(specs: Iterable[JobSpec]) -> str:
    """The specs' prompt; of unlike ones, the words that all begin and end with: `a red … on a blue background`."""
    first, *others = dict.fromkeys(spec.prompt for spec in specs)
    if not others:
        return first
    words = [prompt.split() for prompt in (first, *others)]
    begin = _shared(words)
    end = _shared([rest[len(begin) :][::-1] for rest in words])[::-1]
    return " ".join([*begin, "…", *end]) if begin or end else ""


def _shared(texts: Iterable[Sequence[str]]) -> list[str]:
    """The words that all begin with."""
    return [first for first, *_ in takewhile(lambda same: len(set(same)) == 1, zip(*texts, strict=False))]


def _parts(spec: JobSpec) -> Sequence[str]:
    """A guidance scale that is left to the model is left out."""
    if spec.is_study:
        return _of_study(spec)
    said: list[str] = [spec.mode]
    if len(spec.conditioning.prompts) > 1:
        along = " along the arc" if spec.conditioning.path == "spherical" else ""
        said.append(f"shares {' + '.join(f'{prompt.weight:.3g}' for prompt in spec.conditioning.prompts)}{along}")
    said += [f"seed {spec.seed}", _steps(spec), _sampler(spec)]
    if spec.guidance.scale is not None:
        said.append(f"guidance {spec.guidance.scale:g}")
    said += [f"{field.removesuffix('_size')} {told}" for field, told in spec.framing.items()]
    said += _redone(spec.start)
    said += [f"lora {use}" for use in spec.loras]
    return said + [loss.name if loss.scale is None else f"{loss.name} x{loss.scale:g}" for loss in spec.guidance.losses]


def _redone(start: Start) -> Sequence[str]:
    """What of the picture is redone, if not all, and how, as far as that is not usual."""
    if not start.is_masked:
        return []
    said = []
    if start.mask is not None:
        said.append(f"mask {start.mask.sha256[:8]}{' inverted' if start.redo == 'black' else ''}")
    if start.outpaint is not None:
        said.append(f"outpaint {start.outpaint}")
    if start.mask_blur != (MASK_BLUR if start.outpaint is None else 0):
        said.append(f"blur {start.mask_blur}")
    if start.fill != ("original" if start.outpaint is None else "blur"):
        said.append(f"fill {start.fill}")
    return said if start.only_masked is None else [*said, f"only masked, padding {start.only_masked}"]


def _of_study(spec: JobSpec) -> Sequence[str]:
    """What it asks: `roundtrip · mean · noise of step 10 of 15 · lms · seed 7`."""
    if spec.mode == "schedule":
        return [spec.mode, _steps(spec), _sampler(spec)]
    if spec.mode != "roundtrip":
        return [spec.mode]
    said: list[str] = [spec.mode, spec.start.encode]
    if spec.noise_steps:
        steps = ", ".join(map(str, spec.noise_steps))
        said += [f"noise of step{'s' if len(spec.noise_steps) > 1 else ''} {steps} of {spec.steps}", _sampler(spec)]
    return [*said, f"seed {spec.seed}"]


def _sampler(spec: JobSpec) -> str:
    said = spec.sampler if spec.schedule == "model" else f"{spec.sampler} {spec.schedule}"
    return said if spec.eta is None else f"{said} eta {spec.eta:g}"


def _steps(spec: JobSpec) -> str:
    said = f"{spec.steps} step{'s' if spec.steps > 1 else ''}"
    return f"{said} from step {spec.start.step}" if spec.start.step else said
