"""`config.training`, `config.init` and `config.mesh`: how, from what and on which devices a network is trained."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from danet_jax.errors import InputError
from danet_jax.models.resnet import OUTPUT_STRIDES
from danet_jax.recipe.kinds import Devices, Group, Names, StepRange, Steps, Text, Weight, Weights


class TrainingOptions(Group):
    """SGD with the poly schedule (section 4.1)."""

    batch_size: int = Field(8, ge=1, le=65536, description="Images of a step, over all devices.")
    epochs: float = Field(240.0, gt=0, le=1_000_000, description="Passes over the training split.")
    steps: Steps | None = Field(None, description="Steps of the whole training; None is `epochs`.")
    learning_rate: float = Field(
        0.003, ge=1e-12, le=1000, description="At the first step; falls to 0 by the poly schedule."
    )
    head_multiplier: Weight = Field(
        10.0, description="Times the learning rate for everything above the backbone, which is new."
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Of SGD.")
    weight_decay: float = Field(1e-4, ge=0, le=1, description="L2 penalty on every parameter.")
    power: float = Field(0.9, ge=0, le=100, description="Of the poly schedule, (1 - step / steps) ** power.")
    loss_weights: Weights = Field(
        (1.0, 1.0, 1.0), description="Of the losses of the fused, the position and the channel branch."
    )
    auxiliary_weight: Weight = Field(0.4, description="Of the auxiliary head's loss, with model.auxiliary.")
    ohem_threshold: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Online hard example mining: only pixels to whose own class a classifier gives a lower probability "
        "enter its loss, 0.7 in mmsegmentation and PaddleSeg; 0 is off, all enter.",
    )
    ohem_kept: int = Field(
        100_000,
        ge=0,
        le=2**31 - 1,
        description="With training.ohem_threshold, the pixels per image that enter at least, the hardest of the batch.",
    )
    class_balance: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Classes count in the loss by their share of the training pixels to the power of minus this: rare "
        "ones more; 0 is off, all pixels alike; 1 is median frequency balancing (arXiv 1411.4734).",
    )
    ema_decay: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Of an exponential moving average of the weights, which then is what is evaluated, kept, predicted "
        "with and exported; 0 is off.",
    )
    attention_multiplier: Weight = Field(
        1.0,
        description="Times the heads' learning rate for query, key, alpha and beta; more than 1 is outside the paper.",
    )
    decay_scales: bool = Field(
        True,
        description="Whether alpha and beta have weight decay as every other parameter, as in the paper.",
    )
    output_stride: Annotated[int, Names(OUTPUT_STRIDES)] | None = Field(
        None,
        description="Of the network while it is trained; None is model.output_stride. Trained at 16, used at 8, as in "
        "DeepLabv3 (arXiv 1706.05587, section 4.1), a step takes a third of the time.",
    )
    accumulation: int = Field(
        1,
        ge=1,
        le=65536,
        description="Parts in which a batch is gone through, to save memory; divides batch_size.",
    )
    evaluate_every: Steps | None = Field(
        None, description="Steps between evaluations; None is once an epoch."
    )
    checkpoint_every: Steps | None = Field(
        None, description="Steps between checkpoints; None is once an epoch."
    )
    keep_every: Steps | None = Field(
        None,
        description="Checkpoints at multiples of this step are kept for good; the best and the newest are always.",
    )
    pictures: int = Field(
        4,
        ge=0,
        le=64,
        description="Validation pictures, beside truth and prediction, that TensorBoard gets at each evaluation.",
    )
    report: bool = Field(True, description="Whether training ends with report.html in the run's directory.")
    log_every: Steps = Field(20, description="Steps between lines of the log.")
    profile_steps: StepRange = Field(
        (),
        description="First and last step of which JAX's profiler writes a trace for TensorBoard; () for none.",
    )
    resume_anyway: bool = Field(
        False,
        description="Whether a run goes on although its recipe is not the one that it was started with.",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.batch_size % self.accumulation:
            raise InputError(
                f"config.training.batch_size={self.batch_size} must be a multiple of "
                f"config.training.accumulation={self.accumulation}"
            )
        if self.profile_steps and self.profile_steps[0] > self.profile_steps[1]:
            raise InputError(
                f"config.training.profile_steps={self.profile_steps} must be first and last, in order"
            )
        return self


class InitOptions(Group):
    """Where training starts. `run.py` takes `source` as `--config.init.from`."""

    source: Text = Field(
        "", description="A checkpoint's file, a run's directory or a name in the zoo; empty: none."
    )
    query_key_gain: float = Field(
        1.0,
        gt=0,
        le=1000,
        description="Times torch's range for query and key of position attention where they start anew; the logits "
        "spread by its square. More than 1 is outside the paper.",
    )
    alpha: float = Field(
        0.0, ge=-1000, le=1000, description="Of position attention where it starts anew; 0 in the paper."
    )
    beta: float = Field(
        0.0, ge=-1000, le=1000, description="Of channel attention where it starts anew; 0 in the paper."
    )


class MeshOptions(Group):
    """How many devices the batch and the rows of the images are spread over."""

    data: Devices = Field(-1, description="Devices along the batch; -1 is all that are left.")
    space: Devices = Field(1, description="Devices along the rows of the images; -1 is all that are left.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.data == self.space == -1:
            raise InputError(
                "config.mesh.data=-1 and config.mesh.space=-1: only one can be -1, all that are left"
            )
        return self
