"""Reads and writes the description of a run, and checks whether training may resume in its directory.

config.json      the resolved recipe; "model" contains the options of `danet_jax.DANet`
classes.json     names and colours of the classes
parameters.txt   names, shapes and counts of the parameters
versions.json    versions of the libraries that the run used
data.json        digest of the data; version 0.2.0 did not write it
checkpoints/     see `danet_jax.runs.stored`
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from danet_jax.classes import Classes
from danet_jax.errors import InputError
from danet_jax.runs.files import as_path, is_bucket, read_json, write_json

LIBRARIES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "tensorflow-datasets",
    "grain",
    "ml-collections",
    "clu",
    "numpy",
    "opencv-python-headless",
    "pillow",
)
"""The libraries whose versions affect the results."""


def write_description(
    path: Path, config: Mapping[str, Any], classes: Classes, data: Mapping[str, Any] | None = None
) -> None:
    """Writes the resolved recipe, the classes, the versions of libraries and, if given, the digest of the data."""
    path = as_path(path)
    if data is not None:
        write_json(path / "data.json", data)
    write_json(path / "classes.json", {"names": classes.names, "colours": classes.colours})
    write_json(path / "versions.json", library_versions())
    write_json(path / "config.json", config)


def library_versions() -> dict[str, str]:
    """Returns the versions of Python and of `LIBRARIES`."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def is_run(path: str | os.PathLike[str]) -> bool:
    """Returns whether `path` is a run's directory."""
    try:
        return (as_path(path) / "config.json").is_file()
    except OSError as error:  # For example, the bucket does not respond.
        name = os.fspath(path)
        raise InputError.for_file(name, f"cannot be read: {error.strerror or error}") from error


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns the resolved recipe of a run.

    Raises:
      InputError: there is no run at `path`, or its config.json cannot be read or lacks a group of options.
    """
    config = _read(as_path(path), "config.json")
    for group in ("model", "dataset", "evaluation"):
        is_needed = group == "model" or (group == "dataset" and "evaluation" in config)
        if not isinstance(config.get(group, None if is_needed else {}), dict):
            problem = f"was not written by a run: {group} is not a group of options"
            raise InputError.for_file(as_path(path) / "config.json", problem)
    return config


def read_classes(path: str | os.PathLike[str]) -> Classes:
    """Returns the classes of a run.

    Raises:
      InputError: there is no run at `path`, or its classes.json cannot be read.
    """
    content = _read(as_path(path), "classes.json")
    try:
        return Classes(content["names"], content["colours"])
    except (KeyError, InputError) as error:
        problem = f"was not written by a run: {error}"
        raise InputError.for_file(as_path(path) / "classes.json", problem) from error


def read_data(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Returns the digest of the data that a run was trained on, or None if the run does not contain one.

    Raises:
      InputError: its data.json cannot be read.
    """
    try:
        return read_json(as_path(path) / "data.json")
    except FileNotFoundError:
        return None


def checkpoint_steps(folder: Path) -> list[int]:
    """Returns the steps of the complete checkpoints in `folder`, oldest first.

    The list may be empty although `folder` exists: Orbax creates it before the first checkpoint.
    """
    is_complete = Path.is_dir
    if is_bucket(folder):
        # In a bucket, a checkpoint has its final name from the start, and Orbax marks it when it is complete.
        import orbax.checkpoint as ocp

        is_complete = ocp.utils.is_checkpoint_finalized
    return sorted(
        int(path.name)
        for path in folder.glob("*")
        if re.fullmatch(r"0|[1-9][0-9]*", path.name) and is_complete(path)
    )


def refuse_other_config(
    path: Path, old: Mapping[str, Any], new: Mapping[str, Any], *, free: Sequence[str]
) -> None:
    """Raises InputError, naming the keys, if the old and the new config of the run in `path` differ.

    `free` contains the dotted names of keys and groups that may differ.
    """
    if differences := config_differences(old, new, free):
        named = "; ".join(f"config.{key} was {before!r}, is {now!r}" for key, before, now in differences)
        [(key, before, now), *_] = differences
        raise InputError(
            f"{path}: contains a run with another config ({named}); choose another --workdir, or resume it anyway with "
            "--config.training.resume_anyway=True",
            what=f"config.{key}",
            value=now,
            allowed=before,
        )


def config_differences(
    old: Mapping[str, Any], new: Mapping[str, Any], free: Sequence[str]
) -> list[tuple[str, Any, Any]]:
    """Returns the dotted names of the keys that differ, except those in `free`, with their old and new values."""
    before, now = flat_config(old), flat_config(new)
    return [
        (key, before.get(key), now.get(key))
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not any(f"{key}.".startswith(f"{name}.") for name in free)
    ]


def refuse_incomplete_run(path: Path) -> None:
    """Raises InputError if `path` contains checkpoints without a config.json, or `checkpoints` is not a folder."""
    checkpoints = path / "checkpoints"
    if not is_bucket(path) and os.path.lexists(checkpoints) and not checkpoints.is_dir():
        raise InputError.for_file(
            checkpoints, "must be a folder, but is a file or a broken link; repair or remove it"
        )
    if checkpoint_steps(checkpoints) and not is_run(path):
        problem = "is missing, but there are checkpoints; restore it, or choose another --workdir"
        raise InputError.for_file(path / "config.json", problem)


def refuse_fewer_steps(path: Path, steps: int) -> None:
    """Raises InputError if the run in `path` has been trained for more than `steps` steps."""
    reached = checkpoint_steps(path / "checkpoints")
    if reached and reached[-1] > steps:
        raise InputError(
            f"{path}: has been trained for {reached[-1]} steps, more than the {steps} of config.training.steps (or "
            "epochs); raise them, or choose another --workdir",
            what="config.training.steps",
            value=steps,
            allowed=f"at least {reached[-1]}",
        )


def refuse_other_classes(path: Path, classes: Classes) -> None:
    """Raises InputError if the run in `path` was trained on classes with different names."""
    if (names := read_classes(path).names) != classes.names:
        raise InputError.for_file(
            path / "classes.json",
            f"the run has other classes ({', '.join(names[:4])}, ... and now {', '.join(classes.names[:4])}, ...); "
            "choose another --workdir",
        )


def flat_config(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns a nested config as a flat dictionary with dotted keys such as `training.steps`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flat_config(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def _read(path: Path, name: str) -> dict[str, Any]:
    try:
        return read_json(path / name)
    except FileNotFoundError:
        raise InputError.for_file(
            path,
            f"is not the directory of a run ({name} is missing); give the directory of a run, or train one",
        ) from None
