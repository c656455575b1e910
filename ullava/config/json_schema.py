"""The YAML files of the project as JSON Schema (draft 7, which editors read), made of the same dataclasses.

A schema says which keys there are, of which types and within which bounds, and nothing of what keys mean together: that
is judged where a file is read (``ullava check``). Keys of before and recipes in u-LLaVA's own form, which are read too,
are not in it.

A file that ``extends`` another may leave out what the other says, and takes keys away by null. So every table has two
definitions, the second for such files.
"""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

from ullava.config.described import DOCUMENTS, Key, alternatives, keys_of, summary_of
from ullava.config.load import EXTENDS
from ullava.errors import UserError, did_you_mean

DRAFT = "http://json-schema.org/draft-07/schema#"
LAID_OVER = ".extends"
"""How the definition of a table ends that is laid over another."""

_BOUNDS = {"at_least": "minimum", "at_most": "maximum", "above": "exclusiveMinimum", "below": "exclusiveMaximum"}
_SCALARS: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}

Schema = dict[str, Any]


def json_schema(document: str) -> Schema:
    """Return the schema of a kind of file: ``model``, ``dataset``, ``train``, ``eval`` or ``compare``.

    Raises:
        UserError: there is no such kind.
    """
    if document not in DOCUMENTS:
        raise UserError(f"no kind of file '{document}'{did_you_mean(document, DOCUMENTS)}")
    cls = DOCUMENTS[document]
    definitions = _Definitions()
    whole, over = definitions.reference(cls, over=False), definitions.reference(cls, over=True)
    link = {"type": "string", "description": "the YAML file that this one is laid over, relative to it"}
    definitions.found[cls.__name__ + LAID_OVER]["properties"][EXTENDS] = link
    return {
        "$schema": DRAFT,
        "title": f"ullava {document}",
        "description": summary_of(cls),
        "if": {"type": "object", "required": [EXTENDS]},
        "then": over,
        "else": whole,
        "definitions": definitions.found,
    }


class _Definitions:
    """The tables that were met, by name."""

    def __init__(self) -> None:
        self.found: dict[str, Schema] = {}

    def reference(self, cls: type[Any], *, over: bool) -> Schema:
        """Return a reference to the definition of a table, which is made when it is first met."""
        name = cls.__name__ + (LAID_OVER if over else "")
        if name not in self.found:
            definition: Schema = {"type": "object", "description": summary_of(cls), "additionalProperties": False}
            self.found[name] = definition
            keys = keys_of(cls)
            definition["properties"] = {key.name: self._property(key, over) for key in keys}
            required = [key.name for key in keys if key.required]
            if required and not over:
                definition["required"] = required
        return {"$ref": f"#/definitions/{name}"}

    def _property(self, key: Key, over: bool) -> Schema:
        told: Schema = {} if key.required else {"default": key.default}
        if key.words:
            told["description"] = key.words
        members = [self._bounded(kind, key, over) for kind in alternatives(key.kind)]
        if over and {"type": "null"} not in members:
            members.append({"type": "null"})
        if len(members) > 1:
            return {**told, "anyOf": members}
        if "$ref" in members[0]:  # beside a reference draft 7 reads nothing else
            return {**told, "allOf": members}
        return {**told, **members[0]}

    def _bounded(self, kind: Any, key: Key, over: bool) -> Schema:
        schema = self._type(kind, over)
        bounds = {_BOUNDS[name]: bound for name, bound in key.bounds.items()}
        return {**schema, **bounds} if kind in (int, float) else schema

    def _type(self, kind: Any, over: bool) -> Schema:
        """Return the schema of a type, ``over``: where null takes a key away."""
        origin, inner = get_origin(kind), get_args(kind)
        if kind is Any:
            return {}
        if kind in _SCALARS:
            return {"type": _SCALARS[kind]}
        if origin is Literal:
            return {"enum": list(inner)}
        if origin is list:
            return {"type": "array", "items": self._type(inner[0], over=False)}
        if origin is dict:
            value = self._type(inner[1], over)
            return {"type": "object", "additionalProperties": self._or_null(value) if over else value}
        if isinstance(kind, type):
            return self.reference(kind, over=over)
        raise TypeError(f"no JSON Schema is known for {kind}")

    @staticmethod
    def _or_null(schema: Schema) -> Schema:
        return {"anyOf": [schema, {"type": "null"}]} if schema else schema
