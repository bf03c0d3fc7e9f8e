"""Checks the arguments of public functions before anything is traced."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from danet_jax.errors import InputError

KINDS = {"float": jnp.floating, "integer": jnp.integer, "bool": jnp.bool_}


def check_arrays(**arrays: tuple[Any, str]) -> None:
    """Raises InputError unless every `name=(array, description)` matches its description.

    A description, such as "float B N Ck" or "bool B M or None", consists of one of `KINDS` and the dimensions. A
    dimension that is a number must have that size. Dimensions with the same name must have the same size in all arrays.
    No size may be 0. Sizes may be symbolic (`jax.export`).
    """
    sizes: dict[str, Any] = {}
    for name, (x, description) in arrays.items():
        description, _, optional = description.partition(" or ")
        if optional and x is None:
            continue
        kind, *dimensions = description.split()
        allowed = f"{kind} [{', '.join(dimensions)}]"
        if not hasattr(x, "shape") or not hasattr(x, "dtype"):
            raise _array_error(name, f"must be an array, {allowed}, not {_short(x)}", x, allowed)
        found = f"{x.dtype} {list(x.shape)}"
        if not jnp.issubdtype(x.dtype, KINDS[kind]) or len(x.shape) != len(dimensions):
            raise _array_error(name, f"must be {allowed}, not {found}", found, allowed)
        for dimension, size in zip(dimensions, x.shape, strict=True):
            expected = int(dimension) if dimension.isdigit() else sizes.setdefault(dimension, size)
            if isinstance(size, int) and size == 0:
                raise _array_error(name, f"must be {allowed} and not empty, not {found}", found, allowed)
            if size != expected:
                problem = f"must be {allowed} with {dimension} = {expected}, not {found}"
                raise _array_error(name, problem, found, allowed)


def check_images(images: Any, **others: tuple[Any, str]) -> None:
    """Raises InputError unless `images` are normalised, float `[B, H, W, 3]`, and `others` pass `check_arrays`."""
    if getattr(images, "dtype", None) == jnp.uint8:
        problem = "are uint8; normalise them with danet_jax.normalize first"
        raise _array_error("images", problem, "uint8", "float [B, H, W, 3]")
    check_arrays(images=(images, "float B H W 3"), **others)


def check_index(name: str, index: Any, size: int) -> None:
    """Raises InputError unless the values of `index` are in 0 to `size - 1`. Under `jit`, they cannot be checked."""
    if isinstance(index, jax.core.Tracer):
        return
    least, largest = int(np.min(index)), int(np.max(index))
    if least < 0 or largest >= size:
        found = f"{least}" if least == largest else f"values from {least} to {largest}"
        raise InputError(
            f"{name} contains {found}, but must be from 0 to {size - 1}",
            what=name,
            value=(least, largest),
            allowed=f"0 to {size - 1}",
        )


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Raises InputError unless `value` is one of `choices`, which must all have the same type."""
    choices = list(choices)
    if not isinstance(value, type(choices[0])) or value not in choices:
        raise InputError(
            f"{name}={_short(value)} does not exist; there are: {', '.join(map(str, choices))}",
            what=name,
            value=value,
            allowed=choices,
        )


def check_whole(name: str, value: Any, least: int = 1) -> None:
    """Raises InputError unless `value` is an integer of at least `least`."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise option_error(name, value, f"an integer of at least {least}")


def check_flag(name: str, value: Any) -> None:
    """Raises InputError unless `value` is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise option_error(name, value, "True or False")


def check_dtype(name: str, value: Any) -> None:
    """Raises InputError unless `value` is None or a supported dtype.

    Supported are float32, bfloat16, float16 (for inference only) and, with `jax_enable_x64`, float64.
    """
    if value is None:
        return
    wide = ["float64"] if jax.dtypes.canonicalize_dtype(np.float64) == np.float64 else []
    try:
        value = jnp.dtype(value).name
    except TypeError:
        value = _short(value)
    check_choice(name, value, ["float32", "bfloat16", "float16", *wide])


def check_precision(value: Any) -> None:
    """Raises InputError unless `value` is None, a `jax.lax.Precision` or its name, or a pair of these."""
    for one in value if isinstance(value, tuple) and len(value) == 2 else (value,):
        try:
            jax.lax.Precision(one)
        except ValueError:
            allowed = "None, 'default', 'high' or 'highest' as in jax.lax.Precision, or a pair of these"
            raise option_error("precision", value, allowed) from None


def renamed_argument(old: str, new: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Returns a decorator that accepts a keyword argument by its old name, too, with a DeprecationWarning."""

    def decorator(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if old in kwargs and new not in kwargs:
                warnings.warn(
                    f"the argument {old!r} is deprecated; use {new!r}", DeprecationWarning, stacklevel=2
                )
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorator


def option_error(name: str, value: Any, allowed: str) -> InputError:
    """Returns the error for an argument whose value is not `allowed`."""
    return InputError(f"{name}={_short(value)} must be {allowed}", what=name, value=value, allowed=allowed)


def _array_error(name: str, problem: str, found: Any, allowed: str) -> InputError:
    return InputError(f"{name} {problem}", what=name, value=found, allowed=allowed)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
