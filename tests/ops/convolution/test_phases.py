"""Phases of dilated convolutions against the convolution with its dilation, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from danet_jax.ops.convolution import convolution
from danet_jax.ops.convolution.phases import kernel_gradient_in_phases, regroup
from danet_jax.ops.convolution.xla import Geometry


@pytest.mark.parametrize(("old", "new"), [(1, 2), (2, 4), (4, 1), (6, 2), (2, 3)])
def test_places_of_every_phase(rng, old, new):
    """Place (i, j) of image b lies in phase (i mod new, j mod new), whatever phases it came from."""
    batch, height, width = 2, *(int(n) for n in rng.integers(1, 20, 2))
    x = rng.normal(size=(batch, height, width, 3))
    phases = np.asarray(regroup(regroup(jnp.asarray(x), 1, old, (height, width)), old, new, (height, width)))
    assert phases.shape == (batch * new**2, -(-height // new), -(-width // new), 3)
    total = 0.0
    for b in range(batch):
        for i in range(height):
            for j in range(width):
                found = phases[(b * new + i % new) * new + j % new, i // new, j // new]
                np.testing.assert_array_equal(found, x[b, i, j].astype(np.float32))
                total += np.abs(found).sum()
    if new > 1:  # what fills the phases up is 0
        np.testing.assert_allclose(np.abs(phases).sum(), total, rtol=1e-5)


@pytest.mark.parametrize("dilation", [2, 3, 4, 16])
@pytest.mark.parametrize("padding", ["same", "other"])
def test_gradient_to_the_kernel(rng, dilation, padding):
    height, width = (int(n) for n in rng.integers(2 * dilation + 1, 2 * dilation + 20, 2))
    pad = dilation if padding == "same" else int(rng.integers(0, 2 * dilation))
    x = rng.normal(size=(2, height, width, 3))
    shape = [n + 2 * pad - 2 * dilation for n in (height, width)]
    dy = rng.normal(size=(2, *shape, 4))
    weight = torch.zeros(4, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    y = torch.nn.functional.conv2d(
        torch.from_numpy(x).permute(0, 3, 1, 2), weight, padding=pad, dilation=dilation
    )
    (expected,) = torch.autograd.grad(y, weight, torch.from_numpy(dy).permute(0, 3, 1, 2))
    with jax.enable_x64(True):
        actual = kernel_gradient_in_phases(
            jnp.asarray(x), jnp.asarray(dy), (3, 3), Geometry(1, pad, dilation)
        )
    np.testing.assert_allclose(actual, expected.permute(2, 3, 1, 0), rtol=1e-11, atol=1e-11)


def test_windows_of_nvidia_programs_are_those_of_the_kernel():
    """No convolution with the image as its window, in what is lowered for NVIDIA's GPUs."""
    x, kernel = (jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in ((2, 96, 96, 128), (3, 3, 128, 128)))

    def loss(x, kernel):
        return convolution(x, kernel, padding=4, dilation=4).astype(jnp.float32).sum()

    gradient = jax.jit(jax.grad(loss, argnums=1)).trace(x, kernel)
    # The gradient's convolution runs over the batch: XLA knows it as the gradient of a 3x3, without dilation.
    assert "rhs_dilate" in gradient.lower(lowering_platforms=("tpu",)).as_text() or "stride = [4, 4]" in (
        gradient.lower(lowering_platforms=("tpu",)).as_text()
    )
    text = gradient.lower(lowering_platforms=("cuda",)).as_text()
    assert "stride = [4, 4]" not in text
    assert "tensor<32x24x24x128xbf16>" in text
