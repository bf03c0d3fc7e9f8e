"""The modes of `run.py`: each is a module whose `run` takes a recipe and does the whole job; and their flags.

A new mode is a module here and a name in `MODES`; a new flag is a line in `FLAGS` and a keyword argument of the same
name in `run` of the modes that take it.
"""

from __future__ import annotations

from typing import NamedTuple

MODES = (
    "train",
    "evaluate",
    "predict",
    "explore",
    "report",
    "prepare",
    "check",
    "submit",
    "export",
    "zoo",
    "compile",
)

WITHOUT_RECIPE = ("predict", "explore", "report", "export", "zoo")
"""Need no recipe: a checkpoint knows its own."""

WITHOUT_WORKDIR = ("prepare", "check", "zoo")
"""Write nothing into a run's directory."""

TRAINED = ("evaluate", "predict", "explore", "submit", "export")
"""Use a trained network. What --config.model.NAME=VALUE flags say replaces its own options; `run` takes `overrides`."""

COMPUTE = ("train", "report", *TRAINED)
"""Need a device."""


class Flag(NamedTuple):
    """A flag of the command line, of the type of its default (None is that of text that is not set)."""

    default: str | bool | int | None
    meaning: str
    modes: tuple[str, ...] = ()
    """Those whose `run` it is handed to when it is given; to all others it is an error."""


FLAGS = {
    "checkpoint": Flag(None, "A checkpoint file or a name in the zoo to use instead of the run's.", TRAINED),
    "overwrite": Flag(
        False,
        "Replace files of the same name that this program did not write, or not yet recorded.",
        ("predict", "explore", "submit"),
    ),
    "frame_labels": Flag(False, "Keep a label PNG of each frame of a video.", ("predict",)),
    "legend": Flag(
        True, "Draw a legend below each overlay. Videos have none unless --legend is given.", ("predict",)
    ),
    "outlines": Flag(False, "Draw only the outlines of the classes in overlays.", ("predict",)),
    "format": Flag(None, "What --mode=export writes.", ("export",)),
    "ablate": Flag(False, "Evaluate also with alpha, beta and both set to 0.", ("evaluate",)),
    "topology": Flag(None, "The accelerators that --mode=compile asks about, such as v5e:4x4.", ("compile",)),
    "step": Flag(None, "What --mode=compile compiles: train or predict.", ("compile",)),
}

HOST_FLAGS = {
    "distributed": Flag(False, "Join the other hosts of a Cloud TPU pod, or of a job of SLURM or Open MPI."),
    "coordinator": Flag(None, "HOST:PORT of the first host, where hosts are joined by hand."),
    "processes": Flag(0, "With --coordinator: how many hosts there are."),
    "process": Flag(-1, "With --coordinator: which of them this is, from 0."),
    "join_timeout": Flag(300, "Seconds to wait for the other hosts."),
}
"""Flags of `danet_jax.command.startup`, for all modes."""
