"""Networks with a custom backbone: a training step, images of several sizes, and refusals."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from danet_jax import DANet, Segmenter, create_state, make_train_step, normalize, poly_schedule, sgd
from danet_jax.models.options import options_of
from danet_jax.models.resnet import ResNet
from danet_jax.training.mesh import make_mesh
from tests.reference.refusal import refused
from tests.reference.tiny_backbone import TinyBackbone, drawn_variables


class WithoutOptions(nn.Module):
    """A backbone that takes neither `train` nor `sizes`."""

    output_stride: int = 8

    @nn.compact
    def __call__(self, x):
        return nn.Conv(32, (8, 8), 8, padding=[(0, -x.shape[1] % 8), (0, -x.shape[2] % 8)])(x)


class Triple(TinyBackbone):
    def __call__(self, x, train=False):
        return (super().__call__(x, train),) * 3


class TooSmall(TinyBackbone):
    def __call__(self, x, train=False):
        return super().__call__(x[:, ::2, ::2], train)


def test_a_training_step_with_the_auxiliary_head(rng):
    model = DANet(3, backbone=TinyBackbone(pair=True), auxiliary=True, dropout_rate=0.5)
    assert model.output_stride == 4
    optimizer, mesh = sgd(poly_schedule(0.1, 10)), make_mesh(devices=jax.devices()[:1])
    before = drawn_variables(rng, model)
    assert set(before["params"]) == {"backbone", "head", "auxiliary"}
    state, later = (create_state(model, optimizer, 0, mesh, variables=before) for _ in range(2))
    batch = {
        "image": rng.integers(0, 256, (2, 32, 32, 3), np.uint8),
        "label": rng.integers(0, 3, (2, 32, 32)).astype(np.uint8),
    }
    train_step = make_train_step(model, optimizer)
    state, metrics = train_step(state, batch)
    assert np.isfinite(metrics["loss"])
    assert np.isfinite(metrics["loss_auxiliary"])
    changed = jax.tree.map(lambda a, b: bool(np.any(a != b)), before, jax.device_get(state.variables))
    assert changed["params"]["backbone"]["Conv_0"]["kernel"]
    assert changed["params"]["auxiliary"]["classifier"]["kernel"]
    assert changed["batch_stats"]["backbone"]["BatchNorm_0"]["mean"]
    # Every step drops other channels.
    _, other = train_step(later.replace(step=jnp.array(1, jnp.int32)), batch)
    assert other["loss"] != metrics["loss"]


def test_images_of_several_sizes_are_not_padded(rng):
    """Features of padded images would differ from those of the images alone."""
    model = DANet(3, backbone=TinyBackbone())
    assert not model.accepts_sizes
    variables = drawn_variables(rng, model)
    segment, apply = Segmenter(model, variables), jax.jit(model.apply)
    for size in ((21, 34), (32, 32), (13, 50)):
        image = rng.integers(0, 256, (*size, 3), np.uint8)
        logits = np.asarray(apply(variables, normalize(image[None])).fusion[0])
        labels = np.asarray(segment(image))
        assert labels.shape == size
        margin = np.diff(np.sort(logits, -1)[..., -2:], axis=-1)[..., 0]
        clear = margin > 1e-4  # Elsewhere, rounding may decide.
        assert clear.mean() > 0.9
        np.testing.assert_array_equal(labels[clear], logits.argmax(-1)[clear])


def test_a_resnet_as_a_module_equals_the_named_backbone():
    images, sizes = jnp.zeros((1, 33, 41, 3)), jnp.asarray([[30, 37]], jnp.int32)
    models = (
        DANet(3, backbone="resnet18", output_stride=32),
        DANet(3, backbone=ResNet("resnet18", output_stride=32)),
    )
    assert all(model.accepts_sizes for model in models)
    shapes = [jax.eval_shape(model.init, jax.random.key(0), images) for model in models]
    assert shapes[0] == shapes[1]
    programs = [
        jax.jit(lambda v, x, s, model=model: model.apply(v, x, sizes=s)).lower(shapes[0], images, sizes)
        for model in models
    ]
    assert programs[0].as_text() == programs[1].as_text()


def test_a_backbone_without_options():
    images = jax.ShapeDtypeStruct((1, 19, 24, 3), jnp.float32)
    model = DANet(2, backbone=WithoutOptions(), position_attention=False)
    logits, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
    assert logits.fusion.shape == (1, 19, 24, 2)


def test_invalid_backbones_and_options_are_refused():
    images, key = jnp.zeros((1, 32, 32, 3)), jax.random.key(0)
    model = DANet(3, backbone=TinyBackbone())
    with refused(what="sizes"):
        model.init(key, images, sizes=jnp.ones((1, 2), jnp.int32))
    for backbone in (
        TooSmall(),
        Triple(),
        nn.Dense(3),
        TinyBackbone(output_stride="4"),
        TinyBackbone(name="net"),
    ):
        with refused(what="backbone"):
            jax.eval_shape(DANet(3, backbone=backbone).init, key, images)
    with refused(what="backbone"):
        jax.eval_shape(DANet(3, backbone=TinyBackbone(), auxiliary=True).init, key, images)
    options = {"stem": "v1c", "multi_grid": (4, 8, 16), "output_stride": 16, "phases": True}
    for option, value in options.items():
        with refused(what=option):
            DANet(3, backbone=TinyBackbone(), **{option: value})
    with refused(what="backbone", value="TinyBackbone"):
        options_of(model)
