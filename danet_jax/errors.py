"""The one exception that the command line turns into a single line, and single lines of others."""


class InputError(ValueError):
    """Something that the user gave is wrong, and the message says what and how to mend it.

    The message is one line that names the file or the key and what to do. `run.py` prints it without
    a traceback and exits with status 1; a library caller catches it as a `ValueError`.
    """


def first_line(error: Exception) -> str:
    """The first line of what a library says went wrong, or the kind of the error where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]
