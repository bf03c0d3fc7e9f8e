"""Reads recipe files, Python files with a function `get_config`, and the flags that change their options."""

from __future__ import annotations

import inspect
import re
import sys
import traceback
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from danet_jax.errors import InputError, one_line
from danet_jax.recipe import Recipe, as_config, defaults, recipe_of_run
from danet_jax.recipe.schema import find, shown, value_error
from danet_jax.runs.directory import is_run, read_config

_FLAG = re.compile(r"--?(?:no)?config\.([^=]*)(?:=(.*))?", re.DOTALL)
_RENAMED = {"init.from": "init.checkpoint", "init.source": "init.checkpoint"}
"""The names of options up to version 0.2, and their names since then."""


def read_config_and_flags(
    file: str | None, workdir: str | None, arguments: Sequence[str], folder: Path, notes: list[str]
) -> tuple[list[str], ml_collections.ConfigDict | None, dict[str, Any]]:
    """Reads the recipe and applies the flags `--config.GROUP.NAME=VALUE` to it.

    Args:
      file: the value of --config. If it is None, the recipe is that of the run in `workdir`.
      workdir: the value of --workdir.
      arguments: the program and its command line, without the flags that have already been read.
      folder: the folder of the recipes, which are listed if the file does not exist.
      notes: a list to which a line is appended for each option that is given by a deprecated name.

    Returns:
      The arguments after the flags; the config, or None if there is neither a file nor a run; and the values of the
      flags by option, for example `{"training.steps": 7}`.

    Raises:
      InputError: the recipe cannot be loaded, or a flag does not name an option, or its value is missing or has
        another type.
      absl.flags.Error: a flag that does not set an option is invalid.
    """
    config: ml_collections.ConfigDict | None = None
    origin = ""
    init: Mapping[str, Any] = {}
    if file:
        config = load(file, folder)
        origin, init = file.partition(":")[0], config.init or {}
    elif workdir is not None and is_run(workdir):
        config = as_config(recipe_of_run(workdir))
        origin, init = f"{workdir}/config.json", read_config(workdir).get("init") or {}
    if "source" in init:
        notes.append(f"{origin}: config.init.source is deprecated; use config.init.checkpoint")
    arguments = [_with_new_name(argument, notes) for argument in arguments]
    keys = [match[1] for argument in arguments if (match := _FLAG.fullmatch(argument))]
    if config is None:
        if keys:
            [flag, *_] = filter(_FLAG.fullmatch, arguments)
            raise InputError(f"{flag} needs --config=FILE, the recipe that it changes", what=flag)
        return flags.FlagValues()(arguments)[1:], None, {}
    for key in keys:
        if not key.startswith("dataset.options."):
            found, _, name = find(Recipe, key.split("."))
            if not name or found != f"config.{key}":
                raise InputError(
                    f"--config.{key} is not one option: set options one by one, --config.GROUP.NAME=VALUE",
                    what=f"config.{key}",
                )
    try:
        rest, changes = _change(config, arguments)
    except flags.UnrecognizedFlagError:
        raise
    except Exception as error:  # absl and ml_collections raise various exceptions for invalid values
        raise _refusal(config, keys, arguments) or InputError(f"--config: {one_line(error)}") from error
    return rest, config, changes


def _with_new_name(argument: str, notes: list[str]) -> str:
    match = _FLAG.fullmatch(argument)
    if not match or match[1] not in _RENAMED:
        return argument
    old, new = match[1], _RENAMED[match[1]]
    notes.append(f"--config.{old} is deprecated; use --config.{new}")
    return argument.replace(old, new, 1)


def _change(config: ml_collections.ConfigDict, arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Applies the flags in `arguments` to `config`; returns the other arguments, and the changes by option."""
    values = flags.FlagValues()
    values.set_gnu_getopt(True)  # flags may come after arguments
    config_flags.DEFINE_config_dict(
        "config", config, "", values, lock_config=False, accept_new_attributes=True, sys_argv=list(arguments)
    )
    rest = values(list(arguments))[1:]
    return rest, config_flags.get_override_values(values["config"])


def _refusal(
    config: ml_collections.ConfigDict, keys: Sequence[str], arguments: Sequence[str]
) -> InputError | None:
    """Returns the error for the first option whose flags are refused by themselves."""
    for key in keys:
        own = [a for a in arguments if not (match := _FLAG.fullmatch(a)) or match[1] == key]
        try:
            _change(config.copy_and_resolve_references(), own)
        except Exception as error:  # see `read_config_and_flags`
            what = f"config.{key}"
            [*_, value] = [match[2] for a in own if (match := _FLAG.fullmatch(a))]
            if value is None:
                return InputError(f"{what}: {one_line(error)}", what=what)
            if not key.startswith("dataset.options."):
                return value_error(*find(Recipe, key.split(".")), value)
            known = dict(config.dataset.options).get(key.removeprefix("dataset.options."))
            allowed = "an option of the data set" if known is None else f"a value like {known!r}"
            return InputError(f"{what}={shown(value)} must be {allowed}", what=what, value=value)
    return None


def load(text: str, folder: Path) -> ml_collections.ConfigDict:
    """Returns the config of a recipe file, unlocked.

    Args:
      text: FILE, or FILE:VARIANT, where VARIANT is the argument of the file's `get_config`.
      folder: the folder of the recipes, which are listed if the file does not exist.

    Raises:
      InputError: the file does not exist, running it raises an exception, or it returns no config. The message names
        the file and, if the file raised the exception, the line in it.
    """
    path, colon, variant = text.partition(":")
    try:
        source = Path(path).read_bytes() if Path(path).is_file() else None
    except (OSError, ValueError) as error:
        raise InputError(
            f"--config={shown(text)}: cannot be read: {_describe(error)}", what="--config"
        ) from error
    if source is None:
        names = [f"{folder.name}/{each.name}" for each in sorted(folder.glob("*.py")) if each.stem != "base"]
        raise InputError(
            f"--config={shown(path)} does not exist; there are: {', '.join(names)}",
            what="--config",
            value=path,
            allowed=names,
        )
    # The file is compiled here, so that Python leaves no __pycache__ next to a file that may be refused.
    module = types.ModuleType("recipe_file")
    module.__file__ = path
    sys.modules[module.__name__] = module
    _run(path, lambda: exec(compile(source, path, "exec"), module.__dict__))
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise InputError.for_file(
            path, "must define a function get_config that returns the recipe; see configs/base.py"
        )
    arguments = (variant,) if colon else ()
    signature = _run(path, lambda: inspect.signature(get_config))
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise InputError.for_file(
            path,
            f"get_config{signature} cannot be called {f'with {variant!r}' if colon else 'without a variant'}; it "
            f"may take one argument, the VARIANT of --config={path}:VARIANT",
        ) from error
    config = _run(path, lambda: get_config(*arguments))
    if not isinstance(config, ml_collections.ConfigDict):
        if inspect.iscoroutine(config):
            config.close()
        raise InputError.for_file(
            path,
            f"get_config returns {type(config).__name__}; it must return a changed danet_jax.recipe.defaults()",
            value=config,
        )
    _run(path, config.to_dict)  # references are resolved when they are read, which can fail
    config = ml_collections.ConfigDict(config)  # a frozen config becomes one that can be changed
    config.unlock()
    for name, value in defaults().items():
        if name not in config:  # the config was not created by defaults() and lacks a group
            config[name] = value
    return config


def _run(path: str, function: Callable[[], Any]) -> Any:
    """Calls `function`, which runs code of the file, and turns whatever it raises into an InputError."""
    try:
        return function()
    except InputError as error:
        raise error.in_file(path) from error
    except BaseException as error:  # even sys.exit(0), which would look like a successful run
        lines = [
            frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path
        ]
        if isinstance(error, SyntaxError) and error.filename == path:
            lines.append(error.lineno)
        where = f"{path}, line {lines[-1]}" if lines else path
        raise InputError(f"{where}: {_describe(error)}", what=path) from error


def _describe(error: BaseException) -> str:
    """Returns a description of an error on one line of bounded length."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg}"
    return one_line("".join(traceback.format_exception_only(error)))
