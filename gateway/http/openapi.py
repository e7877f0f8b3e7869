"""OpenAPI descriptions shared by the endpoints that take images and videos."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from pydantic import BaseModel

from gateway.http.schemas.answer import QuestionRequest
from gateway.http.schemas.error import ErrorBody

__all__ = ["ERRORS", "EXAMPLE_IMAGE", "declare_api_keys", "json_body", "request_body"]

ERRORS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": ErrorBody, "description": description}
    for status, description in {
        400: "The body cannot be read.",
        401: "This server needs an API key, and none that it accepts was sent.",
        403: "A page of another origin (see --cors-origins), or a name in Host that is not this server's.",
        404: "No such model or pruner.",
        408: "The body did not arrive in time.",
        413: "Body, image or video too large.",
        415: "Not an image or video; another content type or charset, or a Content-Encoding (see Accept-Encoding).",
        422: "A field has a value that is not accepted.",
        429: "Overloaded, or the client is at a limit of its own; see Retry-After.",
        502: "A service sent an invalid reply.",
        503: "A service is unavailable; see Retry-After.",
        504: "Not done within timeout_s.",
    }.items()
}

EXAMPLE_IMAGE: Final = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAADAAAAAwAQMAAABtzGvEAAAABlBMVEX////cFCjKSmCFAAAAcUlEQVR42pXPsQ3CQABD0XeGgoowApsQNmKEjJYR"
    "GIERUlBQoBxFFBCpEjeWvmxZZoOagXA7Qqm1E6FFU+sgThzEmb1MpWiJoqLMsED3jUwWaBdwhY3Q/8PFno4qesZf/cFbDLzEk7sY6e1wuc6n1+sD"
    "uX4YfKRwPRYAAAAASUVORK5CYII="
)
"""Data URL of a PNG of 48 x 48 pixels: a red circle on white."""

_FILE: Final = {"type": "string", "format": "binary"}
_FORM_FIELDS: Final[dict[str, Any]] = {"image": _FILE, "images": {"type": "array", "items": _FILE}, "video": _FILE}


def declare_api_keys(app: FastAPI) -> None:
    """Declares in the description of the API that its paths need a key; /docs then asks for one."""
    without_keys = app.openapi

    def with_keys() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = without_keys()
            schema.setdefault("components", {})["securitySchemes"] = {"api_key": {"type": "http", "scheme": "bearer"}}
            for path, operations in schema["paths"].items():
                if path.startswith("/v1/"):
                    for operation in operations.values():
                        operation["security"] = [{"api_key": []}]
                        operation["responses"].setdefault("401", {"description": "No accepted API key."})
        return app.openapi_schema or {}

    app.openapi = with_keys  # type: ignore[method-assign]


def request_body(kind: type[QuestionRequest], example: dict[str, Any]) -> dict[str, Any]:
    """Description of the request body, as JSON and as a form. The endpoints read it themselves, so FastAPI has none."""
    schema = {
        **_schema(kind),
        "anyOf": [
            {"required": ["question", "image"]},
            {"required": ["question", "images"]},
            {"required": ["question", "video"]},
            {"required": ["messages"]},
        ],
    }
    form = {
        **schema,
        "properties": {
            name: {"description": field["description"], **_FORM_FIELDS[name]} if name in _FORM_FIELDS else field
            for name, field in schema["properties"].items()
        },
    }
    return {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": schema, "example": example},
                "multipart/form-data": {"schema": form},
            },
        }
    }


def json_body(kind: type[BaseModel], example: dict[str, Any]) -> dict[str, Any]:
    """Description of a request body that is accepted as JSON only."""
    content = {"application/json": {"schema": _schema(kind), "example": example}}
    return {"requestBody": {"required": True, "content": content}}


def _schema(kind: type[BaseModel]) -> dict[str, Any]:
    with_references = kind.model_json_schema()
    schema = _inlined(with_references, with_references.get("$defs", {}))
    assert isinstance(schema, dict)
    return schema


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """`schema` with all references resolved, because `$defs` cannot be referenced inside an OpenAPI document."""
    if isinstance(schema, list):
        return [_inlined(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    # A discriminator holds references. It is redundant, because each alternative declares its own type.
    kept = {key: value for key, value in schema.items() if key not in ("$defs", "discriminator")}
    return {key: _inlined(value, definitions) for key, value in kept.items()}
