"""The training step against PyTorch, over devices, and in parts."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from jax.flatten_util import ravel_pytree
from jax.sharding import NamedSharding, PartitionSpec

from danet_jax import DANet
from danet_jax.training.losses import multi_loss
from danet_jax.training.mesh import make_mesh
from danet_jax.training.optimizer import poly_schedule, sgd
from danet_jax.training.state import create_state, make_train_step
from danet_jax.weights.convert import convert
from tests.reference import torch_danet
from tests.reference.refusal import refused
from tests.reference.tiny_backbone import TinyBackbone, drawn_variables

pytestmark = pytest.mark.usefixtures("few_blocks")
CLASSES = 5
OPTIMIZER = sgd(poly_schedule(0.01, 10))


def random_batch(rng, batch=8, size=32):
    # Blocks with one label, as in an image; a tenth of the pixels is ignored.
    labels = rng.integers(0, CLASSES, (batch, size // 8, size // 8)).repeat(8, 1).repeat(8, 2)
    labels[rng.random(labels.shape) < 0.1] = 255
    return {
        "image": rng.integers(0, 256, (batch, size, size, 3), np.uint8),
        "label": labels.astype(np.uint8),
    }


def place(batch, mesh):
    return jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data", "space")))


def one_device():
    return make_mesh(devices=jax.devices()[:1])


def test_losses_of_five_steps_equal_pytorch(rng):
    options = {"backbone": "resnet18", "dropout_rate": 0.0}
    reference = torch_danet.randomise(torch_danet.DANet(CLASSES, **options), rng).train()
    variables = convert({name: tensor.numpy() for name, tensor in reference.state_dict().items()}).variables
    steps, rate = 5, 0.002
    groups = [[], []]
    for name, parameter in reference.named_parameters():
        groups[not name.startswith("pretrained")].append(parameter)
    reference_optimizer = torch.optim.SGD(
        [{"params": x} for x in groups], lr=rate, momentum=0.9, weight_decay=1e-4
    )
    mesh, model = one_device(), DANet(CLASSES, **options)
    optimizer = sgd(poly_schedule(rate, steps))
    state = create_state(model, optimizer, 0, mesh, variables=variables)
    mean, std = rng.uniform(0.3, 0.6, 3), rng.uniform(0.2, 0.4, 3)
    step = make_train_step(model, optimizer, mean=tuple(mean), std=tuple(std))
    for index in range(steps):
        batch = random_batch(rng, batch=2, size=64)
        state, metrics = step(state, place(batch, mesh))
        pixels = ((batch["image"] / 255 - mean) / std).astype(np.float32)
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        labels = torch.from_numpy(batch["label"].astype(np.int64))
        losses = [F.cross_entropy(y, labels, ignore_index=255) for y in reference(images) if y is not None]
        for group, multiplier in zip(reference_optimizer.param_groups, (1, 10), strict=True):
            group["lr"] = multiplier * rate * (1 - index / steps) ** 0.9
        reference_optimizer.zero_grad()
        sum(losses).backward()
        reference_optimizer.step()
        expected = sum(loss.item() for loss in losses)
        assert abs(float(metrics["loss"]) - expected) < 1e-3 * expected, f"step {index}"
    found, norm = state.batch_stats["backbone"]["stem"]["bn1"], reference.pretrained.bn1
    np.testing.assert_allclose(found["mean"], norm.running_mean, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found["var"], norm.running_var, rtol=1e-2)  # torch's is unbiased


@pytest.fixture(scope="module")
def tiny():
    """A network, and its training step, whose compiled programs the tests share."""
    model = DANet(CLASSES, backbone=TinyBackbone(), dropout_rate=0.0)
    return model, make_train_step(model, OPTIMIZER)


def test_eight_devices_equal_one(rng, tiny):
    model, step = tiny
    variables, batch = drawn_variables(rng, model), random_batch(rng)
    initial, _ = ravel_pytree(variables["params"])
    results = []
    for mesh in (one_device(), make_mesh(8, 1), make_mesh(4, 2)):
        state = create_state(model, OPTIMIZER, 3, mesh, variables=variables)
        state, metrics = step(state, place(batch, mesh))
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
        # All together: a rounding can turn a ReLU on, and with it the gradients of a place, 1 % of these small maps.
        assert np.linalg.norm(params_of_many - params) < 0.1 * np.linalg.norm(params - initial)


def test_a_batch_without_valid_labels_gives_no_nan(rng, tiny):
    model, step = tiny
    mesh, batch = one_device(), random_batch(rng)
    batch["label"][:] = 255
    state = create_state(model, OPTIMIZER, 0, mesh, variables=drawn_variables(rng, model))
    state, metrics = step(state, place(batch, mesh))
    assert float(metrics["loss"]) == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(state.params)))


def test_gradient_accumulation_and_the_moving_average(rng, tiny):
    """The loss is the mean over all valid pixels; the average includes batch statistics and can be resumed."""
    model, step = tiny
    mesh, decay = make_mesh(4, 2), 0.7
    variables, batch = drawn_variables(rng, model), random_batch(rng)
    # Every second example belongs to the same part. Both parts have the same images, so that their batch statistics
    # are those of the batch. One has few valid pixels: were each part's mean averaged, the loss would be another.
    batch["image"] = batch["image"][[0, 0, 1, 1, 0, 0, 1, 1]]
    batch["label"][::2, 8:] = 255
    batch = place(batch, mesh)
    _, expected = step(create_state(model, OPTIMIZER, 3, mesh, variables=variables), batch)

    in_parts = make_train_step(model, OPTIMIZER, accumulation=2, average_decay=decay)
    state = create_state(model, OPTIMIZER, 3, mesh, variables=variables, average=True)
    average = None
    for index in range(3):
        state, metrics = in_parts(state, batch)
        if index == 0:
            np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-3)
            np.testing.assert_allclose(metrics["gradient_norm"], expected["gradient_norm"], rtol=1e-2)
            for name in ("attention_spread", "attention_entropy"):
                np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-2)
        new = jax.device_get(state.trained)
        average = average or new  # The average starts with the first step.
        average = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, average, new)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), state.variables, average
    )
    fresh = create_state(model, OPTIMIZER, 1, mesh, variables=variables, average=True)
    resumed = fresh.resumed(state.variables, state.progress)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(resumed), jax.device_get(state))


@pytest.mark.parametrize(
    ("data", "space", "batch", "height"), [(4, 2, 8, 64), pytest.param(2, 4, 2, 192, marks=pytest.mark.slow)]
)
def test_no_device_gathers_whole_images(data, space, batch, height):
    """Only rows for neighbours and the keys and values of attention are transferred."""
    mesh, model = make_mesh(data, space), DANet(CLASSES, backbone="resnet18")
    replicated = NamedSharding(mesh, PartitionSpec())
    state = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated),
        jax.eval_shape(lambda: create_state(model, OPTIMIZER, 0, mesh)),
    )
    divided = NamedSharding(mesh, PartitionSpec("data", "space"))
    images = {
        "image": jax.ShapeDtypeStruct((batch, height, 64, 3), jnp.uint8, sharding=divided),
        "label": jax.ShapeDtypeStruct((batch, height, 64), jnp.uint8, sharding=divided),
    }
    text = make_train_step(model, OPTIMIZER).lower(state, images).compile().as_text()
    moved = [line for line in text.splitlines() if re.search(r" (all-gather|all-to-all)(-start)?\(", line)]
    assert moved
    assert [line for line in moved if "position_attention" not in line] == []
    rows = [
        [int(n) for n in shape.split(",")]
        for shape in re.findall(r"= f32\[([\d,]+)\]\S* collective-permute(?:-start)?\(", text)
    ]
    assert rows
    assert max(shape[1] for shape in rows if len(shape) == 4) <= 4


@pytest.mark.slow
def test_gradients_with_unevenly_sharded_rows(rng):
    """Images of 40 rows on 8 devices have features of 20, 10 and 5 rows; gradients equal those of one device."""
    model = DANet(4, backbone="resnet18", dropout_rate=0.0)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    images = rng.normal(size=(2, 40, 24, 3)).astype(np.float32)
    labels = rng.integers(0, 4, (2, 40, 24), np.uint8)

    def loss(params, images, labels):
        logits, _ = model.apply(
            variables | {"params": params}, images, train=True, upsample=False, mutable=["batch_stats"]
        )
        return multi_loss(logits, labels)[0]

    def gradients(space):
        mesh = make_mesh(1, space, jax.devices()[:space])
        params = jax.device_put(variables["params"], NamedSharding(mesh, PartitionSpec()))
        return jax.jit(jax.grad(loss))(params, *place((images, labels), mesh))

    for one, several in zip(*(jax.tree.leaves(gradients(space)) for space in (1, 8)), strict=True):
        np.testing.assert_allclose(several, one, atol=1e-2 * max(np.abs(one).max(), 1e-5))


@pytest.mark.parametrize(("data", "space"), [(3, 3), (-1, -1), (-1, 3), (-1, 16), (16, 1), (0, 1)])
def test_invalid_meshes_are_refused(data, space):
    with refused() as caught:
        make_mesh(data, space)
    assert caught.value.what in ("mesh.data", "mesh.space")
