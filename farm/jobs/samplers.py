"""The samplers and schedules that can be asked for, by every name that people know them by.

What a sampler does is the worker's (`worker.diffusion.samplers`); what it is called, and what can be said of it, is
here, so that client and worker know the same. A1111 and ComfyUI write one sampler in many ways (`DPM++ 2M Karras`,
`dpmpp_2m_sde_gpu`, `k_euler_a`); the farm takes them all and keeps its own name.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from farm.errors import InvalidInput

SamplerName = Literal[
    "lms",
    "euler",
    "euler_a",
    "ddim",
    "dpmpp_2m",
    "heun",
    "dpm2",
    "dpm2_a",
    "dpmpp_sde",
    "dpmpp_2m_sde",
    "dpmpp_3m_sde",
    "unipc",
    "deis",
    "pndm",
    "ddpm",
    "lcm",
]
ScheduleName = Literal["model", "karras", "exponential", "beta", "sgm_uniform", "trailing"]

SAMPLERS: tuple[SamplerName, ...] = get_args(SamplerName)
SCHEDULES: tuple[ScheduleName, ...] = get_args(ScheduleName)

ANY = SCHEDULES
_BY_TIMESTEPS: tuple[ScheduleName, ...] = ("model", "trailing")
_ITS_OWN: tuple[ScheduleName, ...] = ("model",)


@dataclass(frozen=True)
class Known:
    """What is known of a sampler without a model."""

    name: SamplerName
    title: str
    """As A1111 calls it, and tools that read its text in a picture."""
    aliases: tuple[str, ...] = ()
    """Further names, as `_plain` writes them."""
    schedules: tuple[ScheduleName, ...] = ANY
    """Those that it can follow."""
    eta: float = 0.0
    """How much of the noise that a step may add it adds of itself, 0 to 1."""
    takes_eta: bool = False
    """Whether a job may say another."""


_KNOWN = (
    Known("lms", "LMS"),
    Known("euler", "Euler"),
    Known("euler_a", "Euler a", ("euler_ancestral",), eta=1.0, takes_eta=True),
    Known("ddim", "DDIM", schedules=_BY_TIMESTEPS, takes_eta=True),
    Known("dpmpp_2m", "DPM++ 2M"),
    Known("heun", "Heun"),
    Known("dpm2", "DPM2", ("dpm_2",)),
    Known("dpm2_a", "DPM2 a", ("dpm_2_a", "dpm_2_ancestral", "dpm2_ancestral"), eta=1.0, takes_eta=True),
    Known("dpmpp_sde", "DPM++ SDE", eta=1.0, takes_eta=True),
    Known("dpmpp_2m_sde", "DPM++ 2M SDE", eta=1.0, takes_eta=True),
    Known("dpmpp_3m_sde", "DPM++ 3M SDE", eta=1.0, takes_eta=True),
    Known("unipc", "UniPC", ("uni_pc", "uni_pc_bh2")),
    Known("deis", "DEIS"),
    Known("pndm", "PLMS", schedules=_BY_TIMESTEPS),
    Known("ddpm", "DDPM", schedules=_BY_TIMESTEPS, eta=1.0),
    Known("lcm", "LCM", schedules=_ITS_OWN, eta=1.0),
)
KNOWN: Mapping[SamplerName, Known] = {known.name: known for known in _KNOWN}

SCHEDULE_TITLES: Mapping[ScheduleName, str] = {
    "model": "Automatic",
    "karras": "Karras",
    "exponential": "Exponential",
    "beta": "Beta",
    "sgm_uniform": "SGM Uniform",
    "trailing": "Trailing",
}
"""As A1111 calls them; `trailing` it does not know."""


class Named(NamedTuple):
    """What a sampler's name says: the sampler, and its schedule where the name has one too."""

    sampler: SamplerName
    schedule: ScheduleName | None


def read_sampler(text: str) -> Named:
    """The sampler that a name means, in whatever case. Raises `InvalidInput` for one that none has."""
    plain = _plain(text).removeprefix("sample_").removeprefix("k_")
    for suffix, schedule in (("", None), *_SUFFIXES.items()):
        name = _BY_NAME.get(plain.removesuffix(suffix).removesuffix("_gpu")) if plain.endswith(suffix) else None
        if name is not None:
            return Named(name, schedule)
    raise InvalidInput(f"there is no sampler {text!r:.60}", field="sampler", hint=_what_is_meant(plain))


def _what_is_meant(plain: str) -> str:
    begun = max((name for name in _BY_NAME if plain.startswith(f"{name}_")), key=len, default=None)
    if begun is not None:
        rest = plain.removeprefix(f"{begun}_")
        own = ", and 'model' is the model's own" if rest in _SPACED_BY_MODEL else ""
        return f"'{_BY_NAME[begun]}' is one; what may follow are schedules: {', '.join(SCHEDULES)}{own}"
    near = difflib.get_close_matches(plain, _BY_NAME, n=1, cutoff=_ALIKE)
    return f"did you mean '{_BY_NAME[near[0]]}'?" if near else f"known: {', '.join(SAMPLERS)}"


def read_schedule_name(text: str) -> ScheduleName:
    """The schedule that a name means, in whatever case. Raises `InvalidInput` for one that none has."""
    found = _SCHEDULES.get(_plain(text))
    if found is None:
        own = "; 'model' is the model's own" if _plain(text) in _SPACED_BY_MODEL else ""
        known = f"known: {', '.join(SCHEDULES)}{own}"
        raise InvalidInput(f"there is no schedule {text!r:.60}", field="schedule", hint=known)
    return found


def fault(sampler: SamplerName, schedule: ScheduleName, eta: float | None) -> InvalidInput | None:
    """Why no job can have this sampler with that schedule and `eta`; None if one can, as far as no model is known."""
    known = KNOWN[sampler]
    if schedule not in known.schedules:
        able = ", ".join(name for name in SAMPLERS if schedule in KNOWN[name].schedules)
        followed = " or ".join(known.schedules)
        return InvalidInput(
            f"'{sampler}' does not follow the schedule '{schedule}', only {followed}",
            field="schedule",
            hint=f"samplers that do: {able}",
        )
    if eta is not None and not known.takes_eta:
        able = ", ".join(name for name in SAMPLERS if KNOWN[name].takes_eta)
        return InvalidInput(f"'{sampler}' has no eta", field="eta", hint=f"samplers that have one: {able}")
    return None


def eta_of(sampler: SamplerName, eta: float | None) -> float:
    """The eta that a job has: what it says, or else its sampler's own."""
    return KNOWN[sampler].eta if eta is None else eta


def _plain(text: str) -> str:
    """`DPM++ 2M SDE` and `dpmpp-2m-sde` alike as `dpmpp_2m_sde`."""
    return re.sub(r"[\s_.-]+", "_", text.strip().casefold().replace("++", "pp"))


_BY_NAME: Mapping[str, SamplerName] = {
    name: known.name for known in _KNOWN for name in (known.name, _plain(known.title), *known.aliases)
}
_SCHEDULES: Mapping[str, ScheduleName] = {
    **{_plain(title): name for name, title in SCHEDULE_TITLES.items()},
    **{name: name for name in SCHEDULES},
}
_SPACED_BY_MODEL = ("normal", "simple", "uniform", "ddim_uniform")
"""Schedules of ComfyUI and A1111 that go over the noise levels of the model as they are, each a little otherwise."""
_ALIKE = 0.85
"""Of how alike two names are, from 0 to 1: other samplers' have names too that are not far."""
_SUFFIXES: Mapping[str, ScheduleName] = {
    "_karras": "karras",
    "_ka": "karras",
    "_exponential": "exponential",
    "_exp": "exponential",
    "_beta": "beta",
    "_sgm_uniform": "sgm_uniform",
    "_trailing": "trailing",
}
