"""DANet, the Dual Attention Network for Scene Segmentation (arXiv 1809.02983), in JAX and Flax."""

import importlib
from typing import Any

# The module of each public name. A name is imported on first use, so that importing the package is fast.
_PUBLIC = {
    "DANet": "models.danet",
    "Logits": "models.danet",
    "PositionAttention": "models.attention",
    "ChannelAttention": "models.attention",
    "ResNet": "models.resnet",
    "position_attention": "ops.attention",
    "attention_row": "ops.attention",
    "explore": "visual.explorer.page",
    "channel_attention": "ops.channel_attention",
    "normalize": "ops.normalize",
    "multi_loss": "training.losses",
    "sgd": "training.optimizer",
    "poly_schedule": "training.optimizer",
    "TrainState": "training.state",
    "create_state": "training.state",
    "make_train_step": "training.state",
    "Segmenter": "inference.segmenter",
    "load_segmenter": "inference.segmenter",
    "Protocol": "inference.protocol",
    "load_checkpoint": "weights.checkpoint",
    "load_pretrained": "weights.initialize",
    "Classes": "classes",
    "InputError": "errors",
}

__all__ = sorted(_PUBLIC)
__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'danet_jax' has no attribute {name!r}; it has: {', '.join(__all__)}")
    value = getattr(importlib.import_module(f"danet_jax.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
