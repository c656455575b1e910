"""What bodies of requests have in common: unknown fields are refused, with the nearest known one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastapi import Response
from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from ullava.errors import did_you_mean
from ullava.serving.refusals import RefusedError, invalid


class Body(BaseModel):
    """A JSON object of a request, with the fields that it declares and no others."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def check_fields(cls, value: Any) -> Any:
        """Raise an error of validation for an unknown field."""
        if isinstance(value, Mapping) and cls.model_config.get("extra") == "forbid":
            for key in value:
                if key not in cls.model_fields:
                    name, said = unknown_field(str(key), cls.model_fields)
                    raise PydanticCustomError("unknown_field", "{said}", {"said": said, "field": name})
        return value


def unknown_field(name: str, known: Iterable[str]) -> tuple[str, str]:
    """Return a field's name, short and without halves of characters, and what is said of it."""
    name = name[:80].encode("utf-8", "replace").decode()
    return name, f"unknown field '{name}'{did_you_mean(name, known)}"


class ErrorInfo(BaseModel):
    """Why a request was refused."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorReply(BaseModel):
    """The answer to a request that was refused."""

    error: ErrorInfo


def refusal_of(errors: Sequence[Mapping[str, Any]]) -> RefusedError:
    """Return what pydantic found wrong with a request as one sentence about the first of it."""
    found = errors[0]
    if found["type"] == "json_invalid":
        return invalid(f"the body is not valid JSON: {found.get('ctx', {}).get('error', 'it cannot be read')}")
    param = ""
    for part in found["loc"][1:]:
        if isinstance(part, int):
            param += f"[{part}]"
        elif not part.startswith("<"):
            param += f".{part}" if param else part
    said = str(found["msg"])
    if found["type"] == "unknown_field":
        param += f".{found['ctx']['field']}" if param else found["ctx"]["field"]
        return invalid(said, param)
    if not param and found["type"] in ("missing", "model_attributes_type", "dict_type"):
        said = "the body is no JSON object of content type application/json"
    return invalid(f"{param}: {said}" if param else said, param or None)


def json_reply(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return ``value`` as a response."""
    return Response(json_bytes(value), status, dict(headers or {}), "application/json")


def json_bytes(value: Any) -> bytes:
    """Return ``value`` as JSON without blanks. Raises ValueError for numbers that JSON does not have."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace")
