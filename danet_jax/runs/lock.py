"""One run at a time in a directory: a file that says which process writes there, and since when."""

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

_BEAT = 15.0  # seconds between two signs of life
_DEAD_AFTER = 120.0  # seconds without one, after which a holder on another host is taken for dead
_SETTLES = 0.1  # seconds in which another process that takes over the same lock would have replaced the file


def refuse_locked(path: Path) -> None:
    """Raises InputError, naming the holder, if another live process trains in `path`."""
    file = path / "lock.json"
    try:
        holder = read_json(file)
    except FileNotFoundError:
        return
    except InputError:  # truncated when its writer was killed
        holder = {}
    if _lives(holder, file):
        raise InputError(
            f"{path}: is in use by process {holder.get('process')} on {holder.get('host')} since "
            f"{holder.get('since')}; wait for it, or choose another --workdir (if it has ended, delete {file})",
            what=str(path),
            value=holder.get("process"),
        )


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Within this context, only this process writes to `path`. The lock of a dead process is taken over.

    Raises:
      InputError: another process holds the lock; the message names it.
    """
    refuse_locked(path)
    path.mkdir(parents=True, exist_ok=True)
    file, over = path / "lock.json", threading.Event()
    holder = {"host": socket.gethostname(), "process": os.getpid(), "start": _start(os.getpid())}
    holder["since"] = time.strftime("%Y-%m-%dT%H:%M:%S%z")

    def signed() -> str:
        return json.dumps({**holder, "seen": time.time()})

    def beat() -> None:
        while not over.wait(_BEAT):
            with contextlib.suppress(OSError, InputError):
                if file.exists():  # not if the directory was renamed
                    write_text(file, signed())

    if is_bucket(path):
        write_text(file, signed())
    else:
        with contextlib.suppress(FileExistsError):  # `refuse_locked` finds the process that was faster
            file.unlink(missing_ok=True)  # a dead process's
            with file.open("x") as opened:
                opened.write(signed())
    time.sleep(_SETTLES)
    refuse_locked(path)
    (thread := threading.Thread(target=beat, daemon=True)).start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        with contextlib.suppress(OSError):
            file.unlink()


def _lives(holder: dict[str, Any], file: Path) -> bool:
    process = holder.get("process")
    if holder.get("host") != socket.gethostname():
        seen = holder.get("seen")
        if not isinstance(seen, float):  # version 0.2.0 set the file's time instead
            seen = os.path.getmtime(file) if os.path.exists(file) else 0.0
        return time.time() - seen < _DEAD_AFTER
    if type(process) is not int or process in (0, os.getpid()):
        return False
    with contextlib.suppress(ProcessLookupError, OverflowError):
        with contextlib.suppress(PermissionError):
            os.kill(process, 0)
        return _start(process) == holder.get("start")  # process numbers are reused
    return False


def _start(process: int) -> str:
    """Returns when a process of this host started, as Linux counts it; empty on other systems."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    return ""
