"""Names of accelerators, and their throughputs."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest

from danet_jax.training.topologies import count_flops, find_topology, peak_flops
from tests.reference.refusal import refused

UNKNOWN = ("v5e", "v5e:", "v5e:0x4", "h100", "h100:0", "tpu:1x1", "cpu:1x1", "h100:1\n", "V5e:1x1")
COMPILERS = (("v5e:1x1", "pip install libtpu"), ("h100:1", 'pip install "jax[cuda13]"'))


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_accelerators_are_refused(name):
    with refused("--topology", name):
        find_topology(name)


@pytest.mark.parametrize(("name", "install"), COMPILERS)
def test_missing_compilers_are_reported(monkeypatch, name, install):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with refused("--topology", name) as caught:
        find_topology(name)
    assert install in str(caught.value)


def test_cpu_devices():
    found = find_topology("cpu:2")
    assert found.devices == jax.devices("cpu")[:2]
    assert found.memory > 2**28
    with refused("--topology", "cpu:999") as caught:
        find_topology("cpu:999")
    assert "xla_force_host_platform_device_count=999" in str(caught.value)


def test_tpu_shapes():
    pytest.importorskip("libtpu", reason="needs the TPU's compiler: pip install libtpu")
    assert len(find_topology("v5e:2x2").devices) == 4
    assert find_topology("v5e:1x1").memory == 16 * 2**30
    with refused("--topology", "v5e:3x5"):
        find_topology("v5e:3x5")


def test_peak_flops():
    assert peak_flops("TPU v5 lite") < peak_flops("TPU v5p")
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("cpu") is None
    assert peak_flops("Quantum 3000") is None


def test_count_flops(rng):
    m, n, k = (int(n) for n in rng.integers(2, 100, 3))
    shapes = jax.ShapeDtypeStruct((m, k), jnp.float32), jax.ShapeDtypeStruct((k, n), jnp.float32)
    assert count_flops(jax.jit(jnp.dot).lower(*shapes)) == 2 * m * n * k
