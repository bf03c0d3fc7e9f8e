"""What options are declared with: the group, and kinds of values that several options take."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import pydantic
from pydantic import BeforeValidator, Field
from pydantic_core import CoreSchema, core_schema

LARGEST_SIDE = 8192
"""Pixels of a side of a crop or a window: a float32 stem makes 4 GiB of a square of them, per image."""

LARGEST_SCALED = 16384
"""Pixels of a side of an image that is scored: the float32 scores of 20 classes are 20 GiB of a square of them."""

LARGEST_STEP = 2**31 - 1
"""Steps are counted in int32."""


class Group(pydantic.BaseModel):
    """A group of options, frozen. Nothing is converted but what a config file or JSON cannot say otherwise."""

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True
    )


@dataclasses.dataclass(frozen=True)
class Check:
    """A test that a value must pass, and in words what it takes."""

    passes: Callable[[Any], bool]
    takes: str

    def __get_pydantic_core_schema__(self, source: Any, handler: pydantic.GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def _checked(self, value: Any) -> Any:
        if not self.passes(value):
            raise ValueError(self.takes)
        return value


class Names(Check):
    """One of some names (or numbers) that exist, taken from the room that owns them."""

    def __init__(self, existing: Iterable[Any]):
        existing = tuple(existing)
        super().__init__(lambda value: value in existing, f"one of: {', '.join(map(str, existing))}")


class Lengths(Check):
    """How many elements a tuple may have."""

    def __init__(self, *allowed: int):
        words = ["()" if length == 0 else str(length) for length in allowed]
        super().__init__(
            lambda value: len(value) in allowed, " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))
        )


def _tuple(value: Any) -> Any:
    """JSON knows no tuples."""
    return tuple(value) if isinstance(value, list) else value


def _words(value: Any) -> Any:
    """A flag's `a, b,c` arrives as one text in a tuple."""
    value = _tuple(value)
    if isinstance(value, tuple) and len(value) == 1 and isinstance(value[0], str):
        return tuple(part.strip() for part in value[0].split(",") if part.strip())
    return value


def _is_file_name(value: str) -> bool:
    return value.strip() not in ("", ".", "..") and "/" not in value and len(value.encode()) <= 200


Text = Annotated[
    str, Field(max_length=4000), Check(str.isprintable, "text without line breaks or other controls")
]
"""A path or a name; empty is allowed."""

Name = Annotated[
    Text,
    Check(lambda value: bool(value.strip()), "text that is not empty, without line breaks or other controls"),
]
"""A path or a name, not empty."""

FileName = Annotated[
    Text,
    Check(
        _is_file_name, "the name of a folder: printable, of 1 to 200 bytes, without '/', neither '.' nor '..'"
    ),
]
"""The name of one folder."""

Words = Annotated[tuple[Name, ...], BeforeValidator(_words)]
"""Several names; on the command line with commas between."""

Steps = Annotated[int, Field(ge=1, le=LARGEST_STEP)]
StepRange = Annotated[tuple[Steps, ...], Lengths(0, 2), BeforeValidator(_tuple)]
Weight = Annotated[float, Field(ge=0, le=1_000_000)]
Devices = Annotated[
    int,
    Field(ge=-1, le=65536),
    Check(lambda value: value != 0, "a number of devices, or -1 for all that are left"),
]
Dilations = Annotated[tuple[Annotated[int, Field(ge=1, le=256)], ...], BeforeValidator(_tuple)]
Weights = Annotated[tuple[Weight, ...], Lengths(3), BeforeValidator(_tuple)]
Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]
Window = Annotated[tuple[Side, ...], Lengths(0, 2), BeforeValidator(_tuple)]
BaseSize = Annotated[tuple[Side, ...], Lengths(0, 1, 2), BeforeValidator(_tuple)]
Scales = Annotated[
    tuple[Annotated[float, Field(ge=0.01, le=16)], ...],
    Field(min_length=1, max_length=64),
    BeforeValidator(_tuple),
]
Mean = Annotated[
    tuple[float, ...],
    Check(
        lambda value: len(value) == 3 and all(0 <= number <= 1 for number in value),
        "3 numbers from 0 to 1: those of colours from 0 to 255 are divided by 255",
    ),
    BeforeValidator(_tuple),
]
Deviation = Annotated[
    tuple[float, ...],
    Check(
        lambda value: len(value) == 3 and all(1e-3 <= number <= 1 for number in value),
        "3 numbers from 0.001 to 1: those of colours from 0 to 255 are divided by 255",
    ),
    BeforeValidator(_tuple),
]
