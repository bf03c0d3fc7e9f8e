"""Arguments that make no sense: one line that names the argument, what it holds and what it takes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from danet_jax import (
    ChannelAttention,
    DANet,
    InputError,
    PositionAttention,
    attention_row,
    channel_attention,
    normalize,
    position_attention,
)
from danet_jax.ops.attention import attention_column, row_logsumexp
from danet_jax.ops.resize import resize_bilinear
from danet_jax.ops.upsampled_cross_entropy import upsampled_cross_entropy

X = np.zeros((2, 6, 16), np.float32)
MAP = np.zeros((1, 4, 5, 16), np.float32)
INDEX = np.array([[1, 2], [0, 5]])


def small(**options):
    return DANet(3, **{"backbone": "resnet18", **options})


def applied(images, **options):
    return jax.eval_shape(small().init, jax.random.key(0), images, **options)


CALLS = {
    "num_classes=2.5 must be a whole number": lambda: DANet(2.5),
    "num_classes=True": lambda: DANet(True),
    "num_classes=0": lambda: DANet(0),
    "num_classes='19'": lambda: DANet("19"),
    "dropout_rate=1.5 must be a number of at least 0 and less": lambda: small(dropout_rate=1.5),
    "dropout_rate=nan": lambda: small(dropout_rate=float("nan")),
    "dropout_rate='a'": lambda: small(dropout_rate="a"),
    "attention_backend='x' does not exist; there are: auto": lambda: small(attention_backend="x"),
    "dtype=int32 must be float32 or bfloat16": lambda: small(dtype=jnp.int32),
    "dtype='floaty'": lambda: small(dtype="floaty"),
    "multi_grid's dilation=0": lambda: small(multi_grid=(0, 0, 0)),
    "multi_grid's dilation=1.5": lambda: small(multi_grid=(1.5, 2)),
    "multi_grid=4 must be": lambda: small(multi_grid=4),
    "too short": lambda: small(multi_grid=(4,)),
    r"backbone=\['resnet18'\] does not exist": lambda: DANet(3, backbone=["resnet18"]),
    "stem=None does not exist": lambda: small(stem=None),
    "output_stride=8.0": lambda: small(output_stride=8.0),
    "output_stride=4 does not exist; there are: 8, 16, 32": lambda: small(output_stride=4),
    "align_corners='no' must be True or False": lambda: small(align_corners="no"),
    "phases='yes'": lambda: small(phases="yes"),
    "uint8; the network takes what danet_jax.normalize": lambda: applied(np.zeros((1, 32, 32, 3), np.uint8)),
    r"images must be float \[B, H, W, 3\].*not \[1, 3, 32, 32\]": lambda: applied(
        np.zeros((1, 3, 32, 32), np.float32)
    ),
    r"not \[0, 32, 32, 3\]": lambda: applied(np.zeros((0, 32, 32, 3), np.float32)),
    "images must be an array": lambda: applied([[1.0]]),
    "sizes must be integer": lambda: applied(np.zeros((1, 32, 32, 3), np.float32), sizes=np.zeros((1, 2))),
    "sizes and images differ in B": lambda: applied(
        np.zeros((1, 32, 32, 3), np.float32), sizes=np.ones((2, 2), np.int32)
    ),
    "images are float32 of at most 0.5": lambda: normalize(np.full((2, 2, 3), 0.5, np.float32)),
    r"images must be an array \[..., 3\] of RGB, not \[3, 4, 4\]": lambda: normalize(
        np.zeros((3, 4, 4), np.uint8)
    ),
    "images must be uint8, or float": lambda: normalize(np.zeros((4, 4, 3), np.int32)),
    "images must be an array .*list": lambda: normalize([[0, 0, 0]]),
    "mean=.* must be three numbers": lambda: normalize(
        np.zeros((4, 4, 3), np.uint8), mean=(0.5, float("nan"), 0.5)
    ),
    "mean=.* divide it by 255": lambda: normalize(
        np.zeros((4, 4, 3), np.uint8), mean=(123.675, 116.28, 103.53)
    ),
    "std=.* must be three numbers": lambda: normalize(np.zeros((4, 4, 3), np.uint8), std=(1.0, 0.0, 1.0)),
    "query must be float": lambda: position_attention(*(np.zeros((1, 4, 8), np.int32),) * 3),
    r"query must be float.*not \[2, 0, 16\]": lambda: position_attention(X[:, :0], X, X),
    "query must be an array": lambda: position_attention([1.0], X, X),
    "query must be float .*not \\[6, 16\\]": lambda: position_attention(X[0], X, X),
    "key and query differ in Ck, 8 and 16": lambda: position_attention(X, X[..., :8], X),
    "value and key differ in M, 5 and 6": lambda: position_attention(X, X, X[:, :5]),
    "key_mask must be bool": lambda: position_attention(X, X, X, key_mask=np.ones((2, 6))),
    "key_mask and query differ in B": lambda: position_attention(X, X, X, key_mask=np.ones((1, 6), bool)),
    "attention backend=3": lambda: position_attention(X, X, X, backend=3),
    "index holds 0 to 6; it must lie in 0 to 5": lambda: attention_row(X, X, INDEX + INDEX // 5),
    "index holds -1": lambda: attention_row(X, X, INDEX - 1),
    "index must be integer": lambda: attention_row(X, X, INDEX * 1.0),
    "index holds 1 to 9": lambda: attention_column(
        X, X, X[..., 0], 2 * INDEX.clip(1)[:, ::-1] - 1 + INDEX // 5
    ),
    "rows=0 must be a whole number": lambda: row_logsumexp(X, X, rows=0),
    "features must be float": lambda: channel_attention(X.astype(np.int8)),
    r"features must be .*not \[1, 4, 5, 16\]": lambda: channel_attention(MAP),
    "energy='sum' does not exist; there are: official, paper": lambda: channel_attention(X, energy="sum"),
    "mask and features differ in N": lambda: channel_attention(X, mask=np.ones((2, 5), bool)),
    "x has 4 channels": lambda: PositionAttention().init(jax.random.key(0), MAP[..., :4]),
    "key_features=0": lambda: PositionAttention(key_features=0),
    "backend='y'": lambda: PositionAttention(backend="y"),
    "energy='y'": lambda: ChannelAttention(energy="y"),
    r"x must be float \[B, H, W, C\]": lambda: ChannelAttention().init(jax.random.key(0), X),
    "logits must be float": lambda: upsampled_cross_entropy(X, X, align_corners=True),
    "labels must be integer": lambda: upsampled_cross_entropy(MAP, MAP[..., 0], align_corners=True),
    "shape's W=0": lambda: resize_bilinear(MAP, (4, 0), align_corners=True),
}


@pytest.mark.parametrize("message", CALLS)
def test_one_line_names_the_argument(message):
    with pytest.raises(InputError, match=message) as caught:
        CALLS[message]()
    assert "\n" not in str(caught.value)


def test_what_is_right_is_taken():
    x = jnp.asarray(X)
    assert position_attention(x, x, x).shape == x.shape
    assert attention_row(x, x, INDEX).shape == (2, 2, 6)
    assert normalize(np.full((4, 4, 3), 255.0, np.float32)).shape == (4, 4, 3)
    assert normalize(np.zeros((4, 4, 3), np.float32)).shape == (4, 4, 3)  # black
