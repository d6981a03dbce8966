"""What share each prompt of a request has in the mix."""

from __future__ import annotations

import math
from collections.abc import Sequence

from farm.errors import InvalidInput
from farm.jobs.asked import MixTerm
from farm.jobs.conditioning import MAX_WEIGHT, WeightedPrompt


def weighted(
    prompts: Sequence[str], *, weights: Sequence[float] | None, mix: float | None, mix_with: Sequence[MixTerm]
) -> tuple[WeightedPrompt, ...]:
    """All the prompts with their shares, which sum to one. Raises `InvalidInput` for weights that make none.

    The `prompts` divide by their `weights`, or two of them by the first one's share `mix`, what the further prompts
    `mix_with` leave of the whole.
    """
    weights = weights or ((mix, 1 - mix) if mix is not None else (1.0,) * len(prompts))
    total = sum(weights)
    if not 1e-6 < total < math.inf:
        raise InvalidInput(f"the weights sum to {total:g}; their sum must be above 0 and finite", field="weights")
    if abs(largest := max(weights, key=abs)) > MAX_WEIGHT * total:
        reason = f"{largest:g} is more than {MAX_WEIGHT:g} times the weights' sum, which is {total:g}"
        raise InvalidInput(reason, field="weights")
    own_share = 1 - sum(term.weight for term in mix_with)
    if mix_with and not own_share > 1e-6:
        raise InvalidInput("the shares leave nothing for the first prompt", field="mix-with")
    own = tuple(
        WeightedPrompt(text=text, weight=own_share * weight / total)
        for text, weight in zip(prompts, weights, strict=True)
    )
    return own + tuple(WeightedPrompt(text=term.prompt, weight=term.weight) for term in mix_with)
