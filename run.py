"""The command line of danet_jax.

    python run.py --config=configs/quickstart.py                     train
    python run.py --config=configs/quickstart.py --mode=evaluate     mIoU of the trained network
    python run.py --config=configs/quickstart.py --mode=predict photo.jpg folder/

Settings are changed with --config.GROUP.NAME=VALUE; docs/settings.md explains each of them.
"""

import contextlib
import importlib
import os
import pathlib
import sys
import traceback
from typing import Any

if __name__ == "__main__" and sys._getframe().f_back is None:  # not inside a notebook or a debugger
    # On CPUs, huge pages save a quarter of the time of a small network's step. Where the kernel provides them on
    # request, glibc requests them if GLIBC_TUNABLES says so when a process starts. Python therefore restarts here,
    # before imports that take long.
    _kernel = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
    _tunables = os.environ.get("GLIBC_TUNABLES", "")
    _asked = "glibc.malloc.hugetlb" in _tunables or "DANET_JAX_STARTED" in os.environ
    with contextlib.suppress(OSError):
        if not _asked and "[madvise]" in _kernel.read_text():
            os.environ["DANET_JAX_STARTED"] = "1"  # avoids a loop if the system drops GLIBC_TUNABLES
            os.environ["GLIBC_TUNABLES"] = f"{_tunables}:glibc.malloc.hugetlb=1".lstrip(":")
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])

try:
    from absl import flags, logging
except ImportError as error:
    sys.exit(
        f"run.py: {error}; activate the virtual environment with `. .venv/bin/activate`, or see README.md"
    )

from danet_jax.errors import InputError, did_you_mean, first_line, one_line
from danet_jax.modes import (
    COMPUTE,
    FLAGS,
    HOST_FLAGS,
    MODES,
    TRAINED,
    WITH_ARGUMENTS,
    WITHOUT_RECIPE,
    WITHOUT_WORKDIR,
)
from danet_jax.runs import terminal


def main(argv: list[str]) -> int:
    """Picks the mode, runs it and returns the exit status."""
    values = flags.FlagValues()
    flags.DEFINE_string("config", None, "The recipe, a file in configs/; FILE:VARIANT.", flag_values=values)
    flags.DEFINE_string("mode", "train", f"One of: {', '.join(MODES)}.", flag_values=values)
    flags.DEFINE_string("workdir", None, "The run's directory; else runs/NAME.", flag_values=values)
    for name, flag in {**FLAGS, **HOST_FLAGS}.items():
        if isinstance(flag.default, bool):
            flags.DEFINE_bool(name, flag.default, flag.meaning, flag_values=values)
        elif isinstance(flag.default, int):
            flags.DEFINE_integer(name, flag.default, flag.meaning, flag.lowest, flag_values=values)
        else:
            flags.DEFINE_string(name, flag.default, flag.meaning, flag_values=values)
    if "--help" in argv or "-h" in argv:
        print(__doc__, values.get_help(), sep="\n")
        return 0
    notes: list[str] = []  # notes about deprecated option names; an error appends them, to stay on one line
    try:
        with terminal.shown("working", logged=False):
            status = run(values, argv, notes)
        for note in notes:
            print(f"run.py: {note}", file=sys.stderr)
        return status
    except InputError as error:
        print(f"run.py: {'; '.join([str(error), *notes])}", file=sys.stderr)
    except OSError as error:  # for example a full disk, or a folder without write permission
        path = error.filename or values.workdir or "a file"
        print(f"run.py: {path}: {error.strerror or error}", file=sys.stderr)
    except Exception as error:
        if type(error).__module__.startswith("gcsfs"):
            line = f"{values.workdir}: {first_line(error)}; the same command resumes"
        elif is_one_of_several_hosts():
            traceback.print_exc()
            line = (
                f"{one_line(error)}; if another host failed first, its output gives the reason; the same command on "
                "all hosts resumes from the last checkpoint"
            )
        else:
            raise
        print(f"run.py: {line}", file=sys.stderr)
    if is_one_of_several_hosts():
        from danet_jax.runs.hosts import leave

        leave(1)
    return 1


def is_one_of_several_hosts() -> bool:
    """Returns whether this process was joined to others, without importing JAX."""
    return "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized()


def run(values: flags.FlagValues, argv: list[str], notes: list[str]) -> int:
    """Reads the command line, runs the mode and returns the exit status; raises InputError for invalid arguments."""
    from danet_jax.command import startup
    from danet_jax.recipe import read_recipe
    from danet_jax.runs import stopping

    arguments, config, changed = parse(values, argv, notes)
    # Orbax logs harmless warnings, and the tracebacks of exceptions that it raises anyway.
    logging.set_verbosity(logging.FATAL)
    mode, given = values.mode, {name: values[name].value for name in values if values[name].present}
    if mode not in MODES:
        problem = f"does not exist; {did_you_mean(mode, MODES)}there are: {', '.join(MODES)}"
        raise InputError.for_value("--mode", mode, problem, allowed=MODES)
    if "mode" not in given and arguments and arguments[0] in MODES:
        raise InputError(f"{arguments[0]}: to choose a mode, write --mode={arguments[0]}", what=arguments[0])
    for name, value in given.items():
        if name in FLAGS and mode not in FLAGS[name].modes:
            modes = ", ".join(FLAGS[name].modes)
            raise InputError(f"--{name} applies to --mode={modes}, not to --mode={mode}", what=f"--{name}")
        if value == "":
            raise InputError(f"--{name}= is empty", what=f"--{name}")
    if "" in arguments:
        raise InputError("an argument after the flags is empty", what="an argument", value="")
    if arguments and mode not in WITH_ARGUMENTS:
        raise InputError.for_file(arguments[0], f"--mode={mode} takes no arguments after the flags")
    recipe = None if config is None else read_recipe(config.to_dict())
    if recipe is None and mode not in WITHOUT_RECIPE:
        raise InputError(f"--mode={mode} needs --config=FILE; recipes are in configs/", what="--config")
    workdir = startup.find_workdir(values.workdir, recipe, written=mode not in WITHOUT_WORKDIR)
    startup.use_compilation_cache(recipe.compilation_cache if recipe else "")
    options = {name: value for name, value in given.items() if name in FLAGS}
    if mode in TRAINED and recipe is not None:
        names = [key.removeprefix("model.") for key in changed if key.startswith("model.")]
        options["overrides"] = {name: getattr(recipe.model, name) for name in names}
    with startup.joined(recipe, {name: values[name].value for name in HOST_FLAGS}):
        if mode in COMPUTE:
            startup.refuse_no_device()
        together = mode == "train" and is_one_of_several_hosts()
        with stopping.StopSignals(together=together) as signals:
            if mode == "train":
                options["signals"] = signals
            else:
                signals.progress = f"in --mode={mode}; the same command starts it again"
            module = importlib.import_module(f"danet_jax.modes.{mode}")
            return module.run(recipe, workdir, arguments, **options)
        print(signals, flush=True)
        return signals.status


def parse(
    values: flags.FlagValues, argv: list[str], notes: list[str]
) -> tuple[list[str], Any, dict[str, Any]]:
    """Returns the arguments after the flags, the recipe's config or None, and the values that flags have set."""
    from danet_jax.command import recipe_file

    values.set_gnu_getopt(True)  # flags may come after arguments
    try:
        rest = values(argv, known_only=True)
        folder = pathlib.Path(__file__).with_name("configs")
        return recipe_file.read_config_and_flags(values.config, values.workdir, rest, folder, notes)
    except flags.UnrecognizedFlagError as error:
        name = f"--{error.flagname}"
        near = did_you_mean(name.partition(".")[0], [f"--{flag}" for flag in values])
        raise InputError(f"{name} does not exist; {near}--help lists all flags", what=name) from error
    except flags.Error as error:
        raise InputError(one_line(error)) from error


if __name__ == "__main__":
    from danet_jax.command.output import fault_tolerant

    sys.stdout, sys.stderr = fault_tolerant(sys.stdout), fault_tolerant(sys.stderr)
    sys.exit(main(sys.argv))
