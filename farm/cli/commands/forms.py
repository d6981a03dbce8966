"""The forms of the site's page to submit jobs: the options of `farm submit`, as what they are declared to be.

So the page has what the command has, in the same words, and a new option is a new field there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import click

from farm.cli.commands import roundtrip
from farm.cli.commands.form_words import for_forms, sentence_for_forms
from farm.cli.commands.submit import grid_of, numbers, submit
from farm.cli.options.common import many_options, naming_options, sending_options
from farm.cli.options.request import request
from farm.client.planning import FALLBACK_MODEL
from farm.client.rerun import fields_of
from farm.errors import InvalidInput
from farm.jobs import grid, tags
from farm.jobs.batch_file import MAX_JOBS, refuse_more
from farm.jobs.loras import LoraUse
from farm.jobs.losses import LossDeclaration
from farm.jobs.request import JobRequest, LossRequest
from farm.jobs.spec import FRAMING, STUDIES, InitReference, JobSpec
from farm.jobs.studies import READ_BY
from farm.web.forms import Choice, Field, Group, Kind, Mode, Read, Values
from farm.words import shell_words

_FROM_FILES = ("batch",)
"""Commands that are of no use in a form."""
_FIRST = ("prompt", "prompts", "negative", "x", "y", "z", "model", "count")
_FIRST_OF = {"img2img": ("init", "strength"), "roundtrip": ("init",), "mix": ("mix",), "guided": ("loss",)}
"""What each mode is about."""
_GROUPS: Mapping[str, tuple[str, ...]] = {
    "Picture": (
        *("seed", "steps", "guidance", "width", "height", "sampler", "schedule", "eta", "reading", "clip_skip", "lora"),
    ),
    "Tell SDXL of the picture": FRAMING,
    "Start from a picture": ("init", "strength", "start_step", "fit", "encode"),
    "Redo a part of it": ("mask", "redo", "mask_blur", "fill", "only_masked", "outpaint"),
    "Mix prompts": ("mix_with", "mix", "weights", "path"),
    "Losses": ("loss", "loss_scale", "loss_every", "loss_arg"),
    "Record and queue": ("label", "trace", "trace_every", "priority", "time_limit"),
    "More": (),
}
"""Where fields are shown; what is new comes under the last."""
_USUAL = re.compile(r"\s*\[(?:default: )?([^\]]+)\]$")
_KINDS: tuple[tuple[type[click.ParamType[Any]], Kind], ...] = (
    (click.types.IntParamType, "whole"),
    (click.types.FloatParamType, "number"),
    (click.Path, "file"),
)
_SOME_PICTURE = InitReference(sha256="0" * 64, extension="png")
"""Stands for the picture that comes with a submission."""


class SubmitForms:
    """The forms of `farm submit`: see `farm.web.forms.Forms`."""

    @cached_property
    def modes(self) -> Sequence[Mode]:
        commands = [command for name, command in submit.commands.items() if name not in _FROM_FILES]
        return [_mode(command) for command in sorted(commands, key=lambda command: command.name in STUDIES)]

    def command(self, mode: str, values: Values) -> str:
        return _Words.of(_command(mode), values).shown(mode)

    def read(self, mode: str, values: Values, *, losses: Iterable[LossDeclaration], most: int) -> Read:
        command = _command(mode)
        with naming_options():
            requests = _requests(mode, _parsed(command, _Words.of(command, values)), most)
            for one in requests:
                init, mask = (_SOME_PICTURE if picture else None for picture in (one.init, one.mask))
                one.model_copy(update={"count": 1}).specs(
                    init, default_model=FALLBACK_MODEL, declarations=losses, mask=mask
                )
            number = sum(one.count for one in requests)
            refuse_more(most, number)
        files = {name: str(value) for name, value in values.items() if isinstance(value, str)}
        return Read(number, [_as_sent(one, files) for one in requests])

    def filled(self, spec: JobSpec, labels: Mapping[str, str]) -> tuple[str, Values]:
        fields = {**fields_of(spec), "labels": labels}
        prompts = _with_tags(fields.get("prompt") or (), spec)
        mode = "mix" if len(prompts) > 1 else spec.mode
        known = {param.name: param for param in submit.commands[mode].params} if mode in submit.commands else {}
        if len(prompts) < 2:
            fields.pop("weights", None)
        fields |= {"prompts": prompts, "prompt": "".join(prompts[:1]), "noise_steps": fields.get("noise_steps") or ()}
        fields["lora"] = [use.option for use in spec.loras if not _is_in_a_tag(use, spec)]
        fields["loss"] = [_loss_as_written(loss) for loss in fields.pop("losses", ())]
        fields["label"] = [f"{name}={value}" for name, value in fields.pop("labels").items()]
        found = ((name, _as_filled(fields[name], param)) for name, param in known.items() if name in fields)
        return mode, {name: value for name, value in found if name and value not in ("", [], False)}


def _command(mode: str) -> click.Command:
    command = submit.commands.get(mode)
    if command is None or mode in _FROM_FILES:
        raise InvalidInput(f"there is no mode {mode!r:.40}", field="mode")
    return command


def _mode(command: click.Command) -> Mode:
    unasked = {*_names(sending_options), *_names(many_options)}
    params = [param for param in command.params if param.name not in unasked]
    fields = {field.name: field for field in map(_field, params)}
    required = [field.name for field in fields.values() if field.required]
    first = dict.fromkeys((*_FIRST, *_FIRST_OF.get(command.name or "", ()), *required))
    groups = [Group("", [fields.pop(name) for name in first if name in fields])]
    groups += [Group(title, [fields.pop(name) for name in names if name in fields]) for title, names in _GROUPS.items()]
    groups[-1] = Group(groups[-1].title, [*groups[-1].fields, *fields.values()])
    about = (command.help or "").strip().partition("\n\n")[0]
    return Mode(command.name or "", sentence_for_forms(about), [group for group in groups if group.fields])


def _names(options: Callable[[Any], Any]) -> set[str | None]:
    """The names of the options that a decorator adds."""
    return {param.name for param in click.command()(options(lambda: None)).params}


def _field(param: click.Parameter) -> Field:
    shown = param.opts[0] if isinstance(param, click.Option) else (param.metavar or param.name or "").split()[0].upper()
    told = (param.help or "") if isinstance(param, click.Option) else ""
    found = _USUAL.search(told)
    default = "" if param.default is None or not _is_plain(param.default) else str(param.default)
    least, most, step = _range(param.name or "")
    return Field(
        name=param.name or "",
        option=shown.rstrip("…"),
        kind=_kind(param),
        help=sentence_for_forms(_USUAL.sub("", told)),
        usual=for_forms(found[1]) if found else default,
        example=param.metavar or "",
        choices=tuple(_choices(param)),
        many=param.multiple or param.nargs == -1,
        required=param.required,
        least=least,
        most=most,
        step=step,
    )


def _is_plain(default: Any) -> bool:
    return isinstance(default, (str, int, float)) and not isinstance(default, bool)


def _kind(param: click.Parameter) -> Kind:
    if isinstance(param, click.Argument) or param.metavar == "PROMPT":
        return "text"
    if isinstance(param, click.Option) and param.is_flag:
        return "switch"
    for kind, name in _KINDS:
        if isinstance(param.type, kind):
            return name
    return "choice" if not param.multiple and (param.name == "model" or next(_choices(param), None)) else "word"


def _choices(param: click.Parameter) -> Iterator[Choice]:
    """What the shell would offer. Files are not offered."""
    if isinstance(param.type, click.Path):
        return
    for item in param.shell_complete(click.Context(submit), ""):
        yield Choice(item.value, item.help or "")


def _range(name: str) -> tuple[float | None, float | None, float | None]:
    """The bounds that requests have for the field that an option fills."""
    model, field = (LossRequest, name.removeprefix("loss_")) if name.startswith("loss_") else (JobRequest, name)
    about = _schema(model)["properties"].get(field, {})
    for kind in (about, *about.get("anyOf", ())):
        if {"minimum", "maximum", "exclusiveMinimum", "multipleOf"} & kind.keys():
            return kind.get("minimum", kind.get("exclusiveMinimum")), kind.get("maximum"), kind.get("multipleOf")
    return None, None, None


def _schema(model: type[JobRequest] | type[LossRequest]) -> dict[str, Any]:
    return model.model_json_schema()


class _Words:
    """What is filled in as the words of a command line: its arguments, and its options with their values."""

    def __init__(self, arguments: list[str], options: list[tuple[str, str | None]]) -> None:
        self._arguments, self._options = arguments, options

    @classmethod
    def of(cls, command: click.Command, values: Values) -> _Words:
        """Raises `InvalidInput` for a field that the command has not."""
        params = {param.name: param for param in command.params}
        unasked = {*_names(sending_options), *_names(many_options)}
        arguments: list[str] = []
        options: list[tuple[str, str | None]] = []
        for name, given in values.items():
            param = params.get(name)
            if param is None or name in unasked:
                raise InvalidInput(f"there is no field {name!r:.60}")
            said = [given] if isinstance(given, (str, bool)) else [*given]
            if isinstance(param, click.Argument):
                arguments += [str(one) for one in said if isinstance(one, str)]
            elif isinstance(param, click.Option) and param.is_flag:
                options += [(param.opts[0], None)] if given is True else []
            else:
                options += [(param.opts[0], str(one)) for one in said if one not in ("", True, False)]
        return cls(arguments, options)

    @property
    def parsed(self) -> list[str]:
        """For click: no value can be taken for an option."""
        written = [name if value is None else f"{name}={value}" for name, value in self._options]
        return [*written, "--", *self._arguments]

    def shown(self, mode: str) -> str:
        """For people."""
        words: list[str] = []
        for name, value in self._options:
            is_odd = value is not None and value.startswith("-")
            words += [f"{name}={value}"] if is_odd else [name] if value is None else [name, value]
        is_odd = any(argument.startswith("-") for argument in self._arguments)
        every = [*words, "--", *self._arguments] if is_odd else [*self._arguments, *words]
        return shell_words(["farm", "submit", mode, *every])


def _parsed(command: click.Command, words: _Words) -> dict[str, Any]:
    """The parameters, as click makes them of the words. Raises `InvalidInput` in click's words."""
    try:
        with command.make_context(command.name, words.parsed) as context:
            return dict(context.params)
    except click.UsageError as error:
        param = getattr(error, "param", None)
        said = error.message if isinstance(error, click.BadParameter) and error.message else error.format_message()
        raise InvalidInput(said, field=_field(param).option if param else None) from error


def _requests(mode: str, params: dict[str, Any], most: int) -> Sequence[JobRequest]:
    """The requests that the command would make of its parameters."""
    if mode == "roundtrip":
        return [roundtrip.asked(params)]
    prompts = [params.pop("prompt")] if "prompt" in params else [*params.pop("prompts", ())]
    more = {"mix": params.pop("mix"), "weights": numbers(params.pop("weights"))} if "weights" in params else {}
    if mode != "grid":
        return [request(mode, prompts, params, **more)]  # type: ignore[arg-type]  # it names a command of a mode
    given, axes = grid_of(prompts, params, **more)
    refuse_more(min(most, MAX_JOBS), grid.count(given, axes))
    return grid.requests(given, axes)


def _as_sent(request: JobRequest, files: Mapping[str, str]) -> dict[str, Any]:
    """The request as the API takes it: a picture is the file of that name in the form."""
    pictures = {name: value for name, value in request if isinstance(value, Path)}
    for name, path in pictures.items():
        if str(path) != str(Path(files.get(name, ""))):
            raise InvalidInput(f"'{path}' is not the picture that comes along", field=f"--{name}")
    sent = request.model_dump(mode="json", exclude_defaults=True, exclude=set(pictures), warnings=False)
    read = READ_BY.get(request.mode, sent)
    return {**{name: sent[name] for name in sent if name in read}, **{name: {"upload": name} for name in pictures}}


def _with_tags(prompts: Sequence[str], spec: JobSpec) -> Sequence[str]:
    """The prompts, the first with the tags that named LoRAs: whoever writes another one takes them away with it."""
    if not (tagged := [use for use in spec.loras if _is_in_a_tag(use, spec)]):
        return prompts
    first, *others = prompts
    return [f"{first} {tags.written(tagged)}".lstrip(), *others]


def _is_in_a_tag(use: LoraUse, spec: JobSpec) -> bool:
    return use.by == "tag" and spec.conditioning.reading == "weighted"


def _loss_as_written(loss: Mapping[str, Any]) -> str:
    numbers = {**loss.get("arguments", {}), "scale": loss.get("scale"), "every": loss.get("every")}
    inline = ",".join(f"{name}={value!r}" for name, value in numbers.items() if value is not None)
    return f"{loss['name']}:{inline}" if inline else str(loss["name"])


def _as_filled(value: Any, param: click.Parameter) -> str | bool | list[str]:
    """A field's value as it would be filled in; nothing for what is so anyway."""
    if isinstance(param, click.Option) and param.is_flag:
        return bool(value == param.flag_value)
    if param.multiple or param.nargs == -1:
        return [str(one) for one in value]
    if value is None:
        return ""
    written = ",".join(map(repr, value)) if isinstance(value, (list, tuple)) else str(value)
    return "" if written == _field(param).usual else written
