"""The evaluation protocol's options as simple types, as a config or a JSON file holds them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from danet_jax.errors import InputError
from danet_jax.inference.protocol import Protocol


@dataclasses.dataclass(frozen=True)
class EvaluationOptions:
    """A named protocol, and any field of it replaced; see `Protocol`.

    None leaves the protocol's own value, `()` takes a window, a stride or a base size away. A `base_size` of
    one number is the length of the long side, of two the size of a box. `whole_base_size` is a recipe's own
    base size of the protocol "whole", for images that are not taken at their own size.
    """

    protocol: str = "whole"
    scales: tuple[float, ...] | None = None
    flip: bool | None = None
    window: tuple[int, ...] | None = None
    stride: tuple[int, ...] | None = None
    base_size: tuple[int, ...] | None = None
    whole_base_size: tuple[int, ...] | None = None
    edge: str | None = None
    merge: str | None = None
    align_corners: bool | None = None
    image_resize: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def build(self, dataset: str) -> Protocol:
        """The protocol, for a dataset by name (presets differ by dataset).

        Raises:
          InputError: a value that does not exist or makes no sense; the message gives the config's key.
        """
        changes = dataclasses.asdict(self)
        name, whole_base_size = changes.pop("protocol"), changes.pop("whole_base_size")
        if name == "whole" and self.base_size is None:
            changes["base_size"] = whole_base_size
        changes = {key: value for key, value in changes.items() if value is not None}
        for key in {"window", "stride", "base_size"} & changes.keys():
            changes[key] = changes[key] or None
        if len(changes.get("base_size") or ()) == 1:
            [changes["base_size"]] = changes["base_size"]
        if "window" in changes and changes["window"] is None:
            changes["stride"] = None
        try:
            return Protocol.preset(name, dataset).replace(**changes)
        except InputError as error:
            raise InputError(f"config.evaluation.{error}") from error

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The options that a run's config.json holds."""
        arguments: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**arguments)
