"""A pseudo-terminal that a program runs in, and what can be read on its screen."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

_TOKENS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+|\x1b")


def screens(text):
    """Yields the lines on the screen before each return of the cursor, and in the end."""
    lines, row, column = [""], 0, 0
    for token in _TOKENS.findall(text.replace("\r\n", "\n")):
        if token == "\r":
            yield list(lines)
            column = 0
        elif token == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif token.startswith("\x1b["):
            if token[-1] == "A":
                row -= int(token[2:-1] or 1)
            elif token[-1] == "K":
                lines[row] = ""
        else:
            line = lines[row].ljust(column)
            lines[row] = line[:column] + token + line[column + len(token) :]
            column += len(token)
    yield lines


def run_in_terminal(columns, *arguments, cwd, environment=None):
    """Runs Python in a terminal; returns the exit status and what the screen showed, at the end after the end."""
    terminal, ours = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    removed = ("COLUMNS", "NO_COLOR", "FORCE_COLOR")
    kept = {name: value for name, value in os.environ.items() if name not in removed}
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=kept | {"TERM": "xterm", "PYTHONIOENCODING": "utf-8", **(environment or {})},
        **dict.fromkeys(("stdin", "stdout", "stderr"), ours),
    )
    os.close(ours)
    output = b""
    try:
        while True:
            output += os.read(terminal, 1 << 16)
    except OSError:  # the program has ended
        os.close(terminal)
    return process.wait(), list(screens(output.decode()))
