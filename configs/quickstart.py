"""A ResNet-18 DANet on synthetic street scenes, trained in minutes on a laptop CPU without any download.

    python run.py --config=configs/quickstart.py

`configs/quickstart.py:fcn` is the dilated FCN without attention, the baseline of table 1, with the same budget.
"""

from configs import base


def get_config(variant: str = "danet"):
    """Returns the recipe. `variant` is danet, pam, cam or fcn."""
    config = base.get_config()
    config.name = "quickstart" if variant == "danet" else f"quickstart_{variant}"
    base.set_attention(config, variant)
    config.model.backbone = "resnet18"
    config.dataset.name = "scenes"
    config.dataset.options = {"height": 144, "width": 144, "train": 400, "val": 80, "seed": 0, "signals": 1}
    # Crops are whole images, so that each contains the lamp that determines the road's label.
    config.dataset.base_size = 144
    config.dataset.crop_size = 144
    config.dataset.random_scale = False
    config.dataset.workers = 1
    config.training.batch_size = 4
    config.training.steps = 560
    config.training.learning_rate = 0.01
    config.training.head_multiplier = 1.0
    config.training.evaluate_every = 200
    return config
