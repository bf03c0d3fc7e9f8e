"""Declarations of options in words: what an option takes, and the line that refuses a value."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import annotated_types
import pydantic
from pydantic.fields import FieldInfo

from danet_jax.errors import InputError
from danet_jax.recipe.kinds import Check, Group, Lengths

_NOUNS = {
    bool: ("True or False", "True or False"),
    int: ("an integer", "integers"),
    float: ("a finite number", "finite numbers"),
    str: ("text", "texts"),
    dict: ("names with values", "names with values"),
}
_LONGEST = 80


def plain_type(annotation: Any) -> type:
    """`int` of `Annotated[int, ...] | None`, `tuple` of `tuple[int, ...]`."""
    kind, _ = _undressed(annotation, ())
    return typing.get_origin(kind) or kind


def group_of(annotation: Any) -> type[Group] | None:
    """The group that a field is, if it is one."""
    return annotation if isinstance(annotation, type) and issubclass(annotation, Group) else None


def takes(field: FieldInfo) -> str:
    """What an option takes, such as "an integer from 1 to 8"."""
    text = _takes(field.annotation, field.metadata)
    return f"None, or {text}" if field.default is None else text


def field_of(group: type[Group], key: str) -> FieldInfo | None:
    """The option of a key such as "training.momentum", or None."""
    name, _, rest = key.partition(".")
    field = group.model_fields.get(name)
    inner = group_of(field.annotation) if field is not None else None
    return field_of(inner, rest) if inner is not None else field if not rest else None


def line(error: pydantic.ValidationError, group: type[Group], config: Any) -> str:
    """The first of the errors in one line: the key, the value that it was given, and what it takes."""
    [first, *_] = error.errors()
    problem = (first.get("ctx") or {}).get("error")
    if isinstance(problem, InputError):  # from `_fits`, which names the keys itself
        return str(problem)
    key, value, field = "config", config, None
    for name in first["loc"]:
        inner = group_of(field.annotation) if field is not None else group
        if inner is None:  # an element: the whole value is shown
            break
        if name not in inner.model_fields:
            return f"{key}.{name} does not exist; {key} has: {', '.join(sorted(inner.model_fields))}"
        key, value, field = f"{key}.{name}", value[name], inner.model_fields[str(name)]
    inner = group_of(field.annotation) if field is not None else group
    if inner is not None:
        return f"{key}={shown(value)} must be a group of options: {', '.join(sorted(inner.model_fields))}"
    assert field is not None
    if "one of: " in takes(field) and isinstance(value, plain_type(field.annotation)):
        return f"{key}={shown(value)} does not exist; there are: {takes(field).partition('one of: ')[2]}"
    if first["type"] == "greater_than_equal" and first["ctx"]["ge"] == 0 and not isinstance(value, tuple):
        return f"{key}={shown(value)} must not be negative: {takes(field)}"
    return f"{key}={shown(value)} must be {takes(field)}"


def shown(value: Any) -> str:
    """A value as Python writes it, shortened."""
    text = " ".join(repr(value).split("\n"))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}...{text[-_LONGEST // 4 :]}"


def _undressed(annotation: Any, metadata: Sequence[Any]) -> tuple[Any, list[Any]]:
    """The type without None and `Annotated`, and all that they say of it."""
    found = list(metadata)
    while True:
        if typing.get_origin(annotation) is Annotated:
            annotation, *more = typing.get_args(annotation)
            found += more
        elif typing.get_origin(annotation) in (typing.Union, types.UnionType):
            [annotation] = (kind for kind in typing.get_args(annotation) if kind is not types.NoneType)
        else:
            break
    flat: list[Any] = []
    for item in found:
        flat += item.metadata if isinstance(item, FieldInfo) else [item]
    return annotation, flat


def _takes(annotation: Any, metadata: Sequence[Any], *, several: str | None = None) -> str:
    kind, metadata = _undressed(annotation, metadata)
    checks = [item for item in metadata if isinstance(item, Check)]
    if checks and not isinstance(checks[-1], Lengths):
        return checks[-1].takes if several is None else f"{several} items, each {checks[-1].takes}"
    if typing.get_origin(kind) is tuple:
        return _takes(typing.get_args(kind)[0], (), several=_count(metadata))
    one, more = _NOUNS[typing.get_origin(kind) or kind]
    noun = one if several is None else f"{several} {more}"
    return " ".join(filter(None, (noun, _range(metadata))))


def _count(metadata: Sequence[Any]) -> str:
    limits: Mapping[type, Any] = {type(item): item for item in metadata}
    if Lengths in limits:
        return limits[Lengths].takes
    if annotated_types.MinLen in limits:
        return f"{limits[annotated_types.MinLen].min_length} to {limits[annotated_types.MaxLen].max_length}"
    return "any number of"


def _range(metadata: Sequence[Any]) -> str:
    limits: Mapping[type, Any] = {type(item): item for item in metadata}
    words = []
    for kind, attribute, word in (
        (annotated_types.Ge, "ge", "of at least"),
        (annotated_types.Gt, "gt", "greater than"),
        (annotated_types.Le, "le", "at most"),
        (annotated_types.Lt, "lt", "less than"),
    ):
        if kind in limits:
            words.append(f"{word} {getattr(limits[kind], attribute)}")
    if annotated_types.Ge in limits and annotated_types.Le in limits:
        return f"from {limits[annotated_types.Ge].ge} to {limits[annotated_types.Le].le}"
    return " and ".join(words)
