"""CamVid at 480x360, half of its cameras' resolution, with 11 classes, on two CPU cores.

ResNet-18 reaches 62 % mIoU in a quarter of an hour, and ResNet-34 66 % in three quarters of an hour.

    python run.py --config=configs/camvid.py --config.dataset.root=PATH --config.init.checkpoint=torchvision/resnet18
    python run.py --config=configs/camvid.py:resnet34 --config.dataset.root=PATH --config.init.checkpoint=RESNET34

Frames are not rescaled, the network is trained with output stride 16 and evaluated with 8, and the heads have a
smaller learning rate than in the paper. ResNet-18 is trained with rare classes weighted up, the others on hard pixels
and with photometric augmentation. docs/results.md shows what each of these adds.

Without ImageNet weights, the backbone must learn as fast as the heads:
`--config.training.learning_rate=0.02 --config.training.head_multiplier=1`.

`config.dataset.root` is required. It contains images/{train,val}/NAME.jpg, labels/{train,val}/NAME.png and classes.csv.
Any data in this layout can be used in place of CamVid.
"""

from configs import base


def get_config(backbone: str = "resnet18"):
    """Returns the recipe. `backbone` is resnet18, resnet34, resnet50 or resnet101."""
    config = base.get_config()
    config.name = "camvid" if backbone == "resnet18" else f"camvid_{backbone}"
    config.model.backbone = backbone
    config.dataset.name = "folder"
    config.dataset.base_size = 360
    config.dataset.crop_size = 240
    # In so few epochs, training at the scale of validation is worth more than training at many scales.
    config.dataset.random_scale = False
    config.dataset.workers = 1
    config.training.batch_size = 4
    config.training.output_stride = 16
    config.training.learning_rate = 0.01
    config.training.head_multiplier = 3.0
    if backbone == "resnet18":
        config.training.steps = 2400
        config.training.class_balance = 0.5
    else:
        config.training.steps = 4000
        config.dataset.photometric = True
        config.training.ohem_threshold = 0.7
        config.training.ohem_kept = 240 * 240 // 4
    config.training.evaluate_every = config.training.steps // 2
    config.evaluation.whole_base_size = (4096, 360)  # the short side as in training, except for panoramas
    config.evaluation.flip = config.dataset.get_oneway_ref(
        "flip"
    )  # mirrored images only where training mirrors
    return config
