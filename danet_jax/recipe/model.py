"""`config.model`: the network."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from danet_jax.errors import InputError
from danet_jax.models.layers import REMAT
from danet_jax.models.options import DTYPES, build_model
from danet_jax.models.resnet import BLOCKS, OUTPUT_STRIDES, STEMS
from danet_jax.ops.attention import BACKENDS
from danet_jax.ops.channel_attention import ENERGIES
from danet_jax.recipe.kinds import Dilations, Group, Names


class ModelOptions(Group):
    """The network: arguments of `danet_jax.DANet` as simple types."""

    backbone: Annotated[str, Names(tuple(BLOCKS))] = Field(
        "resnet101", description="The dilated ResNet below the attention modules (section 3.1)."
    )
    stem: Annotated[str, Names(tuple(STEMS))] = Field(
        "v1",
        description="First layers of the backbone: one 7x7 convolution (v1: torchvision, the authors), or three "
        "3x3 as mmsegmentation (v1c) or PyTorch-Encoding (v1s) has them.",
    )
    output_stride: Annotated[int, Names(OUTPUT_STRIDES)] = Field(
        8, description="Pixels of the image for one of the feature map."
    )
    multi_grid: Dilations = Field(
        (), description="Dilations of layer4's blocks, (4, 8, 16) in table 2; () for none."
    )
    second_dilation: bool = Field(
        True,
        description="Whether the second convolution of a basic block (resnet18, resnet34) is dilated, too: as the "
        "authors' are, and mmsegmentation's are not.",
    )
    position_attention: bool = Field(
        True, description="Whether the position attention module is on (section 3.2)."
    )
    channel_attention: bool = Field(
        True,
        description="Whether the channel attention module is on (section 3.3); both off is table 1's dilated FCN.",
    )
    channel_energy: Annotated[str, Names(ENERGIES)] = Field(
        "official",
        description="Energies of channel attention: the authors' code subtracts each from its row's maximum, "
        '"paper" is equation 3.',
    )
    align_corners: bool = Field(
        True, description="Whether up-sampling to the image's size keeps the corner pixels' centres in place."
    )
    auxiliary: bool = Field(False, description="Whether layer3 has mmsegmentation's auxiliary head.")
    dropout_rate: float = Field(
        0.1, ge=0, lt=1, description="Share of channels that are dropped before each classifier in training."
    )
    dtype: Annotated[str, Names(tuple(DTYPES))] = Field(
        "float32", description="Of the computation; parameters, softmaxes and logits are float32 always."
    )
    attention_backend: Annotated[str, Names(BACKENDS)] = Field(
        "auto", description="Kernel of position attention; auto takes the best for the device."
    )
    remat: Annotated[str, Names(REMAT)] = Field(
        "auto",
        description="What the backward pass computes anew instead of keeping it, for less memory: nothing, what "
        "batch normalisation and ReLU make of convolutions, what lies inside residual blocks, or (full) that and what "
        "lies inside the stem and the head's modules. auto is normalisation on a TPU and none elsewhere.",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        blocks = BLOCKS[self.backbone][-1]
        if self.multi_grid and len(self.multi_grid) != blocks:
            raise InputError(
                f"config.model.multi_grid={self.multi_grid} must be () or {blocks} dilations, "
                f"one for each block of {self.backbone}'s layer4"
            )
        try:
            build_model(1, self.model_dump())
        except InputError as error:
            raise InputError(f"config.model.{error}") from error
        return self
