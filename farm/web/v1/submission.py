"""What a client submits, read and checked as the command checks it; nothing of it is ever opened as a path or a URL."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import UploadFile
from starlette.requests import Request

from farm.client.planning import Draft, Pictures, draft
from farm.client.rerun import Made, draft_again
from farm.errors import InvalidInput
from farm.jobs.batch_file import refuse_more, refuse_unknown
from farm.jobs.faults import quoted
from farm.jobs.request import JobRequest
from farm.jobs.spec import JobSpec
from farm.jobs.writing import ALPHA
from farm.pictures.images import MAX_BYTES, pixels

MOST_FILES = 64
_MOST_VALUES = 200_000
"""As many values a submission can have: a text of a few megabytes could make objects of gigabytes."""
_PICTURE = 'send the picture itself: {"base64": "…"}, or {"upload": "NAME"} with a file NAME of a form'
_PART = "submission"
_CALLED = {"init": "the init picture", "mask": "the mask"}
"""The fields of a request that are pictures."""


@dataclass(frozen=True)
class Sent:
    """A submission as it came: its JSON, and the files that came along, by name."""

    text: bytes
    files: Mapping[str, bytes]


async def sent(request: Request) -> Sent:
    """What a request brought: JSON, or a form with JSON in `submission` and files. Raises `InvalidInput`."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return Sent(await request.body(), {})
    if kind != "multipart/form-data":
        raise InvalidInput("the body is neither JSON nor a form", field="Content-Type", hint="application/json")
    async with request.form(max_files=MOST_FILES, max_fields=1, max_part_size=MAX_BYTES) as form:
        text: bytes | None = None
        files: dict[str, bytes] = {}
        for name, value in form.multi_items():
            data = await value.read() if isinstance(value, UploadFile) else value.encode()
            if name == _PART:
                text = data
            elif name in files:
                raise InvalidInput(f"two files are called {name!r:.60}", field="upload")
            else:
                files[name] = data
    if text is None:
        raise InvalidInput(f"the form has no part {_PART!r}", hint="it holds the JSON; the other parts are files")
    return Sent(text, files)


def drafts(what: Sent, *, most: int, charge: Callable[[int], None]) -> list[Draft]:
    """The requests and specs of a submission, checked. `charge` is told each picture's pixels before they are decoded.

    Raises `InvalidInput` that names the entry and the field, also for more than `most` jobs.
    """
    document = _document(what.text)
    requests, specs = _list(document, "requests"), _list(document, "specs")
    refuse_more(most, len(requests) + len(specs))
    pictures = _Pictures(what.files, charge)
    made: list[Draft] = []
    for index, fields in enumerate(requests):
        with _within(f"requests.{index}"):
            made.append(_request(fields, pictures))
            refuse_more(most, _jobs(made))
    for index, fields in enumerate(specs):
        with _within(f"specs.{index}"):
            made.append(_spec(fields, pictures))
    refuse_more(most, _jobs(made))
    if not made:
        raise InvalidInput("there is nothing to submit", hint='{"requests": [{"prompt": "an otter"}]}')
    return made


def fingerprint(asked: Sequence[Draft]) -> str:
    """What tells submissions apart, whichever way they were sent."""
    parts = [
        [
            one.request.model_dump(mode="json", exclude={"init", "mask"}, warnings=False),
            *(image.sha256 if image else None for image in (one.image, one.mask)),
        ]
        for one in asked
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def read_json(text: bytes) -> Any:
    """The JSON that a client sent. Raises `InvalidInput`."""
    if sum(map(text.count, (b",", b"[", b"{"))) > _MOST_VALUES:
        raise InvalidInput(f"the JSON has more than {_MOST_VALUES:,} values")
    try:
        return json.loads(text, parse_constant=_no_number)
    except RecursionError:
        raise InvalidInput("the JSON is nested too deeply") from None
    except ValueError as error:
        raise InvalidInput(f"the body is not JSON: {error!s:.200}") from None


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON's")


def _document(text: bytes) -> dict[str, Any]:
    document = read_json(text)
    if not isinstance(document, dict):
        raise InvalidInput(f"{quoted(document)} should be a mapping of names to values")
    refuse_unknown(document, ("requests", "specs"))
    return document


def _list(document: Mapping[str, Any], name: str) -> list[Any]:
    value = document.get(name)
    if value is not None and not isinstance(value, list):
        raise InvalidInput(f"{quoted(value)} should be a list", field=name)
    return value or []


def _jobs(made: Sequence[Draft]) -> int:
    return sum(len(one.specs) if one.specs else one.request.count for one in made)


def _request(fields: Any, pictures: _Pictures) -> Draft:
    given = _mapping(fields)
    came = [name for name in _CALLED if given.get(name) is not None and (name, given[name]) != ("mask", ALPHA)]
    given |= {name: pictures.sent(given[name], name) for name in came}
    return draft(JobRequest.parse(given), pictures.known)


def _spec(fields: Any, pictures: _Pictures) -> Draft:
    """A spec as `result.json` or a dry run has it, with its picture if it starts from one: the very same again."""
    given = _mapping(fields)
    refuse_unknown(given, ("spec", "init", "mask", "priority", "labels"))
    if "spec" not in given:
        raise InvalidInput("it has no spec")
    spec = JobSpec.from_json(json.dumps(given["spec"]))
    init, mask = (pictures.sent(given.get(name), name) for name in _CALLED)
    if spec.start.image is not None and init is None:
        raise InvalidInput("it starts from a picture, which has to come along", field="init", hint=_PICTURE)
    if spec.start.mask is not None and mask is None:
        raise InvalidInput("it has a mask, which has to come along", field="mask", hint=_PICTURE)
    made = draft_again(Made(b"", spec), init, {}, mask=mask)
    about = {name: given[name] for name in ("priority", "labels") if given.get(name) is not None}
    checked = JobRequest.parse({"prompt": "", **about})
    request = made.request.model_copy(update={name: getattr(checked, name) for name in about})
    return dataclasses.replace(made, request=request)


def _mapping(fields: Any) -> dict[str, Any]:
    if not isinstance(fields, dict):
        raise InvalidInput(f"{quoted(fields)} should be a mapping of names to values")
    return dict(fields)


class _Pictures:
    """The pictures of a submission: each is measured, and paid for, before it is decoded, once."""

    def __init__(self, files: Mapping[str, bytes], charge: Callable[[int], None]) -> None:
        self.known = Pictures()
        self._files, self._charge = files, charge
        self._paid: set[bytes] = set()

    def sent(self, value: Any, field: str) -> bytes | None:
        """The bytes of a picture as a client names it in a field, `init` or `mask`.

        Raises `InvalidInput` for a path or a URL, whatever it is.
        """
        if value is None:
            return None
        if isinstance(value, str):
            raise InvalidInput("a server opens no path and no URL of a client's", field=field, hint=_PICTURE)
        if not isinstance(value, dict) or len(value) != 1 or not isinstance(next(iter(value.values())), str):
            raise InvalidInput(f"{quoted(value)} is no picture", field=field, hint=_PICTURE)
        [(how, text)] = value.items()
        data = self._bytes(how, text, field)
        if len(data) > MAX_BYTES:
            raise InvalidInput(f"{_CALLED[field]} is larger than {MAX_BYTES // 2**20} MiB", field=field)
        if data not in self._paid:
            with _blaming(field):
                self._charge(pixels(data, name=_CALLED[field]))
            self._paid.add(data)
        return data

    def _bytes(self, how: str, text: str, field: str) -> bytes:
        if how == "upload":
            if text not in self._files:
                raise InvalidInput(f"no file {text!r:.60} came along", field=field, hint=_PICTURE)
            return self._files[text]
        if how != "base64":
            raise InvalidInput(f"{how!r:.60} is no way to send a picture", field=field, hint=_PICTURE)
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise InvalidInput("is not base64", field=field) from None


@contextmanager
def _blaming(field: str) -> Iterator[None]:
    """Errors about a picture name the field that it came in."""
    try:
        yield
    except InvalidInput as error:
        raise InvalidInput(error.reason, field=field, hint=error.hint) from error


@contextmanager
def _within(entry: str) -> Iterator[None]:
    """Errors name the entry that they are about."""
    try:
        yield
    except InvalidInput as error:
        field = f"{entry}.{error.field}" if error.field else entry
        raise InvalidInput(error.reason, field=field, hint=error.hint) from error
