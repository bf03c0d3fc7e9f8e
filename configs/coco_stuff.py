"""DANet on COCO Stuff 10k, 171 classes (section 4.5, table 7; learning rate as on PASCAL Context).

    python run.py --config=configs/coco_stuff.py --config.dataset.root=PATH --config.init.checkpoint=RESNET101

`root` contains cocostuff-10k-v1.1.zip or its contents; `--config.dataset.options.download=True` downloads it.
The paper reports 37.2 % mIoU with ResNet-50 (`:resnet50`) and 39.7 % with ResNet-101.
"""

from configs import base


def get_config(backbone: str = "resnet101"):
    """Returns the recipe. `backbone` is resnet50 or resnet101."""
    config = base.get_config()
    config.name = f"coco_stuff_{backbone}"
    config.model.backbone = backbone
    config.model.multi_grid = (4, 8, 16)
    config.dataset.name = "coco_stuff10k"
    config.dataset.root = "data/downloads/coco_stuff"
    config.dataset.options = {"download": False, "allow_partial": False, "uncompressed": False}
    config.dataset.base_size = 608
    config.dataset.crop_size = 512
    config.training.batch_size = 16
    config.training.learning_rate = 0.001 * 16 / 8
    config.training.epochs = 180.0
    return config
