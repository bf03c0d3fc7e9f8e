"""Accelerators by name, as devices that a program can be compiled for, though none is here."""

from __future__ import annotations

import importlib.resources
import importlib.util
import os
import re
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from danet_jax.errors import InputError, first_line

_TPU_GIB = {"v4": 32, "v5e": 16, "v5p": 95, "v6e": 32}
_TENSOR_TFLOPS = {
    "cpu": None,
    "TPU v4": 275,
    "TPU v5 lite": 197,
    "TPU v5": 459,
    "TPU v6 lite": 918,
    "NVIDIA A100": 312,
    "NVIDIA H100": 989,
    "NVIDIA H200": 989,
}
"""Published dense bfloat16 rates, by the beginning of JAX's `device_kind`; the longest that fits counts."""

EXAMPLES = "v5e:1x1, v5e:16x16, v6e:4x4 (TPU chips), h100:1, h100:8 (GPUs), cpu:1"


class Topology(NamedTuple):
    """Devices to compile for, the bytes of memory of each, and what their compiler is told."""

    devices: list[Any]
    memory: int
    compiler_options: dict[str, str | int | bool]


def find_topology(name: str) -> Topology:
    """The devices that `name` stands for, for example `v5e:4x4`, `h100:8` or `cpu:1`.

    Raises:
      InputError: there is no such accelerator, or its compiler is not installed; the message says what to install.
    """
    if match := re.fullmatch(r"(v4|v5e|v5p|v6e):([1-9]\d*(?:x[1-9]\d*){1,2})", name):
        return _tpu(name, _TPU_GIB[match[1]])
    if match := re.fullmatch(r"h100:([1-9]\d{0,4})", name):
        return _h100(name, int(match[1]))
    if match := re.fullmatch(r"cpu:([1-9]\d{0,3})", name):
        return _cpu(name, int(match[1]))
    raise InputError(f"--topology={name} does not exist; there are, for example: {EXAMPLES}")


def peak_flops(device_kind: str) -> float | None:
    """Floating-point operations a second that a chip can do at most, in bfloat16; None where that is not known."""
    fitting = [kind for kind in _TENSOR_TFLOPS if device_kind.startswith(kind)]
    tflops = _TENSOR_TFLOPS[max(fitting, key=len)] if fitting else None
    return tflops * 1e12 if tflops else None


def _tpu(name: str, gib: int) -> Topology:
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(f"--topology={name} needs the TPU's compiler, no chip: pip install libtpu")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # do not ask the network which TPU this machine has
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # nor keep other programs from compiling
    try:
        devices = topologies.get_topology_desc(name, "tpu").devices
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"--topology={name}: libtpu knows none such ({first_line(error)}); there are, for example: {EXAMPLES}"
        ) from error
    return Topology(list(devices), gib * 2**30, {})


def _h100(name: str, count: int) -> Topology:
    if importlib.util.find_spec("jax_cuda13_plugin") is None:
        raise InputError(
            f'--topology={name} needs NVIDIA\'s compilers, no GPU: pip install "jax[cuda13]" (3 GB)'
        )
    target = importlib.resources.files("danet_jax.training").joinpath("h100.txtpb").read_text()
    hosts, each = divmod(count, 8)
    if hosts and each:
        raise InputError(f"--topology={name}: H100s come in machines of 8; take up to 8, or a multiple of 8")
    shape = f"{hosts}x1x8" if hosts else f"1x1x{each}"
    try:
        devices = topologies.get_topology_desc("", "cuda", target_config=target, topology=shape).devices
    except (RuntimeError, ValueError) as error:
        raise InputError(f"--topology={name}: {first_line(error)}") from error
    memory = re.search(r"device_memory_size: (\d+)", target)
    assert memory is not None
    # Without a GPU no kernels can be timed against each other.
    return Topology(list(devices), int(memory[1]), {"xla_gpu_autotune_level": 0})


def _cpu(name: str, count: int) -> Topology:
    devices = jax.devices("cpu")
    if count > len(devices):
        raise InputError(
            f"--topology={name}: there are {len(devices)}; make more with "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={count}"
        )
    return Topology(devices[:count], os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), {})
