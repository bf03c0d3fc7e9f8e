"""CamVid in 480x360, half of its cameras' resolution, 11 classes, on two CPU cores.

ResNet-18: half an hour, 58 % mIoU. ResNet-34: three quarters of an hour, 65 %.

    python run.py --config=configs/camvid.py --config.dataset.root=PATH/camvid --config.init.from=torchvision/resnet18
    python run.py --config=configs/camvid.py:resnet34 --config.init.from=resnet34.safetensors

ResNet-34 sees frames at full size, is trained with output stride 16 and used with 8, learns from hard pixels, and with
smaller steps in the heads than the paper's: docs/results.md has what each is worth.

Without ImageNet weights the backbone must learn as fast as the heads:
`--config.training.learning_rate=0.02 --config.training.head_multiplier=1`.

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
    config.dataset.base_size = 300
    config.dataset.crop_size = 160
    # In so few epochs, seeing things at the size they have in validation is worth more than seeing them at all.
    config.dataset.random_scale = False
    config.dataset.workers = 1
    config.training.batch_size = 4
    config.training.steps = 2400
    config.training.learning_rate = 0.005
    config.training.evaluate_every = 600
    config.evaluation.whole_base_size = (4096, 300)  # the short side as in training, for all but panoramas
    if backbone == "resnet34":
        config.dataset.base_size = 360
        config.dataset.crop_size = 240
        config.training.output_stride = 16
        config.training.steps = 4000
        config.training.learning_rate = 0.01
        config.training.head_multiplier = 3.0
        config.training.ohem_threshold = 0.7
        config.training.ohem_kept = 240 * 240 // 4
        config.training.evaluate_every = 2000
        config.evaluation.whole_base_size = (4096, 360)
        config.evaluation.flip = True  # 62.3 without, 65.1 with
    return config
