"""DANet on PASCAL Context, 59 classes (section 4.4, table 6; learning rate as in the authors' code).

    python run.py --config=configs/pascal_context.py --config.dataset.root=PATH --config.init.checkpoint=RESNET101

`root` contains VOCtrainval_03-May-2010.tar and trainval.tar.gz or their contents;
`--config.dataset.options.download=True` downloads both. The paper reports 50.1 % mIoU with ResNet-50 (`:resnet50`) and
52.6 % with ResNet-101, over 60 classes; `--config.dataset.options.background=True` trains and evaluates with those.
Networks of the authors' code and of mmsegmentation order the classes differently, which
`--config.dataset.options.by_category=True` does too.
"""

from configs import base


def get_config(backbone: str = "resnet101"):
    """Returns the recipe. `backbone` is resnet50 or resnet101."""
    config = base.get_config()
    config.name = f"pascal_context_{backbone}"
    config.model.backbone = backbone
    config.model.multi_grid = (4, 8, 16)
    config.dataset.name = "pascal_context"
    config.dataset.root = "data/downloads/pascal_context"
    config.dataset.options = {
        "background": False,
        "by_category": False,
        "download": False,
        "allow_partial": False,
        "uncompressed": False,
    }
    config.dataset.base_size = 608
    config.dataset.crop_size = 512
    config.training.batch_size = 16
    config.training.learning_rate = 0.001 * 16 / 8
    config.training.epochs = 240.0
    return config
