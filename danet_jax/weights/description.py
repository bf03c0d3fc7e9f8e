"""What a file of weights says about itself: the network in JSON, and checksums, which find flipped bits."""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

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
    """A network's options, its classes where they are known, and the recipe of the run that it comes from.

    `bits` are those per channel of the images that it takes.
    """

    num_classes: int
    model: Mapping[str, Any]
    classes: Classes | None = None
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    bits: int = 8

    @classmethod
    def of(
        cls, model: DANet, classes: Classes | None, config: Mapping[str, Any], bits: int = 8
    ) -> Description:
        """Returns the description of a network, without what a recipe says about the user's file system."""
        return cls(model.num_classes, options_of(model), classes, _without_places(config), bits)

    def build(self, num_classes: int | None = None) -> DANet:
        """Returns the network, with `num_classes` if given; raises InputError for options that do not exist."""
        return build_model(self.num_classes if num_classes is None else num_classes, self.model)

    def to_json(self) -> str:
        """Returns the description as text on one line."""
        classes = None if self.classes is None else dataclasses.asdict(self.classes)
        return json.dumps(
            {
                "num_classes": self.num_classes,
                "model": dict(self.model),
                "classes": classes,
                "config": self.config,
                **({} if self.bits == 8 else {"bits": self.bits}),
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Description:
        """Returns the inverse of `to_json`.

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
                int(content.get("bits", 8)),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"its description of itself cannot be read: {error!r}") from error


_PLACES = ("root", "data_dir", "checkpoint", "source", "compilation_cache")


def _without_places(config: Any) -> Any:
    """A recipe without its options that name files and folders, and without other text that could name them."""
    if isinstance(config, Mapping):
        kept = {key: value for key, value in config.items() if key not in _PLACES and not _is_place(value)}
        return {key: _without_places(value) for key, value in kept.items()}
    return config


def _is_place(value: Any) -> bool:
    return isinstance(value, str) and ("/" in value or "\\" in value)


def make_classes(names: Any, colours: Any) -> Classes:
    """Returns classes from lists; colours are chosen where there are none. Raises ValueError or TypeError."""
    names = tuple(str(name) for name in names)
    if not colours:
        return Classes.named(names)
    return Classes(names, tuple((int(red), int(green), int(blue)) for red, green, blue in colours))


def normalisation_of(config: Mapping[str, Any]) -> tuple[Any, Any]:
    """Returns mean and standard deviation of a run's images, RGB in 0 to 1: its recipe's, or those of ImageNet."""
    evaluation = config.get("evaluation", {})
    return tuple(evaluation.get("mean") or MEAN), tuple(evaluation.get("std") or STD)


CHECKSUMS = "danet_jax.crc32"
"""The key in the metadata of the checksums, as JSON: one for each tensor by name, and one for all texts beside them."""

_TEXTS = "texts"


def checksums(tensors: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> str:
    """Returns the CRC-32 of each tensor's bytes (those of C order), and of `texts`, in JSON."""
    sums = {name: zlib.crc32(np.ascontiguousarray(array).data) for name, array in tensors.items()}
    return json.dumps({**sums, _TEXTS: _of_texts(texts)})


def verify(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> None:
    """Compares what was read with its checksums, if it has any.

    Raises:
      InputError: a tensor or a text has changed since it was written; `value` lists them.
    """
    if CHECKSUMS not in metadata:
        return
    texts = {key: text for key, text in metadata.items() if key != CHECKSUMS and isinstance(text, str)}
    try:
        expected = json.loads(metadata[CHECKSUMS])
        found = json.loads(checksums(tensors, texts))
        wrong = sorted(name for name in {**found, **expected} if found.get(name) != expected.get(name))
    except (TypeError, ValueError, AttributeError):
        wrong = [CHECKSUMS]
    if wrong:
        raise InputError(
            f"damaged since it was written: {wrong[0]}{f' and {len(wrong) - 1} more' if wrong[1:] else ''} differ from "
            "the checksums in the file; export or copy it again",
            value=wrong,
        )


def _of_texts(texts: Mapping[str, str]) -> int:
    return zlib.crc32(json.dumps(texts, sort_keys=True).encode())
