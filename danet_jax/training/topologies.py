"""Describes accelerators by name: devices to compile for without having them, and peak throughputs."""

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
"""Published dense bfloat16 throughputs by prefix of JAX's `device_kind`. The longest matching prefix applies."""

EXAMPLES = "v5e:1x1, v5e:16x16, v6e:4x4 (TPU chips), h100:1, h100:8 (GPUs), cpu:1"


class Topology(NamedTuple):
    """The devices to compile for.

    Attributes:
      devices: the devices.
      memory: the memory of each device in bytes.
      compiler_options: options for the compiler.
    """

    devices: list[Any]
    memory: int
    compiler_options: dict[str, str | int | bool]


def find_topology(name: str) -> Topology:
    """Returns the devices that `name` stands for, for example `v5e:4x4`, `h100:8` or `cpu:1`.

    Raises:
      InputError: there is no such accelerator, or its compiler is not installed; the message says what to install.
    """
    if match := re.fullmatch(r"(v4|v5e|v5p|v6e):([1-9]\d*(?:x[1-9]\d*){1,2})", name):
        return _tpu(name, _TPU_GIB[match[1]])
    if match := re.fullmatch(r"h100:([1-9]\d{0,4})", name):
        return _h100(name, int(match[1]))
    if match := re.fullmatch(r"cpu:([1-9]\d{0,3})", name):
        return _cpu(name, int(match[1]))
    raise _refusal(name, f"does not exist; there are, for example: {EXAMPLES}")


def describe_absent_tpu() -> None:
    """Describes a TPU to libtpu if the machine has none, so that libtpu neither queries the network nor warns."""
    if os.environ.get("TPU_SKIP_MDS_QUERY"):  # JAX sets this variable if it finds no TPU.
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-1")


def peak_flops(device_kind: str) -> float | None:
    """Returns the peak throughput of a chip in bfloat16 operations per second, or None if it is not known."""
    fitting = [kind for kind in _TENSOR_TFLOPS if device_kind.startswith(kind)]
    tflops = _TENSOR_TFLOPS[max(fitting, key=len)] if fitting else None
    return tflops * 1e12 if tflops else None


def count_flops(lowered: jax.stages.Lowered) -> float | None:
    """Returns XLA's count of the floating-point operations on all devices together, or None if there is none.

    The operations are counted before the program is optimised, so they are those of the network itself. Custom kernels
    (position attention on accelerators) are not included.
    """
    analysis: Any = lowered.cost_analysis()
    flops = (analysis or {}).get("flops", -1.0)
    return float(flops) if flops > 0 else None


def _refusal(name: str, reason: str) -> InputError:
    return InputError(f"--topology={name} {reason}", what="--topology", value=name, allowed=EXAMPLES)


def _tpu(name: str, gib: int) -> Topology:
    if importlib.util.find_spec("libtpu") is None:
        raise _refusal(name, "needs the TPU compiler (no TPU is needed): pip install libtpu")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # Do not ask the network which TPU this machine has.
    describe_absent_tpu()
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # Do not keep other programs from compiling.
    try:
        devices = topologies.get_topology_desc(name, "tpu").devices
    except (RuntimeError, ValueError) as error:
        reason = f"is unknown to libtpu ({first_line(error)}); there are, for example: {EXAMPLES}"
        raise _refusal(name, reason) from error
    return Topology(list(devices), gib * 2**30, {})


def _h100(name: str, count: int) -> Topology:
    if importlib.util.find_spec("jax_cuda13_plugin") is None:
        raise _refusal(name, 'needs NVIDIA\'s compilers (no GPU is needed): pip install "jax[cuda13]", 3 GB')
    target = importlib.resources.files("danet_jax.training").joinpath("h100.txtpb").read_text()
    hosts, each = divmod(count, 8)
    if hosts and each:
        raise _refusal(name, "is not available, because hosts have 8 H100s; use up to 8, or a multiple of 8")
    shape = f"{hosts}x1x8" if hosts else f"1x1x{each}"
    try:
        devices = topologies.get_topology_desc("", "cuda", target_config=target, topology=shape).devices
    except (RuntimeError, ValueError) as error:
        raise _refusal(name, f"is refused by XLA: {first_line(error)}") from error
    memory = re.search(r"device_memory_size: (\d+)", target)
    assert memory is not None
    # Autotuning would have to run kernels on a GPU.
    return Topology(list(devices), int(memory[1]), {"xla_gpu_autotune_level": 0})


def _cpu(name: str, count: int) -> Topology:
    devices = jax.devices("cpu")
    if count > len(devices):
        flag = f"XLA_FLAGS=--xla_force_host_platform_device_count={count}"
        raise _refusal(name, f"needs more devices than the {len(devices)} of this process; set {flag}")
    return Topology(devices[:count], os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), {})
