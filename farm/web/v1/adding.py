"""Adding models and LoRAs: a file that is sent, checked as the command checks it, and kept in the farm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, TypeVar

from fastapi import APIRouter, Query, Request, Response

from farm import keys
from farm.client import lora_files, loras, model_files, models
from farm.client.given import GivenFile
from farm.client.keeping import Progress
from farm.errors import InvalidInput
from farm.keys import WEIGHTS
from farm.web.limits import Limits
from farm.web.parts import OPERATES, InSite, Operating, Parts
from farm.web.problems import Refused
from farm.web.uploads import Uploads, too_large
from farm.web.v1.shapes import AddedLora, AddedModel, Lora, Sending, problems
from farm.web.v1.words import in_words_of_the_api
from farm.words import one_line

router = APIRouter(tags=["Farm"])

_FIELD = "body"
_LONGEST_NAME = 200
_FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")
_BODY = {
    "required": True,
    "description": "The file itself, of safetensors.",
    "content": {
        "application/octet-stream": {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}
    },
}

A = TypeVar("A")

Replace = Annotated[bool, Query(description="Put it in the place of another of that name.")]
Again = Annotated[bool, Query(description="Send all of it to the bucket again, which mends what is damaged there.")]
File = Annotated[
    str | None,
    Query(max_length=_LONGEST_NAME, description="What the file is called where it is from. Nothing is opened by it."),
]
Config = Annotated[str | None, Query(include_in_schema=False)]


@dataclass(frozen=True)
class Way:
    """How something is added: `what` it is, the `most` bytes that it has, what checks its name, and what its file."""

    what: str
    most: Callable[[Limits], int]
    check_name: Callable[[str], object]
    look_at: Callable[[GivenFile], object]


MODEL = Way("model", lambda limits: limits.model, models.check_name, model_files.look_at)
LORA = Way("LoRA", lambda limits: limits.lora, keys.lora_name, lora_files.look_at_header)


@router.put(
    "/models/{name}",
    status_code=201,
    responses={200: {"model": AddedModel}, **problems(408, 409, 507)},
    openapi_extra={"requestBody": _BODY},
)
async def add_model(
    request: Request,
    response: Response,
    site: InSite,
    caller: Operating,
    name: str,
    replace: Replace = False,
    again: Again = False,
    file: File = None,
    config: Config = None,
) -> AddedModel:
    """Keep a checkpoint of one file, for every worker that was started without `--model`; 200 if it is kept already.

    The file is the body. It is refused as soon as its header has come if that says that it is something else. Sent
    again after a lost answer it changes nothing. A folder in diffusers' layout, or a checkpoint that takes its
    configuration from one, is added by the command.
    """
    if config is not None:
        hint = f"the command can: farm models add {name}=FILE#config=FOLDER"
        raise InvalidInput("a folder cannot be sent", field="config", hint=hint)

    def add(given: GivenFile, progress: Progress) -> models.Added:
        site.client.check_bucket()
        ledger, storage = site.client.ledger, site.client.storage
        return models.add(ledger, storage, name, given, replace=replace, again=again, progress=progress)

    began = datetime.now(UTC)
    added = await _kept(request, site, caller.name, MODEL, name, file, add)
    response.status_code = 201 if added.model.added >= began else 200
    kept = added.model
    return AddedModel(
        name=kept.name, kind=kept.kind, size=kept.size, added=kept.added, files=kept.files, sent=added.sent
    )


@router.put(
    "/loras/{name}",
    status_code=201,
    responses={200: {"model": AddedLora}, **problems(408, 409, 507)},
    openapi_extra={"requestBody": _BODY},
)
async def add_lora(
    request: Request,
    response: Response,
    site: InSite,
    caller: Operating,
    name: str,
    replace: Replace = False,
    again: Again = False,
    file: File = None,
) -> AddedLora:
    """Keep a LoRA, LoCon, LoHa, LoKr or DoRA for jobs to name; 200 if it is kept already.

    The file is the body. It is refused as soon as its header has come if that says that it is something else. Sent
    again after a lost answer it changes nothing. The file of another that is replaced is deleted, unless another name
    has it or jobs wait for it: pictures made with it cannot be made again.
    """

    def add(given: GivenFile, progress: Progress) -> loras.Added:
        site.client.check_bucket()
        ledger, storage = site.client.ledger, site.client.storage
        return loras.add(ledger, storage, name, given, replace=replace, again=again, progress=progress)

    began = datetime.now(UTC)
    added = await _kept(request, site, caller.name, LORA, name, file, add)
    response.status_code = 201 if added.lora.added >= began else 200
    return AddedLora(**dict(Lora.of(added.lora)), sent=added.sent, before=added.before)


@router.get("/uploads", dependencies=[OPERATES], responses=problems())
async def uploads(site: InSite) -> list[Sending]:
    """The files that are being added at this moment, and how far that has got."""
    return [Sending.model_validate(one) for one in uploads_of(site).under_way.values()]


async def _kept(
    request: Request,
    site: Parts,
    by: str,
    way: Way,
    name: str,
    file: str | None,
    add: Callable[[GivenFile, Progress], A],
) -> A:
    """What `add` makes of the file that a request brings. Once all has come, that does not end with the request."""
    places, most = uploads_of(site), way.most(site.usage.limits)
    _check_name(way, name)
    async with places.place(way.what, name, by, _told(request, most)) as upload:
        called = called_by(file) or f"{name}{WEIGHTS}"
        given = GivenFile(upload.path, called=called, field=_FIELD, source=f"{called}, sent by {by}")
        await places.receive(upload, request, most=most, look=partial(way.look_at, given))
        with in_words_of_the_api():
            return await places.bridge(add, given, upload)


async def looked_at(site: Parts, way: Way, name: str, header: bytes, size: int, file: str | None) -> None:
    """Look at a name and at the beginning of a file, with its header, before the rest is sent. Raises what adding it
    would."""
    if size > (most := way.most(site.usage.limits)):
        raise too_large(most)
    called = called_by(file) or f"{name}{WEIGHTS}"
    await uploads_of(site).look(header, size, lambda path: way.look_at(GivenFile(path, called, _FIELD, called)))
    _check_name(way, name)


def uploads_of(site: Parts) -> Uploads:
    """Where files come to. Raises `Refused`."""
    if site.uploads is None:
        raise Refused(503, "no-uploads", "this site has no home, and so no place for files", hint="'farm web' has")
    return site.uploads


def called_by(file: str | None) -> str:
    """The name of a file without its folders, on one line."""
    return one_line((file or "").replace("\\", "/").rpartition("/")[2]).strip()[:_LONGEST_NAME]


def _told(request: Request, most: int) -> int | None:
    """How many bytes a request says that it brings, or None. Raises `Refused` for too many, `InvalidInput`."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in _FORMS:
        raise InvalidInput("the body is the file itself, and no form", field="Content-Type", hint="curl -T FILE")
    told = request.headers.get("content-length", "")
    if not told.isdecimal():
        return None
    if len(told) > 15 or int(told) > most:
        raise too_large(most)
    return int(told)


def _check_name(way: Way, name: str) -> None:
    try:
        way.check_name(name)
    except InvalidInput as error:
        raise InvalidInput(error.reason, field="name", hint=error.hint) from error
