"""From prepared arrays to device batches: windows, and two feeds.

Both feeds carry out the same plan (see `plans`) and give the same batches to
the bit:

* `tf.data` gathers the windows on the host, behind a prefetch;
* `device` keeps the flat event array on the device and gathers inside the
  compiled step. It needs no TensorFlow.

Windows are gathered for a whole batch at once; a map per user is 17 times
slower.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bt4rec.errors import InputError, choose
from bt4rec.plans import Plan, Rows

# Batches that tf.data asks for at a time: a call costs as much as a batch.
_STEPS_A_CALL = 8


def gather_windows(
  items: jax.Array, start: jax.Array, length: jax.Array, max_length: int
) -> jax.Array:
  """Cuts windows out of the flat event array, padding on the right.

  Args:
    items: [num_events] int32.
    start: [batch] int, first event of each window.
    length: [batch] int, events of each window, at most `max_length`.
    max_length: Length of the rows returned.

  Returns:
    [batch, max_length] int32, 0 after each window's end.
  """
  position = jnp.arange(max_length)[None]
  # Reading past the last event is clipped, then masked.
  window = items.at[start[:, None] + position].get(mode='clip')
  return jnp.where(position < length[:, None], window, 0)


def cut_windows(
  items: np.ndarray, start: np.ndarray, length: np.ndarray, max_length: int
) -> np.ndarray:
  """As `gather_windows`, on the host: `items` may lie in a file."""
  position = np.arange(max_length)
  index = np.minimum(start[:, None] + position, len(items) - 1)
  return np.where(position < length[:, None], items[index], 0)


# Where windows start -> the windows.
_WINDOWS = {'start': 'items', 'other_start': 'other_items'}


def materialize(batch: dict[str, Any], max_length: int) -> dict[str, Any]:
  """Gives a batch its windows, whichever feed it came through.

  Args:
    batch: Either has `items` [batch, length], or `start` and `length` with
      the flat `events` they point into; with two windows also `other_items`
      or `other_start`.
    max_length: Length of the rows.

  Returns:
    The batch with `items` [batch, max_length] int32, and `other_items` where
    there are two windows.
  """
  if 'items' in batch:
    return batch
  return {
    **batch,
    **{
      items: gather_windows(
        batch['events'], batch[start], batch['length'], max_length
      )
      for start, items in _WINDOWS.items()
      if start in batch
    },
  }


def cut_rows(items: np.ndarray, rows: Rows, max_length: int) -> Rows:
  """As `materialize`, on the host: the windows in place of where they are."""
  rows = dict(rows)
  length = rows.pop('length')
  for start, name in _WINDOWS.items():
    if start in rows:
      rows[name] = cut_windows(items, rows.pop(start), length, max_length)
  return rows


def process_slice(
  batch_size: int, process_index: int, process_count: int
) -> slice:
  """The rows of the global batch that one process feeds."""
  if batch_size % process_count:
    raise InputError(
      f'batch_size={batch_size} is not divisible by the {process_count} '
      f'processes; choose a multiple.'
    )
  share = batch_size // process_count
  return slice(process_index * share, (process_index + 1) * share)


def _device_feed(
  plan: Plan, items: np.ndarray, max_length: int, first_step: int, rows: slice
) -> Iterator[Rows]:
  """Yields `start` and `length`; `materialize` gathers on the device."""
  del items, max_length  # On the device already; the step knows its length.
  step = first_step
  while True:
    batch = {key: array[rows] for key, array in plan(step).items()}
    for name in _WINDOWS.keys() & batch.keys():
      batch[name] = batch[name].astype(np.int32)
    yield batch
    step += 1


def _tf_data_feed(
  plan: Plan, items: np.ndarray, max_length: int, first_step: int, rows: slice
) -> Iterator[Rows]:
  """Yields `items`, gathered on the host behind tf.data's prefetch.

  The events may be a memory map, so they need not fit into memory.
  """
  try:
    import tensorflow as tf
  except ModuleNotFoundError as error:
    raise InputError(
      f'TensorFlow is missing ({error}), and feed=tf.data is made by it; use '
      f'--config.feed=device, or install tensorflow-cpu.'
    ) from error

  tf.config.set_visible_devices([], 'GPU')

  def rows_of(step: int) -> Rows:
    batch = {key: array[rows] for key, array in plan(step).items()}
    return cut_rows(items, batch, max_length) if 'start' in batch else batch

  keys, example = zip(*sorted(rows_of(first_step).items()), strict=True)

  def make_batches(step):
    batches = [rows_of(int(step) + number) for number in range(_STEPS_A_CALL)]
    return [np.stack([batch[key] for batch in batches]) for key in keys]

  def call(step):
    columns = tf.numpy_function(
      make_batches, [step], [array.dtype for array in example]
    )
    for column, array in zip(columns, example, strict=True):
      column.set_shape((_STEPS_A_CALL, *array.shape))
    return dict(zip(keys, columns, strict=True))

  dataset = tf.data.Dataset.range(
    first_step, np.iinfo(np.int64).max - _STEPS_A_CALL, _STEPS_A_CALL
  )
  dataset = dataset.map(call, num_parallel_calls=1).unbatch()
  yield from dataset.prefetch(_STEPS_A_CALL).as_numpy_iterator()


# Feed -> how batches reach the step.
_FEEDS = {'tf.data': _tf_data_feed, 'device': _device_feed}


def feed(
  name: str,
  plan: Plan,
  items: np.ndarray,
  *,
  max_length: int,
  first_step: int = 0,
  batch_size: int,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[Rows]:
  """Yields this process's rows of the batches from `first_step` on.

  Args:
    name: 'tf.data' or 'device'.
    plan: Gives `start` and `length` for the whole global batch.
    items: [num_events] int32, the flat events.
    max_length: Length of the windows.
    first_step: Step of the first batch.
    batch_size: Global batch size.
    process_index: Number of this process.
    process_count: Number of processes.

  Yields:
    Arrays with leading axis `batch_size / process_count`.
  """
  rows = process_slice(batch_size, process_index, process_count)
  return choose('feed', name, _FEEDS)(plan, items, max_length, first_step, rows)


def padded_blocks(
  num_rows: int, block: int
) -> Iterator[tuple[np.ndarray, int]]:
  """Cuts `range(num_rows)` into blocks of one shape, dropping nobody.

  Args:
    num_rows: Number of rows.
    block: Rows of a block.

  Yields:
    [block] int64 row numbers, and how many of them are real; the others
    repeat the last row and must weigh nothing.
  """
  for first in range(0, num_rows, block):
    rows = np.minimum(np.arange(first, first + block), num_rows - 1)
    yield rows, min(block, num_rows - first)
