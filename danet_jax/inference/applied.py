"""A network, a protocol and a mesh, held against each other, become the function that serves images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from danet_jax.classes import Classes
from danet_jax.errors import InputError
from danet_jax.inference.plain import WholeImages
from danet_jax.inference.protocol import Protocol
from danet_jax.inference.windows.sliding import SlidingWindows
from danet_jax.models.resnet import ResNet


def applied(
    model: Any, protocol: Any, classes: Any, mesh: Any, devices: Sequence[jax.Device]
) -> WholeImages | SlidingWindows:
    """The network as the protocol applies it, on the devices of `mesh` on this host; without one on `devices`.

    Raises:
      InputError: an argument is not such; None may be left out.
    """
    if not isinstance(model, nn.Module) or isinstance(model, ResNet) or not hasattr(model, "num_classes"):
        raise InputError(f"model must be a danet_jax.DANet, not {type(model).__name__}")
    refuse_other_types(protocol=protocol, classes=classes, mesh=mesh)
    protocol = (protocol or Protocol.whole()).for_network(model.align_corners, classes=classes)
    if mesh is not None and tuple(mesh.axis_names) == ("data", "space"):
        mesh = mesh.local_mesh
    else:
        of_mesh = devices if mesh is None else mesh.local_devices
        mesh = Mesh(np.asarray(of_mesh).reshape(-1, 1), ("data", "space"))
    tier: Any = WholeImages if protocol.window is None else SlidingWindows
    return tier(model, protocol, mesh)


def refuse_other_types(*, protocol: Any = None, classes: Any = None, mesh: Any = None) -> None:
    """Raises InputError if an argument is not what it is called; None may be left out."""
    for name, value, kind, what in (
        (f"protocol={protocol!r}", protocol, Protocol, "a danet_jax.Protocol, such as Protocol.authors()"),
        ("mesh", mesh, Mesh, "a jax.sharding.Mesh"),
        ("classes", classes, Classes, "danet_jax.Classes, such as Classes.named([...])"),
    ):
        if value is not None and not isinstance(value, kind):
            raise InputError(f"{name} must be {what}, not {type(value).__name__}")
