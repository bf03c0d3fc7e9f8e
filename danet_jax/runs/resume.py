"""Whether a run's directory may be gone on with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from danet_jax.classes import Classes
from danet_jax.errors import InputError
from danet_jax.runs.directory import read_classes


def refuse_other_config(
    path: Path, old: Mapping[str, Any], new: Mapping[str, Any], *, free: Sequence[str]
) -> None:
    """Raises InputError, naming the keys, when `path` holds a run of config `old` that differs from `new`.

    Args:
      path: the run's directory.
      old: the config of the run that is there.
      new: the config to go on with.
      free: keys and groups, separated by dots, that may differ.
    """
    before, now = _flat(old), _flat(new)
    differing = [
        f"{key.replace('init.source', 'init.from')} was {before.get(key)!r}, is {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not any(f"{key}.".startswith(f"{name}.") for name in free)
    ]
    if differing:
        raise InputError(
            f"{path}: holds a run of another config ({'; '.join(differing)}); choose another --workdir, "
            "or go on all the same with --config.training.resume_anyway=True"
        )


def refuse_other_classes(path: Path, classes: Classes) -> None:
    """Raises InputError when the run in `path` was trained on classes of other names."""
    if (names := read_classes(path).names) != classes.names:
        raise InputError(
            f"{path}: holds a run with other classes ({', '.join(names[:4])}, ... and now "
            f"{', '.join(classes.names[:4])}, ...); choose another --workdir"
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat
