"""Conversion of a JSON schema into a pattern: every text of it is an instance of the schema.

A keyword that cannot be enforced is refused by its name. The pattern matches a subset of the
instances, so that the automaton is finite: recursion and the digits of numbers are limited,
properties are in the schema's order, and a property that the schema does not name is left out.

Source: JSON Schema, draft 2020-12, core and validation.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from math import ceil, floor
from types import NoneType
from typing import Any, NoReturn
from urllib.parse import unquote

from service.constraints.json_text import FORMATS, JsonText
from service.constraints.pattern import NOTHING, Alphabet, Pattern, choice, positions
from service.errors import Validation

DEPTHS = (4, 3, 2, 1)
"""The nesting of values of any type, and of a reference inside itself: the first of these whose
pattern is not too large."""

MAX_NODES = 4_096
"""The largest number of schemas in a schema, with references followed."""

MAX_NESTING = 64
"""The deepest nesting of schemas."""

_NUMBER_LIMIT, _INTEGER_LIMIT = 10**9, 10**15

_ANNOTATIONS = frozenset(
    {
        *("$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "default"),
        *("examples", "example", "deprecated", "readOnly", "writeOnly"),
    }
)
_KEYWORDS = {
    "string": frozenset({"minLength", "maxLength", "pattern", "format"}),
    "number": frozenset(
        {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
    ),
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems", "uniqueItems"}),
    "object": frozenset({"properties", "required", "additionalProperties"}),
}
_KEYWORDS["integer"] = _KEYWORDS["number"]
_TYPES = ("string", "number", "integer", "boolean", "null", "array", "object")
_EXCLUSIVE = ("$ref", "const", "enum", "anyOf", "oneOf", "allOf")
_ALLOWED_BESIDE = {"const": frozenset({"type"}), "enum": frozenset({"type"})}
_SERVED = _ANNOTATIONS.union({"type"}, _EXCLUSIVE, *_KEYWORDS.values())


class _TooLarge(Exception):
    """The schema has more than MAX_NODES schemas in it."""


def read_schema(schema: Any, alphabet: Alphabet, max_positions: int) -> Pattern:
    """Return the pattern of a JSON schema's instances over an alphabet. Raises Validation."""
    text = JsonText(alphabet)
    for depth in DEPTHS:
        try:
            pattern = _Converter(schema, text, depth).value(schema, "#")
        except _TooLarge:
            continue
        if positions(pattern) <= max_positions:
            return pattern
    raise Validation(
        f"the JSON schema is too large: {MAX_NODES} schemas inside it, references followed, and "
        f"{max_positions} characters, repetitions written out, are the limits; ask for less"
    )


class _Converter:
    """Converts one schema, with one of DEPTHS."""

    def __init__(self, root: Any, text: JsonText, depth: int) -> None:
        self._root, self._text, self._depth = root, text, depth
        self._n_nodes = 0
        self._nesting = 0
        self._open: Counter[str] = Counter()  # references being followed
        self._converters: dict[str, Callable[[dict[str, Any], str], Pattern]] = {
            "$ref": self._reference,
            "const": self._constants,
            "enum": self._constants,
            "anyOf": lambda schema, at: choice(*self._values(schema, "anyOf", at)),
            "oneOf": self._one_of,
            "allOf": self._all_of,
            "string": self._string,
            "number": self._number,
            "integer": self._integer,
            "boolean": lambda *_: choice(text.literal(True), text.literal(False)),
            "null": lambda *_: text.literal(None),
            "array": self._array,
            "object": self._object,
        }

    def value(self, schema: Any, at: str) -> Pattern:
        """Convert the schema at a JSON pointer, which is in error messages."""
        self._n_nodes += 1
        if self._n_nodes > MAX_NODES:
            raise _TooLarge
        if isinstance(schema, bool):
            return self._text.any(self._depth) if schema else NOTHING
        if not isinstance(schema, dict):
            _malformed(at, "is neither an object nor a boolean")
        self._nesting += 1
        if self._nesting > MAX_NESTING:
            raise Validation(f"the JSON schema nests more than {MAX_NESTING} deep; make it flatter")
        pattern = self._described(schema, at)
        self._nesting -= 1
        return pattern

    def _described(self, schema: dict[str, Any], at: str) -> Pattern:
        keywords = schema.keys() - _ANNOTATIONS
        for keyword in sorted(keywords - _SERVED):
            _refuse(at, keyword)
        for whole in _EXCLUSIVE:
            if whole in schema:
                for other in sorted(keywords - {whole} - _ALLOWED_BESIDE.get(whole, frozenset())):
                    _refuse(at, other, f"beside {whole!r}")
                return self._converters[whole](schema, at)
        if not keywords:
            return self._text.any(self._depth)
        types = self._types(schema, at)
        return choice(*(self._converters[name](schema, at) for name in types))

    def _types(self, schema: dict[str, Any], at: str) -> list[str]:
        """Return the types of a schema or, if it has none, those that its keywords apply to."""
        if "type" not in schema:
            return [
                name
                for name in ("string", "number", "array", "object")
                if _KEYWORDS[name] & schema.keys()
            ]
        named = schema["type"]
        types = [named] if isinstance(named, str) else named
        if not isinstance(types, list) or not all(name in _TYPES for name in types):
            _malformed(f"{at}/type", f"is not among {', '.join(_TYPES)}, nor a list of such")
        return types

    # -- keywords that define the whole schema

    def _reference(self, schema: dict[str, Any], at: str) -> Pattern:
        name = schema["$ref"]
        target = self._resolved(name, at)
        if self._open[name] >= self._depth:
            return NOTHING  # an alternative or an absent property remains
        self._open[name] += 1
        pattern = self.value(target, name)
        self._open[name] -= 1
        return pattern

    def _resolved(self, name: Any, at: str) -> Any:
        if not isinstance(name, str) or not (name == "#" or name.startswith("#/")):
            _refuse(at, "$ref", "to anything but a place in the schema itself")
        target = self._root
        for part in name.split("/")[1:]:
            key: Any = unquote(part).replace("~1", "/").replace("~0", "~")
            if isinstance(target, list) and key.isdecimal() and int(key) < len(target):
                key = int(key)
            elif not isinstance(target, dict) or key not in target:
                _malformed(f"{at}/$ref", f"{name!r} leads nowhere")
            target = target[key]
        return target

    def _constants(self, schema: dict[str, Any], at: str) -> Pattern:
        values = schema.get("enum", [schema.get("const")])
        if not isinstance(values, list):
            _malformed(f"{at}/enum", "is not a list")
        if "type" in schema:
            types = self._types(schema, at)
            values = [value for value in values if _types_of(value) & {*types}]
        return choice(*map(self._text.literal, values))

    def _values(self, schema: dict[str, Any], keyword: str, at: str) -> list[Pattern]:
        """Convert the schemas in a list."""
        schemas = _list(schema, keyword, at)
        return [self.value(each, f"{at}/{keyword}/{i}") for i, each in enumerate(schemas)]

    def _one_of(self, schema: dict[str, Any], at: str) -> Pattern:
        options = _list(schema, "oneOf", at)
        for i, option in enumerate(options):
            for other in options[:i]:
                if not self._is_apart(option, other, at):
                    _refuse(at, "oneOf", "of options that may overlap; 'anyOf' is served")
        return choice(*self._values(schema, "oneOf", at))

    def _all_of(self, schema: dict[str, Any], at: str) -> Pattern:
        if len(_list(schema, "allOf", at)) != 1:
            _refuse(at, "allOf", "of more than one schema")
        return self._values(schema, "allOf", at)[0]

    def _is_apart(self, a: Any, b: Any, at: str) -> bool:
        """Whether two schemas have no instance in common; False also if it is not obvious."""
        a, b = self._followed(a, at), self._followed(b, at)
        if not (isinstance(a, dict) and isinstance(b, dict)):
            return a is False or b is False
        if not self._kinds(a, at) & self._kinds(b, at):
            return True
        values, others = _constants_of(a), _constants_of(b)
        if values is not None and others is not None:
            return not any(_is_equal(value, other) for value in values for other in others)
        if "type" not in a or a["type"] != "object" or b.get("type") != "object":
            return False
        shared = {*a.get("required", ())} & {*b.get("required", ())}
        return any(
            name in a.get("properties", {})
            and name in b.get("properties", {})
            and self._is_apart(a["properties"][name], b["properties"][name], at)
            for name in shared
        )

    def _followed(self, schema: Any, at: str) -> Any:
        for _ in range(MAX_NESTING):
            if not (isinstance(schema, dict) and "$ref" in schema):
                break
            schema = self._resolved(schema["$ref"], at)
        return schema

    def _kinds(self, schema: dict[str, Any], at: str) -> set[str]:
        """Return the types of a schema's instances; an integer is a number, too."""
        constants = _constants_of(schema)
        if constants is not None:
            return set().union(*map(_types_of, constants))
        types = self._types(schema, at) if "type" in schema else _TYPES
        return {*types} | ({"integer"} if "number" in types else set())

    # -- types

    def _string(self, schema: dict[str, Any], at: str) -> Pattern:
        names = sorted(_KEYWORDS["string"] & schema.keys())
        if "pattern" in schema or "format" in schema:
            if len(names) > 1:
                _refuse(at, names[-1], f"beside {names[0]!r}")
            if "format" in schema:
                if schema["format"] not in FORMATS:
                    _refuse(at, "format", f"{schema['format']!r}; served are {', '.join(FORMATS)}")
                return self._text.format(schema["format"])
            if not isinstance(schema["pattern"], str):
                _malformed(f"{at}/pattern", "is not a string")
            return self._text.matching(schema["pattern"])
        least, most = _natural(schema, "minLength", at), _natural(schema, "maxLength", at)
        if most is not None and most < (least or 0):
            return NOTHING
        return self._text.string(least or 0, most)

    def _integer(self, schema: dict[str, Any], at: str) -> Pattern:
        if schema.get("multipleOf", 1) != 1:
            _refuse(at, "multipleOf", "other than 1")
        bounds = _bounds(schema, at, _INTEGER_LIMIT)
        least = [ceil(bounds[k]) for k in ("minimum",) if k in bounds]
        least += [floor(bounds[k]) + 1 for k in ("exclusiveMinimum",) if k in bounds]
        most = [floor(bounds[k]) for k in ("maximum",) if k in bounds]
        most += [ceil(bounds[k]) - 1 for k in ("exclusiveMaximum",) if k in bounds]
        return self._text.integer(max(least, default=None), min(most, default=None))

    def _number(self, schema: dict[str, Any], at: str) -> Pattern:
        if "multipleOf" in schema:
            _refuse(at, "multipleOf", "of a number that is no integer")
        bounds = _bounds(schema, at, _NUMBER_LIMIT)
        if not bounds:
            return self._text.number()
        for name, bound in bounds.items():
            if bound != int(bound):
                _refuse(at, name, "that is no integer")
        # The tighter of two bounds on one side applies; of two equal ones, the exclusive one.
        least = max(
            ((int(bounds[k]), k != "minimum") for k in bounds if k.endswith("inimum")),
            default=(None, False),
        )
        most = min(
            ((int(bounds[k]), k == "maximum") for k in bounds if k.endswith("aximum")),
            default=(None, True),
        )
        return self._text.between(least[0], most[0], above=least[1], below=not most[1])

    def _array(self, schema: dict[str, Any], at: str) -> Pattern:
        if schema.get("uniqueItems"):
            _refuse(at, "uniqueItems")
        if isinstance(schema.get("items"), list):
            _refuse(at, "items", "with a list, which 'prefixItems' has taken over")
        least, most = _natural(schema, "minItems", at) or 0, _natural(schema, "maxItems", at)
        first = self._values(schema, "prefixItems", at) if "prefixItems" in schema else []
        item = self.value(schema.get("items", True), f"{at}/items")
        return self._text.array(first, item, least, most)

    def _object(self, schema: dict[str, Any], at: str) -> Pattern:
        properties = schema.get("properties", {})
        required = schema.get("required", [])
        others = schema.get("additionalProperties", True)
        if not isinstance(properties, dict):
            _malformed(f"{at}/properties", "is not an object")
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            _malformed(f"{at}/required", "is not a list of names")
        if not properties and not required:
            if others is False:
                return self._text.object(())
            return self._text.map(self.value(others, f"{at}/additionalProperties"))
        found = [
            (name, self.value(inner, f"{at}/properties/{name}"), name in required)
            for name, inner in properties.items()
        ]
        for name in dict.fromkeys(required):
            if name not in properties:
                inner = self.value(others, f"{at}/additionalProperties")
                found.append((name, inner, True))
        return self._text.object(found)


def _list(schema: dict[str, Any], keyword: str, at: str) -> Sequence[Any]:
    value = schema[keyword]
    if not isinstance(value, list) or not value:
        _malformed(f"{at}/{keyword}", "is not a list of schemas")
    return value


def _natural(schema: dict[str, Any], keyword: str, at: str) -> int | None:
    value = schema.get(keyword)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or value % 1:
        _malformed(f"{at}/{keyword}", "is not a natural number")
    return int(value)


def _bounds(schema: dict[str, Any], at: str, limit: int) -> dict[str, float]:
    """Return the bounds of a schema of numbers by keyword."""
    bounds = {}
    for name in sorted((_KEYWORDS["number"] - {"multipleOf"}) & schema.keys()):
        value = schema[name]
        if isinstance(value, bool) or not isinstance(value, int | float):
            _malformed(f"{at}/{name}", "is not a number")
        if abs(value) >= limit:
            _refuse(at, name, f"of {value}, beyond the limit of {limit}")
        bounds[name] = value
    return bounds


def _constants_of(schema: dict[str, Any]) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return values if isinstance(values, list) else None


def _is_equal(a: Any, b: Any) -> bool:
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


def _types_of(value: Any) -> set[str]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {"number", "integer"} if value % 1 == 0 else {"number"}
    names = {NoneType: "null", bool: "boolean", str: "string", list: "array"}
    return {names.get(type(value), "object")}


def _refuse(at: str, keyword: str, how: str = "") -> NoReturn:
    raise Validation(
        f"the JSON schema has {keyword!r}{' ' + how if how else ''} at {at}, which is not served; "
        "leave it out"
    )


def _malformed(at: str, what: str) -> NoReturn:
    raise Validation(f"the JSON schema is malformed: {at} {what}")
