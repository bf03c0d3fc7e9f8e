"""The exception for invalid input, and functions that format other errors as one line."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from typing import Any


class InputError(ValueError):
    """Raised for invalid input.

    The message is one line that names the option, argument or file, and says what is wrong and what to do. `run.py`
    prints it without a traceback and exits with status 1. Python callers can catch it as a `ValueError`.

    Args:
      message: the message. When it is displayed, unprintable characters are escaped, and the middle of a very long
        message is omitted.
      what: the invalid option (`config.training.steps`), flag (`--workdir`), argument (`scales`) or file, spelled as in
        the message.
      value: the invalid value.
      allowed: the allowed values, or a description of them.

    Example:
      >>> import danet_jax
      >>> try:
      ...     danet_jax.Protocol(merge="median")
      ... except danet_jax.InputError as error:
      ...     error.what, error.value
      ('merge', 'median')
    """

    def __init__(self, message: str, *, what: str | None = None, value: Any = None, allowed: Any = None):
        super().__init__(message)
        self.what, self.value, self.allowed = what, value, allowed

    @classmethod
    def for_value(cls, what: str, value: Any, problem: str, allowed: Any = None) -> InputError:
        """Returns the error `WHAT=VALUE PROBLEM`."""
        return cls(f"{what}={value} {problem}", what=what, value=value, allowed=allowed)

    @classmethod
    def for_file(
        cls, path: str | os.PathLike[str], problem: str, value: Any = None, allowed: Any = None
    ) -> InputError:
        """Returns the error `PATH: PROBLEM`."""
        return cls(f"{os.fspath(path)}: {problem}", what=os.fspath(path), value=value, allowed=allowed)

    def __str__(self) -> str:
        line = _shortened(super().__str__(), 2000)
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)

    def __reduce__(self) -> Any:  # `Exception` does not pickle keyword arguments.
        return _rebuild, (type(self), self.args, self.what, self.value, self.allowed)

    def in_file(self, path: str | os.PathLike[str]) -> InputError:
        """Returns this error with `path` as `what` and in front of the message, unless `what` is already `path`."""
        path = str(path)
        if self.what == path:
            return self
        return InputError(f"{path}: {self.args[0]}", what=path, value=self.value, allowed=self.allowed)

    def in_group(self, prefix: str) -> InputError:
        """Returns this error with `prefix`, such as `config.evaluation.`, in front of the message and of `what`."""
        what = None if self.what is None else f"{prefix}{self.what}"
        return InputError(f"{prefix}{self.args[0]}", what=what, value=self.value, allowed=self.allowed)


def _rebuild(
    kind: type[InputError], arguments: tuple[str], what: str | None, value: Any, allowed: Any
) -> InputError:
    return kind(*arguments, what=what, value=value, allowed=allowed)


def did_you_mean(name: str, existing: Iterable[Any]) -> str:
    """Returns a suggestion for a message, with the existing name that is most similar to `name`, or "" if none is."""
    near = difflib.get_close_matches(name, map(str, existing), n=1)
    return f"did you mean {near[0]}? " if near else ""


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, or the name of its type if it has no message."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def one_line(problem: BaseException | str) -> str:
    """Returns an error's complete message as one line of limited length, or the name of its type if it has none."""
    return _shortened(" ".join(str(problem).split()) or type(problem).__name__, 300)


def _shortened(line: str, longest: int) -> str:
    return line if len(line) <= longest else f"{line[: longest // 2]} ... {line[-longest // 2 :]}"
