"""Bilinear resizing against torch in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from danet_jax.ops.resize import resize_bilinear

SIZES = [
    ((5, 7), (40, 56)),
    ((13, 17), (97, 129)),
    ((9, 13), (4, 5)),
    ((97, 3), (769, 2)),
    ((1, 1), (3, 4)),
    ((6, 1), (6, 5)),
    ((5, 4), (1, 1)),
]


def interpolated(x, size, align_corners):
    planes = torch.tensor(np.asarray(x, np.float64)).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(planes, size=size, mode="bilinear", align_corners=align_corners)
    return resized.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(("size", "new_size"), SIZES, ids=str)
def test_values_and_gradient(rng, size, new_size, align_corners):
    x = jnp.asarray(rng.standard_normal((2, *size, 3)), jnp.float32)
    cotangent = jnp.asarray(rng.standard_normal((2, *new_size, 3)), jnp.float32)
    output, vjp = jax.vjp(lambda x: resize_bilinear(x, new_size, align_corners=align_corners), x)
    np.testing.assert_allclose(output, interpolated(x, new_size, align_corners), rtol=1e-5, atol=1e-5)
    # The map is linear, so that its gradient is fixed by <gradient, y> = <cotangent, resized y>.
    y = rng.standard_normal(x.shape)
    expected = np.vdot(cotangent, interpolated(y, new_size, align_corners))
    scale = np.linalg.norm(cotangent) * np.linalg.norm(y)
    np.testing.assert_allclose(np.vdot(vjp(cotangent)[0], y) / scale, expected / scale, atol=1e-5)


@pytest.mark.parametrize("align_corners", [True, False])
def test_padded_images_are_resized_as_if_cropped(rng, align_corners):
    """Sizes are known only at run time, and one program serves all of them."""
    sizes = np.array([[5, 8], [1, 3], [6, 9], [4, 1]], np.int32)
    new_sizes = np.array([[40, 30], [7, 2], [41, 33], [1, 33]], np.int32)
    x = 1e3 * jnp.asarray(rng.standard_normal((4, 6, 9, 2)), jnp.float32)

    @jax.jit
    def resize(x, sizes, new_sizes):
        return resize_bilinear(
            x, (41, 33), align_corners=align_corners, input_sizes=sizes, output_sizes=new_sizes
        )

    output = np.array(resize(x, sizes, new_sizes))
    for i, ((h, w), (new_h, new_w)) in enumerate(zip(sizes, new_sizes, strict=True)):
        cropped = interpolated(x[i : i + 1, :h, :w], (int(new_h), int(new_w)), align_corners)[0]
        np.testing.assert_allclose(output[i, :new_h, :new_w] / 1e3, cropped / 1e3, rtol=1e-5, atol=1e-5)
        output[i, :new_h, :new_w] = 0
    np.testing.assert_array_equal(output, 0)


def test_input_or_output_sizes_may_be_omitted(rng):
    x = jnp.asarray(rng.standard_normal((1, 6, 9, 2)), jnp.float32)
    half = resize_bilinear(x, (12, 18), align_corners=False, output_sizes=jnp.array([[6, 9]], jnp.int32))
    np.testing.assert_allclose(half[:, :6, :9], x, rtol=1e-6, atol=1e-6)
    whole = resize_bilinear(
        x[:, :4, :5], (12, 18), align_corners=True, input_sizes=jnp.array([[4, 5]], jnp.int32)
    )
    np.testing.assert_allclose(whole, interpolated(x[:, :4, :5], (12, 18), True), rtol=1e-5, atol=1e-5)


def test_traced_positions_are_exact_at_any_size(rng):
    """Rounding never moves a sample to its neighbour."""
    x = jnp.asarray(rng.standard_normal((1, 1, 300, 1)), jnp.float32)

    @jax.jit
    def resize(new_width):
        sizes = jnp.stack([jnp.array(1, jnp.int32), new_width])[None]
        return resize_bilinear(x, (1, 2048), align_corners=True, output_sizes=sizes)[0, 0, :, 0]

    for new_width in [300, 599, 2048, *map(int, rng.integers(1, 2049, 20))]:
        expected = interpolated(x, (1, new_width), True)[0, 0, :, 0]
        np.testing.assert_allclose(resize(new_width)[:new_width], expected, rtol=1e-5, atol=1e-5)


def test_bfloat16_is_mixed_in_float32(rng):
    x = jnp.asarray(rng.standard_normal((1, 4, 5, 3)), jnp.bfloat16)
    output = resize_bilinear(x, (9, 11), align_corners=True)
    assert output.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        np.asarray(output, np.float64), interpolated(x, (9, 11), True), rtol=4e-3, atol=1e-5
    )
