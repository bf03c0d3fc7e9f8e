"""What a program prints where nobody can hear it any more."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def going_on_unheard() -> Iterator[None]:
    """Within it, what cannot be printed ends nothing.

    A terminal that was closed, a `tee` that was killed, a `head` that has seen enough, a full disk under a log: the
    work goes on, and what is printed from then on is dropped, which standard error is told if it is still there. A
    letter that the terminal's encoding has not, in the name of a file or a class, is printed as its number.
    """
    with (
        contextlib.redirect_stderr(_lasting(sys.stderr, "standard error")),
        contextlib.redirect_stdout(_lasting(sys.stdout, "standard output")),
    ):
        yield


def _lasting(stream: Any, name: str) -> Any:
    if stream is None:  # closed from the start
        return None
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return _Lasting(stream, name)


class _Lasting:
    """A stream that drops what it cannot write."""

    def __init__(self, stream: Any, name: str) -> None:
        self._stream, self._name = stream, name

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except OSError as error:
            self._give_up(error)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        # What is still in the stream's buffer, and all that follows, goes nowhere.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
        print(f"run.py: {self._name}: {error.strerror}; going on without it", file=sys.stderr)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
