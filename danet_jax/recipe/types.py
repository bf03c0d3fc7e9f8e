"""The base class of groups of options, and the types that several options share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import pydantic
from pydantic import AfterValidator, BeforeValidator, Field

LARGEST_SIDE = 8192
"""The largest side of a crop or a window in pixels. For such a square, a float32 stem takes 4 GiB per image."""

LARGEST_SCALED = 16384
"""The largest side of a scored image in pixels. For such a square, the float32 scores of 20 classes take 20 GiB."""

LARGEST_STEP = 2**31 - 1
"""The largest number of a step, since steps are counted in int32."""


class Group(pydantic.BaseModel):
    """A frozen group of options. Values are not converted, except lists to tuples, which JSON cannot express."""

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, validate_default=True
    )

    @pydantic.field_validator("*", mode="before")
    @classmethod
    def _as_tuple(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value


@dataclasses.dataclass(frozen=True)
class Check:
    """A test that a value must pass.

    Attributes:
      passes: returns whether a value passes the test.
      allowed: a description of the values that pass, for messages and docs/settings.md; see
        `danet_jax.recipe.schema.takes`.
      key: the key of `allowed` in the option's JSON schema: "takes" describes values, "lengths" their number, and
        "enum" lists them.
    """

    passes: Callable[[Any], bool]
    allowed: str | tuple[Any, ...]
    key: str = "takes"

    def __get_pydantic_core_schema__(self, source: Any, handler: pydantic.GetCoreSchemaHandler) -> Any:
        return AfterValidator(self._checked).__get_pydantic_core_schema__(source, handler)

    def __get_pydantic_json_schema__(
        self, schema: Any, handler: pydantic.GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return handler(schema) | {self.key: self.allowed}

    def _checked(self, value: Any) -> Any:
        if not self.passes(value):
            raise ValueError(f"must be {self.allowed}")
        return value


def Names(existing: Iterable[Any]) -> Check:
    """Returns a check that a value is one of the names (or numbers) in `existing`, from the package that uses them."""
    existing = tuple(existing)
    return Check(lambda value: value in existing, existing, "enum")


def Lengths(*allowed: int) -> Check:
    """Returns a check that a tuple has one of the lengths in `allowed`."""
    *most, last = map(str, allowed)
    return Check(
        lambda value: len(value) in allowed, " or ".join(filter(None, (", ".join(most), last))), "lengths"
    )


def _names(value: Any) -> Any:
    """Splits the value of a flag such as `a, b,c`, which arrives as a tuple of one string."""
    if isinstance(value, tuple) and len(value) == 1 and isinstance(value[0], str):
        return tuple(part.strip() for part in value[0].split(",") if part.strip())
    return value


def _is_file_name(value: str) -> bool:
    return value.strip() not in ("", ".", "..") and "/" not in value and len(value.encode()) <= 200


Text = Annotated[
    str, Field(max_length=4000), Check(str.isprintable, "text without line breaks or control characters")
]
"""A path or a name, which may be empty."""

Name = Annotated[
    Text,
    Check(
        lambda value: bool(value.strip()), "text that is not empty, without line breaks or control characters"
    ),
]
"""A path or a name that is not empty."""

FileName = Annotated[
    Text,
    Check(_is_file_name, "the name of a folder: printable, 1 to 200 bytes, without '/', and not '.' or '..'"),
]
"""The name of one folder."""

NameList = Annotated[tuple[Name, ...], BeforeValidator(_names)]
"""Several names, separated by commas on the command line."""

Steps = Annotated[int, Field(ge=1, le=LARGEST_STEP)]
StepRange = Annotated[tuple[Steps, ...], Lengths(0, 2)]
Weight = Annotated[float, Field(ge=0, le=1_000_000)]
Devices = Annotated[
    int,
    Field(ge=-1, le=65536),
    Check(lambda value: value != 0, "a number of devices from 1 to 65536, or -1 for all remaining ones"),
]
Dilations = tuple[Annotated[int, Field(ge=1, le=256)], ...]
Weights = Annotated[tuple[Weight, ...], Lengths(3)]
Side = Annotated[int, Field(ge=1, le=LARGEST_SIDE)]
Window = Annotated[tuple[Side, ...], Lengths(0, 2)]
BaseSize = Annotated[tuple[Side, ...], Lengths(0, 1, 2)]
Scales = Annotated[
    tuple[Annotated[float, Field(ge=0.01, le=16)], ...],
    Field(min_length=1, max_length=64),
]
Colour = Annotated[tuple[float, ...], Lengths(3)]
"""Values for R, G and B, whose range `Protocol` checks."""
