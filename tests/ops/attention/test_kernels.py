"""The kernels of TPUs and NVIDIA GPUs: their results in emulation, and programs lowered or compiled for them."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from danet_jax.ops.attention import cudnn, position_attention, splash
from tests.reference.float64_attention import attention_and_gradients, random_inputs, relative_error
from tests.reference.refusal import refused


def output_and_gradients(query, key, value, cotangent, backend="auto"):
    output, vjp = jax.vjp(lambda *x: position_attention(*x, backend=backend), query, key, value)
    return output, *vjp(cotangent)


def specs(shape, dtype, sharding=None):
    batch, positions, key_channels, value_channels = shape
    return [
        jax.ShapeDtypeStruct((batch, positions, channels), dtype, sharding=sharding)
        for channels in (key_channels, key_channels, value_channels, value_channels)
    ]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_splash_pads_and_masks(rng, dtype):
    """70 queries and 150 keys in blocks of 128, as the interpreter of Pallas computes it."""
    query, key, value, cotangent = random_inputs(rng, 2, 70, 150, 16, 40, dtype, scale=0.7)
    output, vjp = jax.vjp(functools.partial(splash.padded_attention, interpret=True), query, key, value)
    gradients = vjp(cotangent)
    expected = attention_and_gradients(query, key, value, cotangent)
    assert [x.dtype for x in (output, *gradients)] == [dtype] * 4
    for actual, reference in zip((output, *gradients), expected, strict=True):
        # The gradients of bfloat16 start from an output that the kernel has rounded.
        assert relative_error(actual, reference) < (1e-5 if dtype == jnp.float32 else 2e-2)


def emulated_forward(query, key, value):
    """What cuDNN computes: `[B, N, heads, width]`, one softmax per head, and its logsumexp `[B, heads, N]`."""
    logits = jnp.einsum("bnhc,bmhc->bhnm", *(x.astype(jnp.float32) for x in (query, key)))
    output = jnp.einsum("bhnm,bmhc->bnhc", jax.nn.softmax(logits, axis=-1), value.astype(jnp.float32))
    return output.astype(value.dtype), jax.nn.logsumexp(logits, axis=-1)


def emulated_backward(query, key, value, logsumexp, cotangent, output):
    again, vjp = jax.vjp(emulated_forward, query, key, value)
    np.testing.assert_allclose(logsumexp, again[1], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(output, again[0])
    return vjp((cotangent, jnp.zeros_like(logsumexp)))


@pytest.mark.parametrize(("key_channels", "value_channels"), [(64, 512), (17, 40), (65, 100), (16, 128)])
def test_channels_of_values_as_heads_for_cudnn(rng, monkeypatch, key_channels, value_channels):
    monkeypatch.setattr(cudnn, "flash_forward", emulated_forward)
    monkeypatch.setattr(cudnn, "flash_backward", emulated_backward)
    query, key, value, cotangent = random_inputs(
        rng, 2, 13, 21, key_channels, value_channels, jnp.bfloat16, scale=0.7
    )
    output, vjp = jax.vjp(cudnn.attention, query, key, value)
    gradients = vjp(cotangent)
    expected = attention_and_gradients(query, key, value, cotangent)
    assert [x.dtype for x in (output, *gradients)] == [jnp.bfloat16] * 4
    for actual, reference in zip((output, *gradients), expected, strict=True):
        assert relative_error(actual, reference) < 2e-2


def custom_calls(function, shapes, platform):
    text = jax.jit(function).trace(*shapes).lower(lowering_platforms=(platform,)).as_text()
    assert not re.search(r"tensor<(\d+x)*9409x9409x", text)
    return set(re.findall(r"custom_call @(\w+\$?\w*)", text)) - {"Sharding"}


def test_each_platform_has_its_own_kernel():
    bfloat16, float32 = (specs((2, 97 * 97, 64, 512), dtype) for dtype in (jnp.bfloat16, jnp.float32))
    flash = {"__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"}
    assert custom_calls(output_and_gradients, bfloat16, "cuda") == flash
    assert custom_calls(output_and_gradients, float32, "cuda") == set()
    assert custom_calls(output_and_gradients, bfloat16, "tpu") == {"tpu_custom_call"}
    assert custom_calls(output_and_gradients, bfloat16, "cpu") == set()
    assert custom_calls(output_and_gradients, bfloat16, "rocm") == set()


def test_cudnn_reports_why_it_cannot_run():
    def cudnn(query, key, value):
        return position_attention(query, key, value, backend="cudnn")

    for shape, dtype, reason in (
        ((1, 8, 16, 16), jnp.float32, "float32"),
        ((1, 8, 130, 16), jnp.bfloat16, "130"),
    ):
        with refused(what="backend", value="cudnn") as caught:
            custom_calls(cudnn, specs(shape, dtype)[:3], "cuda")
        assert reason in str(caught.value)


def test_one_program_exported_for_all_platforms(rng):
    query, key, value, _ = random_inputs(rng, 1, 40, 40, 8, 16, jnp.bfloat16, scale=0.7)
    exported = export.export(
        jax.jit(position_attention),
        platforms=("cpu", "cuda", "tpu"),
        disabled_checks=[export.DisabledSafetyCheck.custom_call("__cudnn$fmhaSoftmax")],
    )(query, key, value)
    np.testing.assert_array_equal(exported.call(query, key, value), position_attention(query, key, value))


@pytest.fixture
def v5e(monkeypatch):
    """The devices of a v5e pod slice, as a compiler without the chips knows them."""
    pytest.importorskip("libtpu", reason="compiling for a TPU needs libtpu (pip install libtpu)")
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # Another process may be compiling too.
    return topologies.get_topology_desc("v5e:4x4", "tpu").devices


def compile_for(devices, shape, dtype, mesh_shape):
    mesh = Mesh(np.array(devices).reshape(mesh_shape), ("data", "space"))
    sharding = NamedSharding(mesh, PartitionSpec("data", "space"))
    return jax.jit(output_and_gradients).lower(*specs(shape, dtype, sharding)).compile()


def test_scratch_memory_on_a_tpu(v5e):
    """Forward and backward pass at 1024 x 2048, where one plain map is 4 GiB."""
    compiled = compile_for(v5e[:1], (1, 32768, 64, 512), jnp.bfloat16, (1, 1))
    assert compiled.memory_analysis().temp_size_in_bytes < 64 * 2**20
    assert "tpu_custom_call" in compiled.as_text()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_sharded_over_a_tpu_pod(v5e, dtype):
    """With 8 images of 4096 positions on 8 x 2 chips, each chip gathers only the keys and values of one image."""
    compiled = compile_for(v5e, (8, 4096, 64, 512), dtype, (8, 2))
    text = compiled.as_text()
    assert "tpu_custom_call" in text
    gathered = re.findall(r"= \w+\[([\d,]+)\]\S* all-gather(?:-start)?\(", text)
    assert sorted(gathered) == ["1,4096,512", "1,4096,64"]
    assert compiled.memory_analysis().temp_size_in_bytes < 64 * 2**20
