"""JAX's persistent compilation cache: what was compiled once is read from disk when a program starts again."""

from __future__ import annotations

import os
from pathlib import Path

import jax

from danet_jax.errors import InputError

OFF = "off"


def use_compilation_cache(folder: str) -> None:
    """Keeps compiled programs in `folder`; "" is the user's cache directory, "off" keeps none.

    A folder that JAX was told by its own JAX_COMPILATION_CACHE_DIR stays, unless another is named here.

    Raises:
      InputError: `folder` cannot be made.
    """
    if folder == OFF:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    if not folder and os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    path = Path(folder).expanduser() if folder else _users_own()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if folder:
            raise InputError(
                f"config.compilation_cache={folder}: cannot be made ({error.strerror}); name another folder, or {OFF}"
            ) from error
        return  # a machine on which nobody has a home does without
    jax.config.update("jax_compilation_cache_dir", str(path))
    # Many small programs make up half of a start.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def _users_own() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(base) / "danet_jax" / "compiled"
