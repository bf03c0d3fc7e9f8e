"""The metadata of a weights file: a description of the network in JSON, and checksums that detect flipped bits."""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

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


class Description(NamedTuple):
    """What a file says about the network that it contains.

    Attributes:
      model: the network.
      classes: names and colours of the classes, if they are known.
      config: the recipe of the run that trained the network.
      bits: the bits per channel of the images that the network takes.
    """

    model: DANet
    classes: Classes | None
    config: Mapping[str, Any]
    bits: int = 8

    def to_json(self) -> str:
        """Returns the description as one line of JSON. Paths on the user's file system are removed from the recipe."""
        return json.dumps(
            {
                "num_classes": self.model.num_classes,
                "model": options_of(self.model),
                "classes": None if self.classes is None else dataclasses.asdict(self.classes),
                "config": _without_paths(self.config),
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
            classes, config = content["classes"], content["config"]
            groups = [config.get(name, {}) for name in ("dataset", "evaluation")]
            if not all(isinstance(group, dict) for group in groups):
                raise TypeError("its config does not consist of groups of options")
            return cls(
                build_model(int(content["num_classes"]), dict(content["model"])),
                None if classes is None else make_classes(classes["names"], classes["colours"]),
                config,
                int(content.get("bits", 8)),
            )
        except InputError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"its description cannot be read: {error!r}") from error


_PATH_OPTIONS = ("root", "data_dir", "checkpoint", "source", "compilation_cache")


def _without_paths(config: Any) -> Any:
    """Returns a recipe without options that name files or folders, and without other text that could be a path."""
    if isinstance(config, Mapping):
        kept = {
            key: value for key, value in config.items() if key not in _PATH_OPTIONS and not _is_path(value)
        }
        return {key: _without_paths(value) for key, value in kept.items()}
    return config


def _is_path(value: Any) -> bool:
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


def read_normalisation(config: Mapping[str, Any]) -> tuple[Any, Any]:
    """Returns the mean and standard deviation of a recipe, RGB in the range 0 to 1; by default those of ImageNet."""
    evaluation = config.get("evaluation", {})
    return tuple(evaluation.get("mean") or MEAN), tuple(evaluation.get("std") or STD)


CHECKSUMS = "danet_jax.crc32"
"""The metadata key of the checksums: JSON with one for each tensor by name, and one for all metadata texts together."""


def checksums(tensors: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> str:
    """Returns the CRC-32 of each tensor's bytes in C order, and of `texts`, as JSON."""
    sums = {name: zlib.crc32(np.ascontiguousarray(array).data) for name, array in tensors.items()}
    return json.dumps({**sums, "texts": zlib.crc32(json.dumps(texts, sort_keys=True).encode())})


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
        damaged = sorted(name for name in {**found, **expected} if found.get(name) != expected.get(name))
    except (TypeError, ValueError, AttributeError):
        damaged = [CHECKSUMS]
    if damaged:
        more = f" and {len(damaged) - 1} more differ" if damaged[1:] else " differs"
        raise InputError(
            f"damaged: {damaged[0]}{more} from the checksums in the file; export or copy it again",
            value=damaged,
        )
