"""What the API takes and gives, as its OpenAPI document tells it."""

from __future__ import annotations

import base64
import copy
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from farm.bucket.job_log import AttemptLog
from farm.bucket.loras import StoredLora
from farm.bucket.models import Kind, Layout, StoredModel
from farm.bucket.preview import Preview
from farm.bucket.shelf import KeptFile
from farm.client.loras import FileBefore
from farm.client.services import ModelService
from farm.jobs.request import JobRequest
from farm.jobs.spec import MAX_PROMPT_CHARACTERS, MAX_PROMPTS, JobSpec, Priority
from farm.jobs.status import JobStatus, State
from farm.jobs.writing import ALPHA
from farm.web.document import schemas_of
from farm.web.problems import MEDIA_TYPE, Problem

Names = Annotated[
    list[Annotated[str, Field(max_length=100)]],
    Field(min_length=1, max_length=1_000, description="Ids of jobs or batches, or unique beginnings of batch ids."),
]


class Submitted(BaseModel):
    """What became of a submission. `statuses` are there if it was waited for."""

    batch: str
    jobs: list[str]
    specs: list[JobSpec]
    warnings: list[str]
    statuses: list[JobStatus] | None = None


class Page(BaseModel):
    """Jobs, and the cursor with which the next page is asked for; null after the last."""

    jobs: list[JobStatus]
    next: str | None


class Named(BaseModel):
    """Jobs to do something with."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"names": ["0kz3mw7c9d2f4g5h"]}]})

    names: Names


class ToCancel(BaseModel):
    """Jobs to cancel, or all of the farm's, which takes the role `operate`."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"names": ["0kz3mw7c9d2f4g5h"]}]})

    names: Names | None = None
    all: bool = False


class Logged(BaseModel):
    """What workers logged of a job: its last attempts that left anything, the last of them last."""

    job: str
    attempts: list[AttemptLog]


class Cancelled(BaseModel):
    """The state in which each job was."""

    before: dict[str, State]


class ToPrioritise(BaseModel):
    """Jobs that are to have a priority, or theirs raised `by` so much: below 0, lowered."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"names": ["0kz3mw7c9d2f4g5h"], "priority": 8}]}
    )

    names: Names
    priority: Annotated[Priority, Field(strict=True)] | None = None
    by: Annotated[int, Field(ge=-9, le=9, strict=True)] | None = None


class Ranked(BaseModel):
    """The state that a job is in, and the priorities it had and has: only a queued one's changes."""

    model_config = ConfigDict(from_attributes=True)

    state: State
    before: int
    priority: int


class Prioritised(BaseModel):
    """What became of each job."""

    jobs: dict[str, Ranked]


class Again(BaseModel):
    """The jobs that are queued again."""

    jobs: list[str]


class Lora(BaseModel):
    """A LoRA that the farm keeps: for which kind of models (`sd`: not known), its ranks, and on what it acts."""

    name: str
    kind: Kind
    ranks: tuple[int, ...]
    unet: bool
    text: bool
    title: str | None
    base: str | None
    size: int
    sha256: str
    short_hash: str
    added: datetime

    @classmethod
    def of(cls, kept: StoredLora) -> Self:
        told = kept.model_dump(include=set(cls.model_fields))
        return cls(size=kept.size, sha256=kept.file.sha256, **told)


class AddedLora(Lora):
    """A LoRA that the farm keeps now: `sent` bytes had to be put into the bucket for that, and `before` is the file
    that it took the place of."""

    sent: int
    before: FileBefore | None


class KeptModel(BaseModel):
    """What the farm keeps of a model: one file or a folder in diffusers' layout, of which kind (`sd`: not known), its
    bytes, where it was found, what was said of it besides (`vae`, `prediction`, `ztsnr`), and since when."""

    model_config = ConfigDict(from_attributes=True)

    layout: Layout
    kind: Kind
    size: int
    source: str
    options: dict[str, str]
    added: datetime


class Model(BaseModel):
    """A model, the live workers that serve it, those that have it in memory, why others that were to serve it do not,
    and how many jobs wait for it.

    `kept` is null of a model that the farm does not keep; `is_kept` tells whether it does, and is null while the bucket
    does not answer.
    """

    name: str
    workers: tuple[str, ...]
    warm: tuple[str, ...]
    refused: dict[str, str]
    waiting: int
    is_kept: bool | None
    kept: KeptModel | None

    @classmethod
    def of(cls, name: str, service: ModelService | None, kept: Mapping[str, StoredModel] | None) -> Self:
        """One of those that the farm keeps by name, as far as that is known, or that workers know."""
        served = service or ModelService(name, (), 0)
        stored = None if kept is None else kept.get(name)
        return cls(
            name=name,
            workers=served.workers,
            warm=served.warm,
            refused=dict(served.refused),
            waiting=served.waiting,
            is_kept=None if kept is None else stored is not None,
            kept=None if stored is None else KeptModel.model_validate(stored),
        )


class AddedModel(BaseModel):
    """A model that the farm keeps now, with its files by name: `sent` bytes had to be put into the bucket for that."""

    name: str
    kind: Kind
    size: int
    added: datetime
    files: dict[str, KeptFile]
    sent: int


class Sending(BaseModel):
    """A file that is being added: first it is received, then read, and then sent to the bucket, each with its bytes.

    `total` is null where nobody said how many come.
    """

    model_config = ConfigDict(from_attributes=True)

    what: str
    name: str
    by: str
    began: datetime
    doing: Literal["receiving", "reading", "sending"]
    done: int
    total: int | None


class Looks(BaseModel):
    """How a job looked after a step: a PNG in base64, to be shown at `width` × `height` pixels."""

    attempt: int
    step: int
    width: int
    height: int
    png: str

    @classmethod
    def of(cls, preview: Preview) -> Self:
        width, height = preview.size
        png = base64.b64encode(preview.to_png()).decode()
        return cls(attempt=preview.attempt, step=preview.step, width=width, height=height, png=png)


class WhoIAm(BaseModel):
    """Who asks, what they may do, and in a browser's session the token that every change needs in `X-CSRF-Token`."""

    name: str
    role: str
    csrf: str | None


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What can go wrong, besides what can everywhere."""
    everywhere = (400, 401, 403, 413, 421, 422, 429, 500, 502, 503)
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": "A problem.", "content": content} for status in sorted({*everywhere, *statuses})}


def schemas() -> dict[str, Any]:
    """The schemas of what is read by the farm's own checks: submissions, and the problems that they end in."""
    made = schemas_of(JobRequest, JobSpec, Problem)
    picture = {
        "description": "A PNG, JPEG or WebP picture of up to 32 MiB and 40 megapixels. Never a path or a URL.",
        "oneOf": [
            _object({"base64": {"type": "string", "contentEncoding": "base64"}}, ["base64"]),
            _object({"upload": {"type": "string", "description": "The name of a file of the form."}}, ["upload"]),
        ],
    }
    text = {"type": "string", "maxLength": MAX_PROMPT_CHARACTERS}
    properties = made["JobRequest"]["properties"]
    properties["init"] = {"$ref": "#/components/schemas/Picture"}
    properties["mask"] = {"oneOf": [{"$ref": "#/components/schemas/Picture"}, {"const": ALPHA}]}
    grown = {"type": "string", "examples": ["left=128,top=64"]}
    properties["outpaint"] = {"oneOf": [{"$ref": "#/components/schemas/Outpaint"}, grown]}
    for field, example in (("original_size", "4096x4096"), ("crop", "128,0"), ("target_size", "1024x1024")):
        kind = {"$ref": f"#/components/schemas/{'Corner' if field == 'crop' else 'PixelSize'}"}
        properties[field] = {"oneOf": [kind, {"type": "string", "examples": [example]}]}
    properties["prompt"] = {
        "oneOf": [text, {"type": "array", "items": text, "minItems": 1, "maxItems": MAX_PROMPTS}],
        "title": "Prompt",
    }
    properties["negative"] |= text
    priority, labels = copy.deepcopy(properties["priority"]), copy.deepcopy(properties["labels"])
    came = {name: {"$ref": "#/components/schemas/Picture"} for name in ("init", "mask")}
    spec = {"spec": {"$ref": "#/components/schemas/JobSpec"}, **came}
    submission = _object(
        {
            "requests": {"type": "array", "items": {"$ref": "#/components/schemas/JobRequest"}},
            "specs": {
                "type": "array",
                "items": _object({**spec, "priority": priority, "labels": labels}, ["spec"]),
                "description": "Specs as `result.json` has them: the very same jobs again.",
            },
        },
        [],
    )
    submission["examples"] = [{"requests": [EXAMPLE]}]
    return {**made, "Picture": picture, "Submission": submission}


EXAMPLE = {"prompt": "a watercolor painting of an otter", "count": 4, "seed": 7}


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
