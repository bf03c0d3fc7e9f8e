"""Invalid options and arguments are refused by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from danet_jax import (
    ChannelAttention,
    DANet,
    PositionAttention,
    ResNet,
    attention_row,
    channel_attention,
    normalize,
    position_attention,
)
from danet_jax.ops.attention import BACKENDS, attention_column, check_backend_runs, row_logsumexp
from danet_jax.ops.resize import resize_bilinear
from danet_jax.ops.upsampled_cross_entropy import upsampled_cross_entropy
from tests.reference.refusal import refused

X = np.zeros((2, 6, 16), np.float32)
MAP = np.zeros((1, 4, 5, 16), np.float32)
IMAGES = np.zeros((1, 32, 32, 3), np.float32)
IMAGE_8_BIT = np.zeros((4, 4, 3), np.uint8)
INDEX = np.array([[1, 2], [0, 5]])
NO_KEYS = np.array([[True] * 6, [False] * 6])


def initialised(module, *arrays, train=False, **options):
    options |= {"train": train} if train else {}
    return module.init(jax.random.key(0), *arrays, **options)


OPTIONS = {
    "num_classes": (2.5, True, 0, "19", None),
    "backbone": ("resnet5", ["resnet18"], None, 18),
    "stem": ("v2", None),
    "output_stride": (8.0, 4, None),
    "multi_grid": ((4,), (4, 8, 16, 32), (0, 0), (1.5, 2), 4, "48"),
    "position_attention": (1, None, "yes"),
    "channel_attention": ("no",),
    "channel_energy": ("mine", None),
    "align_corners": ("no",),
    "auxiliary": (2,),
    "dropout_rate": (1.5, float("nan"), "a", True, -0.1),
    "attention_backend": ("x", None),
    "dtype": (jnp.int32, "floaty", jnp.float64),
    "param_dtype": (jnp.uint8, jnp.float64),
    "precision": ("exact", 3, ("high",), object()),
    "phases": ("yes", 1),
    "remat": ("all", None),
    "second_dilation": ("no",),
}


@pytest.mark.parametrize("option", OPTIONS)
def test_invalid_options_of_networks(option):
    for value in OPTIONS[option]:
        with refused(what=option) as caught:
            DANet(**{"num_classes": 3, "backbone": "resnet18", option: value})
        assert caught.value.allowed is not None


def test_invalid_options_of_modules():
    for make, what in (
        (lambda: PositionAttention(key_features=0), "key_features"),
        (lambda: PositionAttention(backend="y"), "backend"),
        (lambda: PositionAttention(dtype="int8"), "dtype"),
        (lambda: PositionAttention(precision="exact"), "precision"),
        (lambda: ChannelAttention(energy="y"), "energy"),
        (lambda: ChannelAttention(param_dtype=jnp.int32), "param_dtype"),
        (lambda: ResNet(backbone="resnet5"), "backbone"),
        (lambda: ResNet(multi_grid=(4, 8, 16, 32)), "multi_grid"),
    ):
        with refused(what=what):
            make()


CALLS = [
    ("images", lambda: initialised(DANet(3), IMAGES.astype(np.uint8))),
    ("images", lambda: initialised(DANet(3), IMAGES.transpose(0, 3, 1, 2))),
    ("images", lambda: initialised(DANet(3), IMAGES[:0])),
    ("images", lambda: initialised(DANet(3), [[1.0]])),
    ("sizes", lambda: initialised(DANet(3), IMAGES, sizes=np.zeros((1, 2)))),
    ("sizes", lambda: initialised(DANet(3), IMAGES, sizes=np.ones((2, 2), np.int32))),
    ("sizes", lambda: initialised(DANet(3), IMAGES, sizes=np.ones((1, 2), np.int32), train=True)),
    ("images", lambda: normalize(np.full((2, 2, 3), 0.5, np.float32))),
    ("images", lambda: normalize(np.zeros((3, 4, 4), np.uint8))),
    ("images", lambda: normalize(IMAGE_8_BIT.astype(np.int32))),
    ("images", lambda: normalize([[0, 0, 0]])),
    ("mean", lambda: normalize(IMAGE_8_BIT, mean=(0.5, float("nan"), 0.5))),
    ("mean", lambda: normalize(IMAGE_8_BIT, mean=(123.675, 116.28, 103.53))),
    ("mean", lambda: normalize(IMAGE_8_BIT, mean="rgb")),
    ("std", lambda: normalize(IMAGE_8_BIT, std=(1.0, 0.0, 1.0))),
    ("query", lambda: position_attention(*(np.zeros((1, 4, 8), np.int32),) * 3)),
    ("query", lambda: position_attention(X[:, :0], X, X)),
    ("query", lambda: position_attention([1.0], X, X)),
    ("query", lambda: position_attention(X[0], X, X)),
    ("key", lambda: position_attention(X, X[..., :8], X)),
    ("value", lambda: position_attention(X, X, X[:, :5])),
    ("key_mask", lambda: position_attention(X, X, X, key_mask=np.ones((2, 6)))),
    ("key_mask", lambda: position_attention(X, X, X, key_mask=np.ones((1, 6), bool))),
    ("key_mask", lambda: position_attention(X, X, X, key_mask=np.ones((2, 6, 1), bool))),
    ("backend", lambda: position_attention(X, X, X, backend=3)),
    ("backend", lambda: position_attention(X, X, X, backend="flash")),
    ("index", lambda: attention_row(X, X, INDEX + INDEX // 5)),
    ("index", lambda: attention_row(X, X, INDEX - 1)),
    ("index", lambda: attention_row(X, X, INDEX * 1.0)),
    ("key_mask", lambda: attention_row(X, X, INDEX, key_mask=NO_KEYS)),
    ("key_mask", lambda: row_logsumexp(X, X, key_mask=NO_KEYS)),
    ("index", lambda: attention_column(X, X, X[..., 0], INDEX + 5)),
    ("logsumexp", lambda: attention_column(X, X, X, INDEX)),
    ("rows", lambda: row_logsumexp(X, X, rows=0)),
    ("features", lambda: channel_attention(X.astype(np.int8))),
    ("features", lambda: channel_attention(MAP)),
    ("energy", lambda: channel_attention(X, energy="sum")),
    ("mask", lambda: channel_attention(X, mask=np.ones((2, 5), bool))),
    ("key_features", lambda: initialised(PositionAttention(), MAP[..., :4])),
    ("x", lambda: initialised(ChannelAttention(), X)),
    ("mask", lambda: initialised(PositionAttention(), MAP, np.ones((1, 5, 4, 1), bool))),
    ("mask", lambda: initialised(PositionAttention(), MAP, np.ones((1, 4, 5, 1), np.float32))),
    ("mask", lambda: initialised(ChannelAttention(), MAP, np.ones((1, 20), bool))),
    ("mask", lambda: initialised(ChannelAttention(), MAP, np.ones((1, 4, 5, 16), bool))),
    ("logits", lambda: upsampled_cross_entropy(X, X, align_corners=True)),
    ("labels", lambda: upsampled_cross_entropy(MAP, MAP[..., 0], align_corners=True)),
    (
        "class_weights",
        lambda: upsampled_cross_entropy(
            MAP, MAP[..., 0].astype(int), align_corners=True, class_weights=(1.0, 2.0)
        ),
    ),
    ("shape[1]", lambda: resize_bilinear(MAP, (4, 0), align_corners=True)),
]


@pytest.mark.parametrize(("what", "call"), CALLS)
def test_invalid_arguments_of_functions(what, call):
    with refused(what=what):
        call()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("platform", ["cpu", "gpu", "rocm", "tpu"])
def test_backends_are_refused_by_platform(backend, platform):
    runs_on = {"splash": "tpu", "cudnn": "gpu"}.get(backend, platform)
    if runs_on == platform:
        check_backend_runs("config.model.attention_backend", backend, platform, jnp.bfloat16)
    else:
        with refused(what="config.model.attention_backend", value=backend):
            check_backend_runs("config.model.attention_backend", backend, platform, jnp.bfloat16)
    if backend == "cudnn":
        with refused(what="backend", value="cudnn"):
            check_backend_runs("backend", backend, platform, jnp.float32)


def test_valid_arguments():
    with jax.enable_x64(True):
        assert DANet(3, dtype=jnp.float64).dtype == jnp.float64
    for black_or_white in (0.0, 255.0):
        assert normalize(np.full((4, 4, 3), black_or_white, np.float32)).shape == (4, 4, 3)
