"""A backbone of two convolutions, for tests of training that need no ResNet: it compiles in a fraction of the time."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from danet_jax.models.variables import variable_shapes


class TinyBackbone(nn.Module):
    """Features of 32 channels at a quarter of the size, or with `pair` those of both convolutions at that size."""

    output_stride: int = 4
    pair: bool = False

    @nn.compact
    def __call__(self, x, train=False):
        features = []
        for channels in (16, 32):
            x = nn.Conv(channels, (3, 3), 2, padding=1)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
            features.append(x)
        x = x + jnp.mean(x, (1, 2), keepdims=True)  # what it sees depends on all of the image
        return (features[1], x) if self.pair else x


def drawn_variables(rng, model):
    """Variables of a network drawn by numpy, which takes a fraction of the time of compiling `model.init`.

    Batch statistics are not those of a fresh network, and alpha and beta are not 0, where attention has no gradient.
    """
    spreads = {"scale": (1.0, 0.2), "var": (1.0, 0.1), "alpha": (0.5, 0.0), "beta": (0.5, 0.0)}

    def draw(path, leaf):
        name = path[-1].key
        mean, spread = spreads.get(name, (0.0, 0.1))
        if name == "kernel":
            gain = 0.3 if path[-2].key in ("query", "key") else 2.0  # attention maps that are not one-hot
            spread = (gain / leaf.shape[0] / leaf.shape[1] / leaf.shape[2]) ** 0.5
        return jnp.asarray(mean + spread * rng.standard_normal(leaf.shape).clip(-3, 3), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, variable_shapes(model))
