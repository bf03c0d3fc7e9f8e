"""The evaluation protocol's options as simple types, as a config or a JSON file holds them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from danet_jax.inference.protocol import Protocol


@dataclasses.dataclass(frozen=True)
class EvaluationOptions:
    """A named protocol, and any field of it replaced; None leaves the protocol's own value."""

    protocol: str = "whole"
    scales: tuple[float, ...] | None = None
    flip: bool | None = None
    window: tuple[int, ...] | None = None
    stride: tuple[int, ...] | None = None
    base_size: int | None = None
    edge: str | None = None
    merge: str | None = None
    align_corners: bool | None = None
    image_resize: str | None = None

    def build(self, dataset: str) -> Protocol:
        """The protocol, for a dataset by name (presets differ by dataset)."""
        changes = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "protocol" and getattr(self, field.name) is not None
        }
        return Protocol.preset(self.protocol, dataset).replace(**changes)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The options that a run's config.json holds."""
        return cls(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})
