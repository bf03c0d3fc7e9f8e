"""Creates and checks the mesh of devices, whose axis `data` shards the batch and `space` the rows of the images."""

from __future__ import annotations

import os
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from danet_jax.errors import InputError
from danet_jax.models.resnet import STEMS
from danet_jax.ops.sharding import DATA, SPACE


def make_mesh(data: int = -1, space: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh of `data` x `space` devices.

    Args:
      data: the number of devices that share a batch; -1 for all remaining devices.
      space: the number of devices that share an image; -1 for all remaining devices.
      devices: the devices to use; None for all.

    Raises:
      InputError: the devices cannot be divided like this.
    """
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    if data == -1 and space == -1:
        raise InputError("only one of mesh.data and mesh.space can be -1", what="mesh.space", value=-1)
    shape = (count // space if data == -1 else data, count // data if space == -1 else space)
    used = shape[0] * shape[1]
    if not 0 < used <= count or (-1 in (data, space) and used != count):
        raise InputError(
            f"mesh.data={data} and mesh.space={space} do not fit {count} devices; their product must not exceed the "
            "number of devices, and must divide it if one of them is -1",
            what="mesh.data",
            value=data,
        )
    return Mesh(np.asarray(devices[:used]).reshape(shape), (DATA, SPACE))


def refuse_indivisible(mesh: Mesh, *, batch_size: int, accumulation: int, crop_size: int) -> None:
    """Raises InputError unless batches can be sharded over the devices of all hosts, and images over those of one."""
    data, space = mesh.shape["data"], mesh.shape["space"]
    if batch_size // accumulation % data or batch_size % jax.process_count():
        raise InputError(
            f"config.training.batch_size={batch_size} // config.training.accumulation={accumulation} must be a "
            f"multiple of the {data} devices of config.mesh.data, and the batch size one of the number of hosts",
            what="config.training.batch_size",
            value=batch_size,
        )
    if jax.process_count() > 1 and (jax.local_device_count() % space or data * space != jax.device_count()):
        raise InputError(
            f"config.mesh.space={space} must divide the {jax.local_device_count()} devices of each host, and "
            "config.mesh.data must use all remaining devices",
            what="config.mesh.space",
            value=space,
        )
    if crop_size % space:
        raise InputError(
            f"config.dataset.crop_size={crop_size} must be a multiple of config.mesh.space={space}",
            what="config.dataset.crop_size",
            value=crop_size,
        )


def refuse_too_large(
    mesh: Mesh, *, batch_size: int, accumulation: int, crop_size: int, stem: str, dtype: str
) -> None:
    """Raises InputError if the output of the first convolution does not fit into the devices' memory."""
    device = mesh.local_devices[0]
    available = (device.memory_stats() or {}).get("bytes_limit")
    if available is None:  # CPU devices share the memory of the host.
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // len(mesh.local_devices)
    values = batch_size // accumulation * (crop_size // 2) ** 2 * STEMS[stem][0]
    needed = values * jnp.dtype(dtype).itemsize // mesh.devices.size
    if needed > available:
        raise InputError(
            f"config.training.batch_size={batch_size} (in {accumulation} parts) of "
            f"config.dataset.crop_size={crop_size}: the first layer alone needs {needed / 1e9:.0f} GB on each of "
            f"{mesh.devices.size} devices, which have {available / 1e9:.0f} GB; "
            "reduce one of them or increase config.training.accumulation",
            what="config.training.batch_size",
            value=batch_size,
        )
