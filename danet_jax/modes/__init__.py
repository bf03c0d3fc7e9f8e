"""The modes of `run.py` and their flags. Each mode is a module whose function `run` takes a recipe and does the work.

To add a mode, add a module here and its name to `MODES`. To add a flag, add a line to `FLAGS`, and a keyword argument
of the same name to `run` of the modes that take it.
"""

from __future__ import annotations

from typing import NamedTuple

MODES: tuple[str, ...] = ("train", "evaluate", "predict", "explore", "report", "prepare", "check", "submit")
MODES += ("export", "zoo", "compile")

WITHOUT_RECIPE = ("predict", "explore", "report", "export", "zoo")
"""Modes that need no recipe: a checkpoint contains its own."""

WITHOUT_WORKDIR = ("prepare", "check", "zoo")
"""Modes that do not need the directory of a run."""

WITH_ARGUMENTS = ("evaluate", "predict", "explore", "report", "export", "compile")
"""Modes that take arguments after the flags."""

TRAINED = ("evaluate", "predict", "explore", "submit", "export")
"""Modes that use a trained network. --config.model.NAME=VALUE replaces its options, the `overrides` of `run`."""

COMPUTE = ("train", "report", *TRAINED)
"""Modes that need a device."""


class Flag(NamedTuple):
    """A flag of the command line.

    Attributes:
      default: the default, which determines the type; None stands for text that is not set.
      meaning: the description in --help.
      modes: the modes whose `run` gets the flag if it is given; all others refuse it.
      lowest: the lowest number that the flag takes.
    """

    default: str | bool | int | None
    meaning: str
    modes: tuple[str, ...] = ()
    lowest: int | None = None


FLAGS = {
    "checkpoint": Flag(
        None, "The checkpoint to use instead of the run's: a file, an address, or a name in the zoo.", TRAINED
    ),
    "overwrite": Flag(
        False,
        "Replace files of the same name that this program did not write, or did not record.",
        ("predict", "explore", "submit"),
    ),
    "frame_labels": Flag(False, "Keep a PNG of the labels of each frame of a video.", ("predict",)),
    "legend": Flag(
        True, "Draw a legend below each overlay. Videos have none unless --legend is given.", ("predict",)
    ),
    "outlines": Flag(False, "Draw only the outlines of the classes in overlays.", ("predict",)),
    "format": Flag(None, "The format to write: safetensors, torch, stablehlo or onnx.", ("export",)),
    "ablate": Flag(
        False, "Evaluate also with alpha, beta and both set to 0, to see what attention adds.", ("evaluate",)
    ),
    "topology": Flag(None, "The accelerators to compile for, such as v5e:4x4 or h100:8.", ("compile",)),
    "step": Flag(None, "The step to compile: train or predict.", ("compile",)),
}

HOST_FLAGS = {
    "distributed": Flag(False, "Join the other hosts of a Cloud TPU pod, or of a job of SLURM or Open MPI."),
    "coordinator": Flag(None, "The HOST:PORT of the first host, to join hosts by hand."),
    "processes": Flag(0, "The number of hosts, with --coordinator."),
    "process": Flag(-1, "The number of this host, from 0, with --coordinator."),
    "join_timeout": Flag(300, "The number of seconds to wait for the other hosts.", lowest=1),
}
"""Flags of `danet_jax.command.startup`, for all modes."""
