"""The one exception that the command line turns into a single line, and single lines of others."""


class InputError(ValueError):
    """Something that the user gave is wrong, and the message says what and how to mend it.

    The message is one line that names the file or the key and what to do. `run.py` prints it without
    a traceback and exits with status 1; a library caller catches it as a `ValueError`. What cannot be
    printed of a file's name or content is shown as Python writes it, and the middle of a very long line is left out.
    """

    def __str__(self) -> str:
        """Return the one line."""
        line = _shortened(super().__str__(), 2000)
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def first_line(error: Exception) -> str:
    """The first line of what a library says went wrong, or the kind of the error where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def one_line(problem: BaseException | str) -> str:
    """All of what a library says went wrong as one line, or the kind of the error where it says nothing."""
    return _shortened(" ".join(str(problem).split()) or type(problem).__name__, 300)


def _shortened(line: str, longest: int) -> str:
    return line if len(line) <= longest else f"{line[: longest // 2]} ... {line[-longest // 2 :]}"
