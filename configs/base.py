"""Defaults that every recipe starts from: the paper's ResNet-101 DANet, trained as section 4.1 says."""

from danet_jax.recipe import defaults


def get_config():
    """The defaults of `danet_jax.recipe`, whose docstrings explain every field."""
    return defaults()
