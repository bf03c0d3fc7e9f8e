"""DANet on COCO Stuff 164k, 171 classes: not in the paper, with the settings of COCO Stuff 10k.

    python run.py --config=configs/coco_stuff164k.py --config.dataset.root=PATH --config.init.checkpoint=RESNET101

`root` contains train2017.zip, val2017.zip and stuffthingmaps_trainval2017.zip, or mmsegmentation's folder of them;
`--config.dataset.options.download=True` downloads them (21 GB). There are 13 times as many images as in COCO Stuff 10k,
so 14 epochs take as many steps as 180 epochs there.
"""

from configs import base


def get_config(backbone: str = "resnet101"):
    """Returns the recipe. `backbone` is resnet50 or resnet101."""
    config = base.get_config()
    config.name = f"coco_stuff164k_{backbone}"
    config.model.backbone = backbone
    config.model.multi_grid = (4, 8, 16)
    config.dataset.name = "coco_stuff164k"
    config.dataset.root = "data/downloads/coco_stuff164k"
    config.dataset.options = {"download": False, "allow_partial": False, "uncompressed": False}
    config.dataset.base_size = 608
    config.dataset.crop_size = 512
    config.training.batch_size = 16
    config.training.learning_rate = 0.001 * 16 / 8
    config.training.epochs = 14.0
    return config
