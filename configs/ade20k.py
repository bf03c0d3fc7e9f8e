"""DANet on ADE20K scene parsing, 150 classes: not in the paper, with the settings of the authors' code.

    python run.py --config=configs/ade20k.py --config.dataset.root=PATH --config.init.checkpoint=RESNET101

`root` contains ADEChallengeData2016.zip or its contents; `--config.dataset.options.download=True` downloads it.
For comparison, mmsegmentation's DANet-101, trained differently for 160,000 steps, reaches 44.17 % mIoU.
"""

from configs import base


def get_config(backbone: str = "resnet101"):
    """Returns the recipe. `backbone` is resnet50 or resnet101."""
    config = base.get_config()
    config.name = f"ade20k_{backbone}"
    config.model.backbone = backbone
    config.model.multi_grid = (4, 8, 16)
    config.dataset.name = "ade20k"
    config.dataset.root = "data/downloads/ade20k"
    config.dataset.options = {"test": False, "download": False, "allow_partial": False, "uncompressed": False}
    config.dataset.base_size = 520
    config.dataset.crop_size = 480
    config.training.batch_size = 16
    config.training.learning_rate = 0.01 * 16 / 8
    config.training.epochs = 160.0
    # This is the authors' size. Some images have sides of 2000 pixels and more.
    config.evaluation.whole_base_size = (520,)
    return config
