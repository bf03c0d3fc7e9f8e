"""The command line of danet_jax.

    python run.py --config=configs/quickstart.py                     train
    python run.py --config=configs/quickstart.py --mode=evaluate     mIoU of the trained network
    python run.py --config=configs/quickstart.py --mode=predict photo.jpg folder/

Settings are changed with --config.GROUP.NAME=VALUE; docs/settings.md explains each of them.
"""

import importlib
import pathlib
import sys
from typing import Any

from danet_jax.command import huge_pages

if __name__ == "__main__":
    huge_pages.ask_for_huge_pages()  # starts Python once more, so before anything that takes long to import

from absl import flags, logging

from danet_jax.command import output
from danet_jax.errors import InputError, first_line, one_line
from danet_jax.modes import COMPUTE, FLAGS, HOST_FLAGS, MODES, TRAINED, WITHOUT_RECIPE, WITHOUT_WORKDIR


def main(argv: list[str]) -> int:
    """Picks the mode and hands over; the status of the process."""
    values = flags.FlagValues()
    flags.DEFINE_string("config", None, "The recipe, a file in configs/; FILE:VARIANT.", flag_values=values)
    flags.DEFINE_string("mode", "train", f"One of: {', '.join(MODES)}.", flag_values=values)
    flags.DEFINE_string("workdir", None, "The run's directory; else runs/NAME.", flag_values=values)
    define: dict[type, Any] = {bool: flags.DEFINE_bool, int: flags.DEFINE_integer}
    for name, flag in {**FLAGS, **HOST_FLAGS}.items():
        define.get(type(flag.default), flags.DEFINE_string)(name, *flag[:2], flag_values=values)
    if "--help" in argv or "-h" in argv:
        print(__doc__, values.get_help(), sep="\n")
        return 0
    notes: list[str] = []  # of options with deprecated names; a refusal stays one line
    try:
        status = run(values, argv, notes)
        for note in notes:
            print(f"run.py: {note}", file=sys.stderr)
        return status
    except InputError as error:
        print(f"run.py: {'; '.join([str(error), *notes])}", file=sys.stderr)
    except OSError as error:  # a disk that is full, a folder that must not be written to
        print(
            f"run.py: {error.filename or values.workdir or 'a file'}: {error.strerror or error}",
            file=sys.stderr,
        )
    except Exception as error:
        if not type(error).__module__.startswith("gcsfs"):
            raise
        print(f"run.py: {values.workdir}: {first_line(error)}; the same command goes on", file=sys.stderr)
    return 1


def run(values: flags.FlagValues, argv: list[str], notes: list[str]) -> int:
    """Reads the command line and runs the mode. Raises InputError for what makes no sense."""
    from danet_jax.command import compilation_cache, hosts, places
    from danet_jax.recipe import read_recipe
    from danet_jax.runs import stopping

    arguments, config, changes = parse(values, argv, notes)
    # Orbax warns of what is in order, and traces what is raised all the same.
    logging.set_verbosity(logging.FATAL)
    mode, given = values.mode, {name: values[name].value for name in values if values[name].present}
    if mode not in MODES:
        raise InputError(f"--mode={mode} does not exist; there are: {', '.join(MODES)}")
    for name, value in given.items():
        if name in FLAGS and mode not in FLAGS[name].modes:
            raise InputError(f"--{name} is not for --mode={mode}")
        if value == "":
            raise InputError(f"--{name}= is empty")
    if "" in arguments:
        raise InputError("an argument after the flags is empty")
    recipe = None if config is None else read_recipe(config.to_dict())
    if recipe is None and mode not in WITHOUT_RECIPE:
        raise InputError(f"--mode={mode} needs --config=FILE; recipes are in configs/")
    workdir = places.find_workdir(values.workdir, recipe, written=mode not in WITHOUT_WORKDIR)
    compilation_cache.use_compilation_cache(recipe.compilation_cache if recipe else "")
    options = {name: value for name, value in given.items() if name in FLAGS}
    if mode in TRAINED:
        options["overrides"] = {key[6:]: value for key, value in changes.items() if key.startswith("model.")}
    with hosts.joined(recipe, {name: values[name].value for name in HOST_FLAGS}, argv):
        if mode in COMPUTE:
            hosts.refuse_no_device()
        with stopping.StopSignals() as signals:
            if mode == "train":
                options["signals"] = signals
            else:
                signals.standing = f"in --mode={mode}; the same command starts it again"
            module = importlib.import_module(f"danet_jax.modes.{mode}")
            return module.run(recipe, workdir, arguments, **options)
        print(signals, flush=True)
        return signals.status


def parse(
    values: flags.FlagValues, argv: list[str], notes: list[str]
) -> tuple[list[str], Any, dict[str, Any]]:
    """Returns the arguments after the flags, the recipe's config or None, and the changes of --config.GROUP.NAME."""
    from danet_jax.command import recipe_file

    values.set_gnu_getopt(True)  # flags may come after arguments
    try:
        rest = values(argv, known_only=True)
        folder = pathlib.Path(__file__).with_name("configs")
        return recipe_file.read_config_and_flags(values.config, values.workdir, rest, folder, notes)
    except flags.Error as error:
        raise InputError(one_line(error)) from error


if __name__ == "__main__":
    with output.going_on_unheard():
        sys.exit(main(sys.argv))
