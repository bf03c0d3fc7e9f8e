"""Street scenes whose lanes obey the light of their colour somewhere in the image, so that attention matters.

    python run.py --config=configs/far_scenes.py
    python run.py --config=configs/far_scenes.py --mode=evaluate --ablate     what attention adds

The budget is that of the quickstart. Position attention starts with alpha at 1, and with query and key weights large
enough for logits with a spread of about 1. The paper's initial values, `:paper`, leave both unused in so few steps
(docs/results.md). The other rows of the paper's table 1 are `:pam`, `:cam` and `:fcn`. `:convolutions` has DANet's
losses and convolutions, but no attention.
"""

from configs import quickstart
from danet_jax.errors import InputError

VARIANTS = ("danet", "paper", "convolutions", "pam", "cam", "fcn")


def get_config(variant: str = "danet"):
    """Returns the recipe. `variant` is one of `VARIANTS`."""
    if variant not in VARIANTS:
        raise InputError(f"config variant {variant!r} does not exist; there are: {', '.join(VARIANTS)}")
    row = "danet" if variant in ("paper", "convolutions") else variant
    config = quickstart.get_config(row)
    config.name = "far_scenes" if variant == "danet" else f"far_scenes_{variant}"
    config.dataset.options.signals = 3
    if variant == "convolutions":
        config.training.attention_multiplier = 0.0  # alpha and beta stay 0
    elif config.model.position_attention and variant != "paper":
        config.init.query_key_gain = 3.2
        config.init.alpha = 1.0
        config.training.attention_multiplier = 5.0
        config.training.decay_scales = False
    return config
