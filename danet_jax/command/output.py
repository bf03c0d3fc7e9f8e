"""Standard output and standard error whose reader may disappear without ending the program."""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO


class _Lasting(io.FileIO):
    """A file descriptor that drops whatever it cannot write because a terminal was closed or a disk is full."""

    def write(self, data):
        try:
            return super().write(data)
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            if self.fileno() == 1 and sys.stderr is not None:
                print(f"run.py: standard output: {error.strerror}; continuing without it", file=sys.stderr)
            return len(data)


def lasting(stream: TextIO) -> TextIO:
    """Returns a stream that escapes letters that the encoding of `stream` lacks, and drops what it cannot write."""
    if not isinstance(stream, io.TextIOWrapper):  # None if it was closed from the start
        return stream
    stream.flush()
    raw = io.BufferedWriter(_Lasting(stream.fileno(), "w", closefd=False))
    return io.TextIOWrapper(
        raw, stream.encoding, "backslashreplace", None, stream.line_buffering, stream.write_through
    )
