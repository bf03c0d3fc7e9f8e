"""The defaults that every recipe starts from: the paper's ResNet-101 DANet, trained as described in section 4.1."""

from danet_jax.errors import InputError
from danet_jax.recipe import defaults

ATTENTION = {"danet": (True, True), "pam": (True, False), "cam": (False, True), "fcn": (False, False)}
"""For each row of table 1, whether it has position attention and channel attention."""


def get_config():
    """Returns the defaults of `danet_jax.recipe`, which describes every option."""
    return defaults()


def set_attention(config, row: str) -> None:
    """Turns the attention modules on or off, as in a row of table 1."""
    if row not in ATTENTION:
        raise InputError(f"config variant {row!r} does not exist; there are: {', '.join(ATTENTION)}")
    config.model.position_attention, config.model.channel_attention = ATTENTION[row]
