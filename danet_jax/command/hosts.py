"""Several hosts as one machine: joined by JAX, in a process of its own that is watched over.

JAX ends a process with a stack dump when it cannot join the others, or when the first host is lost. So the command
starts itself once more and passes on what that process prints, but for such a dump, for which it says a line.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

import danet_jax
from danet_jax.command import rendezvous
from danet_jax.errors import InputError, one_line
from danet_jax.recipe import Recipe
from danet_jax.runs.directory import library_versions
from danet_jax.runs.hosts import HEARTBEAT, refuse_differing, watching_each_other
from danet_jax.runs.resume import flat_config
from danet_jax.runs.stopping import take_up

_WORKER = "DANET_JAX_WORKER"
"""In the environment of the process that does the work."""

_DUMP = re.compile(rb"[WEF]\d{4} .*(coordination_service|preemption_sync|distributed service|client\.h:)")
"""What JAX's complaints of a lost host begin with."""

_FREE = ("dataset.root", "dataset.data_dir", "dataset.workers")
"""Options that may differ between hosts."""


def _watch_over_worker(argv: list[str], timeout: int) -> int:
    """Runs the command `argv` in a process of its own and returns its status; signals are passed on to it."""
    worker = subprocess.Popen(
        [sys.executable, *argv],
        stdin=subprocess.PIPE,  # by its end the worker sees that this process was killed
        stderr=subprocess.PIPE,
        env={**os.environ, _WORKER: "1"},
        start_new_session=True,  # a terminal's Ctrl-C comes once, from here
    )
    take_up(lambda number, _: worker.send_signal(number))
    dump: list[str] = []
    said = False
    assert worker.stderr is not None
    for line in worker.stderr:
        said = said or line.startswith(
            b"run.py: "
        )  # its last word: what follows is of JAX, left without the others
        if not line.startswith(b"run.py: ") and (said or dump or _DUMP.match(line)):
            dump.append(line.decode(errors="replace"))
            continue
        print(line.decode(errors="replace"), end="", file=sys.stderr, flush=True)
    status = worker.wait()
    if status == -signal.SIGABRT and said:
        return 1
    if status == -signal.SIGABRT:
        print(f"run.py: {_of_dump(''.join(dump), timeout)}", file=sys.stderr)
        return 1
    return status if status >= 0 else 128 - status


def _of_dump(text: str, timeout: int) -> str:
    """In one line, what JAX's stack dump is about."""
    if "RegisterTask" in text or ("barrier" in text.lower() and "Connect" in text):
        return (
            f"not all hosts joined within {timeout} s (--join_timeout); look at what each of them says, and start the "
            "same command on all"
        )
    silent = re.search(r"stopped sending heartbeats\):\s*((?:\d+\s+)+)", text)
    hosts = silent[1].split() if silent else ["0"]  # only the first can be lost without a word about it
    return (
        f"host {', '.join(hosts)} is lost (it gives no sign of life); the same command on all hosts goes on from the "
        "last checkpoint"
    )


@contextlib.contextmanager
def joined(recipe: Recipe | None, flags: Mapping[str, Any], argv: list[str]) -> Iterator[None]:
    """Within it, this process is one of all hosts', if the flags ask for it.

    Args:
      recipe: what they are to do.
      flags: values of `HOST_FLAGS`.
      argv: the command line.

    Raises:
      InputError: they cannot be found or joined, or were started with another recipe or other code.
      SystemExit: the work is done, in another process.
    """
    coordinator, timeout = flags["coordinator"], flags["join_timeout"]
    if timeout < 1:
        raise InputError(f"--join_timeout={timeout} must be at least 1, in seconds")
    options: dict[str, Any] = {}
    if coordinator is not None:
        options = rendezvous.options(coordinator, flags["processes"], flags["process"])
    elif flags["processes"] != 0 or flags["process"] != -1:
        raise InputError("--processes and --process need --coordinator=HOST:PORT, the first host")
    if not flags["distributed"] and not options:
        yield
        return
    if _WORKER not in os.environ:
        sys.exit(_watch_over_worker(argv, timeout))
    threading.Thread(target=_end_with_parent, daemon=True, name="parent").start()
    if options:
        rendezvous.meet(**options, timeout=timeout)
    try:
        jax.distributed.initialize(
            initialization_timeout=timeout, heartbeat_timeout_seconds=HEARTBEAT, **options
        )
    except (ValueError, RuntimeError, KeyError) as error:
        raise InputError(
            f"--distributed: the other hosts cannot be found or joined ({one_line(error)}); leave it out on one machine"
        ) from error
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # JAX takes it up, and nothing would come of it
    with watching_each_other():
        refuse_differing({"danet_jax": _digest_of_code(), **library_versions()}, "code")
        if recipe is not None:
            flat = {key: value for key, value in flat_config(recipe.as_dict()).items() if key not in _FREE}
            refuse_differing(flat, "recipes")
        yield


def refuse_no_device() -> None:
    """Raises InputError if JAX has no device to compute on; without it, whatever is read first would be blamed."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        wanted = os.environ.get("JAX_PLATFORMS")
        remedy = f"; unset JAX_PLATFORMS={wanted}, or install JAX for it as README.md says" if wanted else ""
        raise InputError(f"JAX finds no device: {one_line(error)}{remedy}") from error


def _end_with_parent() -> None:
    while os.read(0, 4096):  # not by `sys.stdin`, whose lock would hold up the end of the interpreter
        pass
    os._exit(1)


def _digest_of_code() -> str:
    """Of this package's modules: hosts that were updated at different times do not compute the same."""
    digest = hashlib.sha256()
    package = Path(danet_jax.__file__).parent
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]
