"""The one exception that the command line turns into a single line."""


class InputError(ValueError):
    """Something that the user gave is wrong, and the message says what and how to mend it.

    The message is one line that names the file or the key and what to do. `run.py` prints it without
    a traceback and exits with status 1; a library caller catches it as a `ValueError`.
    """
