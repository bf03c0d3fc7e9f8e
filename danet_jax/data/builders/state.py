"""What decides what would be prepared: options, and the state of the files it is made of."""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from danet_jax.errors import InputError


def fingerprint(*parts: Any) -> str:
    """Return 12 hexadecimal digits that change when any of `parts` (JSON values) does."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def file_state(path: pathlib.Path) -> tuple[int, int]:
    """Return what tells an unchanged file from a changed one without reading it: size and time of change."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def checked_options(
    name: str, options: Mapping[str, Any] | None, defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Return `defaults` updated with `options`.

    Raises:
      InputError: A name that is not in `defaults`, or a value of another type than the default.
    """
    given = dict(options or {})
    for key, value in given.items():
        if key not in defaults:
            known = ", ".join(defaults) or "none"
            raise InputError(f"dataset.options.{key}: {name} has no such option; its options are: {known}")
        if type(value) is int and type(defaults[key]) is float:
            given[key] = float(value)
        elif type(value) is not type(defaults[key]):
            kind = type(defaults[key]).__name__
            raise InputError(
                f"dataset.options.{key}: must be of type {kind}, like {defaults[key]!r}, not {value!r}"
            )
    return {**defaults, **given}
