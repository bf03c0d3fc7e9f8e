"""The paper's DANet-101 on Cityscapes: 240 epochs at batch 8, crop 768, three losses (section 4.1, table 2).

    python run.py --config=configs/cityscapes.py --config.dataset.root=PATH

`root` holds leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip, or the folders that they hold. The
paper: 79.94 % mIoU on val with multi-grid, 81.50 % with multi-scale testing.
"""

from configs import base


def get_config():
    """The row `DANet-101 + DA + Multi-Grid` of table 2."""
    config = base.get_config()
    config.name = "cityscapes"
    config.model.multi_grid = (4, 8, 16)
    config.dataset.name = "cityscapes"
    config.dataset.root = "data/cityscapes"
    return config
