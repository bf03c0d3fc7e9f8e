"""Prepares a mode: finds the run's directory, sets JAX's compilation cache, joins other hosts, checks for a device."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

import danet_jax
from danet_jax.errors import InputError, one_line
from danet_jax.recipe import Recipe
from danet_jax.runs.directory import flat_config, is_run, library_versions
from danet_jax.runs.files import as_path, is_bucket, refuse_unreachable
from danet_jax.runs.hosts import refuse_differing
from danet_jax.training.topologies import describe_absent_tpu

OFF = "off"

_HEARTBEAT_TIMEOUT = 20
"""The number of seconds without a heartbeat after which JAX considers a host lost and ends the others."""

_SHUTDOWN_TIMEOUT = 30
"""The number of seconds that a host waits for the others when it exits."""

_FREE = ("config.dataset.root", "config.dataset.data_dir", "config.dataset.workers")
"""Options that may differ between hosts."""


def find_workdir(workdir: str | None, recipe: Recipe | None, *, written: bool) -> Path:
    """Returns the run's directory, in which the mode writes if `written`: --workdir, or runs/NAME of the recipe.

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
            raise refusal(repr(workdir), " must be the path of a directory, without line breaks or NUL")
        if any(len(part.encode()) > 255 for part in path.parts) or len(workdir.encode()) > 4000:
            raise refusal(f"{workdir[:40]}...", " is longer than a file system allows: 255 bytes per name")
    try:
        if not is_run(path) and path.resolve() in (Path.cwd(), *Path.cwd().parents):
            raise refusal(
                path, " is the current directory or one above it; a run needs a directory of its own"
            )
        existing = next(each for each in (path, *path.absolute().parents) if each.exists())
        if not existing.is_dir():
            raise refusal(path, f": {existing} is a file, not a directory")
        if written:
            tempfile.TemporaryDirectory(dir=existing, prefix=".writable").cleanup()
    except (OSError, RuntimeError) as error:  # circular links raise a RuntimeError
        raise refusal(path, f": cannot be written to: {getattr(error, 'strerror', error)}") from error
    return path


def use_compilation_cache(folder: str) -> None:
    """Keeps compiled programs on disk, so that the next start reads them instead of compiling.

    A folder in JAX's own JAX_COMPILATION_CACHE_DIR is used unless `folder` names another one.

    Args:
      folder: the folder; "" stands for the user's cache directory, and "off" disables the cache.

    Raises:
      InputError: `folder` cannot be created.
    """
    if folder == OFF:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    if not folder and os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    users_own = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "danet_jax", "compiled")
    try:
        path = Path(folder or users_own).expanduser()
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # without a home directory, it is a RuntimeError
        if folder:
            raise InputError.for_value(
                "config.compilation_cache",
                folder,
                f"cannot be created ({getattr(error, 'strerror', error)}); give another folder, or {OFF}",
            ) from error
        return
    jax.config.update("jax_compilation_cache_dir", str(path))
    # Compiling many small programs takes half of the start-up time, so they are cached too.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


@contextlib.contextmanager
def joined(recipe: Recipe | None, flags: Mapping[str, Any]) -> Iterator[None]:
    """Joins this process to other hosts for the duration of the context, if the flags request it.

    JAX ends the process with a stack dump if the other hosts do not join in time, or if one of them is lost later.

    Args:
      recipe: the recipe, which must be the same on all hosts.
      flags: the values of `HOST_FLAGS`.

    Raises:
      InputError: the flags are inconsistent, no cluster is found, or the hosts have different recipes or code.
    """
    by_hand = _by_hand(**flags)
    if not flags["distributed"] and by_hand is None:
        yield
        return
    try:
        jax.distributed.initialize(
            **(by_hand or {}),
            initialization_timeout=flags["join_timeout"],
            heartbeat_timeout_seconds=_HEARTBEAT_TIMEOUT,
            shutdown_timeout_seconds=_SHUTDOWN_TIMEOUT,
        )
    except (ValueError, RuntimeError, KeyError) as error:
        raise InputError(
            f"--distributed: the other hosts cannot be found or joined ({one_line(error)}); omit it on one machine",
            what="--distributed",
        ) from error
    refuse_differing({"danet_jax": _digest_of_code(), **library_versions()}, "code")
    if recipe is not None:
        flat = flat_config({"config": recipe.as_dict()})
        refuse_differing({key: value for key, value in flat.items() if key not in _FREE}, "recipes")
    yield
    # The first host may still be writing a report, and would consider a host lost that has exited.
    multihost_utils.sync_global_devices("danet_jax: done")


def _by_hand(
    *, distributed: bool, coordinator: str | None, processes: int, process: int, join_timeout: int
) -> dict[str, Any] | None:
    """Returns the flags as arguments of `jax.distributed.initialize`, or None without --coordinator."""
    del distributed, join_timeout
    if coordinator is None:
        if processes != 0 or process != -1:
            raise InputError("--processes and --process need --coordinator=HOST:PORT", what="--coordinator")
        return None
    host, _, port = coordinator.rpartition(":")
    if not (host and port.isdigit() and 0 < int(port) < 65536):
        raise InputError.for_value("--coordinator", coordinator, "must be HOST:PORT of the first host")
    if processes < 1:
        raise InputError.for_value(
            "--processes", processes, "must be the number of hosts, at least 1, with --coordinator"
        )
    if not 0 <= process < processes:
        raise InputError.for_value(
            "--process", process, f"must be from 0 to {processes - 1}, one less than --processes"
        )
    return {"coordinator_address": coordinator, "num_processes": processes, "process_id": process}


def refuse_no_device() -> None:
    """Raises InputError if JAX finds no device, before a later error could blame something else."""
    describe_absent_tpu()
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        platforms = os.environ.get("JAX_PLATFORMS")
        remedy = (
            f"; unset JAX_PLATFORMS={platforms}, or install JAX for it as README.md says" if platforms else ""
        )
        raise InputError(
            f"JAX finds no device: {one_line(error)}{remedy}",
            what="JAX_PLATFORMS" if platforms else None,
            value=platforms,
        ) from error


def _digest_of_code() -> str:
    """Returns a digest of this package's code, which differs between hosts that were updated at different times."""
    digest = hashlib.sha256()
    package = Path(danet_jax.__file__).parent
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]
