"""DANet on your own images and label maps, in one of the layouts of docs/your_own_data.md.

    python run.py --config=configs/folder.py --mode=check --config.dataset.root=PATH
    python run.py --config=configs/folder.py --config.dataset.root=PATH --config.init.checkpoint=RESNET50

`--mode=check` reports what is read; run it before training. A folder without splits needs, for example,
`--config.dataset.options.validation=0.2`; docs/your_own_data.md explains the options.
"""

from configs import base


def get_config(backbone: str = "resnet50"):
    """Returns the recipe. `backbone` is resnet18, resnet34, resnet50 or resnet101."""
    config = base.get_config()
    config.name = f"folder_{backbone}"
    config.model.backbone = backbone
    config.dataset.name = "folder"
    config.dataset.options = {
        "labels": "auto",
        "others": "refuse",
        "ignore_label": 255,
        "label_offset": 0,
        "exif": "stored",
        "bits": 16,
        "validation": 0.0,
        "split_seed": 0,
        "masks_dir": "",
        "unlabelled": "background",
        "uncompressed": False,
    }
    config.dataset.base_size = 520
    config.dataset.crop_size = 480
    config.training.epochs = 100.0
    config.evaluation.whole_base_size = (520,)
    return config
