"""The training step against PyTorch, over devices, and in parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from jax.flatten_util import ravel_pytree
from jax.sharding import NamedSharding, PartitionSpec

from danet_jax import DANet
from danet_jax.training.mesh import make_mesh
from danet_jax.training.optimizer import poly_schedule, sgd
from danet_jax.training.state import create_state, make_train_step
from danet_jax.weights.convert import convert
from tests.reference import torch_danet
from tests.reference.refusal import refused

CLASSES = 5


def random_batch(rng, batch=8, size=48):
    # Blocks of one label, as in a picture; a tenth of the pixels is ignored.
    labels = rng.integers(0, CLASSES, (batch, size // 8, size // 8)).repeat(8, 1).repeat(8, 2)
    labels[rng.random(labels.shape) < 0.1] = 255
    return {
        "image": rng.integers(0, 256, (batch, size, size, 3), np.uint8),
        "label": labels.astype(np.uint8),
    }


def place(batch, mesh):
    return jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data", "space")))


def test_losses_of_five_steps_equal_pytorch(rng):
    options = {"backbone": "resnet18", "dropout_rate": 0.0}
    reference = torch_danet.randomise(torch_danet.DANet(CLASSES, **options), rng).train()
    state_dict = {name: tensor.numpy() for name, tensor in reference.state_dict().items()}
    variables = convert(state_dict).variables
    steps, rate = 5, 0.002
    heads = [p for name, p in reference.named_parameters() if not name.startswith("pretrained")]
    theirs = torch.optim.SGD(
        [
            {"params": [p for n, p in reference.named_parameters() if n.startswith("pretrained")]},
            {"params": heads},
        ],
        lr=rate,
        momentum=0.9,
        weight_decay=1e-4,
    )
    mesh, model = make_mesh(devices=jax.devices()[:1]), DANet(CLASSES, **options)
    optimizer = sgd(poly_schedule(rate, steps))
    state = create_state(model, optimizer, 0, mesh).replace(
        params=jax.tree.map(jnp.array, variables["params"]),
        batch_stats=jax.tree.map(jnp.array, variables["batch_stats"]),
    )
    mean, std = rng.uniform(0.3, 0.6, 3), rng.uniform(0.2, 0.4, 3)
    step = make_train_step(model, optimizer, mean=tuple(mean), std=tuple(std))
    for index in range(steps):
        batch = random_batch(rng, batch=2, size=64)
        state, metrics = step(state, place(batch, mesh))
        pixels = ((batch["image"] / 255 - mean) / std).astype(np.float32)
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        labels = torch.from_numpy(batch["label"].astype(np.int64))
        losses = [F.cross_entropy(y, labels, ignore_index=255) for y in reference(images) if y is not None]
        for group, multiplier in zip(theirs.param_groups, (1, 10), strict=True):
            group["lr"] = multiplier * rate * (1 - index / steps) ** 0.9
        theirs.zero_grad()
        sum(losses).backward()
        theirs.step()
        expected = sum(loss.item() for loss in losses)
        assert abs(float(metrics["loss"]) - expected) < 1e-3 * expected, f"step {index}"


@pytest.fixture(scope="module")
def small():
    model = DANet(CLASSES, backbone="resnet18", output_stride=16, dropout_rate=0.0)
    return model, sgd(poly_schedule(0.01, 10))


def test_eight_devices_equal_one(rng, small):
    model, optimizer = small
    batch = random_batch(rng)
    step = make_train_step(model, optimizer)
    alone = make_mesh(devices=jax.devices()[:1])
    initial, _ = ravel_pytree(jax.device_get(create_state(model, optimizer, 3, alone).params))
    results = []
    for mesh in (alone, make_mesh(8, 1), make_mesh(4, 2)):
        state, metrics = step(create_state(model, optimizer, 3, mesh), place(batch, mesh))
        params, _ = ravel_pytree(jax.device_get(state.params))
        results.append((metrics["loss"], metrics["gradient_norm"], jax.device_get(state.batch_stats), params))
    loss, norm, statistics, params = results[0]
    for loss_of_many, norm_of_many, statistics_of_many, params_of_many in results[1:]:
        np.testing.assert_allclose(loss_of_many, loss, rtol=1e-5)
        np.testing.assert_allclose(norm_of_many, norm, rtol=2e-2)
        # Statistics over the global batch: were they a device's own, they would differ by far more.
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
            statistics_of_many,
            statistics,
        )
        # As a whole: a rounding can turn a ReLU on, and with it the gradients of a place, 1 % of these small maps.
        assert np.linalg.norm(params_of_many - params) < 0.1 * np.linalg.norm(params - initial)


def test_the_loss_in_parts_is_the_mean_over_all_valid_pixels(rng, small):
    model, optimizer = small
    mesh = make_mesh(2, 1)
    batch = random_batch(rng, batch=4)
    # Very unequal parts: were each part's mean averaged, the loss would be another.
    batch["label"][::2, 6:] = 255
    # Each part twice, so that its batch statistics are also the whole's.
    batch = {name: np.repeat(values[:2], 2, 0) for name, values in batch.items()}
    losses = []
    for accumulation in (1, 2):
        step = make_train_step(model, optimizer, accumulation=accumulation)
        _, metrics = step(create_state(model, optimizer, 3, mesh), place(batch, mesh))
        losses.append([float(metrics["loss"]), float(metrics["gradient_norm"])])
    np.testing.assert_allclose(losses[1][0], losses[0][0], rtol=1e-3)
    np.testing.assert_allclose(losses[1][1], losses[0][1], rtol=1e-2)


def test_a_batch_of_nothing_but_ignore_is_no_nan(rng, small):
    model, optimizer = small
    mesh = make_mesh(1, 1)
    batch = random_batch(rng, batch=4)
    batch["label"][:] = 255
    state, metrics = make_train_step(model, optimizer)(
        create_state(model, optimizer, 0, mesh), place(batch, mesh)
    )
    assert float(metrics["loss"]) == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(state.params)))


def test_the_moving_average_of_weights_and_statistics(rng, small):
    model, optimizer = small
    mesh, decay = make_mesh(2, 1), 0.7
    batch = place(random_batch(rng, batch=4), mesh)
    step = make_train_step(model, optimizer, average_decay=decay)
    state = create_state(model, optimizer, 0, mesh, average=True)
    expected = None
    for _ in range(3):
        state, metrics = step(state, batch)
        new = jax.device_get({"params": state.params, "batch_stats": state.batch_stats})
        expected = expected or new  # the first is where it starts
        expected = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, expected, new)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), state.variables, expected
    )
    assert metrics["attention_spread"] >= 0
    assert 0 < metrics["attention_entropy"] <= 1 + 1e-5
    again = create_state(model, optimizer, 1, mesh, average=True).resumed(state.variables, state.progress)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(again), jax.device_get(state))


@pytest.mark.parametrize(("data", "space"), [(3, 3), (-1, -1), (-1, 3), (16, 1)])
def test_a_mesh_that_does_not_fit(data, space):
    with refused() as caught:
        make_mesh(data, space)
    assert caught.value.what in ("mesh.data", "mesh.space")
