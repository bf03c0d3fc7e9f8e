"""The metadata of a weights file: a description of the network in JSON, and checksums that detect flipped bits."""

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
"""The key of the description: in the metadata of safetensors and ONNX files, next to `state_dict` in PyTorch files."""

FREE = tuple(name for name in OPTIONS if name not in READ_FROM_TENSORS)
"""The options of a network that its tensors do not determine."""


@dataclasses.dataclass(frozen=True)
class Description:
    """The description of a network.

    Attributes:
      num_classes: the number of classes.
      model: the other options of the network.
      classes: names and colours of the classes, if they are known.
      config: the recipe of the run that trained the network.
      bits: the bits per channel of the images that the network takes.
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
        """Returns the description of a network. Paths on the user's file system are removed from the recipe."""
        return cls(model.num_classes, options_of(model), classes, _without_places(config), bits)

    def build(self, num_classes: int | None = None) -> DANet:
        """Returns the network, with `num_classes` classes if given.

        Raises:
          InputError: an option does not exist.
        """
        return build_model(self.num_classes if num_classes is None else num_classes, self.model)

    def to_json(self) -> str:
        """Returns the description as one line of JSON."""
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
        """Returns the description in `text`, which `to_json` wrote.

        Raises:
          InputError: `text` is not a description.
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
    """Returns a recipe without options that name files or folders, and without other text that could be a path."""
    if isinstance(config, Mapping):
        kept = {key: value for key, value in config.items() if key not in _PLACES and not _is_place(value)}
        return {key: _without_places(value) for key, value in kept.items()}
    return config


def _is_place(value: Any) -> bool:
    return isinstance(value, str) and ("/" in value or "\\" in value)


def make_classes(names: Any, colours: Any) -> Classes:
    """Returns classes from lists; if there are no colours, they are chosen.

    Raises:
      ValueError, TypeError: the lists do not describe classes.
    """
    names = tuple(str(name) for name in names)
    if not colours:
        return Classes.named(names)
    return Classes(names, tuple((int(red), int(green), int(blue)) for red, green, blue in colours))


def normalisation_of(config: Mapping[str, Any]) -> tuple[Any, Any]:
    """Returns the mean and standard deviation of a recipe, RGB in the range 0 to 1; by default those of ImageNet."""
    evaluation = config.get("evaluation", {})
    return tuple(evaluation.get("mean") or MEAN), tuple(evaluation.get("std") or STD)


CHECKSUMS = "danet_jax.crc32"
"""The metadata key of the checksums: JSON with one for each tensor by name, and one for all metadata texts together."""

_TEXTS = "texts"


def checksums(tensors: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> str:
    """Returns the CRC-32 of each tensor's bytes in C order, and of `texts`, as JSON."""
    sums = {name: zlib.crc32(np.ascontiguousarray(array).data) for name, array in tensors.items()}
    return json.dumps({**sums, _TEXTS: _of_texts(texts)})


def verify(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> None:
    """Verifies the checksums of a file's content, if the file contains checksums.

    Raises:
      InputError: a tensor or text differs from its checksum; `value` lists all that differ.
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
