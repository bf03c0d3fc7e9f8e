"""Recipe files, Python files with a function `get_config`, and why a flag that changes one is wrong."""

from __future__ import annotations

import inspect
import re
import sys
import traceback
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_collections
from absl import flags

from danet_jax.errors import InputError, one_line
from danet_jax.recipe import Recipe, defaults
from danet_jax.recipe.words import field_of, shown, takes


def load(text: str, folder: Path) -> ml_collections.ConfigDict:
    """The config that a recipe file returns, free to be changed.

    Args:
      text: FILE, or FILE:VARIANT, whose VARIANT is the argument of the file's `get_config`.
      folder: where recipes are, to name them when there is no such file.

    Raises:
      InputError: there is no such file, whatever running it raises, or what it returns is no config; one line that
        names the file and, where it was the file that raised, the line in it.
    """
    path, colon, variant = text.partition(":")
    try:
        source = Path(path).read_bytes() if Path(path).is_file() else None
    except (OSError, ValueError) as error:
        raise InputError(f"--config={shown(text)}: cannot be read: {_words(error)}") from error
    if source is None:
        names = ", ".join(
            f"{folder.name}/{recipe.name}" for recipe in sorted(folder.glob("*.py")) if recipe.stem != "base"
        )
        raise InputError(f"--config={shown(path)}: no such file; there are: {names}")
    # Compiled here, so that Python leaves no __pycache__ beside a file that may be refused.
    module = types.ModuleType("recipe_file")
    module.__file__ = path
    sys.modules[module.__name__] = module
    _run(path, lambda: exec(compile(source, path, "exec"), module.__dict__))
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise InputError(f"{path}: has no function get_config, which returns the recipe; see configs/base.py")
    arguments = (variant,) if colon else ()
    _check_signature(path, get_config, arguments)
    config = _run(path, lambda: get_config(*arguments))
    if not isinstance(config, ml_collections.ConfigDict):
        if inspect.iscoroutine(config):
            config.close()
        found = "None" if config is None else f"a {type(config).__name__}"
        raise InputError(
            f"{path}: get_config returns {found}; it must return danet_jax.recipe.defaults(), changed"
        )
    _run(path, config.to_dict)  # what is computed when it is read can fail, too
    config = ml_collections.ConfigDict(config)  # of a frozen one, one that can be changed
    config.unlock()
    for name, value in defaults().items():
        if name not in config:  # it was made in another way, and lacks a group
            config[name] = value
    return config


def refuse_groups(changes: Mapping[str, Any]) -> None:
    """Raises InputError if a flag set a whole group, which would put defaults in the place of the file's options."""
    for key, value in changes.items():
        if isinstance(value, ml_collections.ConfigDict):
            raise InputError(
                f"--config.{key} is a group: set its options one by one, --config.{key}.NAME=VALUE"
            )


def reason(error: Exception) -> str:
    """Why absl, ml_collections or a recipe file refuse a flag, in one line that says what the option takes."""
    if isinstance(error, flags.UnrecognizedFlagError) and error.flagname.startswith("config."):
        return f"{error.flagvalue} needs --config=FILE, the recipe that it changes"
    if isinstance(error, InputError):
        return str(error)
    matched = re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error), re.DOTALL)
    field = field_of(Recipe, matched[1]) if matched else None
    if matched and field:
        return f"config.{matched[1]}={shown(matched[2])} must be {takes(field)}"
    if isinstance(error, KeyError):
        problem = ". ".join(str(error.args[0]).split("\n"))  # ml_collections says which name is near
        return f"--config.GROUP.NAME: no group {problem} config has: {', '.join(sorted(Recipe.model_fields))}"
    text = _words(error) if isinstance(error, SyntaxError) else one_line(str(error))
    return text if isinstance(error, flags.Error) else f"--config.GROUP.NAME=VALUE: {text}"


def _check_signature(path: str, get_config: Callable[..., Any], arguments: tuple[str, ...]) -> None:
    try:
        signature = inspect.signature(get_config)
    except (TypeError, ValueError):  # some of C's
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        if arguments and not signature.parameters:
            raise InputError(f"{path}: takes no variant, so leave out ':{arguments[0]}'") from error
        needs = ", ".join(signature.parameters)
        raise InputError(
            f"{path}: get_config takes one argument, the VARIANT of --config={path}:VARIANT, or none; not {needs}"
            if len(signature.parameters) > 1
            else f"{path}: needs a variant ({needs}), as in --config={path}:{needs.upper()}"
        ) from error


def _run(path: str, function: Callable[[], Any]) -> Any:
    """Calls `function`, which runs code of the file; whatever it raises becomes an InputError."""
    try:
        return function()
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except BaseException as error:  # sys.exit(0), too, must not pass for a run that is done
        frames = [
            frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path
        ]
        number = error.lineno if isinstance(error, SyntaxError) and error.filename == path else None
        number = frames[-1] if number is None and frames else number
        where = path if number is None else f"{path}, line {number}"
        raise InputError(f"{where}: {_words(error)}") from error


def _words(error: BaseException) -> str:
    """An error on one line, of bounded length."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg}"
    return one_line("".join(traceback.format_exception_only(error)))
