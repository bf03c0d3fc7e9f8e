"""A network on a backbone of the caller's own: trained for a step, and applied to images of several sizes."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from danet_jax import DANet, Segmenter, create_state, make_train_step, poly_schedule, sgd
from danet_jax.models.options import options_of
from danet_jax.models.resnet import ResNet
from danet_jax.training.mesh import make_mesh
from tests.reference.refusal import refused


class Strided(nn.Module):
    """Two strided convolutions, whose features of padded images would differ from those of the images alone."""

    output_stride: int = 4
    pair: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train=False):
        features = []
        for channels in (16, 32):
            x = nn.Conv(channels, (3, 3), 2, padding=1, dtype=self.dtype)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
            features.append(x)
        x = x + jnp.mean(x, (1, 2), keepdims=True)  # what it sees depends on all of the image
        return (features[1], x) if self.pair else x


class WithoutOptions(nn.Module):
    """One that knows neither `train` nor `sizes`."""

    output_stride: int = 8

    @nn.compact
    def __call__(self, x):
        return nn.Conv(32, (8, 8), 8, padding=[(0, -x.shape[1] % 8), (0, -x.shape[2] % 8)])(x)


@pytest.mark.parametrize("auxiliary", [False, True])
def test_a_step_of_training_and_images_of_three_sizes(rng, auxiliary):
    model = DANet(3, backbone=Strided(pair=auxiliary), auxiliary=auxiliary)
    assert model.output_stride == 4
    assert not model.accepts_sizes
    optimizer = sgd(poly_schedule(0.1, 10))
    state = create_state(model, optimizer, 0, make_mesh(devices=jax.devices()[:1]))
    before = jax.device_get(state.params)
    assert set(before) == {"backbone", "head", *(["auxiliary"] if auxiliary else [])}
    batch = {
        "image": rng.integers(0, 256, (2, 32, 32, 3), np.uint8),
        "label": rng.integers(0, 3, (2, 32, 32)).astype(np.uint8),
    }
    state, metrics = make_train_step(model, optimizer)(state, batch)
    assert np.isfinite(metrics["loss"])
    assert ("loss_auxiliary" in metrics) == auxiliary
    changed = jax.tree.map(lambda a, b: bool(np.any(a != b)), before, jax.device_get(state.params))
    assert changed["backbone"]["Conv_0"]["kernel"]
    assert changed["head"]["fusion_classifier"]["kernel"]

    segment = Segmenter(model, state.variables)
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in ((21, 34), (32, 32), (13, 50))]
    normalised = [(image / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225) for image in images]
    for image, x in zip(images, normalised, strict=True):
        logits = model.apply(state.variables, jnp.asarray(x[None], jnp.float32)).fusion[0]
        labels = np.asarray(segment(image))
        assert labels.shape == image.shape[:2]
        # Where two classes are as likely, rounding may decide.
        margin = np.diff(np.sort(np.asarray(logits), -1)[..., -2:], axis=-1)[..., 0]
        np.testing.assert_array_equal(labels[margin > 1e-4], logits.argmax(-1)[margin > 1e-4])


def test_a_resnet_as_a_module_equals_the_named_one(rng):
    images = jnp.asarray(rng.standard_normal((1, 33, 41, 3)), jnp.float32)
    sizes = jnp.asarray([[30, 37]], jnp.int32)
    named = DANet(3, backbone="resnet18", output_stride=32)
    own = DANet(3, backbone=ResNet("resnet18", output_stride=32))
    assert own.accepts_sizes
    variables = named.init(jax.random.key(int(rng.integers(2**31))), images)
    theirs, ours = (model.apply(variables, images, sizes=sizes) for model in (named, own))
    jax.tree.map(np.testing.assert_array_equal, theirs, ours)


def test_a_backbone_that_knows_no_options(rng):
    images = jnp.asarray(rng.standard_normal((1, 19, 24, 3)), jnp.float32)
    model = DANet(2, backbone=WithoutOptions(), position_attention=False)
    logits, _ = model.init_with_output(jax.random.key(0), images)
    assert logits.fusion.shape == (1, 19, 24, 2)


class TooSmall(Strided):
    def __call__(self, x, train=False):
        return super().__call__(x[:, ::2, ::2], train)


def test_what_is_refused(rng):
    images = jnp.asarray(rng.standard_normal((1, 32, 32, 3)), jnp.float32)
    key = jax.random.key(0)
    model = DANet(3, backbone=Strided())
    with refused(what="sizes"):
        model.init(key, images, sizes=jnp.ones((1, 2), jnp.int32))
    for backbone in (TooSmall(), nn.Dense(3), Strided(output_stride="4"), Strided(name="net")):
        with refused(what="backbone"):
            DANet(3, backbone=backbone).init(key, images)
    with refused(what="backbone"):
        DANet(3, backbone=Strided(), auxiliary=True).init(key, images)
    for option, value in {
        "stem": "v1c",
        "multi_grid": (4, 8, 16),
        "output_stride": 16,
        "phases": True,
    }.items():
        with refused(what=option):
            DANet(3, backbone=Strided(), **{option: value})
    # Files say what a network is by the names of its parts.
    with refused(what="backbone", value="Strided"):
        options_of(model)
