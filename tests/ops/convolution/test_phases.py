"""Phases of dilated convolutions against the convolution with its dilation, in float64, on one device and several."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from danet_jax.ops.convolution import convolution
from danet_jax.ops.convolution.phases import (
    can_be_sharded,
    kernel_gradient_in_phases,
    regroup,
    sharded_kernel_gradient,
)
from danet_jax.ops.convolution.xla import Geometry


def mesh(data, space):
    return Mesh(np.asarray(jax.devices()[: data * space]).reshape(data, space), ("data", "space"))


def gradient_with_torch(x, dy, **geometry):
    """The gradient to a 3x3 kernel, `[3, 3, C, C']`."""
    planes, dy = (torch.from_numpy(a).permute(0, 3, 1, 2) for a in (x, dy))
    kernel = torch.zeros(dy.shape[1], planes.shape[1], 3, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(torch.nn.functional.conv2d(planes, kernel, **geometry), kernel, dy)
    return gradient.permute(2, 3, 1, 0).numpy()


@pytest.mark.parametrize(("old", "new"), [(1, 2), (2, 4), (4, 1), (6, 2), (2, 3)])
def test_positions_of_every_phase(rng, old, new):
    """Position (i, j) is in phase (i mod new, j mod new), whatever the old phases."""
    batch, height, width = 2, *(int(n) for n in rng.integers(1, 20, 2))
    x = rng.normal(size=(batch, height, width, 3)).astype(np.float32)
    phases = np.asarray(regroup(regroup(jnp.asarray(x), 1, old, (height, width)), old, new, (height, width)))
    expected = np.zeros((batch * new**2, -(-height // new), -(-width // new), 3), np.float32)
    for b, i, j in np.ndindex(batch, height, width):
        expected[(b * new + i % new) * new + j % new, i // new, j // new] = x[b, i, j]
    np.testing.assert_array_equal(phases, expected)


@pytest.mark.parametrize("dilation", [2, 3, 4, 16])
@pytest.mark.parametrize("same_size", [True, False])
def test_kernel_gradient_equals_torch(rng, dilation, same_size):
    height, width = (int(n) for n in rng.integers(2 * dilation + 1, 2 * dilation + 20, 2))
    padding = dilation if same_size else int(rng.integers(0, 2 * dilation))
    x = rng.normal(size=(2, height, width, 3))
    dy = rng.normal(size=(2, *(n + 2 * padding - 2 * dilation for n in (height, width)), 4))
    expected = gradient_with_torch(x, dy, padding=padding, dilation=dilation)
    with jax.enable_x64(True):
        kernel = jnp.zeros((3, 3, 3, 4), jnp.float64)
        geometry = Geometry(1, padding, dilation)
        actual = kernel_gradient_in_phases(jnp.asarray(x), kernel, jnp.asarray(dy), geometry)
    np.testing.assert_allclose(actual, expected, rtol=1e-11, atol=1e-11)


def test_programs_for_nvidia_have_no_convolution_with_the_image_as_its_window():
    x, kernel = (jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in ((2, 96, 96, 128), (3, 3, 128, 128)))

    def loss(x, kernel):
        return convolution(x, kernel, padding=4, dilation=4).astype(jnp.float32).sum()

    gradient = jax.jit(jax.grad(loss, argnums=1)).trace(x, kernel)
    text = {p: gradient.lower(lowering_platforms=(p,)).as_text() for p in ("tpu", "cuda")}
    assert "rhs_dilate" in text["tpu"] or "stride = [4, 4]" in text["tpu"]
    assert "stride = [4, 4]" not in text["cuda"]
    assert "tensor<32x24x24x128xbf16>" in text["cuda"]


@pytest.mark.parametrize(("space", "rows", "dilation"), [(2, 5, 2), (4, 4, 4), (4, 6, 3), (4, 16, 16)])
def test_kernel_gradient_with_sharded_rows(rng, space, rows, dilation):
    width = int(rng.integers(5, 20))
    x, dy = (rng.normal(size=(4, rows * space, width, channels)) for channels in (3, 2))
    over, geometry = mesh(2, space), Geometry(1, dilation, dilation)
    with jax.enable_x64(True):
        placed = jax.device_put((x, dy), NamedSharding(over, PartitionSpec("data", "space")))
        kernel = jnp.zeros((3, 3, 3, 2), jnp.float64)
        assert can_be_sharded(placed[0], kernel, geometry, over.abstract_mesh)
        gradient = jax.jit(lambda x, dy: sharded_kernel_gradient(x, kernel, dy, geometry, over.abstract_mesh))
        compiled = gradient.lower(*placed).compile()
        actual = compiled(*placed)
    expected = gradient_with_torch(x, dy, padding=dilation, dilation=dilation)
    np.testing.assert_allclose(actual, expected, rtol=1e-11, atol=1e-11)
    assert "all-gather" not in compiled.as_text()


@pytest.mark.parametrize(
    ("shape", "kernel_size", "geometry", "over"),
    [
        ((2, 16, 9), 3, Geometry(1, 8, 8), mesh(2, 4)),  # the kernel reaches beyond a neighbour's 4 rows
        ((2, 18, 9), 3, Geometry(1, 2, 2), mesh(2, 4)),  # 18 rows over 4 devices
        ((3, 16, 9), 3, Geometry(1, 2, 2), mesh(2, 4)),  # 3 images over 2
        ((2, 16, 9), 3, Geometry(1, 0, 2), mesh(2, 4)),  # rows of the result are not those of the input
        ((2, 16, 9), 1, Geometry(1, 0, 2), mesh(2, 4)),  # a single position has no neighbours
        ((2, 16, 9), 3, Geometry(1, 2, 2), Mesh(np.asarray(jax.devices()[:4]), ("space",))),
    ],
)
def test_gradients_that_are_left_to_xla(shape, kernel_size, geometry, over):
    x, kernel = jnp.zeros((*shape, 3)), jnp.zeros((kernel_size, kernel_size, 3, 2))
    assert not can_be_sharded(x, kernel, geometry, over.abstract_mesh)


@pytest.mark.parametrize("rows", [3, 5, 7])
def test_rows_that_do_not_divide_evenly(rng, rows):
    """XLA's own gradient was wrong for these sizes, because some of 8 devices have no row of the strided result."""
    x = rng.normal(size=(2, rows, 6, 3))
    dy = rng.normal(size=(2, (rows + 1) // 2, 3, 4))
    over = mesh(1, 8)

    def product(kernel, x):
        x = jax.lax.with_sharding_constraint(x, NamedSharding(over, PartitionSpec("data", "space")))
        return jnp.sum(convolution(x, kernel, stride=2, padding=1) * dy)

    with jax.enable_x64(True):
        kernel = np.zeros((3, 3, 3, 4))
        placed = jax.device_put((kernel, x), NamedSharding(over, PartitionSpec()))
        actual = jax.jit(jax.grad(product))(*placed)
    expected = gradient_with_torch(x, dy, stride=2, padding=1)
    np.testing.assert_allclose(actual, expected, rtol=1e-11, atol=1e-11)
