"""Checks of a caller's arguments: shapes, dtypes and names, before anything is traced."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from danet_jax.errors import InputError

KINDS = {"float": jnp.floating, "integer": jnp.integer, "bool": jnp.bool_}


def check_array(name: str, x: Any, dimensions: str, kind: str) -> None:
    """Raises InputError unless `x` is an array of `kind` with `dimensions`, such as "B N Ck", none of them 0.

    A dimension that is written as a number must have that size. Sizes may be symbolic (`jax.export`).
    """
    names = dimensions.split()
    allowed = f"{kind} [{', '.join(names)}]"
    if not hasattr(x, "shape") or not hasattr(x, "dtype"):
        raise _array_error(name, f"must be an array, {allowed}", _short(x), allowed)
    sizes = x.shape
    if not jnp.issubdtype(x.dtype, KINDS[kind]):
        raise _array_error(name, f"must be {allowed}", f"{x.dtype} {list(sizes)}", allowed)
    fits = len(sizes) == len(names) and all(
        not name.isdigit() or int(name) == size for name, size in zip(names, sizes, strict=True)
    )
    if not fits or any(isinstance(size, int) and size == 0 for size in sizes):
        raise _array_error(name, f"must be {allowed} with sizes of at least 1", str(list(sizes)), allowed)


def check_images(images: Any) -> None:
    """Raises InputError unless `images` are normalised images, float `[B, H, W, 3]`."""
    if getattr(images, "dtype", None) == jnp.uint8:
        raise InputError(
            "images are uint8; normalise them with danet_jax.normalize first",
            what="images",
            value="uint8",
            allowed="float [B, H, W, 3]",
        )
    check_array("images", images, "B H W 3", "float")


def check_shapes_fit(**arrays: tuple[Any, str]) -> None:
    """Raises InputError unless dimensions of one name have one size in all of `name=(array, dimensions)`."""
    found: dict[str, tuple[str, Any]] = {}
    for name, (x, dimensions) in arrays.items():
        for dimension, size in zip(dimensions.split(), x.shape, strict=True):
            other, expected = found.setdefault(dimension, (name, size))
            if size != expected:
                shapes = ", ".join(
                    f"{n} [{', '.join(d.split())}] {list(a.shape)}" for n, (a, d) in arrays.items()
                )
                raise InputError(
                    f"{name} and {other} differ in {dimension}, {size} and {expected}: {shapes}",
                    what=name,
                    value=list(x.shape),
                )


def check_index(name: str, index: Any, size: int) -> None:
    """Raises InputError unless the values of `index` are 0 to `size - 1`, where they are known (outside of `jit`)."""
    if isinstance(index, jax.core.Tracer):
        return
    values = np.asarray(index)
    if values.min() < 0 or values.max() >= size:
        raise InputError(
            f"{name} holds {values.min()} to {values.max()}; it must lie in 0 to {size - 1}",
            what=name,
            value=(int(values.min()), int(values.max())),
            allowed=f"0 to {size - 1}",
        )


def check_name(name: str, value: Any, existing: Iterable[str]) -> None:
    """Raises InputError unless `value` is one of the names that exist."""
    existing = list(existing)
    if not isinstance(value, str) or value not in existing:
        raise InputError(
            f"{name}={_short(value)} does not exist; there are: {', '.join(existing)}",
            what=name,
            value=value,
            allowed=existing,
        )


def check_whole(name: str, value: Any, least: int = 1) -> None:
    """Raises InputError unless `value` is a whole number of at least `least`."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise option_error(name, value, f"a whole number of at least {least}")


def check_flag(name: str, value: Any) -> None:
    """Raises InputError unless `value` is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise option_error(name, value, "True or False")


def check_dtype(name: str, value: Any) -> None:
    """Raises InputError unless `value` is None or a dtype that the network computes in.

    These are float32, bfloat16, float16 (for inference only) and, under `jax_enable_x64`, float64.
    """
    if value is None:
        return
    allowed = ["float32", "bfloat16", "float16"]
    if jax.dtypes.canonicalize_dtype(np.float64) == np.float64:
        allowed.append("float64")
    try:
        found = jnp.dtype(value).name
    except TypeError:
        found = _short(value)
    if found not in allowed:
        raise InputError(
            f"{name}={found} must be one of: {', '.join(allowed)}", what=name, value=found, allowed=allowed
        )


def check_precision(value: Any) -> None:
    """Raises InputError unless `value` is a precision of `jax.lax.Precision`, by member or name, a pair, or None."""
    pair = value if isinstance(value, tuple) and len(value) == 2 else (value,)
    for one in pair:
        try:
            jax.lax.Precision(one)
        except ValueError:
            names = "None, or 'default', 'high' or 'highest' as in jax.lax.Precision, or a pair of these"
            raise option_error("precision", value, names) from None


def option_error(name: str, value: Any, allowed: str) -> InputError:
    """Returns the error of an argument whose value is not `allowed`."""
    return InputError(f"{name}={_short(value)} must be {allowed}", what=name, value=value, allowed=allowed)


def _array_error(name: str, requirement: str, found: str, allowed: str) -> InputError:
    return InputError(f"{name} {requirement}, not {found}", what=name, value=found, allowed=allowed)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
