"""A network of three convolutions with DANet's call, in Flax and in PyTorch: it compiles in a blink.

It looks at its surroundings and, like attention, at the whole of its input, so that it shows where windows lie and
what they are padded with.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F

from danet_jax.models.danet import Logits
from danet_jax.models.layers import masked, valid_mask
from danet_jax.ops.resize import resize_bilinear

WIDTH = 8


class SmallNetwork(nn.Module):
    num_classes: int
    align_corners: bool = True
    output_stride: int = 8

    @nn.compact
    def __call__(self, images, *, sizes=None, upsample=True, train=False):
        x, at = images, sizes
        for layer in range(3):
            kernel = self.param(f"kernel{layer}", nn.initializers.zeros, (3, 3, x.shape[-1], WIDTH))
            x = jax.lax.conv_general_dilated(
                masked(x, valid_mask(x, at)),
                kernel,
                (2, 2),
                ((1, 1), (1, 1)),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            x = jnp.tanh(x)
            at = None if at is None else (at + 1) // 2
        if at is None:
            mean = x.mean((1, 2), keepdims=True)
        else:
            mask = valid_mask(x, at).astype(x.dtype)
            mean = (x * mask).sum((1, 2), keepdims=True) / mask.sum((1, 2), keepdims=True)
        x = (x + mean) @ self.param("classifier", nn.initializers.zeros, (WIDTH, self.num_classes))
        if upsample:
            x = resize_bilinear(
                x, images.shape[1:3], align_corners=self.align_corners, input_sizes=at, output_sizes=sizes
            )
        return Logits(x)


def small_networks(rng, num_classes=5, align_corners=True, gain=2.0, common=0.0):
    """The Flax network, its variables, and the same in PyTorch (of the floating type of its input).

    `gain` is how far apart logits are, `common` how far those of all classes go up and down together.
    """
    params = {
        f"kernel{layer}": rng.standard_normal((3, 3, 3 if layer == 0 else WIDTH, WIDTH), np.float32) * 0.3
        for layer in range(3)
    }
    params["classifier"] = rng.standard_normal((WIDTH, num_classes), np.float32) * gain
    params["classifier"] += rng.standard_normal((WIDTH, 1), np.float32) * common

    def in_torch(x: torch.Tensor) -> torch.Tensor:
        size = x.shape[2:]
        for layer in range(3):
            kernel = torch.from_numpy(params[f"kernel{layer}"].transpose(3, 2, 0, 1).copy()).to(x.dtype)
            x = torch.tanh(F.conv2d(x, kernel, stride=2, padding=1))
        x = x + x.mean((2, 3), keepdim=True)
        x = torch.einsum("bchw,ck->bkhw", x, torch.from_numpy(params["classifier"]).to(x.dtype))
        return F.interpolate(x, size, mode="bilinear", align_corners=align_corners)

    return SmallNetwork(num_classes, align_corners=align_corners), {"params": params}, in_torch
