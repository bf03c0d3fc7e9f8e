"""`config.model`: the network."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from danet_jax.errors import InputError
from danet_jax.models.layers import REMAT
from danet_jax.models.options import TRAINING_DTYPES
from danet_jax.models.resnet import BLOCKS, OUTPUT_STRIDES, STEMS
from danet_jax.ops.attention import BACKENDS
from danet_jax.ops.channel_attention import ENERGIES
from danet_jax.recipe.types import Dilations, Group, Names


class ModelOptions(Group):
    """The network: the arguments of `danet_jax.DANet`."""

    backbone: Annotated[str, Names(BLOCKS)] = Field(
        "resnet101",
        description="The dilated ResNet below the attention modules (section 3.1). Smaller ones are faster and less "
        "accurate.",
    )
    stem: Annotated[str, Names(STEMS)] = Field(
        "v1",
        description="The first layers of the backbone. v1 is one 7x7 convolution, as in torchvision and the authors' "
        "code; v1c (mmsegmentation) and v1s (PyTorch-Encoding) are three 3x3 convolutions. Set it to that of the "
        "checkpoint that training starts from.",
    )
    output_stride: Annotated[int, Names(OUTPUT_STRIDES)] = Field(
        8,
        description="How many image pixels, along each side, one position of the feature map covers. Larger strides "
        "are faster and coarser.",
    )
    multi_grid: Dilations = Field(
        (),
        description="The dilations of the blocks of layer4. The paper's best network has (4, 8, 16) (table 2); () "
        "keeps the backbone's own.",
    )
    second_dilation: bool = Field(
        True,
        description="Whether the second convolution of a basic block (resnet18, resnet34) is dilated too, as in the "
        "authors' code. False is for weights from mmsegmentation.",
    )
    position_attention: bool = Field(
        True, description="Whether the network has the position attention module (section 3.2)."
    )
    channel_attention: bool = Field(
        True,
        description="Whether the network has the channel attention module (section 3.3). With neither module it is the "
        "dilated FCN of table 1.",
    )
    channel_energy: Annotated[str, Names(ENERGIES)] = Field(
        "official",
        description='How channel attention computes its energies. "official" subtracts them from the maximum of their '
        'row, as the authors\' code and every published checkpoint; "paper" is equation 3.',
    )
    align_corners: bool = Field(
        True,
        description="Whether logits are upsampled with the centres of the corner pixels in place, as in the authors' "
        "code.",
    )
    auxiliary: bool = Field(
        False,
        description="Whether layer3 has an auxiliary head, as in mmsegmentation. Its loss helps training; predictions "
        "do not use it.",
    )
    dropout_rate: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="The share of channels that are dropped before each classifier in training. Raise it if the "
        "network overfits.",
    )
    dtype: Annotated[str, Names(TRAINING_DTYPES)] = Field(
        "float32",
        description="The dtype of the computation. bfloat16 is faster on accelerators; parameters, softmaxes and "
        "logits are float32 with either.",
    )
    attention_backend: Annotated[str, Names(BACKENDS)] = Field(
        "auto",
        description="The kernel of position attention. auto chooses the fastest one for the device; reference is for "
        "comparisons.",
    )
    remat: Annotated[str, Names(REMAT)] = Field(
        "auto",
        description="What the backward pass recomputes in order to save memory: nothing (none), the results of batch "
        "normalisation and ReLU (normalisation), residual blocks (blocks), or residual blocks, the stem and the "
        "modules of the head (full). auto is normalisation on a TPU and none elsewhere.",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        blocks = BLOCKS[self.backbone][-1]
        if self.multi_grid and len(self.multi_grid) != blocks:
            raise InputError.for_value(
                "config.model.multi_grid",
                self.multi_grid,
                f"must be () or {blocks} dilations, one for each block of {self.backbone}'s layer4",
                allowed=f"() or {blocks} dilations",
            )
        return self
