"""`config.evaluation`: the protocol by which a network is applied to images."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from danet_jax.inference.protocol import EDGES, IMAGE_RESIZES, MERGES, PRESETS
from danet_jax.recipe.kinds import BaseSize, Deviation, Group, Mean, Names, Scales, Window


class EvaluationOptions(Group):
    """A named protocol, and any field of it replaced; see `danet_jax.Protocol`. None leaves the protocol's own."""

    protocol: Annotated[str, Names(PRESETS)] = Field("whole", description="The protocol by name.")
    scales: Scales | None = Field(None, description="Factors of the base size at which an image is scored.")
    flip: bool | None = Field(None, description="Whether the mirrored image is scored, too.")
    window: Window | None = Field(
        None, description="Height and width of sliding windows; () takes them away."
    )
    stride: Window | None = Field(
        None, description="Vertical and horizontal distance of windows, at most their size; () is their size."
    )
    base_size: BaseSize | None = Field(
        None,
        description="Size at scale 1: one number is the long side, two are the long and the short side of a box, "
        "() is the image's own.",
    )
    whole_base_size: BaseSize | None = Field(
        None, description="base_size of the protocol `whole` alone, which a recipe sets for its images."
    )
    edge: Annotated[str, Names(EDGES)] | None = Field(
        None, description="Windows over the edge are filled up with black, or moved inside."
    )
    merge: Annotated[str, Names(MERGES)] | None = Field(
        None, description="How scores of windows, scales and flips become one."
    )
    align_corners: bool | None = Field(
        None, description="Whether images and scores are resized with the corner pixels' centres in place."
    )
    image_resize: Annotated[str, Names(IMAGE_RESIZES)] | None = Field(
        None, description="Images are resized in float32 after normalisation, or in 8 bits before it."
    )
    mean: Mean | None = Field(
        None,
        description="Subtracted from R, G and B in 0 to 1, in training, too; None is the network's own, "
        "ImageNet's of a new one.",
    )
    std: Deviation | None = Field(
        None,
        description="That R, G and B are divided by then, in training, too; None is the network's own, "
        "ImageNet's of a new one.",
    )
