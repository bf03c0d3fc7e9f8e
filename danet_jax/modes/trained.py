"""Which trained network a mode is to use."""

from __future__ import annotations

from pathlib import Path

from danet_jax.errors import InputError
from danet_jax.runs.directory import is_run
from danet_jax.runs.files import as_path
from danet_jax.weights import zoo


def trained(workdir: Path, checkpoint: str) -> Path | str:
    """What `load_checkpoint` is to load: `checkpoint` if it is given, else the run in `workdir`.

    Raises:
      InputError: it does not exist.
    """
    if checkpoint:
        refuse_absent(checkpoint)
    elif not is_run(workdir):
        raise InputError(f"{workdir}: no run here; train first, or give another --workdir or a --checkpoint")
    return checkpoint or workdir


def refuse_absent(source: str) -> None:
    """Raises InputError unless `source` is a file, the directory of a run or a name in the zoo; fetches nothing."""
    try:
        if not source.isprintable() or not as_path(source).exists():
            zoo.find(source if source.isprintable() else repr(source))
    except OSError as error:
        raise InputError(f"{source[:80]}: cannot be read: {error.strerror}") from error
    if as_path(source).is_dir() and not is_run(source):
        raise InputError(f"{source}: a directory, but not of a run (it has no config.json)")
