"""From prepared arrays to device batches: windows, and two feeds.

Both feeds carry out the same plan (see `plans`) and give the same batches to
the bit:

* `tf.data` gathers the windows on the host, behind a prefetch;
* `device` keeps the flat event array on the device and gathers inside the
  compiled step. It needs no TensorFlow.

Windows are gathered for a whole batch at once; a map per user is 17 times
slower.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bt4rec import progress
from bt4rec.errors import InputError, choose
from bt4rec.features import OTHER, Events
from bt4rec.plans import Plan, Rows

# Batches that tf.data asks for at a time: a call costs as much as a batch.
_STEPS_A_CALL = 8
# Of `over_windows`: windows of a call, and the fewest places of one.
_WINDOWS_OF_A_BLOCK = 512
_NARROWEST = 16
# Neighbours that are sorted by length.
_WINDOWS_SORTED = 32 * _WINDOWS_OF_A_BLOCK


def gather_windows(
  events: Events, start: jax.Array, length: jax.Array, max_length: int
) -> Events:
  """Cuts windows out of flat, aligned arrays, padding on the right.

  Args:
    events: Arrays [num_events].
    start: [batch] int, first event of each window.
    length: [batch] int, events of each window, at most `max_length`.
    max_length: Length of the rows returned.

  Returns:
    Arrays [batch, max_length], 0 after each window's end.
  """
  position = jnp.arange(max_length)[None]

  def gather(array):
    # Reading past the last event is clipped, then masked.
    window = array.at[start[:, None] + position].get(mode='clip')
    return jnp.where(position < length[:, None], window, 0)

  return jax.tree.map(gather, events)


def cut_windows(
  events: Events, start: np.ndarray, length: np.ndarray, max_length: int
) -> Events:
  """As `gather_windows`, on the host: the arrays may lie in files."""
  position = np.arange(max_length)
  index = np.minimum(start[:, None] + position, len(events['items']) - 1)
  is_real = position < length[:, None]
  return {
    name: np.where(is_real, array[index], 0) for name, array in events.items()
  }


# Where windows start -> what stands before the names of their arrays.
_WINDOWS = {'start': '', 'other_start': OTHER}


def _named(prefix: str, windows: Events) -> Events:
  return {f'{prefix}{name}': array for name, array in windows.items()}


def materialize(batch: dict[str, Any], max_length: int) -> dict[str, Any]:
  """Gives a batch its windows, whichever feed it came through.

  Args:
    batch: Either has `items` [batch, length] and the codes that go with them,
      or `start` and `length` with the flat `events` they point into; with two
      windows also `other_items` or `other_start`.
    max_length: Length of the rows.

  Returns:
    The batch with `items` [batch, max_length] int32 and their codes, and
    `other_items` where there are two windows.
  """
  if 'items' in batch:
    return batch
  batch = dict(batch)
  for start, prefix in _WINDOWS.items():
    if start in batch:
      windows = gather_windows(
        batch['events'], batch[start], batch['length'], max_length
      )
      batch |= _named(prefix, windows)
  return batch


def cut_rows(events: Events, rows: Rows, max_length: int) -> Rows:
  """As `materialize`, on the host: the windows in place of where they are."""
  rows = dict(rows)
  length = rows.pop('length')
  for start, prefix in _WINDOWS.items():
    if start in rows:
      windows = cut_windows(events, rows.pop(start), length, max_length)
      rows |= _named(prefix, windows)
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


def check_fits_device(num_events: int) -> None:
  """Refuses more events than the device, which counts in int32, can find."""
  if num_events > np.iinfo(np.int32).max:
    raise InputError(
      f'feed=device takes {np.iinfo(np.int32).max:,} events at most, and the '
      f'dataset has {num_events:,}; use --config.feed=tf.data.'
    )


def _device_feed(
  plan: Plan, events: Events, max_length: int, first_step: int, rows: slice
) -> Iterator[Rows]:
  """Yields `start` and `length`; `materialize` gathers on the device."""
  del events, max_length  # On the device already; the step knows its length.
  step = first_step
  while True:
    batch = {key: array[rows] for key, array in plan(step).items()}
    for name in _WINDOWS.keys() & batch.keys():
      batch[name] = batch[name].astype(np.int32)
    yield batch
    step += 1


def _tf_data_feed(
  plan: Plan, events: Events, max_length: int, first_step: int, rows: slice
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
    return cut_rows(events, batch, max_length) if 'start' in batch else batch

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
  events: Events,
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
    events: Arrays [num_events], flat and aligned.
    max_length: Length of the windows.
    first_step: Step of the first batch.
    batch_size: Global batch size.
    process_index: Number of this process.
    process_count: Number of processes.

  Yields:
    Arrays with leading axis `batch_size / process_count`.
  """
  rows = process_slice(batch_size, process_index, process_count)
  make = choose('feed', name, _FEEDS)
  return make(plan, events, max_length, first_step, rows)


def padded_blocks(
  num_rows: int, block: int
) -> Iterator[tuple[np.ndarray, int]]:
  """Cuts `range(num_rows)` into blocks of one shape, dropping nobody.

  Args:
    num_rows: Number of rows.
    block: Rows of a block at most; where there are few rows it is the next
      power of two.

  Yields:
    [rows of a block] int64 row numbers, and how many of them are real; the
    others repeat the last row and must weigh nothing.
  """
  block = min(block, power_of_two(num_rows))
  for first in range(0, num_rows, block):
    rows = np.minimum(np.arange(first, first + block), num_rows - 1)
    yield rows, min(block, num_rows - first)


def over_windows(
  name: str,
  call: Callable[[Events], jax.Array],
  events: Events,
  start: np.ndarray,
  length: np.ndarray,
  *,
  max_length: int,
  dim: int,
  room: int = 0,
) -> np.ndarray:
  """Calls a function on windows, block by block, with little padding.

  Windows of similar length come into a block, which is as wide as they need:
  a power of two or `max_length`, so that there are few shapes.

  Args:
    name: What progress is shown under.
    call: Windows [rows, width] -> [rows, dim] float; a window's result must
      not depend on the others, nor on the padding.
    events: Arrays [num_events], see `features`; may be memory maps.
    start: [num_windows] int64, first event of each window.
    length: [num_windows] int32, events of each.
    max_length: The largest width.
    dim: Width of the results.
    room: Places that a window needs besides its events.

  Returns:
    [num_windows, dim] float32.
  """
  results = np.empty((len(start), dim), np.float32)
  blocks = _window_blocks(length)
  for rows, real in progress.track(name, len(start), blocks):
    longest = int(length[rows].max()) + room
    width = min(max(power_of_two(longest), _NARROWEST), max_length)
    windows = cut_windows(events, start[rows], length[rows], width)
    results[rows[:real]] = np.asarray(call(windows))[:real]
  return results


def _window_blocks(length: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
  """As `padded_blocks`, with windows of similar length in a block.

  They are sorted among neighbours alone, whose events lie together in a file.
  """
  for first in range(0, len(length), _WINDOWS_SORTED):
    order = np.argsort(length[first : first + _WINDOWS_SORTED], kind='stable')
    for rows, real in padded_blocks(len(order), _WINDOWS_OF_A_BLOCK):
      yield first + order[rows], real


def power_of_two(number: int) -> int:
  """The next one, the number itself included."""
  return 1 << max(number - 1, 0).bit_length()
