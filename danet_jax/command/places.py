"""Finds the directory of a run."""

from __future__ import annotations

import tempfile
from pathlib import Path

from danet_jax.errors import InputError
from danet_jax.recipe import Recipe
from danet_jax.runs.directory import is_run
from danet_jax.runs.files import as_path, is_bucket, refuse_unreachable


def find_workdir(workdir: str | None, recipe: Recipe | None, *, written: bool) -> Path:
    """Returns the run's directory: `workdir` if it is given, else runs/NAME of the recipe.

    Args:
      workdir: the value of --workdir, or None.
      recipe: the recipe of the run, or None.
      written: whether the mode writes there.

    Raises:
      InputError: the path is not a directory, cannot become one, or cannot be written to. The check leaves no files.
    """
    if workdir is None:
        path, key = Path("runs", recipe.name if recipe else "danet"), "runs/NAME"
    else:
        path, key = Path(workdir), "--workdir"

    def refusal(shown: object, problem: str) -> InputError:
        return InputError(f"{key}={shown}{problem}", what=key, value=workdir)

    if workdir is not None:
        if is_bucket(workdir):
            try:
                bucket = as_path(workdir)
                if written:
                    refuse_unreachable(bucket)
            except InputError as error:
                raise refusal(error.args[0], "") from error
            return bucket
        if not workdir.strip() or not workdir.isprintable():
            raise refusal(repr(workdir), " must be a directory's path, without line breaks or NUL")
        if any(len(part.encode()) > 255 for part in path.parts) or len(workdir.encode()) > 4000:
            raise refusal(f"{workdir[:40]}...", " is longer than a file system allows: 255 bytes per name")
    try:
        if not is_run(path) and path.resolve() in (Path.cwd(), *Path.cwd().parents):
            raise refusal(path, " is the directory that you are in, or above it; a run needs its own")
        existing = next(place for place in (path, *path.absolute().parents) if place.exists())
        if not existing.is_dir():
            raise refusal(path, f": {existing} is a file, not a directory")
        if written:
            tempfile.TemporaryDirectory(dir=existing, prefix=".writable").cleanup()
    except (OSError, RuntimeError) as error:  # circular links raise a RuntimeError
        raise refusal(path, f": cannot be written to: {getattr(error, 'strerror', error)}") from error
    return path
