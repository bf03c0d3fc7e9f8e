"""Whether a run's directory may be gone on with."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from danet_jax.classes import Classes
from danet_jax.errors import InputError
from danet_jax.runs.buckets import is_bucket
from danet_jax.runs.directory import is_run, read_classes
from danet_jax.runs.stored import checkpoint_steps


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
    before, now = flat_config(old), flat_config(new)
    differing = [
        f"{key} was {before.get(key)!r}, is {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not any(f"{key}.".startswith(f"{name}.") for name in free)
    ]
    if differing:
        raise InputError(
            f"{path}: holds a run of another config ({'; '.join(differing)}); choose another --workdir, "
            "or go on all the same with --config.training.resume_anyway=True"
        )


def refuse_half_a_run(path: Path) -> None:
    """Raises InputError when `path` holds checkpoints, but not what they were trained with, or no place for them."""
    checkpoints = path / "checkpoints"
    if not is_bucket(path) and os.path.lexists(checkpoints) and not checkpoints.is_dir():
        raise InputError(
            f"{checkpoints}: must be a folder, but is a file, or a link to nothing; mend or remove it"
        )
    if checkpoint_steps(checkpoints) and not is_run(path):
        raise InputError(
            f"{path}: holds checkpoints, but its config.json is missing; put it back, or choose another --workdir"
        )


def refuse_fewer_steps(path: Path, steps: int) -> None:
    """Raises InputError when the run in `path` has gone further than `steps`."""
    reached = checkpoint_steps(path / "checkpoints")
    if reached and reached[-1] > steps:
        raise InputError(
            f"{path}: has reached step {reached[-1]}, which is more than the {steps} of config.training.steps (or of "
            "epochs); raise them, or choose another --workdir"
        )


def refuse_other_classes(path: Path, classes: Classes) -> None:
    """Raises InputError when the run in `path` was trained on classes of other names."""
    if (names := read_classes(path).names) != classes.names:
        raise InputError(
            f"{path}: holds a run with other classes ({', '.join(names[:4])}, ... and now "
            f"{', '.join(classes.names[:4])}, ...); choose another --workdir"
        )


def flat_config(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A config's values by `group.name`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flat_config(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat
