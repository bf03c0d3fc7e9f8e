"""One preparation at a time in a directory, whoever shares it: others wait, and are told for whom."""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import os
import pathlib
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import TextIO

from danet_jax.errors import InputError

_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
_BEAT, _SILENCE = 5.0, 60.0
_SETTLES = 0.1
"""Seconds between signs of life of who holds a file, and of silence after which it is taken for dead."""

_QUIET = 5.0
"""Seconds to wait without a word."""


@contextlib.contextmanager
def preparing(directory: pathlib.Path, what: str) -> Iterator[None]:
    """Hold `directory` alone for the time of a preparation; waits while another process holds it.

    The system's lock is used, which ends with the process, however it ends. File systems that have none (some
    network mounts) get a file, `.preparing`, instead, which its holder touches every few seconds; one that has not
    been touched for a minute was left by a process that was killed, and is taken over. Where nothing was prepared,
    neither the lock's file nor a directory that was made for it is left.

    Args:
      directory: Made if it does not exist.
      what: What is prepared, for those who wait.

    Raises:
      InputError: The directory cannot be written to.
    """
    holder = f"{what}, prepared by process {os.getpid()} on {socket.gethostname()} since {_now()}"
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / ".lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{directory}: cannot be written to ({error.strerror}); set dataset.data_dir"
        ) from None
    with file:
        try:
            if not _free_soon(file):
                file.seek(0)
                _say(f"{directory}: waiting for {file.read().strip() or 'another process'}")
                fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            with _held_file(directory / ".preparing", holder):
                yield
            return
        if not _still_there(file, directory / ".lock"):  # who had it prepared nothing, and left nothing
            with preparing(directory, what):
                yield
            return
        _write(file, holder)
        try:
            yield
        finally:
            _write(file, "")
            with contextlib.suppress(OSError):
                if [path.name for path in directory.iterdir()] == [".lock"]:
                    (directory / ".lock").unlink()
                    for path in missing:
                        path.rmdir()


def _still_there(file: TextIO, path: pathlib.Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _free_soon(file: TextIO) -> bool:
    """Take the lock if it is free within `_QUIET` seconds, and whether it was."""
    deadline = time.monotonic() + _QUIET
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)


def _write(file: TextIO, text: str) -> None:
    file.truncate(0)
    file.write(text)
    file.flush()


@contextlib.contextmanager
def _held_file(path: pathlib.Path, holder: str) -> Iterator[None]:
    _say(f"{path.parent}: this file system has no locks; {path} tells others to wait")
    _take(path, holder)
    released = threading.Event()

    def beat() -> None:
        while not released.wait(_BEAT):
            with contextlib.suppress(OSError):
                os.utime(path)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        released.set()
        thread.join()
        path.unlink(missing_ok=True)


def _take(path: pathlib.Path, holder: str) -> None:
    seen: tuple[int, float] | None = (
        None  # its time of change, by its clock, and when we saw that first, by ours
    )
    while True:
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(holder)
            return
        except FileExistsError:
            pass
        with contextlib.suppress(FileNotFoundError):
            changed = path.stat().st_mtime_ns
            if seen is None:
                time.sleep(_SETTLES)  # who has just made it may not have written into it yet
                _say(f"{path.parent}: waiting for {path.read_text(encoding='utf-8').strip()}")
            if seen is None or changed != seen[0]:
                seen = (changed, time.monotonic())
            elif time.monotonic() - seen[1] > _SILENCE:
                dead = path.with_name(f".preparing-{os.getpid()}-{socket.gethostname()}")
                path.rename(dead)  # one of those who wait succeeds
                dead.unlink()
                continue
        time.sleep(min(1.0, _BEAT))


def _now() -> str:
    return datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
