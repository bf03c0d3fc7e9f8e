"""Ensures that only one process at a time trains in a directory, with a lock file that names the process."""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from danet_jax.errors import InputError
from danet_jax.runs.files import is_bucket, read_json, write_text

_HEARTBEAT = 15.0  # Seconds between two heartbeats.
_TIMEOUT = 120.0  # Seconds without a heartbeat after which a process on another host counts as dead.
_SETTLING_TIME = 0.1  # Seconds after which another process that takes over the lock has replaced the file.


def refuse_locked(path: Path) -> None:
    """Raises InputError, naming the holder, if another live process trains in `path`."""
    file = path / "lock.json"
    try:
        holder = read_json(file)
    except FileNotFoundError:
        return
    except InputError:  # The file is truncated if its writer was killed.
        holder = {}
    if _is_alive(holder, file):
        raise InputError.for_file(
            path,
            f"is in use by process {holder.get('process')} on {holder.get('host')} since "
            f"{holder.get('since')}; wait for it, or choose another --workdir (if it has ended, delete {file})",
            value=holder.get("process"),
        )


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock of the run in `path` within this context. The lock of a dead process is taken over.

    Raises:
      InputError: another process holds the lock; the message names the process.
    """
    refuse_locked(path)
    path.mkdir(parents=True, exist_ok=True)
    file, released = path / "lock.json", threading.Event()
    holder = {"host": socket.gethostname(), "process": os.getpid(), "start": _start_time(os.getpid())}
    holder["since"] = time.strftime("%Y-%m-%dT%H:%M:%S%z")

    def content() -> str:
        return json.dumps({**holder, "seen": time.time()})

    def beat() -> None:
        while not released.wait(_HEARTBEAT):
            with contextlib.suppress(OSError, InputError):
                if file.exists():  # A renamed directory must not be created again.
                    write_text(file, content())

    if is_bucket(path):
        write_text(file, content())
    else:
        # If another process is faster, the second call of `refuse_locked` reports it.
        with contextlib.suppress(FileExistsError):
            file.unlink(missing_ok=True)  # A file that exists belongs to a dead process.
            with file.open("x") as opened:
                opened.write(content())
    time.sleep(_SETTLING_TIME)
    refuse_locked(path)
    (thread := threading.Thread(target=beat, daemon=True)).start()
    try:
        yield
    finally:
        released.set()
        thread.join()
        with contextlib.suppress(OSError):
            file.unlink()


def _is_alive(holder: dict[str, Any], file: Path) -> bool:
    process = holder.get("process")
    if holder.get("host") != socket.gethostname():
        seen = holder.get("seen")
        if not isinstance(seen, float):  # Version 0.2.0 updated the file's modification time instead.
            seen = os.path.getmtime(file) if os.path.exists(file) else 0.0
        return time.time() - seen < _TIMEOUT
    if type(process) is not int or process in (0, os.getpid()):
        return False
    with contextlib.suppress(ProcessLookupError, OverflowError):
        with contextlib.suppress(PermissionError):
            os.kill(process, 0)
        return _start_time(process) == holder.get("start")  # Process numbers are reused.
    return False


def _start_time(process: int) -> str:
    """Returns the start time of a process of this host from Linux's /proc, or "" on other systems."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    return ""
