import importlib.util

import jax
import pytest

from danet_jax.errors import InputError
from danet_jax.training.topologies import find_topology, peak_flops

UNKNOWN = ("v5e", "v5e:", "v5e:0x4", "h100", "h100:0", "tpu:1x1", "cpu:1x1", "h100:1\n", "V5e:1x1")
COMPILERS = (("v5e:1x1", "pip install libtpu"), ("h100:1", 'pip install "jax\\[cuda13\\]"'))


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_accelerator_is_refused_with_those_that_exist(name):
    with pytest.raises(InputError, match="there are, for example: v5e:1x1, v5e:16x16, v6e:4x4"):
        find_topology(name)


@pytest.mark.parametrize(("name", "install"), COMPILERS)
def test_a_missing_compiler_is_named_with_what_to_install(monkeypatch, name, install):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=install):
        find_topology(name)


def test_cpus_are_those_that_are_here():
    found = find_topology("cpu:2")
    assert found.devices == jax.devices("cpu")[:2]
    assert found.memory > 2**28
    with pytest.raises(InputError, match="xla_force_host_platform_device_count=999"):
        find_topology("cpu:999")


def test_tpus_come_in_the_shapes_that_exist():
    pytest.importorskip("libtpu", reason="needs the TPU's compiler: pip install libtpu")
    assert len(find_topology("v5e:2x2").devices) == 4
    assert find_topology("v5e:1x1").memory == 16 * 2**30
    with pytest.raises(InputError, match=r"v5e:3x5.*there are, for example"):
        find_topology("v5e:3x5")


def test_the_peak_of_a_chip_is_that_of_its_own_name():
    assert peak_flops("TPU v5 lite") < peak_flops("TPU v5p")
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("cpu") is None
    assert peak_flops("Quantum 3000") is None
