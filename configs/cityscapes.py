"""DANet on Cityscapes as in the paper: 240 epochs at batch 8, crop 768, three losses (section 4.1).

    python run.py --config=configs/cityscapes.py --config.dataset.root=PATH --config.init.checkpoint=RESNET101

`root` contains leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip or their contents; RESNET101 is a checkpoint
trained on ImageNet. A row of the paper's tables 1 and 2 is selected by the words that describe it:

    mIoU on val, %                                     --config=configs/cityscapes.py:ROW
    ResNet-50:  FCN 70.03, PAM 75.74, CAM 74.28        resnet50,fcn   resnet50,pam   resnet50,cam
                both 76.34                             resnet50,danet
    ResNet-101: FCN 72.54, PAM 77.03, CAM 76.55        resnet101,fcn  resnet101,pam  resnet101,cam
                both 77.57                             resnet101,danet
                + random scaling 78.83                 resnet101,danet,da
                + multi-grid 79.94 (the default)       resnet101,danet,da,multi_grid
                + multi-scale testing 81.50            resnet101,danet,da,multi_grid,multi_scale

During training, the validation images are scored as a whole. The paper's numbers are obtained with the authors' windows
and flips: `--mode=evaluate --config.evaluation.protocol=authors`. `multi_scale` changes only the evaluation, so it
applies to the same run.
"""

from configs import base
from danet_jax.errors import InputError
from danet_jax.models.resnet import BLOCKS

_WORDS = {
    "backbone": ("resnet101", "resnet50", "resnet34", "resnet18"),
    "attention": tuple(base.ATTENTION),
    "random scaling": ("da",),
    "multi-grid": ("multi_grid",),
    "evaluation": ("multi_scale",),
}
_DEFAULT = "resnet101,danet,da,multi_grid"


def get_config(row: str = _DEFAULT):
    """Returns the recipe. `row` lists `_WORDS`, separated by commas, at most one of each kind; none implies another."""
    chosen = _chosen(row)
    config = base.get_config()
    named = [word for kind, word in chosen.items() if kind != "evaluation"]
    config.name = "cityscapes" if named == _DEFAULT.split(",") else "_".join(["cityscapes", *named])
    config.model.backbone = chosen["backbone"]
    base.set_attention(config, chosen["attention"])
    if "multi-grid" in chosen:
        config.model.multi_grid = (4, 8, 16)[
            : BLOCKS[chosen["backbone"]][-1]
        ]  # ResNet-18 has only two blocks there
    config.dataset.name = "cityscapes"
    config.dataset.root = "data/downloads/cityscapes"
    config.dataset.options = {"coarse": False, "allow_partial": False, "uncompressed": False}
    config.dataset.random_scale = "random scaling" in chosen
    if chosen["attention"] == "fcn":
        config.training.learning_rate = 0.01  # a single loss
    if "evaluation" in chosen:
        config.evaluation.protocol = "authors_ms"
    return config


def _chosen(row: str) -> dict[str, str]:
    """Returns the chosen word of each kind, in the order of `_WORDS`."""
    words = [word for word in row.split(",") if word]
    chosen = {"backbone": "resnet101", "attention": "danet"}
    for word in words:
        kinds = [kind for kind, known in _WORDS.items() if word in known]
        if not kinds:
            known = ", ".join(word for known in _WORDS.values() for word in known)
            raise InputError(f"configs/cityscapes.py:{row}: no word {word!r}; there are: {known}")
        [kind] = kinds
        if sum(other in _WORDS[kind] for other in words) > 1:
            raise InputError(f"configs/cityscapes.py:{row}: names the {kind} twice")
        chosen[kind] = word
    return {kind: chosen[kind] for kind in _WORDS if kind in chosen}
