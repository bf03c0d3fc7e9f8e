"""The recipe of a run: every option, declared once, and the one place where configs are read.

A file in `configs/` returns an `ml_collections.ConfigDict` made by `defaults()` and changed; `read_recipe` turns it
into frozen, checked groups of options. Below `run.py` and the modes, functions take plain arguments and know no recipe.

To add an option:

1. Declare it in its group (`model.py`, `dataset.py`, `training.py`, `evaluation.py` here), with type, default, range or
   names, and a sentence: `momentum: float = Field(0.9, ge=0, lt=1, description="Of SGD.")`; names are taken from the
   room that owns them, `Annotated[str, Names(EDGES)]`; None as default is "not set", `int | None = Field(None, ...)`.
2. What must fit together within a group is checked in its `_fits`, across groups in `Recipe._fits`: raise `InputError`
   with a line that names the keys. Kinds of values that several options take are in `kinds.py`.
3. Hand it over, as a plain argument, in the mode that needs it. (An option of `config.model` is a field of `DANet` of
   the same name and default, one of `config.evaluation` a field of `Protocol`: those are handed over already.)
4. `python -m danet_jax.recipe > docs/settings.md`.
5. Nothing else: flags, errors, config.json and the tests of refusals (tests/recipe/) come from the declaration.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import pydantic
from pydantic import Field, model_validator

from danet_jax.errors import InputError
from danet_jax.inference.options import protocol_of
from danet_jax.inference.protocol import Protocol
from danet_jax.models.danet import DANet
from danet_jax.models.options import build_model
from danet_jax.recipe.dataset import DatasetOptions
from danet_jax.recipe.evaluation import EvaluationOptions
from danet_jax.recipe.kinds import LARGEST_SCALED, FileName, Group, Text
from danet_jax.recipe.model import ModelOptions
from danet_jax.recipe.training import InitOptions, MeshOptions, TrainingOptions
from danet_jax.recipe.words import group_of, line, plain_type
from danet_jax.runs.buckets import as_path
from danet_jax.runs.directory import read_config

if typing.TYPE_CHECKING:
    import ml_collections


class Recipe(Group):
    """Everything that a run is made of."""

    name: FileName = Field("danet", description="Of the run; its directory is runs/NAME.")
    seed: int = Field(
        0, ge=0, lt=2**32, description="Of all that is random: weights, order, augmentation, dropout."
    )
    compilation_cache: Text = Field(
        "",
        description="Folder in which JAX keeps compiled programs for the next start; empty: one in the user's cache "
        "directory; off: none.",
    )
    model: ModelOptions = ModelOptions()
    dataset: DatasetOptions = DatasetOptions()
    training: TrainingOptions = TrainingOptions()
    evaluation: EvaluationOptions = EvaluationOptions()
    init: InitOptions = InitOptions()
    mesh: MeshOptions = MeshOptions()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        model, dataset, training = self.model, self.dataset, self.training
        if dataset.crop_size < model.output_stride:
            raise InputError(
                f"config.dataset.crop_size={dataset.crop_size} must be at least "
                f"config.model.output_stride={model.output_stride}"
            )
        branches = (True, model.position_attention, model.channel_attention)
        if not any(weight for weight, on in zip(training.loss_weights, branches, strict=True) if on):
            raise InputError(
                f"config.training.loss_weights={training.loss_weights} must be greater than 0 for a branch that is on: "
                "the fused result, position attention, channel attention"
            )
        protocol = self.protocol()  # refuses what makes no sense
        if protocol.window is not None and min(protocol.window) < model.output_stride:
            raise InputError(
                f"config.evaluation.window={protocol.window} must be at least "
                f"config.model.output_stride={model.output_stride}"
            )
        base = protocol.base_size
        side = max(base if isinstance(base, tuple) else (base or 1,)) * max(protocol.scales)
        if side > LARGEST_SCALED:
            raise InputError(
                f"config.evaluation.scales={protocol.scales} of config.evaluation.base_size={base} are {side:.0f} "
                f"pixels of a side, more than {LARGEST_SCALED}"
            )
        return self

    def network(self, num_classes: int) -> DANet:
        """The network, for data of so many classes."""
        return build_model(num_classes, self.model.model_dump())

    def protocol(self) -> Protocol:
        """How the network is applied to images, but to those of training."""
        return protocol_of(self.model_dump())

    def as_dict(self) -> dict[str, Any]:
        """The recipe as plain nested dictionaries and lists, as `config.json` keeps it."""
        return self.model_dump(mode="json")


def defaults() -> ml_collections.ConfigDict:
    """The default recipe as a config that flags can change: what configs/base.py starts from."""
    import ml_collections

    return ml_collections.ConfigDict(_changeable(Recipe()))


def read_recipe(config: Mapping[str, Any]) -> Recipe:
    """A checked recipe from a config (or from `config.json`).

    Raises:
      InputError: a name that does not exist, a value of the wrong type or out of range; one line that gives the key,
        the value and what the key takes.
    """
    try:
        return Recipe.model_validate(config)
    except pydantic.ValidationError as error:
        raise InputError(line(error, Recipe, config)) from error


def recipe_of_run(workdir: str | Path) -> Recipe:
    """The recipe of the run in `workdir`; options that did not exist when it was made have their defaults.

    Raises:
      InputError: its config.json is none, in a line that names it.
    """
    try:
        return read_recipe(read_config(workdir))
    except InputError as error:
        file = str(as_path(workdir) / "config.json")
        raise InputError(str(error) if file in str(error) else f"{file}: {error}") from error


def _changeable(options: Group) -> dict[str, Any]:
    from ml_collections import config_dict

    result: dict[str, Any] = {}
    for name, field in type(options).model_fields.items():
        value = getattr(options, name)
        if group_of(field.annotation) is not None:
            value = _changeable(value)
        elif value is None:
            # A placeholder knows its type, so that a flag can still set it.
            value = config_dict.placeholder(plain_type(field.annotation))
        result[name] = value
    return result
