"""A run's directory: what it was, and its checkpoints.

    config.json      the resolved recipe; under "model" options of `danet_jax.DANet`
    classes.json     names and colours of the classes
    versions.json    of the libraries that the run was made with
    checkpoints/     the best by mIoU and the newest, written by Orbax

Each file is written whole or not at all, and Orbax names a checkpoint only when it is complete.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from danet_jax.classes import Classes
from danet_jax.errors import InputError, first_line
from danet_jax.models.danet import DANet
from danet_jax.models.options import build_model
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
    path = Path(path)
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
    return (Path(path) / "config.json").is_file()


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The resolved recipe of a run.

    Raises:
      InputError: there is no run at `path`, or its config.json cannot be read.
    """
    return _read_json(Path(path), "config.json")


def read_classes(path: str | os.PathLike[str]) -> Classes:
    """The classes of a run.

    Raises:
      InputError: there is no run at `path`, or its classes.json cannot be read.
    """
    classes = _read_json(Path(path), "classes.json")
    try:
        return Classes(tuple(classes["names"]), tuple(tuple(c) for c in classes["colours"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{Path(path) / 'classes.json'}: is not a run's: {error}") from error


def read_through(item: Path) -> None:
    """Reads all that Orbax wrote to `item`, one value after another.

    Orbax reads all at once; of the many reads that then fail in a damaged item, it waits for the first, and
    the others each print a traceback after it.

    Raises:
      ValueError: it is damaged.
    """
    import tensorstore

    base = {"driver": "file", "path": f"{item}/"}
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
    for key in store.list().result():
        store.read(key).result()


def read_run(path: str | os.PathLike[str], *, which: str = "best") -> Run:
    """The network of a run.

    Args:
      path: the run's directory.
      which: "best" is the checkpoint with the highest mIoU, or the newest if none was evaluated;
        "newest" is the newest.

    Raises:
      InputError: there is no run, no checkpoint in it, or it cannot be read; the message names the path.
    """
    path = Path(path)
    config, classes = read_config(path), read_classes(path)
    try:
        model = build_model(len(classes), config["model"])
    except InputError as error:
        raise InputError(f"{path / 'config.json'}: config.model.{error}") from error
    except (KeyError, TypeError) as error:
        raise InputError(f"{path / 'config.json'}: is not a run's: {error}") from error
    variables, step = _restore_variables(path, which)
    return Run(model, variables, classes, config, step)


def _read_json(path: Path, name: str) -> dict[str, Any]:
    file = path / name
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        raise InputError(
            f"{path}: no run here ({name} is missing); train one, or give the directory of one that is trained"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read: {error}") from error


def _restore_variables(path: Path, which: str) -> tuple[Mapping[str, Any], int]:
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    folder = path.absolute() / "checkpoints"
    step = _chosen_step(folder, which)
    if step is None:
        raise InputError(f"{path}: the run has no checkpoint yet; train it further")
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            item = folder / str(step) / "variables"
            read_through(item)
            # As numpy: whatever the devices that it was written from, any others can take it from here.
            as_numpy = jax.tree.map(
                lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
                checkpointer.metadata(item).item_metadata.tree,
            )
            variables = checkpointer.restore(item, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    except Exception as error:  # whatever a damaged file makes Orbax and TensorStore raise
        if not (folder / str(step)).exists():  # a run that goes on has replaced it meanwhile
            return _restore_variables(path, which)
        raise InputError(
            f"{folder / str(step)}: the checkpoint cannot be read, delete this folder to use another one: "
            f"{first_line(error)}"
        ) from error
    return variables, step


def _chosen_step(folder: Path, which: str) -> int | None:
    import orbax.checkpoint as ocp

    if not folder.is_dir():
        return None
    options = ocp.CheckpointManagerOptions(best_fn=lambda metrics: metrics["miou"])
    try:
        with ocp.CheckpointManager(folder, options=options) as manager:
            step = manager.best_step() if which == "best" else None
            return manager.latest_step() if step is None else step
    except Exception as error:  # whatever damaged metrics make Orbax raise
        raise InputError(f"{folder}: its metrics cannot be read: {first_line(error)}") from error
