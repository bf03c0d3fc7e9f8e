"""Defaults that every recipe starts from: the paper's ResNet-101 DANet, trained as section 4.1 says."""

from danet_jax.errors import InputError
from danet_jax.recipe import defaults

ATTENTION = {"danet": (True, True), "pam": (True, False), "cam": (False, True), "fcn": (False, False)}
"""Rows of table 1 -> position attention, channel attention."""


def get_config():
    """The defaults of `danet_jax.recipe`, whose docstrings explain every field."""
    return defaults()


def set_attention(config, row: str) -> None:
    """Switches the attention modules as in a row of table 1."""
    if row not in ATTENTION:
        raise InputError(f"config variant {row!r} does not exist; there are: {', '.join(ATTENTION)}")
    config.model.position_attention, config.model.channel_attention = ATTENTION[row]
