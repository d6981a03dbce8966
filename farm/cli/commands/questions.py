"""`farm tokens` and `farm similar`: how a model reads prompts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from farm.cli.options.common import naming_options
from farm.cli.view.output import console, json_option, note, plural, print_json, say
from farm.errors import InvalidInput
from farm.host.places import check_file, replacing
from farm.jobs.request import JobRequest

if TYPE_CHECKING:
    from farm.cli.view.columns import Columns
    from farm.client.asking import Answered
    from farm.jobs.answers import Similar, Tokens

_NPZ = "--npz"
_QUOTED = 40

_model_option = click.option(
    "--model", metavar="NAME", help="The model to ask.  [default: $FARM_MODEL, or the only one served]"
)


@click.command(
    epilog="""\b
    Examples:
      farm tokens "A picture of a puppy."
      farm tokens "a watercolor painting of an otter" --npz otter.npz
      farm tokens "a red apple" --json | jq -r '.tokens[].piece'
    """
)
@click.argument("prompt")
@_model_option
@click.option(
    _NPZ,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Keep the arrays as well: ids, tokens, positions, sums, output, pooled.",
)
@json_option
def tokens(prompt: str, model: str | None, npz: Path | None, as_json: bool) -> None:
    """How a model reads a PROMPT: its tokens, position by position, and what is cut.

    A worker answers, ahead of all pictures. Every sign is read as a letter, as with --plain-prompt; of a model with two
    text encoders it is the first. The norms are of what the text encoder makes at each position: the token's
    embedding, the position's, and of their sum the output, which the UNet reads. FILE, which is replaced, is NumPy's:
    `tokens`, `positions`, `sums` and `output` have a row for each position, `pooled` stands for the whole prompt. With
    --json: {study, prompt, tokens: [{id, piece, position, role, norms: {token, position, output}}], cut, width}.
    """
    if npz is not None:
        if npz.suffix.lower() != ".npz":
            raise InvalidInput(f"{npz} does not end in .npz", field=_NPZ)
        check_file(npz, option=_NPZ)
    answered = _asked({"mode": "tokens", "prompt": prompt, "model": model}, npz)
    answer: Tokens = answered.answer
    if as_json:
        return print_json(answer.model_dump(mode="json"))
    console().print(_table(answer))
    say(*_told(answer))
    if npz is not None:
        note(f"arrays: {npz}")


@click.command(
    epilog="""\b
    Examples:
      farm similar "a cat" "a kitten" "a rocket"
      farm similar "a giraffe" "a cat" --json | jq '.cosines[0][1]'
    """
)
@click.argument("prompts", metavar="PROMPT PROMPT…", nargs=-1, required=True)
@_model_option
@json_option
def similar(prompts: tuple[str, ...], model: str | None, as_json: bool) -> None:
    """How similar PROMPTs are to a model: the cosine of each pair of their pooled embeddings, from -1 to 1.

    A worker answers, ahead of all pictures. There may be 2 to 16 of them. With --json: {study, prompts, cosines: a list
    for each prompt, cut: the words of each that the model does not see}.
    """
    answer: Similar = _asked({"mode": "similar", "prompt": list(prompts), "model": model}).answer
    if as_json:
        return print_json(answer.model_dump(mode="json"))
    console().print(_matrix(answer))
    say(*(f"cut from {number}  {' '.join(words)}" for number, words in enumerate(answer.cut, start=1) if words))


def _asked(fields: dict[str, Any], npz: Path | None = None) -> Answered:
    """The answer to a study of these fields, whose arrays are kept in a file if there is one."""
    with naming_options():
        request = JobRequest.parse({name: value for name, value in fields.items() if value is not None})
    from farm.client import FarmClient
    from farm.client.asking import arrays_of

    with FarmClient.connect() as farm:
        answered = farm.ask(request, on_warning=lambda warning: note(f"warning: {warning}"))
        if npz is not None:
            data = arrays_of(farm.storage, answered.result)
            with replacing(npz, option=_NPZ) as unfinished:
                unfinished.write_bytes(data)
    return answered


def _table(answer: Tokens) -> Columns:
    """A row for each position but those of the padding, which are alike."""
    from farm.cli.view.columns import Columns

    numbers = ("position", "id", "|token|", "|position|", "|output|")
    rows = Columns("position", "id", "piece", *numbers[2:], right=numbers, elastic="piece")
    for token in answer.tokens:
        if token.role != "padding":
            norms = (token.norms.token, token.norms.position, token.norms.output)
            rows.add(str(token.position), str(token.id), token.piece, *(f"{norm:.3f}" for norm in norms))
    return rows


def _told(answer: Tokens) -> Iterator[str]:
    """Of all positions, how many are of what; and the words that are not seen."""
    padding = [token for token in answer.tokens if token.role == "padding"]
    filled = len(answer.tokens) - len(padding)
    said = f"{filled} of {plural(len(answer.tokens), 'position')}"
    if padding:
        said += f", then {len(padding)} times {padding[0].piece} ({padding[0].id}) as padding"
    yield f"{said}; vectors of {answer.width}"
    if answer.cut:
        yield f"cut: {' '.join(answer.cut)}"


def _matrix(answer: Similar) -> Columns:
    from farm.cli.view.columns import Columns

    numbers = [str(number) for number in range(1, len(answer.prompts) + 1)]
    rows = Columns("", "prompt", *numbers, right=("", *numbers), elastic="prompt")
    for number, prompt, cosines in zip(numbers, answer.prompts, answer.cosines, strict=True):
        rows.add(number, _short(prompt), *(f"{cosine:.3f}" for cosine in cosines))
    return rows


def _short(prompt: str) -> str:
    return prompt if len(prompt) <= _QUOTED else f"{prompt[: _QUOTED - 1]}…"
