"""The recipe of a run: declares every option with its range and description, and reads configs.

A file in `configs/` changes the `ml_collections.ConfigDict` that `defaults()` returns, and returns it. `read_recipe`
validates it and converts it to frozen groups of options. Only `command/` and `modes/` use recipes; all other functions
take plain arguments.

To add an option:

1. Declare it in its group (`model.py`, `dataset.py`, `training.py` or `evaluation.py`) with its type, default, range
   and description: `momentum: float = Field(0.9, ge=0, lt=1, description="The momentum of SGD.")`. Its type and default
   must equal those of what it configures (`DANet`, `Protocol`, `make_train_step`, ...), which tests/recipe checks; the
   only exception is `backbone`, whose default here is the paper's ResNet-101. The names that an option takes come from
   the package that uses them: `Annotated[str, Names(EDGES)]`. None means "not set": `int | None = Field(None, ...)`.
2. If it must be consistent with other options, check that in `_fits` of the group, or of `Recipe` across groups, and
   raise `InputError`. Kinds of values that several options share are in `types.py`.
3. Pass it as a plain argument in the mode that needs it. Options of `config.model` and `config.evaluation` reach
   `DANet` and `Protocol` by their names.
4. Run `python -m danet_jax.recipe > docs/settings.md`.

Flags, errors, config.json and the tests of refusals are derived from the declaration.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import ml_collections
import pydantic
from ml_collections import config_dict
from pydantic import Field, model_validator

from danet_jax.errors import InputError
from danet_jax.inference.protocol import Protocol, protocol_of
from danet_jax.models.danet import DANet
from danet_jax.models.options import build_model
from danet_jax.recipe.dataset import DatasetOptions
from danet_jax.recipe.evaluation import EvaluationOptions
from danet_jax.recipe.model import ModelOptions
from danet_jax.recipe.schema import plain_type, refusal, schemas
from danet_jax.recipe.training import InitOptions, MeshOptions, TrainingOptions
from danet_jax.recipe.types import LARGEST_SCALED, FileName, Group, Text
from danet_jax.runs.directory import read_config
from danet_jax.runs.files import as_path


class Recipe(Group):
    """The options of a run."""

    name: FileName = Field(
        "danet", description="The name of the run. Its directory is runs/NAME, unless --workdir is given."
    )
    seed: int = Field(
        0,
        ge=0,
        le=2**32 - 1,
        description="The seed of the initial weights, the order of the images, augmentation and dropout. Change it to "
        "see how much results vary.",
    )
    compilation_cache: Text = Field(
        "",
        description="The folder in which JAX keeps compiled programs for the next start. If it is empty, they are kept "
        "in the user's cache directory; `off` keeps none.",
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
        stride = f"config.model.output_stride={model.output_stride}"
        if dataset.crop_size < model.output_stride:
            raise InputError.for_value(
                "config.dataset.crop_size", dataset.crop_size, f"must be at least {stride}"
            )
        branches = (True, model.position_attention, model.channel_attention)
        if not any(weight for weight, on in zip(training.loss_weights, branches, strict=True) if on):
            raise InputError.for_value(
                "config.training.loss_weights",
                training.loss_weights,
                "must be greater than 0 for a branch that the network has: fusion, position attention, channel "
                "attention",
            )
        protocol = self.protocol()
        if protocol.window is not None and min(protocol.window) < model.output_stride:
            raise InputError.for_value(
                "config.evaluation.window", protocol.window, f"must be at least {stride}"
            )
        base = protocol.base_size
        side = max(base if isinstance(base, tuple) else (base or 1,)) * max(protocol.scales)
        if side > LARGEST_SCALED:
            raise InputError.for_value(
                "config.evaluation.scales",
                protocol.scales,
                f"times config.evaluation.base_size={base} gives images with a side of {side:.0f} pixels; at most "
                f"{LARGEST_SCALED} are allowed",
            )
        return self

    def network(self, num_classes: int) -> DANet:
        """Returns the network for `num_classes` classes."""
        return build_model(num_classes, self.model.model_dump())

    def protocol(self) -> Protocol:
        """Returns the protocol by which the network is applied to images in evaluation and prediction.

        Raises:
          InputError: the options of the protocol are inconsistent.
        """
        return protocol_of(self.model_dump())

    def as_dict(self) -> dict[str, Any]:
        """Returns the recipe as plain nested dictionaries and lists, as stored in `config.json`."""
        return self.model_dump(mode="json")


def defaults() -> ml_collections.ConfigDict:
    """Returns the default recipe as a config that flags can change, from which configs/base.py starts."""
    return as_config(Recipe())


def as_config(recipe: Recipe) -> ml_collections.ConfigDict:
    """Returns a recipe as a config that flags can change."""
    return ml_collections.ConfigDict(_changeable(recipe))


def read_recipe(config: Mapping[str, Any]) -> Recipe:
    """Returns the validated recipe of a config, or of the content of `config.json`.

    Raises:
      InputError: an option does not exist, or its value has the wrong type or is out of range. The message gives the
        key, its value and the values that it takes.
    """
    try:
        return Recipe.model_validate(config)
    except pydantic.ValidationError as error:
        raise refusal(error, Recipe, config) from error


def recipe_of_run(workdir: str | Path) -> Recipe:
    """Returns the recipe of the run in `workdir`; options that are newer than the run have their defaults.

    Raises:
      InputError: the run's config.json is missing or contains no valid recipe.
    """
    config = read_config(workdir)
    try:
        return read_recipe(config)
    except InputError as error:
        raise error.in_file(as_path(workdir) / "config.json") from error


def _changeable(options: Group) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name in type(options).model_fields:
        value = getattr(options, name)
        if isinstance(value, Group):
            value = _changeable(value)
        elif value is None:
            # A placeholder knows its type, so that a flag can still set it, and other options can refer to it.
            value = config_dict.placeholder(plain_type(schemas(type(options))[name]))
        result[name] = value
    return result
