"""`config.evaluation`: the protocol by which a network is applied to images."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from danet_jax.inference.protocol import EDGES, IMAGE_RESIZES, MERGES, PRESETS
from danet_jax.recipe.types import BaseSize, Colour, Group, Names, Scales, Window


class EvaluationOptions(Group):
    """A named protocol, and any field of it replaced; see `danet_jax.Protocol`. None keeps the protocol's value."""

    protocol: Annotated[str, Names(PRESETS)] = Field(
        "whole",
        description="The protocol: whole images, the authors' windows, or mmsegmentation's evaluation; `_ms` adds "
        "several scales and flips.",
    )
    scales: Scales | None = Field(
        None,
        description="The factors of the base size at which an image is scored. The scores are merged: several scales "
        "take longer and are more accurate.",
    )
    flip: bool | None = Field(None, description="Whether the mirrored image is scored too.")
    window: Window | None = Field(
        None, description="The height and width of sliding windows in pixels. () scores the image as a whole."
    )
    stride: Window | None = Field(
        None,
        description="The vertical and horizontal distance between windows in pixels, at most their size. () is their "
        "size, without overlap.",
    )
    base_size: BaseSize | None = Field(
        None,
        description="The size in pixels of an image at scale 1. One number is its long side; two numbers are the long "
        "and the short side of a box that the image is fitted into; () is the image's own size.",
    )
    whole_base_size: BaseSize | None = Field(
        None,
        description="The same as base_size, but only for the protocol `whole`. Set it if images do not fit into memory "
        "at their own size.",
    )
    edge: Annotated[str, Names(EDGES)] | None = Field(
        None,
        description="What happens to windows that reach over the edge of an image: they are filled with black (pad), "
        "or moved inside (shift).",
    )
    merge: Annotated[str, Names(MERGES)] | None = Field(
        None, description="How the scores of windows, scales and flips are merged; see `danet_jax.Protocol`."
    )
    align_corners: bool | None = Field(
        None,
        description="Whether images and scores are resized with the centres of the corner pixels in place.",
    )
    image_resize: Annotated[str, Names(IMAGE_RESIZES)] | None = Field(
        None,
        description="Whether images are resized in float32 after normalisation (float) or in 8 bits before it (uint8).",
    )
    mean: Colour | None = Field(
        None,
        description="The mean of R, G and B, each from 0 to 1, which is subtracted from images in training and "
        "evaluation. None is that of the network's checkpoint, or ImageNet's.",
    )
    std: Colour | None = Field(
        None,
        description="The standard deviation of R, G and B, each from 0.001 to 1, by which images are then divided. "
        "None is that of the network's checkpoint, or ImageNet's.",
    )
