"""What a file of weights says about itself in JSON, so that it can be used without its run's directory."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from danet_jax.classes import Classes
from danet_jax.errors import InputError
from danet_jax.models.danet import DANet
from danet_jax.models.options import OPTIONS, build_model, options_of
from danet_jax.ops.normalize import MEAN, STD
from danet_jax.weights.names import READ_FROM_TENSORS

KEY = "danet_jax"
"""Under which a description is kept: in the metadata of safetensors and ONNX, beside the `state_dict` in PyTorch's."""

FREE = tuple(name for name in OPTIONS if name not in READ_FROM_TENSORS)
"""Those that its tensors do not say."""


@dataclasses.dataclass(frozen=True)
class Description:
    """A network's options, its classes where they are known, and the recipe of the run that it comes from."""

    num_classes: int
    model: Mapping[str, Any]
    classes: Classes | None = None
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, model: DANet, classes: Classes | None, config: Mapping[str, Any]) -> Description:
        """The description of a network."""
        return cls(model.num_classes, options_of(model), classes, config)

    def build(self, num_classes: int | None = None) -> DANet:
        """The network, if need be of other classes; raises InputError for options that do not exist."""
        return build_model(self.num_classes if num_classes is None else num_classes, self.model)

    def to_json(self) -> str:
        """As text on one line."""
        classes = None if self.classes is None else dataclasses.asdict(self.classes)
        return json.dumps(
            {
                "num_classes": self.num_classes,
                "model": dict(self.model),
                "classes": classes,
                "config": self.config,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Description:
        """The inverse of `to_json`.

        Raises:
          InputError: `text` is no description.
        """
        try:
            content = json.loads(text)
            classes = content["classes"]
            return cls(
                int(content["num_classes"]),
                dict(content["model"]),
                None if classes is None else make_classes(classes["names"], classes["colours"]),
                content["config"],
            )
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"its description of itself cannot be read: {error!r}") from error


def make_classes(names: Any, colours: Any) -> Classes:
    """Classes from lists; colours are chosen where there are none. Raises ValueError or TypeError."""
    names = tuple(str(name) for name in names)
    if not colours:
        return Classes.named(names)
    return Classes(names, tuple((int(red), int(green), int(blue)) for red, green, blue in colours))


def normalisation_of(config: Mapping[str, Any]) -> tuple[Any, Any]:
    """Mean and standard deviation of a run's images, R, G and B in 0 to 1: its recipe's, or those of ImageNet."""
    evaluation = config.get("evaluation", {})
    return tuple(evaluation.get("mean") or MEAN), tuple(evaluation.get("std") or STD)
