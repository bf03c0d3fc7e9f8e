"""CamVid at half resolution, 11 classes, for a small machine.

    python run.py --config=configs/camvid.py --config.dataset.root=PATH/camvid
    python run.py --config=configs/camvid.py:resnet34 --config.init.from=resnet34.safetensors

`root` holds images/{train,val}/NAME.jpg, labels/{train,val}/NAME.png and classes.csv; any data laid out
like this can take CamVid's place.
"""

from configs import base


def get_config(backbone: str = "resnet18"):
    """`backbone`: resnet18, resnet34, resnet50 or resnet101."""
    config = base.get_config()
    config.name = "camvid" if backbone == "resnet18" else f"camvid_{backbone}"
    config.model.backbone = backbone
    config.dataset.name = "folder"
    config.dataset.root = "../shared/data/camvid"
    config.dataset.base_size = 180
    config.dataset.crop_size = 160
    config.dataset.workers = 1
    config.training.batch_size = 8
    config.training.epochs = 40.0
    config.training.learning_rate = 0.02
    config.training.head_multiplier = 1.0
    config.evaluation.base_size = (240,)
    return config
