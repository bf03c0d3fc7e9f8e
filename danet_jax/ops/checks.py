"""What callers give, held against what a function takes: shapes, dtypes and names, before anything is traced."""

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
    wanted = f"{kind} [{', '.join(names)}]"
    if not hasattr(x, "shape") or not hasattr(x, "dtype"):
        raise InputError(f"{name} must be an array, {wanted}, not {_short(x)}")
    if not jnp.issubdtype(x.dtype, KINDS[kind]):
        raise InputError(f"{name} must be {wanted}, not {x.dtype} {list(x.shape)}")
    sizes = x.shape
    fits = len(sizes) == len(names) and all(
        not name.isdigit() or int(name) == size for name, size in zip(names, sizes, strict=True)
    )
    if not fits or any(isinstance(size, int) and size == 0 for size in sizes):
        raise InputError(f"{name} must be {wanted} with sizes of at least 1, not {list(sizes)}")


def check_images(images: Any) -> None:
    """Raises InputError unless `images` are normalised ones, float `[B, H, W, 3]`."""
    if getattr(images, "dtype", None) == jnp.uint8:
        raise InputError("images are uint8; the network takes what danet_jax.normalize makes of them")
    check_array("images", images, "B H W 3", "float")


def check_shapes_fit(**arrays: tuple[Any, str]) -> None:
    """Raises InputError unless dimensions of one name are of one size in all of `name=(array, dimensions)`."""
    found: dict[str, tuple[str, Any]] = {}
    for name, (x, dimensions) in arrays.items():
        for dimension, size in zip(dimensions.split(), x.shape, strict=True):
            other, expected = found.setdefault(dimension, (name, size))
            if size != expected:
                shapes = ", ".join(
                    f"{n} [{', '.join(d.split())}] {list(a.shape)}" for n, (a, d) in arrays.items()
                )
                raise InputError(f"{name} and {other} differ in {dimension}, {size} and {expected}: {shapes}")


def check_index(name: str, index: Any, size: int) -> None:
    """Raises InputError unless the values of `index` are 0 to `size - 1`, where they are known (outside of `jit`)."""
    if isinstance(index, jax.core.Tracer):
        return
    values = np.asarray(index)
    if values.min() < 0 or values.max() >= size:
        raise InputError(f"{name} holds {values.min()} to {values.max()}; it must lie in 0 to {size - 1}")


def check_name(name: str, value: Any, existing: Iterable[str]) -> None:
    """Raises InputError unless `value` is one of the names that exist."""
    existing = list(existing)
    if not isinstance(value, str) or value not in existing:
        raise InputError(f"{name}={_short(value)} does not exist; there are: {', '.join(existing)}")


def check_whole(name: str, value: Any, least: int = 1) -> None:
    """Raises InputError unless `value` is a whole number of at least `least`."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise InputError(f"{name}={_short(value)} must be a whole number of at least {least}")


def check_flag(name: str, value: Any) -> None:
    """Raises InputError unless `value` is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"{name}={_short(value)} must be True or False")


def check_dtype(value: Any) -> None:
    """Raises InputError unless `value` is a dtype that the network computes in."""
    try:
        name = jnp.dtype(value).name
    except TypeError:
        name = _short(value)
    if name not in ("float32", "bfloat16", "float64"):
        raise InputError(f"dtype={name} must be float32 or bfloat16")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
