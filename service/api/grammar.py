"""Grammars as TGI, OpenAI and vLLM write them in a request, and the constraint of each."""

import json
from collections.abc import Mapping
from typing import Any

from service.constraints.spec import ConstraintSpec, choice, json_object, json_schema, regex
from service.errors import Validation, about

Object = Mapping[str, Any]


def of_grammar(value: Object) -> ConstraintSpec:
    """Return the constraint of TGI's `grammar`; `choice` is ours. Raises Validation."""
    with about("grammar"):
        kind, content = value.get("type"), value.get("value")
        _check_fields("grammar", value, {"type", "value"})
        match kind:
            case "regex":
                return regex(_text("grammar.value", content))
            case "json_object" if content is None:
                return json_object()
            case "json" | "json_object":
                return _schema("grammar.value", content)
            case "json_schema" if isinstance(content, dict):
                _check_fields("grammar.value", content, {"name", "schema"})
                return _schema("grammar.value.schema", content.get("schema"))
            case "choice":
                return choice(_texts("grammar.value", content))
        raise Validation(
            "`grammar` is {'type': 'json' | 'json_object' | 'json_schema' | 'regex' | 'choice', "
            "'value': …}"
        )


def of_response_format(value: Object) -> ConstraintSpec | None:
    """Return the constraint of OpenAI's `response_format`, if it has one. Raises Validation."""
    with about("response_format"):
        match value.get("type"):
            case "text":
                _check_fields("response_format", value, {"type"})
                return None
            case "json_object":
                _check_fields("response_format", value, {"type"})
                return json_object()
            case "json_schema":
                _check_fields("response_format", value, {"type", "json_schema"})
                inner = value.get("json_schema")
                if not isinstance(inner, dict):
                    raise Validation("`response_format.json_schema` is an object with a `schema`")
                known = {"name", "description", "schema", "strict"}
                _check_fields("response_format.json_schema", inner, known)
                return _schema("response_format.json_schema.schema", inner.get("schema"))
        raise Validation(
            "`response_format.type` is 'text', 'json_object' or 'json_schema'. "
            f"Given: {json.dumps(value.get('type'))[:80]}"
        )


def of_structured_outputs(
    value: Object, field: str = "structured_outputs"
) -> ConstraintSpec | None:
    """Return the constraint of vLLM's `structured_outputs`, if it has one. Raises Validation."""
    with about(field):
        given = {name: one for name, one in value.items() if one is not None and one is not False}
        for name in ("grammar", "structural_tag"):
            if name in given:
                raise Validation(
                    f"`{field}.{name}` is not supported: use `json`, `regex` or `choice`"
                )
        _check_fields(field, given, {"json", "json_object", "regex", "choice"})
        if len(given) > 1:
            raise Validation(f"`{field}` has one of json, json_object, regex and choice at most")
        for name, content in given.items():
            match name:
                case "json":
                    return _schema(f"{field}.json", content)
                case "json_object":
                    return json_object()
                case "regex":
                    return regex(_text(f"{field}.regex", content))
                case _:
                    return choice(_texts(f"{field}.choice", content))
    return None


def _check_fields(field: str, value: Object, known: set[str]) -> None:
    unknown = sorted(set(value) - known)
    if unknown:
        raise Validation(f"`{field}.{unknown[0][:80]}` is not a known field")


def _schema(field: str, value: object) -> ConstraintSpec:
    """Return the constraint of a JSON schema, which is a value or JSON in a string."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise Validation(f"`{field}` is a JSON schema, and the text is not JSON") from error
    if not isinstance(value, dict | bool):
        raise Validation(f"`{field}` is a JSON schema: an object, or a text that has one")
    return json_schema(value)


def _text(field: str, value: object) -> str:
    if not isinstance(value, str):
        raise Validation(f"`{field}` is a text")
    return value


def _texts(field: str, value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise Validation(f"`{field}` is a list of texts to choose from")
    return value
