"""The command line of danet_jax.

    python run.py --config=configs/quickstart.py                     train
    python run.py --config=configs/quickstart.py --mode=evaluate     mIoU of the trained network
    python run.py --config=configs/quickstart.py --mode=predict photo.jpg folder/

Settings are changed with --config.GROUP.NAME=VALUE; `--mode=MODE` is one of those in MODES below.
"""

import importlib
import itertools
import pathlib
import sys
from typing import Any

from absl import flags, logging
from ml_collections import config_flags

from danet_jax.errors import InputError

# Mode -> the flags that only some modes take.
MODES = {
    "train": (),
    "evaluate": ("checkpoint",),
    "predict": ("checkpoint",),
    "prepare": (),
    "check": (),
    "submit": ("checkpoint",),
    "export": ("checkpoint", "format"),
    "zoo": (),
}
WITHOUT_RECIPE = ("predict", "export", "zoo")
# What a wrong flag, or a config file that does not run, makes absl and ml_collections raise.
CONFIG_ERRORS = (
    *(flags.Error, AttributeError, ImportError, KeyError, NameError),
    *(OSError, SyntaxError, TypeError, ValueError),
)

FLAGS = flags.FlagValues()
_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The recipe, a file in configs/.", flag_values=FLAGS, lock_config=True
)
_MODE = flags.DEFINE_string("mode", "train", f"One of: {', '.join(MODES)}.", flag_values=FLAGS)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "The run's directory; by default runs/NAME of the recipe.", flag_values=FLAGS
)
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", "", "A checkpoint file or a name in the zoo to use instead of the run's.", flag_values=FLAGS
)
_FORMAT = flags.DEFINE_string("format", "", "What --mode=export writes.", flag_values=FLAGS)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    False,
    "Join the other hosts of a TPU pod or a cluster (jax.distributed.initialize).",
    flag_values=FLAGS,
)


def main(argv: list[str]) -> int:
    """Picks the mode and hands over; the status of the process."""
    if "--help" in argv or "-h" in argv:
        print(__doc__, FLAGS.get_help(), sep="\n")
        return 0
    try:
        arguments = parse(argv)
        mode = _MODE.value
        if mode not in MODES:
            raise InputError(f"--mode={mode} does not exist; there are: {', '.join(MODES)}")
        given = {"checkpoint": _CHECKPOINT.value, "format": _FORMAT.value}
        for flag, value in given.items():
            if value and flag not in MODES[mode]:
                raise InputError(f"--{flag} is not for --mode={mode}")
        if _DISTRIBUTED.value:
            join_hosts()
        recipe, workdir = recipe_and_workdir(mode)
        module = importlib.import_module(f"danet_jax.modes.{mode}")
        options = {flag: given[flag] for flag in MODES[mode]}
        if "checkpoint" in options:
            options["overrides"] = model_flags()
        return module.run(recipe, workdir, arguments, **options)
    except InputError as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # a disk that is full, a folder that must not be written to
        print(f"run.py: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return 1


def join_hosts() -> None:
    """Waits for the other hosts of the cluster."""
    import jax

    try:
        jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"--distributed: the other hosts cannot be found or joined ({reason}); leave it out on one machine"
        ) from error


def parse(argv: list[str]) -> list[str]:
    """Reads the flags; what is left are the arguments. Raises InputError in one line."""
    # `from` is the word for it, but to ml_collections, which looks in sys.argv, a syntax error.
    argv = [argument.replace("--config.init.from", "--config.init.source", 1) for argument in argv]
    # absl takes one dash for two.
    argv = [f"-{argument}" if argument.startswith("-config") else argument for argument in argv]
    sys.argv[:] = argv
    check_names(argv)
    try:
        arguments = FLAGS(argv)[1:]
        if _CONFIG.value is not None:
            _CONFIG.value.to_dict()  # a file that cannot be loaded is found out only when it is used
    except CONFIG_ERRORS as error:
        check_dataset_options(argv)
        raise InputError(reason(error)) from error
    # Orbax warns of what is in order.
    logging.set_verbosity(logging.ERROR)
    return arguments


def reason(error: BaseException) -> str:
    """Why a flag or a recipe is refused, in one line: what our own code said, else the last of what others say."""
    ours = error
    cause: BaseException | None = error
    while cause is not None:
        # ml_collections raises the same type once more, with a traceback for a message: the first one counts.
        ours = cause if isinstance(cause, InputError) else ours
        cause = cause.__cause__ or cause.__context__
    lines = [line.strip() for line in str(ours).splitlines() if line.strip()]
    return lines[-1] if lines and not isinstance(error, KeyError) else f"{type(error).__name__}: {error}"


def check_file(path: str) -> None:
    """Raises InputError if there is no recipe at `path`, with those that there are."""
    recipes = sorted(pathlib.Path(__file__).parent.glob("configs/*.py"))
    if not pathlib.Path(path).is_file():
        names = ", ".join(f"configs/{recipe.name}" for recipe in recipes if recipe.stem != "base")
        raise InputError(f"--config={path}: no such file; there are: {names}")


def check_names(argv: list[str]) -> None:
    """Raises InputError for a --config.GROUP.NAME that does not exist, with the names that do."""
    from danet_jax.recipe import defaults

    for path in recipe_files(argv):
        check_file(path.partition(":")[0])
    for argument in argv:
        if not argument.startswith("--config."):
            continue
        if not recipe_files(argv):
            flag = argument.replace("init.source", "init.from")
            raise InputError(f"{flag} needs --config=FILE, the recipe that it changes")
        group = defaults().to_dict()
        path = "config"
        for name in argument.partition("=")[0].split(".")[1:]:
            if name not in group:
                raise InputError(f"--{path}.{name} does not exist; {path} has: {', '.join(group)}")
            group, path = group[name], f"{path}.{name}"
            if path == "config.dataset.options" or not isinstance(group, dict):
                break  # options are those of the data set, which checks them


def check_dataset_options(argv: list[str]) -> None:
    """Raises InputError for a --config.dataset.options.NAME that the recipe has not, with those that it has."""
    prefix = "--config.dataset.options."
    given = [argument.partition("=")[0] for argument in argv if argument.startswith(prefix)]
    if not given:
        return
    try:
        recipe: Any = FLAGS["config"].parser.parse(recipe_files(argv)[-1])
    except CONFIG_ERRORS:
        return  # the recipe itself does not load, which is what the caller has to say
    options = recipe.dataset.options
    for flag in given:
        if flag.removeprefix(prefix) not in options:
            existing = ", ".join(options) or "none"
            raise InputError(f"{flag} does not exist; config.dataset.options has: {existing}")


def recipe_files(argv: list[str]) -> list[str]:
    """What --config says."""
    files = [argument.removeprefix("--config=") for argument in argv if argument.startswith("--config=")]
    return files + [after for argument, after in itertools.pairwise(argv) if argument == "--config"]


def model_flags():
    """What --config.model.NAME=VALUE flags say: a trained network has its own options but for these."""
    given = config_flags.get_override_values(FLAGS["config"]) if _CONFIG.value is not None else {}
    return {key.removeprefix("model."): value for key, value in given.items() if key.startswith("model.")}


def recipe_and_workdir(mode: str):
    """The recipe that --config gives, or that the run in --workdir was made with."""
    from danet_jax.recipe import read_recipe
    from danet_jax.runs.directory import is_run, read_config

    recipe = None
    if _CONFIG.value is not None:
        recipe = read_recipe(_CONFIG.value.to_dict())
    elif _WORKDIR.value and is_run(_WORKDIR.value):
        recipe = read_recipe(read_config(_WORKDIR.value))
    elif mode not in WITHOUT_RECIPE:
        raise InputError(f"--mode={mode} needs --config=FILE; recipes are in configs/")
    if _WORKDIR.value:
        if "://" in _WORKDIR.value:
            raise InputError(f"--workdir={_WORKDIR.value} must be a directory; mount the bucket (gcsfuse)")
        return recipe, pathlib.Path(_WORKDIR.value)
    return recipe, pathlib.Path("runs", recipe.name if recipe else "danet")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
