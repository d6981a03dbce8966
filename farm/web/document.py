"""An API's OpenAPI document, as all of ours are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from starlette.routing import BaseRoute

from farm import __version__

_REFERENCE = "#/components/schemas/{model}"


def document(title: str, description: str, routes: Sequence[BaseRoute], schemas: Mapping[str, Any]) -> dict[str, Any]:
    """The OpenAPI document of some routes, with the schemas that they name."""
    made = get_openapi(title=title, version=__version__, description=description, routes=routes)
    components = made.setdefault("components", {})
    components["schemas"] = {**components.get("schemas", {}), **schemas}
    for unused in ("HTTPValidationError", "ValidationError"):  # errors are told in each API's own form
        components["schemas"].pop(unused, None)
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "basic": {"type": "http", "scheme": "basic", "description": "The token as password, with any user."},
    }
    made["security"] = [{"bearer": []}, {"basic": []}]
    return made


def schemas_of(*models: type[BaseModel]) -> dict[str, Any]:
    """The schemas of models and of their parts, by name."""
    made: dict[str, Any] = {}
    for model in models:
        schema = model.model_json_schema(ref_template=_REFERENCE)
        made |= schema.pop("$defs", {})
        made[model.__name__] = schema
    return made


def body_of(model: type[BaseModel], *, form: bool = False) -> dict[str, Any]:
    """What a route's document says of its body, where the farm reads that by itself: JSON, or a form with files."""
    content = {"schema": {"$ref": _REFERENCE.format(model=model.__name__)}}
    media = "multipart/form-data" if form else "application/json"
    return {"requestBody": {"required": True, "content": {media: content}}}
