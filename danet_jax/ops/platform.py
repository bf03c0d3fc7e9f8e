"""For which platform a program is traced."""

from __future__ import annotations

import jax


def platform_of(x: jax.Array) -> str:
    """One of "cpu", "cuda", "rocm" and "tpu": of the devices that `x` is laid out over, else of this process."""
    mesh = jax.typeof(x).sharding.mesh
    device = None if mesh.empty else mesh.abstract_device
    platform = jax.default_backend() if device is None else device.platform
    return "cuda" if platform == "gpu" else platform
