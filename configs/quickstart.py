"""A ResNet-18 DANet on synthetic street scenes: trained in minutes on a laptop CPU, without a download.

    python run.py --config=configs/quickstart.py

`configs/quickstart.py:fcn` is the dilated FCN without attention under the same budget (table 1's baseline).
"""

from configs import base


def get_config(variant: str = "danet"):
    """`variant`: danet, pam, cam or fcn."""
    config = base.get_config()
    config.name = "quickstart" if variant == "danet" else f"quickstart_{variant}"
    base.set_attention(config, variant)
    config.model.backbone = "resnet18"
    config.dataset.name = "scenes"
    config.dataset.options = {"height": 144, "width": 144, "train": 400, "val": 80, "seed": 0, "signals": 1}
    # Crops are whole images, so that the lamp that decides the road's label is in each of them.
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
