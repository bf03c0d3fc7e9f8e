"""DANet on PASCAL VOC 2012 aug, trained on 10,582 images (section 4.3; learning rate as in the authors' code).

    python run.py --config=configs/pascal_voc.py --config.dataset.root=PATH --config.init.checkpoint=RESNET101

`root` contains VOCtrainval_11-May-2012.tar and benchmark.tgz or their contents, with SBD wherever tools put it; or a
VOC2012 folder with SegmentationClassAug and train_aug.txt, which contain the same labels.
`--config.dataset.options.download=True` downloads both archives. The paper reports 82.6 % mIoU on the test server after
further training on train and val, which this recipe does not do. For --mode=submit, add
`--config.dataset.options.test=True` and VOC2012test.tar.
"""

from configs import base


def get_config(backbone: str = "resnet101"):
    """Returns the recipe. `backbone` is resnet50 or resnet101."""
    config = base.get_config()
    config.name = f"pascal_voc_{backbone}"
    config.model.backbone = backbone
    config.model.multi_grid = (4, 8, 16)
    config.dataset.name = "pascal_voc_aug"
    config.dataset.root = "data/downloads/pascal_voc"
    config.dataset.options = {"test": False, "download": False, "allow_partial": False, "uncompressed": False}
    config.dataset.base_size = 608
    config.dataset.crop_size = 512
    config.training.batch_size = 16
    config.training.learning_rate = 0.001 * 16 / 8
    config.training.epochs = 240.0
    return config
