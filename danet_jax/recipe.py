"""The recipe of a run: every setting, its type, its default, and the one place where configs are read.

A file in `configs/` returns an `ml_collections.ConfigDict` made by `defaults()` and changed; `read_recipe`
turns it into frozen, checked dataclasses, refusing names and values that do not exist. Below `run.py` and
the modes, functions take plain arguments and know no config.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from danet_jax.errors import InputError
from danet_jax.inference.options import EvaluationOptions
from danet_jax.models.options import ModelOptions

if typing.TYPE_CHECKING:
    import ml_collections


@dataclasses.dataclass(frozen=True)
class DatasetOptions:
    """Which data, and how it is cropped. `root` holds the source, `data_dir` what is prepared from it."""

    name: str = "cityscapes"
    root: str = ""
    data_dir: str = "data"
    class_names: tuple[str, ...] = ()
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    train_split: str = "train"
    validation_split: str = "val"
    test_split: str = "test"
    base_size: int = 1024
    crop_size: int = 768
    random_scale: bool = True
    workers: int = 4


@dataclasses.dataclass(frozen=True)
class TrainingOptions:
    """SGD with the poly schedule (section 4.1). `steps` of None is `epochs` over the training split."""

    batch_size: int = 8
    epochs: float = 240.0
    steps: int | None = None
    learning_rate: float = 0.003
    head_multiplier: float = 10.0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    power: float = 0.9
    loss_weights: tuple[float, ...] = (1.0, 1.0, 1.0)
    auxiliary_weight: float = 0.4
    accumulation: int = 1
    evaluate_every: int | None = None
    checkpoint_every: int | None = None
    log_every: int = 20
    resume_anyway: bool = False


@dataclasses.dataclass(frozen=True)
class InitOptions:
    """Where training starts: a checkpoint's file or its name in the zoo; empty is from nothing.

    `run.py` takes it as `--config.init.from`.
    """

    source: str = ""


@dataclasses.dataclass(frozen=True)
class MeshOptions:
    """Devices along the batch (`data`) and along the rows of the images (`space`); -1 is all that are left."""

    data: int = -1
    space: int = 1


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that a run is made of."""

    name: str = "danet"
    seed: int = 0
    model: ModelOptions = dataclasses.field(default_factory=ModelOptions)
    dataset: DatasetOptions = dataclasses.field(default_factory=DatasetOptions)
    training: TrainingOptions = TrainingOptions()
    evaluation: EvaluationOptions = dataclasses.field(default_factory=EvaluationOptions)
    init: InitOptions = InitOptions()
    mesh: MeshOptions = MeshOptions()

    def as_dict(self) -> dict[str, Any]:
        """The recipe as plain nested dictionaries, as `config.json` keeps it."""
        return _as_dict(self)


def defaults() -> ml_collections.ConfigDict:
    """The default recipe as a config that flags can change: what configs/base.py starts from."""
    import ml_collections

    return ml_collections.ConfigDict(_with_placeholders(Recipe()))


def read_recipe(config: Mapping[str, Any]) -> Recipe:
    """A checked recipe from a config (or from `config.json`).

    Raises:
      InputError: a name that does not exist, a value of the wrong type or out of range; the message gives
        the key and, for a name, those that exist.
    """
    recipe = _read(Recipe, config, "config")
    training, dataset, model = recipe.training, recipe.dataset, recipe.model
    for key, value in {
        "dataset.base_size": dataset.base_size,
        "dataset.crop_size": dataset.crop_size,
        "training.batch_size": training.batch_size,
        "training.accumulation": training.accumulation,
        "training.log_every": training.log_every,
        "training.learning_rate": training.learning_rate,
        "training.epochs": training.epochs,
        "training.steps": 1 if training.steps is None else training.steps,
        "training.evaluate_every": training.evaluate_every or 1,
        "training.checkpoint_every": training.checkpoint_every or 1,
    }.items():
        if value <= 0:
            raise InputError(f"config.{key}={value} must be greater than 0")
    for key, value in {"seed": recipe.seed, "dataset.workers": dataset.workers}.items():
        if value < 0:
            raise InputError(f"config.{key}={value} must not be negative")
    if len(training.loss_weights) != 3:
        raise InputError(
            f"config.training.loss_weights={training.loss_weights} must be three numbers: "
            "fusion, position, channel"
        )
    if training.batch_size % training.accumulation:
        raise InputError(
            f"config.training.batch_size={training.batch_size} must be a multiple of "
            f"config.training.accumulation={training.accumulation}"
        )
    if not 0 <= model.dropout_rate < 1:
        raise InputError(f"config.model.dropout_rate={model.dropout_rate} must be in [0, 1)")
    try:
        model.build(num_classes=1)
    except InputError as error:
        raise InputError(f"config.model.{error}") from error
    recipe.evaluation.build(dataset.name)  # refuses what makes no sense
    for axis, devices in (("data", recipe.mesh.data), ("space", recipe.mesh.space)):
        if devices == 0 or devices < -1:
            raise InputError(f"config.mesh.{axis}={devices} must be a number of devices, or -1 for all left")
    return recipe


def _as_dict(value: Any) -> Any:
    if not dataclasses.is_dataclass(value):
        return list(value) if isinstance(value, tuple) else value
    return {field.name: _as_dict(getattr(value, field.name)) for field in dataclasses.fields(value)}


def _with_placeholders(options: Any) -> dict[str, Any]:
    from ml_collections import config_dict

    hints = typing.get_type_hints(type(options))
    result: dict[str, Any] = {}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if dataclasses.is_dataclass(value):
            value = _with_placeholders(value)
        elif value is None:
            # A placeholder knows its type, so that a flag can still set it.
            [kind] = (t for t in typing.get_args(hints[field.name]) if t is not types.NoneType)
            value = config_dict.placeholder(typing.get_origin(kind) or kind)
        result[field.name] = value
    return result


def _read(kind: type, values: Mapping[str, Any], path: str) -> Any:
    hints = typing.get_type_hints(kind)
    fields = [field.name for field in dataclasses.fields(kind)]
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise InputError(f"{path}.{unknown[0]} does not exist; {path} has: {', '.join(fields)}")
    return kind(**{key: _checked(value, hints[key], f"{path}.{key}") for key, value in values.items()})


def _checked(value: Any, hint: Any, path: str) -> Any:
    """`value` as the type `hint`, or an InputError that names the key."""
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        [hint] = (t for t in typing.get_args(hint) if t is not types.NoneType)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise InputError(f"{path}={value!r} must be a group of settings")
        return _read(typing.cast(type, hint), value, path)
    origin = typing.get_origin(hint) or hint
    if origin is tuple and isinstance(value, (list, tuple)):
        [element] = {t for t in typing.get_args(hint) if t is not Ellipsis}
        if element is str and len(value) == 1:  # a flag's a,b,c
            value = [part.strip() for part in str(value[0]).split(",") if part.strip()]
        return tuple(_checked(v, element, path) for v in value)
    if origin is dict and isinstance(value, Mapping):
        return {str(k): v for k, v in value.items()}
    if origin is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, origin) or (origin is int and isinstance(value, bool)):
        raise InputError(f"{path}={value!r} must be of type {origin.__name__}")
    return value
