"""Whatever is written under a JSON schema is an instance of it."""

import contextlib
import json
import random
import string
from pathlib import Path

import jsonschema
import pytest

from service.constraints.compiler import compile_constraint
from service.constraints.spec import json_object, json_schema
from service.errors import Validation
from service.models.bundle import Bundle, Precision
from service.models.compile import compile_program
from tests.constraints.writing import asks, write

VOCABULARY = [*string.printable[:95], "\n", "é"]

STRINGS = [
    {"type": "string"},
    {"type": "string", "minLength": 2, "maxLength": 5},
    {"type": "string", "pattern": "^[a-z]{2,4}$"},
    {"type": "string", "pattern": "[0-9]"},
    {"type": "string", "pattern": '^"\\\\?\n?é$'},
    *(
        {"type": "string", "format": name}
        for name in ("date", "date-time", "email", "ipv4", "time", "uuid")
    ),
]
NUMBERS = [
    {"type": "integer"},
    {"type": "integer", "minimum": 0},
    {"type": "integer", "minimum": -7, "maximum": 1203},
    {"type": "integer", "exclusiveMinimum": 9, "exclusiveMaximum": 11},
    {"type": "integer", "minimum": 2.5, "maximum": 99.5, "multipleOf": 1},
    {"type": "integer", "maximum": -4},
    {"type": "number"},
    {"type": "number", "minimum": 0, "maximum": 1},
    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
    {"type": "number", "exclusiveMinimum": -2, "maximum": 3},
    {"type": "number", "minimum": -5, "exclusiveMaximum": -4},
    {"type": "number", "exclusiveMinimum": -1, "maximum": 0},
    {"type": "number", "minimum": 3, "maximum": 3},
    {"type": "number", "maximum": -1000},
    {"minimum": 12},
]
OTHERS = [
    {"type": "boolean"},
    {"type": "null"},
    {"type": ["null", "integer"]},
    {"enum": ["a", 1, None, {"x": [1.5, "ß"]}, 'q"\\']},
    {"type": "string", "enum": ["a", 1]},
    {"const": "日本 😀"},
    {},
    True,
]


def schemas(count: int) -> list:
    """So many different ones, the same ones every time."""
    source = random.Random(4)
    found = {json.dumps(schema): schema for schema in [*STRINGS, *NUMBERS, *OTHERS]}
    while len(found) < count:
        schema = grown(source, source.choice([1, 1, 2, 3]))
        found[json.dumps(schema)] = schema
    return list(found.values())


def grown(source: random.Random, depth: int):
    if depth == 0:
        return source.choice([*STRINGS, *NUMBERS, *OTHERS])
    inner = [grown(source, depth - 1) for _ in range(source.randrange(1, 5))]
    names = source.sample(["a", "b c", 'q"', "é", "ß", "long name", "x", "y"], len(inner))
    properties = dict(zip(names, inner, strict=True))
    least = source.randrange(3)
    return source.choice(
        [
            {
                "type": "object",
                "title": "T",
                "properties": properties,
                "required": source.sample(names, source.randrange(len(names) + 1)),
                **source.choice([{}, {"additionalProperties": False}]),
            },
            {"type": "object", "properties": properties, "required": ["elsewhere"]},
            {"type": "object", "additionalProperties": inner[0]},
            {"type": "array", "items": inner[0], "minItems": least, "maxItems": least + 2},
            {"type": "array", "items": inner[0]},
            {"type": "array", "prefixItems": inner, "items": False, "minItems": min(least, 1)},
            {"type": "array", "prefixItems": inner, "items": inner[0], "maxItems": 6},
            {"anyOf": inner},
            {"oneOf": [{"type": "object", "properties": properties}, {"type": "null"}]},
            {"allOf": inner[:1]},
            {"$defs": {"d": inner[0]}, "type": "array", "items": {"$ref": "#/$defs/d"}},
        ]
    )


# Draft 2020-12; what a format promises is checked too.
CHECKER = jsonschema.FormatChecker(["date", "email", "ipv4", "uuid"])


def instances(schema, n: int, spare: int, vocabulary=VOCABULARY, program=None) -> list[str]:
    constraint = compile_constraint(json_schema(schema), vocabulary)
    most = constraint.shortest + spare
    asked = [asks(constraint, most, seed, temperature=1.5) for seed in range(n)]
    return [text for text, _ in write(asked, vocabulary, program)]


def has_inner_definitions(schema) -> bool:
    text = json.dumps(schema)
    return "$defs" in text and not text.startswith('{"$defs"')


SCHEMAS = [schema for schema in schemas(280) if not has_inner_definitions(schema)]


def check_instances(some: list, *network) -> None:
    for schema in some:
        validator = jsonschema.Draft202012Validator(schema, format_checker=CHECKER)
        for spare in (0, 3, 60):
            for text in instances(schema, 6, spare, *network):
                value = json.loads(text)
                assert validator.is_valid(value), (schema, text)
                assert text == text.strip()


@pytest.mark.parametrize("index", range(10))
def test_what_is_written_is_an_instance_of_its_schema(index):
    check_instances(SCHEMAS[index::10])


@pytest.fixture(scope="module")
def trained():
    """The bundled model's vocabulary and program, and the schemas that it can spell."""
    bundle = Bundle.read(Path(__file__).parents[2] / "model_store" / "demo" / "1")
    program = compile_program(bundle.spec, bundle.weights, Precision.INT8, threads=1)
    vocabulary = list(bundle.tokenizer.tokens)
    return vocabulary, program, [schema for schema in SCHEMAS if is_spelled(schema, vocabulary)]


def is_spelled(schema, vocabulary) -> bool:
    with contextlib.suppress(Validation):
        compile_constraint(json_schema(schema), vocabulary)
        return True
    return False


@pytest.mark.parametrize(
    "index", [0, *(pytest.param(i, marks=pytest.mark.slow) for i in range(1, 10))]
)
def test_so_it_is_with_a_trained_network(trained, index):
    vocabulary, program, served = trained
    assert len(served) >= 200
    check_instances(served[index::10], vocabulary, program)


def test_there_are_two_hundred_schemas():
    assert len(SCHEMAS) >= 200


TREE = {
    "$defs": {
        "tree": {
            "type": "object",
            "properties": {
                "value": {"type": "integer", "minimum": 0, "maximum": 9},
                "left": {"$ref": "#/$defs/tree"},
                "right": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]},
            },
            "required": ["value", "right"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/tree",
}


def test_recursion_ends():
    deepest = 0
    for text in instances(TREE, 40, 400):
        jsonschema.validate(json.loads(text), TREE)
        deepest = max(deepest, text.count("{"))
    assert deepest > 2


def test_recursion_without_an_end_is_refused():
    loop = {"type": "object", "required": ["x"], "properties": {"x": {"$ref": "#"}}}
    with pytest.raises(Validation, match="no text matches the json_schema"):
        compile_constraint(json_schema(loop), VOCABULARY)


def test_recursion_that_multiplies_is_bounded():
    fan = {"anyOf": [{"$ref": "#"}] * 40 + [{"type": "null"}]}
    with pytest.raises(Validation, match="limit"):
        compile_constraint(json_schema(fan | {"anyOf": [fan] * 200}), VOCABULARY)


def test_any_json_object():
    constraint = compile_constraint(json_object(), VOCABULARY)
    for most in (2, 3, 9, 300):
        for text, _ in write([asks(constraint, most, seed) for seed in range(20)], VOCABULARY):
            assert isinstance(json.loads(text), dict)


def test_a_character_that_the_model_lacks_is_escaped_where_json_can():
    texts = instances({"const": {"ß": "a"}}, 8, 0)
    assert {text.lower() for text in texts} == {r'{"\u00df":"a"}'}


def test_one_of_is_served_where_its_options_are_apart():
    def pet(kind, key):
        properties = {"kind": {"const": kind}, key: {"type": "boolean"}}
        return {"type": "object", "properties": properties, "required": ["kind"]}

    either = {"oneOf": [pet("cat", "purrs"), pet("dog", "barks"), {"type": "integer"}]}
    for text in instances(either, 20, 30):
        jsonschema.validate(json.loads(text), either)
    with pytest.raises(Validation, match="'oneOf' of options that may overlap"):
        compile_constraint(json_schema({"oneOf": [{"type": "number"}, {"type": "integer"}]}), "a1")


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"not": {}}, "'not'"),
        ({"type": "array", "uniqueItems": True}, "'uniqueItems'"),
        ({"type": "array", "contains": {}}, "'contains'"),
        ({"type": "object", "patternProperties": {}}, "'patternProperties'"),
        ({"type": "object", "minProperties": 1}, "'minProperties'"),
        ({"type": "object", "propertyNames": {}}, "'propertyNames'"),
        ({"if": {}, "then": {}}, "'if'"),
        ({"type": "number", "multipleOf": 0.5}, "'multipleOf'"),
        ({"type": "number", "minimum": 0.5}, "'minimum' that is no integer"),
        ({"type": "integer", "multipleOf": 3}, "'multipleOf'"),
        ({"type": "integer", "minimum": 10**16}, "'minimum' of"),
        ({"type": "string", "format": "hostname"}, "'format' 'hostname'"),
        ({"type": "string", "pattern": "a", "maxLength": 3}, "'pattern' beside 'maxLength'"),
        ({"allOf": [{}, {}]}, "'allOf' of more than one"),
        ({"anyOf": [{}], "type": "string"}, "'type' beside 'anyOf'"),
        ({"enum": [1, 2], "minimum": 2}, "'minimum' beside 'enum'"),
        ({"$ref": "http://elsewhere/"}, "'$ref' to anything but"),
        ({"properties": {"a": {"unevaluatedItems": 1}}}, "'unevaluatedItems' at #/properties/a"),
    ],
)
def test_a_keyword_that_would_be_broken_is_refused_by_its_name(schema, named):
    with pytest.raises(Validation, match="not served") as refusal:
        compile_constraint(json_schema(schema), VOCABULARY)
    assert named in str(refusal.value)


@pytest.mark.parametrize(
    "schema",
    [
        3,
        {"type": "text"},
        {"type": "string", "minLength": -1},
        {"$ref": "#/nowhere"},
        {"anyOf": []},
        {"enum": 3},
        {"required": "a"},
        {"properties": []},
        {"minimum": "0"},
        {"pattern": 3},
    ],
)
def test_a_malformed_schema_is_said_to_be_one(schema):
    with pytest.raises(Validation, match="malformed"):
        compile_constraint(json_schema(schema), VOCABULARY)


def test_a_schema_that_nests_too_deep_is_refused():
    schema: dict = {}
    for _ in range(70):
        schema = {"type": "array", "items": schema}
    with pytest.raises(Validation, match="nests more than 64 deep"):
        compile_constraint(json_schema(schema), VOCABULARY)
