"""Reads prepared examples with Grain, batches them and places the batches on devices.

The whole job shares one stream of training examples: each epoch reshuffles all examples, and host k of n takes every
n-th one. Shuffling and augmentation depend only on the seed and the position in the stream. Neither the number of hosts
nor the number of worker processes changes the stream, and the only state is the number of examples taken by all hosts.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import multiprocessing
import os
import signal
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import grain
import numpy as np
from absl import flags

from danet_jax.data.dataset import EncodedExample
from danet_jax.data.transforms import SCALE_RANGE, Augment, decode_example
from danet_jax.errors import InputError
from danet_jax.runs.stopping import SIGNALS

if TYPE_CHECKING:
    import jax

_READ_AHEAD = grain.ReadOptions(num_threads=2, prefetch_buffer_size=2)
"""Prefetching in each process; in training, elements are complete batches. Pillow releases the GIL while decoding."""


class TrainingBatches(grain.DatasetIterator[dict[str, np.ndarray]]):
    """The endless batches of host `shard_index`; the state is the number of examples taken by all hosts."""

    def __init__(
        self,
        examples: grain.MapDataset[Any],
        batch_size: int,
        workers: int,
        shard_index: int,
        shard_count: int,
    ):
        super().__init__()
        self._examples, self._batch_size, self._workers = examples, batch_size, workers
        self._shard_index, self._shard_count, self._taken = shard_index, shard_count, 0
        self._iterator: grain.DatasetIterator[dict[str, np.ndarray]] | None = None
        _open.add(self)

    def __next__(self) -> dict[str, np.ndarray]:
        """Returns the next batch."""
        if self._iterator is None:
            mine = self._examples[self._taken + self._shard_index :: self._shard_count]
            self._iterator = _read_ahead(mine.batch(self._batch_size, drop_remainder=True), self._workers)
        with _block_signals():
            batch = next(self._iterator)
        self._taken += self._batch_size * self._shard_count
        return batch

    def get_state(self) -> dict[str, int]:
        """Returns the position."""
        return {"examples_taken": self._taken}

    def set_state(self, state: dict[str, int]) -> None:
        """Sets the position to one that `get_state` returned, in this or another process.

        Raises:
          InputError: The state is not a valid position.
        """
        taken = state.get("examples_taken")
        if not isinstance(taken, int) or taken < 0:
            raise InputError(f"the position in the data is {state!r}, which no run writes", value=state)
        self.close()
        self._taken = taken

    def close(self) -> None:
        """Stops the worker processes; the next batch starts them again."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None


def training_batches(
    source: Sequence[EncodedExample],
    *,
    batch_size: int,
    base_size: int,
    crop_size: int,
    seed: int,
    random_scale: bool = True,
    flip: bool = True,
    mirrored: np.ndarray | None = None,
    photometric: bool = False,
    bits: int = 8,
    workers: int = 0,
    shard_index: int = 0,
    shard_count: int = 1,
) -> TrainingBatches:
    """Returns this host's endless stream of augmented batches.

    Args:
      source: The examples of a split with labels, as `Dataset.source` returns them.
      batch_size: Examples per batch on this host; it may exceed the number of examples.
      base_size: Length in pixels of the short side at scale 1; see `transforms.draw_view`.
      crop_size: Rows and columns of the cropped images.
      seed: Determines the order and every augmentation.
      random_scale: Whether images are scaled at random; if False, the short side is always `base_size`.
      flip: Whether images are mirrored at random.
      mirrored: The label that each label becomes in a mirrored image; see `transforms.mirrored_labels`. None leaves
        labels unchanged.
      photometric: Whether brightness and colours are changed at random; see `transforms.distort`.
      bits: The bits per channel of the images that the network takes.
      workers: Number of processes that decode and augment; 0 uses threads of this process instead.
      shard_index: Index of this host.
      shard_count: Number of hosts that share the stream.

    Returns:
      An iterator of `{"image": uint8 [batch_size, crop_size, crop_size, 3], "label": uint8 [batch_size,
      crop_size, crop_size]}` with `get_state` and `set_state`. A stream that was set to a saved state continues
      exactly like the one that saved it. For more than 8 bits, images are uint16 from 0 to `2**bits - 1`.

    Raises:
      InputError: There are no examples, or they have no labels.
    """
    if not len(source):
        raise InputError("the training split has no examples", what="training split")
    if source[0]["label"] is None:
        raise InputError(
            "the training split has no labels; choose another with dataset.train_split",
            what="dataset.train_split",
        )
    scale_range = SCALE_RANGE if random_scale else None
    augment = Augment(base_size, crop_size, scale_range, flip, mirrored, photometric, bits)
    examples = grain.MapDataset.source(source).seed(seed).shuffle().random_map(augment).repeat()
    return TrainingBatches(examples, batch_size, workers, shard_index, shard_count)


def evaluation_examples(
    source: Sequence[EncodedExample],
    *,
    bits: int = 8,
    shard_index: int = 0,
    shard_count: int = 1,
    workers: int = 0,
) -> Iterator[dict[str, Any]]:
    """Iterates over this host's share of a split in order; together, all hosts see each example exactly once.

    Shares differ by at most one example and may be empty.

    Args:
      source: The examples of a split, as `Dataset.source` returns them.
      bits: The bits per channel of the images.
      shard_index: Index of this host.
      shard_count: Number of hosts that share the split.
      workers: Number of processes that decode; 0 uses threads of this process instead.

    Returns:
      An iterator of `{"name": str, "image": uint8 [H, W, 3], "label": uint8 [H, W]}`; `label` is None in a split
      without labels. For more than 8 bits, images are uint16 from 0 to `2**bits - 1`.
    """
    decode = functools.partial(decode_example, depth=bits)
    examples = grain.MapDataset.source(source)[shard_index::shard_count].map(decode)

    def read() -> Iterator[dict[str, Any]]:
        iterator = _read_ahead(examples, min(workers, len(examples)))
        try:
            while True:
                with _block_signals():
                    element = next(iterator, None)
                if element is None:
                    break
                yield element
        finally:
            iterator.close()
            # Grain's exceptions refer to its last arrays, which are reported as leaked if they are freed only at exit.
            del iterator
            gc.collect()

    reader = read()
    _open.add(reader)
    return reader


def to_device(batch: Mapping[str, np.ndarray], mesh: jax.sharding.Mesh) -> dict[str, jax.Array]:
    """Places this host's part of a batch on the devices.

    Args:
      batch: Arrays `[b, H, W, ...]`, where b is this host's share of the global batch.
      mesh: A mesh with the axes `data`, which splits the batch, and `space`, which splits the rows.

    Returns:
      The global arrays `[b * hosts, H, W, ...]`, sharded over the mesh.
    """
    import jax  # Worker processes import this module but do not need JAX.

    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data", "space"))
    hosts = jax.process_count()
    return {
        name: jax.make_array_from_process_local_data(sharding, array, (len(array) * hosts, *array.shape[1:]))
        for name, array in batch.items()
    }


def _read_ahead(dataset: grain.MapDataset[Any], workers: int) -> grain.DatasetIterator[Any]:
    """Iterates over `dataset` in order, prefetching in `workers` processes or, if 0, in threads."""
    elements = dataset.to_iter_dataset(_READ_AHEAD)
    if not workers:
        return iter(elements)
    if not flags.FLAGS.is_parsed():  # Grain reads absl flags, which only a command-line program parses.
        flags.FLAGS.mark_as_parsed()
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1)
    return iter(elements.mp_prefetch(options, worker_init_fn=_end_with_parent).map(_copy_arrays))


@contextlib.contextmanager
def _block_signals() -> Iterator[None]:
    """Blocks `SIGNALS` while Grain may start workers, which inherit the signal mask.

    Otherwise, Ctrl-C would kill the workers before they can ignore it, and the run would fail. Other threads of this
    process still receive signals.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent(index: int, count: int) -> None:
    """Makes a worker process end when its parent process ends, and only then.

    A parent that is killed cannot stop its workers. Signals to the process group, such as Ctrl-C, are left to the
    parent.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _copy_arrays(element: dict[str, Any]) -> dict[str, Any]:
    """Copies arrays out of the memory that is shared with a worker, so that they remain valid."""
    return {name: np.array(x) if isinstance(x, np.ndarray) else x for name, x in element.items()}


_open: weakref.WeakSet[Any] = weakref.WeakSet()
"""Iterators to close before the interpreter exits; later, Grain cannot clean up and reports errors."""


@atexit.register
def _close_all() -> None:
    for iterator in list(_open):
        iterator.close()
    gc.collect()
