"""The network's options as simple types, as a config or a JSON file holds them."""

from __future__ import annotations

import dataclasses
import typing

from danet_jax.errors import InputError

if typing.TYPE_CHECKING:
    from danet_jax.models.danet import DANet


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """Arguments of `danet_jax.DANet`, as simple types: `dtype` is a name and no multi-grid is `()`."""

    backbone: str = "resnet101"
    stem: str = "v1"
    output_stride: int = 8
    multi_grid: tuple[int, ...] = ()
    position_attention: bool = True
    channel_attention: bool = True
    channel_energy: str = "official"
    align_corners: bool = True
    auxiliary: bool = False
    dropout_rate: float = 0.1
    dtype: str = "float32"
    attention_backend: str = "auto"

    def build(self, num_classes: int) -> DANet:
        """The network.

        Raises:
          InputError: an option has a value that does not exist; the message names those that do.
        """
        import jax.numpy as jnp

        from danet_jax.models.danet import DANet

        dtypes = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
        if self.dtype not in dtypes:
            raise InputError(f"dtype={self.dtype!r} does not exist; there are: {', '.join(dtypes)}")
        options = dataclasses.asdict(self)
        options["dtype"] = dtypes[self.dtype]
        options["multi_grid"] = tuple(self.multi_grid) or None
        return DANet(num_classes=num_classes, **options)
