"""Convolution and its gradients against torch in float64, for each of the CPU's implementations."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from danet_jax.ops.convolution import convolution
from tests.reference.refusal import refused

# Kernel size, stride, dilation, C and C'. Small layers use XLA's convolution, large ones matrix products.
LAYERS = {
    "stem": (7, 2, 1, 3, 16),
    "pointwise": (1, 1, 1, 24, 40),
    "pointwise strided": (1, 2, 1, 24, 40),
    "small": (3, 1, 1, 5, 7),
    "small strided": (3, 2, 1, 5, 7),
    "wide": (3, 1, 1, 128, 144),
    "wide dilated 2": (3, 1, 2, 144, 128),
    "wide dilated 4": (3, 1, 4, 128, 128),
    "wide dilated 8": (3, 1, 8, 128, 128),
    "wide dilated 16": (3, 1, 16, 128, 128),
    "widest strided": (3, 2, 1, 256, 256),
}


def random_case(rng, layer, *, batch=None, extent=None):
    """Inputs of a random size, odd or even, and the upstream gradient."""
    size, stride, dilation, inputs, outputs = LAYERS[layer]
    batch = batch or int(rng.choice([1, 3]))
    height, width = extent or (int(n) for n in rng.integers(9, 30, 2))
    padding = dilation * (size // 2)
    x = rng.normal(size=(batch, height, width, inputs)).astype(np.float32)
    kernel = rng.normal(size=(size, size, inputs, outputs)).astype(np.float32)
    result = [(n + 2 * padding - dilation * (size - 1) - 1) // stride + 1 for n in (height, width)]
    dy = rng.normal(size=(batch, *result, outputs)).astype(np.float32)
    return x, kernel, dy, {"stride": stride, "padding": padding, "dilation": dilation}


def with_torch(x, kernel, dy, geometry):
    """The convolution, and the gradients to `x` and `kernel`, in float64."""
    x, kernel, dy = (torch.from_numpy(np.asarray(a, np.float64)) for a in (x, kernel, dy))
    x.requires_grad_()
    kernel.requires_grad_()
    y = torch.nn.functional.conv2d(x.permute(0, 3, 1, 2), kernel.permute(3, 2, 0, 1), **geometry)
    y = y.permute(0, 2, 3, 1)
    return [a.detach().numpy() for a in (y, *torch.autograd.grad(y, (x, kernel), dy))]


@functools.partial(jax.jit, static_argnums=3)
def _with_jax(x, kernel, dy, geometry):
    y, pullback = jax.vjp(lambda x, kernel: convolution(x, kernel, **dict(geometry)), x, kernel)
    return (y, *pullback(dy))


def with_jax(x, kernel, dy, geometry):
    return _with_jax(x, kernel, dy, tuple(geometry.items()))


def assert_close(results, expected, tolerance):
    for name, a, b in zip(("value", "input gradient", "kernel gradient"), results, expected, strict=True):
        a = np.asarray(a, np.float64)
        assert a.shape == b.shape
        error = np.abs(a - b).max() / np.abs(b).max()
        assert error < tolerance, f"{name}: {error}"


@pytest.mark.parametrize("layer", LAYERS)
def test_equals_torch(rng, layer):
    case = random_case(rng, layer)
    print({"x": case[0].shape, **case[3]})
    assert_close(with_jax(*case), with_torch(*case), 1e-5)


@pytest.mark.parametrize("layer", ["wide dilated 4", "wide dilated 16"])
def test_dilation_beyond_the_image(rng, layer):
    dilation = LAYERS[layer][2]
    extent = (dilation - 1, dilation + 1) if dilation < 16 else (13, 16)
    case = random_case(rng, layer, batch=3, extent=extent)
    assert_close(with_jax(*case), with_torch(*case), 1e-5)


@pytest.mark.parametrize("padding", [0, 3])
def test_padding_that_is_not_the_dilation(rng, padding):
    x, kernel, _, geometry = random_case(rng, "wide dilated 2", batch=2, extent=(18, 21))
    geometry["padding"] = padding
    result = [n + 2 * padding - 4 for n in x.shape[1:3]]
    dy = rng.normal(size=(2, *result, kernel.shape[3])).astype(np.float32)
    assert_close(with_jax(x, kernel, dy, geometry), with_torch(x, kernel, dy, geometry), 1e-5)


@pytest.mark.parametrize("layer", ["pointwise", "small", "wide"])
def test_bfloat16(rng, layer):
    *arrays, geometry = random_case(rng, layer, batch=1, extent=(17, 20))
    arrays = [jnp.asarray(a, jnp.bfloat16) for a in arrays]
    results = with_jax(*arrays, geometry)
    assert {a.dtype for a in results} == {jnp.dtype(jnp.bfloat16)}
    assert_close(results, with_torch(*(np.asarray(a, np.float64) for a in arrays), geometry), 1e-2)


def sharded_hlo_and_results(case, mesh, spec):
    x, kernel, dy, geometry = case
    batch, replicated = NamedSharding(mesh, spec), NamedSharding(mesh, PartitionSpec())
    arguments = (jax.device_put(x, batch), jax.device_put(kernel, replicated), jax.device_put(dy, batch))
    compiled = _with_jax.lower(*arguments, tuple(geometry.items())).compile()
    return compiled.as_text(), compiled(*arguments)


@pytest.mark.parametrize("layer", ["pointwise strided", "wide dilated 2", "small"])
def test_a_sharded_batch_is_not_gathered(rng, layer):
    case = random_case(rng, layer, batch=8, extent=(9, 13))
    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    hlo, results = sharded_hlo_and_results(case, mesh, PartitionSpec("data"))
    assert "all-gather" not in hlo
    assert "all-to-all" not in hlo
    assert results[0].sharding.is_equivalent_to(NamedSharding(mesh, PartitionSpec("data")), 4)
    assert_close(results, [np.asarray(a, np.float64) for a in with_jax(*case)], 1e-5)


@pytest.mark.parametrize("layer", ["pointwise", "wide dilated 2"])
def test_sharded_rows(rng, layer):
    case = random_case(rng, layer, batch=2, extent=(16, 13))
    mesh = Mesh(np.asarray(jax.devices()).reshape(2, 4), ("data", "space"))
    _, results = sharded_hlo_and_results(case, mesh, PartitionSpec("data", "space"))
    assert_close(results, [np.asarray(a, np.float64) for a in with_jax(*case)], 1e-5)


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_accelerators_use_their_own_convolution(platform):
    x, kernel = (
        jax.ShapeDtypeStruct((2, 32, 32, 128), "float32"),
        jax.ShapeDtypeStruct((3, 3, 128, 128), "float32"),
    )
    gradient = jax.jit(
        jax.grad(lambda x, kernel: convolution(x, kernel, padding=2, dilation=2).sum(), (0, 1))
    )
    text = {p: gradient.trace(x, kernel).lower(lowering_platforms=(p,)).as_text() for p in (platform, "cpu")}
    assert text[platform].count("stablehlo.convolution") == 2
    assert "stablehlo.dot_general" not in text[platform]
    assert "stablehlo.convolution" not in text["cpu"]
    assert text["cpu"].count("stablehlo.dot_general") == 2 * 16


def test_without_jit_and_with_vmap_and_remat(rng):
    x, kernel, _, geometry = random_case(rng, "small", batch=2, extent=(9, 9))
    conv = functools.partial(convolution, **geometry)
    expected = with_torch(x, kernel, np.zeros((2, 9, 9, 7)), geometry)[0]
    for function in (conv, jax.checkpoint(conv), lambda x, k: jax.vmap(conv, (0, None))(x[:, None], k)[:, 0]):
        np.testing.assert_allclose(function(x, kernel), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"kernel": (3, 3, 4, 8)}, "kernel"),
        ({"kernel": (3, 3, 3)}, "kernel"),
        ({"dtype": "bfloat16"}, "kernel"),
        ({"stride": 0}, "stride"),
        ({"padding": -1}, "padding"),
        ({"dilation": 0}, "dilation"),
        ({"dilation": 4}, "kernel"),
    ],
)
def test_invalid_arguments_are_refused(arguments, what):
    x = jnp.zeros((1, 5, 5, 3))
    kernel = jnp.zeros(arguments.pop("kernel", (3, 3, 3, 8)), arguments.pop("dtype", "float32"))
    with refused(what=what):
        convolution(x, kernel, **arguments)
