"""`config.training`, `config.init` and `config.mesh`: how, from which weights and on which devices training runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from danet_jax.errors import InputError
from danet_jax.models.resnet import OUTPUT_STRIDES
from danet_jax.recipe.types import Devices, Group, Names, StepRange, Steps, Text, Weight, Weights


class TrainingOptions(Group):
    """Training by SGD with the poly schedule (section 4.1)."""

    batch_size: int = Field(
        8,
        ge=1,
        le=65536,
        description="The number of images per step, over all devices and hosts. If memory does not suffice, lower it, "
        "or raise training.accumulation.",
    )
    epochs: float = Field(
        240.0,
        gt=0,
        le=1_000_000,
        description="The number of passes over the training split. It is not used if training.steps is set.",
    )
    steps: Steps | None = Field(
        None, description="The number of steps of the whole training. None follows from training.epochs."
    )
    learning_rate: float = Field(
        0.003,
        ge=1e-12,
        le=1000,
        description="The learning rate of the backbone at the first step. It falls to 0 by the poly schedule. Lower it "
        "if the loss becomes NaN.",
    )
    head_multiplier: Weight = Field(
        10.0,
        description="The factor by which the learning rate of everything above the backbone is larger. Use 1 without "
        "pretrained weights.",
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="The momentum of SGD.")
    weight_decay: float = Field(
        1e-4, ge=0, le=1, description="The L2 penalty on every parameter. Raise it if the network overfits."
    )
    power: float = Field(
        0.9,
        ge=0,
        le=100,
        description="The power of the poly schedule, (1 - step / steps) ** power. 0 keeps the learning rate constant.",
    )
    loss_weights: Weights = Field(
        (1.0, 1.0, 1.0),
        description="The weights of the fusion, position and channel losses. 0 leaves a loss out.",
    )
    auxiliary_weight: Weight = Field(
        0.4, description="The weight of the auxiliary head's loss, which exists only with model.auxiliary."
    )
    ohem_threshold: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Online hard example mining: only pixels whose own class has a lower probability than this enter "
        "the loss. mmsegmentation and PaddleSeg use 0.7. 0 disables it.",
    )
    ohem_kept: int = Field(
        100_000,
        ge=0,
        le=2**31 - 1,
        description="The least number of pixels per image that enter the loss, the hardest ones of the batch. It is "
        "used only with training.ohem_threshold.",
    )
    class_balance: float = Field(
        0.0,
        ge=0,
        le=1,
        description="How strongly rare classes are weighted up in the loss: a class counts by its share of the "
        "training pixels to the power of minus this. 1 is median frequency balancing (arXiv 1411.4734). 0 disables it.",
    )
    ema_decay: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="The decay of an exponential moving average of the weights. The averaged weights are used for "
        "evaluation, prediction and export. 0 disables it.",
    )
    attention_multiplier: Weight = Field(
        1.0,
        description="The factor by which the learning rate of query, key, alpha and beta is larger than that of the "
        "heads. The paper has 1.",
    )
    decay_scales: bool = Field(
        True, description="Whether alpha and beta have weight decay, as every other parameter in the paper."
    )
    output_stride: Annotated[int, Names(OUTPUT_STRIDES)] | None = Field(
        None,
        description="The output stride in training. None is model.output_stride. Training at 16 and evaluating at 8, "
        "as in DeepLabv3 (arXiv 1706.05587, section 4.1), takes a third of the time per step.",
    )
    accumulation: int = Field(
        1,
        ge=1,
        le=65536,
        description="The number of parts into which a batch is divided to save memory. It must divide "
        "training.batch_size.",
    )
    evaluate_every: Steps | None = Field(
        None, description="The number of steps between evaluations. None evaluates once per epoch."
    )
    checkpoint_every: Steps | None = Field(
        None, description="The number of steps between checkpoints. None saves once per epoch."
    )
    keep_every: Steps | None = Field(
        None,
        description="Checkpoints at multiples of this step are kept permanently. The best and the newest always are.",
    )
    pictures: int = Field(
        4,
        ge=0,
        le=64,
        description="The number of validation images that TensorBoard shows after each evaluation, beside their labels "
        "and predictions.",
    )
    report: bool = Field(
        True, description="Whether report.html is written into the run's directory when training is finished."
    )
    log_every: Steps = Field(20, description="The number of steps between lines of the log.")
    profile_steps: StepRange = Field(
        (),
        description="The first and the last step that JAX's profiler records for TensorBoard. () records none.",
    )
    resume_anyway: bool = Field(
        False,
        description="Whether a run is resumed although its recipe or its data differ from those that it was started "
        "with. Set it after you have checked that the difference is intended.",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.batch_size % self.accumulation:
            raise InputError.for_value(
                "config.training.batch_size",
                self.batch_size,
                f"must be a multiple of config.training.accumulation={self.accumulation}",
            )
        if self.profile_steps and self.profile_steps[0] > self.profile_steps[1]:
            raise InputError.for_value(
                "config.training.profile_steps",
                self.profile_steps,
                "must be the first and the last step, in order",
            )
        return self


class InitOptions(Group):
    """Where training starts."""

    checkpoint: Text = Field(
        "",
        description="The checkpoint that training starts from: a file, a run's directory, a name from --mode=zoo, or "
        "an address such as https://... If it is empty, training starts from random weights.",
    )
    query_key_gain: float = Field(
        1.0,
        gt=0,
        le=1000,
        description="The factor by which the random initial weights of query and key are larger than torch's; the "
        "attention logits grow with its square. The paper has 1.",
    )
    alpha: float = Field(
        0.0,
        ge=-1000,
        le=1000,
        description="The initial scale of position attention where the checkpoint has none. The paper has 0.",
    )
    beta: float = Field(
        0.0,
        ge=-1000,
        le=1000,
        description="The initial scale of channel attention where the checkpoint has none. The paper has 0.",
    )

    @model_validator(mode="before")
    @classmethod
    def _renamed(cls, options: Any) -> Any:
        """Accepts `source`, the name of `checkpoint` up to version 0.2."""
        if not isinstance(options, Mapping) or "source" not in options:
            return options
        options = dict(options)
        source = options.pop("source")
        if source and options.get("checkpoint") not in ("", source, None):
            raise InputError.for_value(
                "config.init.source",
                source,
                "contradicts config.init.checkpoint, its new name; set only that",
            )
        return options | {"checkpoint": source or options.get("checkpoint", "")}


class MeshOptions(Group):
    """How many devices the batch and the rows of the images are divided over."""

    data: Devices = Field(
        -1,
        description="The number of devices that the batch is divided over. -1 stands for all remaining devices.",
    )
    space: Devices = Field(
        1,
        description="The number of devices that the rows of the images are divided over, for crops that do not fit "
        "into the memory of one. -1 stands for all remaining devices.",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.data == self.space == -1:
            raise InputError.for_value(
                "config.mesh.data", -1, "and config.mesh.space=-1: only one of them can be -1"
            )
        return self
