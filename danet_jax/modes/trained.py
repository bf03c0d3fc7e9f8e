"""Which trained network a mode is to use."""

from __future__ import annotations

from pathlib import Path

from danet_jax.errors import InputError
from danet_jax.runs.directory import is_run


def trained(workdir: Path, checkpoint: str) -> Path | str:
    """What `load_checkpoint` is to load: `checkpoint` if it is given, else the run in `workdir`.

    Raises:
      InputError: neither exists.
    """
    if not checkpoint and not is_run(workdir):
        raise InputError(f"{workdir}: no run here; train first, or give another --workdir or a --checkpoint")
    return checkpoint or workdir
