"""ReLU and its gradient against torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from danet_jax.ops.relu import relu


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_equals_torch(rng, dtype):
    x, dy = (jnp.asarray(rng.normal(size=(2, 5, 7, 3)), dtype) for _ in range(2))
    x = x.at[:, 0].set(0)
    y, pull = jax.vjp(jax.jit(relu), x)
    assert y.dtype == pull(dy)[0].dtype == x.dtype
    tensor = torch.tensor(np.asarray(x, np.float32), requires_grad=True)
    expected = torch.relu(tensor)
    expected.backward(torch.tensor(np.asarray(dy, np.float32)))
    np.testing.assert_array_equal(np.asarray(y, np.float32), expected.detach().numpy())
    np.testing.assert_array_equal(np.asarray(pull(dy)[0], np.float32), tensor.grad.numpy())
