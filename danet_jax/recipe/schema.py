"""Derives from the JSON schema of an option a description of its values, and the error that refuses a value."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import pydantic
from pydantic.fields import FieldInfo

from danet_jax.errors import InputError, did_you_mean, one_line
from danet_jax.recipe.types import Group

_TYPES = {
    "boolean": (bool, "True or False"),
    "integer": (int, "an integer"),
    "number": (float, "a finite number"),
    "string": (str, "text"),
    "object": (dict, "names with values"),
    "array": (tuple, ""),
}


@functools.cache
def schemas(group: type[Group]) -> dict[str, Any]:
    """Returns the JSON schemas of a group's options by name."""
    return group.model_json_schema()["properties"]


def group_of(field: FieldInfo) -> type[Group] | None:
    """Returns the group that a field contains, or None if the field is an option."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Group) else None


def find(root: type[Group], names: Iterable[Any]) -> tuple[str, type[Group], str]:
    """Returns the full key, the group and the name of an option; the name is "" if `names` lead to a group.

    Names that follow those of an option, such as the index of an element, are ignored.

    Raises:
      InputError: the option or group does not exist; the message gives the nearest name, and those that exist.
    """
    key, group = "config", root
    for name in map(str, names):
        if name not in group.model_fields:
            allowed, key = sorted(group.model_fields), f"{key}.{name}"
            raise InputError(
                f"{key} does not exist; {did_you_mean(name, allowed)}there are: {', '.join(allowed)}",
                what=key,
                value=name,
                allowed=allowed,
            )
        key, inner = f"{key}.{name}", group_of(group.model_fields[name])
        if inner is None:
            return key, group, name
        group = inner
    return key, group, ""


def refusal(error: pydantic.ValidationError, root: type[Group], config: Any) -> InputError:
    """Returns the first of pydantic's errors as one line with the key, its value and the values that it takes."""
    [first, *_] = error.errors()
    problem = first.get("ctx", {}).get("error")
    if isinstance(problem, InputError):  # raised by `_fits`, which names the keys itself
        return problem
    key, group, name = find(root, first["loc"])
    value = config
    for part in key.split(".")[1:]:
        value = value.get(part, first["input"])
    return value_error(key, group, name, value)


def value_error(key: str, group: type[Group], name: str, value: Any) -> InputError:
    """Returns the error for an invalid value of the option `name` of `group`, or of `group` itself if `name` is ""."""
    if name:
        expected = takes(schemas(group)[name])
        allowed = _without_none(schemas(group)[name]).get("enum", expected)
    else:
        expected = allowed = f"a group of options: {', '.join(sorted(group.model_fields))}"
    hint = "" if isinstance(allowed, str) else did_you_mean(shown(value).strip("'"), allowed)
    message = f"{key}={shown(value)} must be {expected}; {hint}".rstrip("; ")
    return InputError(message, what=key, value=value, allowed=allowed)


def shown(value: Any) -> str:
    """Returns the `repr` of a value on one line of bounded length."""
    try:
        return one_line(repr(value))
    except ValueError:  # Python does not convert integers of more than 4300 digits.
        return f"a very large {type(value).__name__}"


def plain_type(schema: Mapping[str, Any]) -> type:
    """Returns the Python type of an option's values, for example `tuple` for a list of sizes."""
    return _TYPES[_without_none(schema)["type"]][0]


def takes(schema: Mapping[str, Any]) -> str:
    """Returns a description of the values that an option takes, such as "an integer from 1 to 8"."""
    if "anyOf" in schema:
        return f"None, or {takes(_without_none(schema))}"
    if "takes" in schema:
        return str(schema["takes"])
    if "enum" in schema:
        return f"one of: {', '.join(map(str, schema['enum']))}"
    if schema["type"] == "array":
        count = schema.get("lengths", "any number of")
        if "maxItems" in schema:
            count = f"{schema['minItems']} to {schema['maxItems']}"
        return f"a tuple of {count} values, each {takes(schema['items'])}"
    noun = _TYPES[schema["type"]][1]
    if "minimum" in schema and "maximum" in schema:
        return f"{noun} from {schema['minimum']} to {schema['maximum']}"
    limits = {
        "minimum": "of at least",
        "exclusiveMinimum": "greater than",
        "maximum": "at most",
        "exclusiveMaximum": "less than",
    }
    words = [f"{word} {schema[limit]}" for limit, word in limits.items() if limit in schema]
    return f"{noun} {' and '.join(words)}".strip()


def _without_none(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the schema of an option's values, excluding None."""
    return schema["anyOf"][0] if "anyOf" in schema else schema
