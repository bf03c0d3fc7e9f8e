"""One run at a time in a directory: a file that says who writes there, since when."""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from danet_jax.errors import InputError
from danet_jax.runs.buckets import is_bucket
from danet_jax.runs.reading import read_json
from danet_jax.runs.writing import write_text

_NAME = "lock.json"
_BEAT = 15.0
_DEAD_AFTER = 120.0
_SETTLES = 0.1
"""Seconds between two signs of life, and without one after which the holder on another host is taken for dead; and
those in which another that took over the same dead one's at the same moment would have replaced it."""


def refuse_locked(path: Path) -> None:
    """Raises InputError, saying who holds it, when another process that lives trains in `path`."""
    file = path / _NAME
    try:
        holder = read_json(file)
    except FileNotFoundError:
        return
    except InputError:  # cut short when its writer was killed
        holder = {}
    if _lives(holder, file):
        raise InputError(
            f"{path}: is in use by process {holder.get('process')} on {holder.get('host')} since "
            f"{holder.get('since')}; wait for it, or choose another --workdir (if it is gone for sure, delete {file})"
        )


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Within it, `path` is this process's alone. What a process left that is dead is taken over.

    Raises:
      InputError: another process holds it; the message says who, since when.
    """
    refuse_locked(path)
    path.mkdir(parents=True, exist_ok=True)
    file, mine = path / _NAME, path / f".{socket.gethostname()}.{os.getpid()}.{_NAME}"
    since = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    holder = {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "since": since,
        "start": _start(os.getpid()),
    }
    beat: Callable[[], Any] = functools.partial(os.utime, file)
    if is_bucket(
        path
    ):  # has neither links nor the times of files: the file itself says when its writer was last seen
        beat = functools.partial(_write_seen, file, holder)
        beat()
    else:
        _link(path, file, mine, holder)
    time.sleep(_SETTLES)
    refuse_locked(path)
    over = threading.Event()
    threading.Thread(target=_beat, args=(beat, over), daemon=True, name="lock").start()
    try:
        yield
    finally:
        over.set()
        with contextlib.suppress(OSError):
            file.unlink()


def _link(path: Path, file: Path, mine: Path, holder: dict[str, Any]) -> None:
    try:
        mine.write_text(json.dumps(holder))
        with contextlib.suppress(FileNotFoundError):
            file.unlink()  # of a dead process
        try:
            os.link(mine, file)  # of several at once, one succeeds
        except FileExistsError:
            refuse_locked(path)
        except OSError:  # no hard links there, as in a mounted bucket
            mine.replace(file)
    except OSError as error:
        raise InputError(f"{file}: cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            mine.unlink()


def _write_seen(file: Path, holder: dict[str, Any]) -> None:
    write_text(file, json.dumps({**holder, "seen": time.time()}))


def _beat(beat: Callable[[], Any], over: threading.Event) -> None:
    """Shows that this process lives, to other hosts."""
    while not over.wait(_BEAT):
        with contextlib.suppress(OSError, InputError):
            beat()


def _lives(holder: dict[str, Any], file: Path) -> bool:
    if holder.get("host") != socket.gethostname() and isinstance(holder.get("seen"), float):
        return time.time() - holder["seen"] < _DEAD_AFTER
    if holder.get("host") != socket.gethostname():
        probe = file.with_name(f".{os.getpid()}.{_NAME}")  # the clock is that of the file system
        try:
            probe.touch()
            silent = probe.stat().st_mtime - file.stat().st_mtime
        except OSError:
            return True
        finally:
            with contextlib.suppress(OSError):
                probe.unlink()
        return silent < _DEAD_AFTER
    process = holder.get("process")
    if type(process) is not int or process in (0, os.getpid()):
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return _start(process) == holder.get("start")  # numbers of processes are given again


def _start(process: int) -> str:
    """When a process of this host started, as Linux counts it; empty where that is not told."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
