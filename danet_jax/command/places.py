"""Where a mode finds its recipe, and the directory of its run."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from danet_jax.errors import InputError
from danet_jax.recipe import Recipe, read_recipe, recipe_of_run
from danet_jax.runs.buckets import as_path, is_bucket, refuse_unreachable
from danet_jax.runs.directory import is_run


def find_recipe(config: Mapping[str, Any] | None, workdir: str | None) -> Recipe | None:
    """The recipe of `config` if there is one, else that of the run in `workdir`, else None.

    Raises:
      InputError: the recipe is none, see `read_recipe`; of a run, the line names its config.json.
    """
    if config is not None:
        return read_recipe(config)
    return recipe_of_run(workdir) if workdir is not None and is_run(workdir) else None


def find_workdir(workdir: str | None, recipe: Recipe | None, *, written: bool) -> Path:
    """The run's directory: `workdir` if it is given, else runs/NAME of the recipe.

    Args:
      workdir: what --workdir gives.
      recipe: of the run.
      written: whether it must be possible to write there.

    Raises:
      InputError: it is no directory, cannot be one, or cannot be written to. Nothing is left of having tried.
    """
    if workdir is None:
        path, key = Path("runs", recipe.name if recipe else "danet"), "runs/NAME"
    else:
        key = "--workdir"
        if is_bucket(workdir):
            try:
                bucket = as_path(workdir)
                if written:
                    refuse_unreachable(bucket)
            except InputError as error:
                raise InputError(f"--workdir={error}") from error
            return bucket
        if not workdir.strip() or not workdir.isprintable():
            raise InputError(f"--workdir={workdir!r} must be a directory's path, without line breaks or NUL")
        if any(len(part.encode()) > 255 for part in Path(workdir).parts) or len(workdir.encode()) > 4000:
            raise InputError(
                f"--workdir={workdir[:40]}... is longer than a file system takes: 255 bytes a name"
            )
        path = Path(workdir)
    try:
        if not is_run(path) and path.resolve() in (Path.cwd(), *Path.cwd().parents):
            raise InputError(
                f"{key}={path} is the directory that you are in, or above it; a run needs its own"
            )
        existing = next(place for place in (path, *path.absolute().parents) if place.exists())
        if not existing.is_dir():
            raise InputError(f"{key}={path}: {existing} is a file, not a directory")
        if written:
            tempfile.TemporaryDirectory(dir=existing, prefix=".writable").cleanup()
    except (OSError, RuntimeError) as error:  # links in a circle are a RuntimeError
        raise InputError(
            f"{key}={path}: cannot be written to: {getattr(error, 'strerror', error)}"
        ) from error
    return path
