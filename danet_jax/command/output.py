"""Makes standard output and standard error survive the loss of their reader."""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO


class _FaultTolerant(io.FileIO):
    """A file that drops whatever it cannot write, for example because a terminal was closed or a disk is full."""

    def write(self, data):
        try:
            return super().write(data)
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            if self.fileno() == 1 and sys.stderr is not None:
                print(f"run.py: standard output: {error.strerror}; continuing without it", file=sys.stderr)
            return len(data)


def fault_tolerant(stream: TextIO) -> TextIO:
    """Returns a stream that escapes characters missing from `stream`'s encoding, and drops what it cannot write."""
    if not isinstance(stream, io.TextIOWrapper):  # it is None if it was closed from the start
        return stream
    stream.flush()
    raw = io.BufferedWriter(_FaultTolerant(stream.fileno(), "w", closefd=False))
    return io.TextIOWrapper(
        raw, stream.encoding, "backslashreplace", None, stream.line_buffering, stream.write_through
    )
