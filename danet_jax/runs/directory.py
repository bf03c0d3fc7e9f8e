"""A run's directory: what it was, and its checkpoints.

    config.json      the resolved recipe; under "model" options of `danet_jax.DANet`
    classes.json     names and colours of the classes
    versions.json    of the libraries that the run was made with
    checkpoints/     see `danet_jax.runs.checkpoints`

Each file is written whole or not at all. A run's directory may come from a stranger: what is in it is data, and is held
against what the network takes before it is read.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from danet_jax.classes import Classes
from danet_jax.errors import InputError
from danet_jax.models.danet import DANet
from danet_jax.models.options import build_model
from danet_jax.runs.buckets import as_path
from danet_jax.runs.reading import read_json
from danet_jax.runs.writing import write_json

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


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained network as it was found in a run's directory."""

    model: DANet
    variables: Mapping[str, Any]
    classes: Classes
    config: dict[str, Any]
    step: int


def write_description(path: Path, config: Mapping[str, Any], classes: Classes) -> None:
    """Writes config.json, classes.json and versions.json."""
    path = as_path(path)
    write_json(path / "classes.json", {"names": classes.names, "colours": classes.colours})
    write_json(path / "versions.json", library_versions())
    write_json(path / "config.json", config)


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that a result depends on."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def is_run(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is a run's directory."""
    try:
        return (as_path(path) / "config.json").is_file()
    except OSError as error:  # a bucket that does not answer
        raise InputError(f"{os.fspath(path)}: cannot be read: {error.strerror or error}") from error


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The resolved recipe of a run.

    Raises:
      InputError: there is no run at `path`, or its config.json cannot be read.
    """
    return _read(as_path(path), "config.json")


def read_classes(path: str | os.PathLike[str]) -> Classes:
    """The classes of a run.

    Raises:
      InputError: there is no run at `path`, or its classes.json cannot be read.
    """
    content = _read(as_path(path), "classes.json")
    try:
        return Classes(content["names"], content["colours"])
    except (KeyError, InputError) as error:
        raise InputError(f"{as_path(path) / 'classes.json'}: is not a run's: {error}") from error


def read_run(
    path: str | os.PathLike[str],
    shapes_of: Callable[[DANet], Mapping[str, Any]],
    *,
    which: str = "best",
) -> Run:
    """The network of a run.

    Args:
      path: the run's directory.
      shapes_of: from a network to its variables, a tree of shapes and dtypes.
      which: "best" is the checkpoint with the highest mIoU, or the newest if none was evaluated;
        "newest" is the newest.

    Raises:
      InputError: there is no run, no checkpoint in it, it was changed since it was written, or it does not fit what
        config.json and classes.json say; the message names the path.
    """
    from danet_jax.runs.stored import describe, read_variables

    path = as_path(path)
    config, classes = read_config(path), read_classes(path)
    try:
        model = build_model(len(classes), config["model"])
    except InputError as error:
        raise InputError(f"{path / 'config.json'}: config.model.{error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path / 'config.json'}: is not a run's: {error}") from error
    step, variables = read_variables(
        path / "checkpoints", describe(model, classes), shapes_of(model), which=which
    )
    return Run(model, variables, classes, config, step)


def _read(path: Path, name: str) -> dict[str, Any]:
    try:
        return read_json(path / name)
    except FileNotFoundError:
        raise InputError(
            f"{path}: no run here ({name} is missing); train one, or give the directory of one that is trained"
        ) from None
