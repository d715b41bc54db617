"""From prepared arrays to device batches: order, windows, and two feeds.

A *plan* is a pure function of the step: it gives, for the whole global batch,
which example stands in each row and where its window starts. Resuming at a
step is therefore calling the plan at that step; there is no iterator state to
save. Both feeds carry out the same plan and give the same batches to the bit:

* `tf.data` gathers the windows on the host, behind a prefetch;
* `device` keeps the flat event array on the device and gathers inside the
  compiled step. It needs no TensorFlow.

Windows are gathered for a whole batch at once; a map per user is 17 times
slower.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bt4rec import packing
from bt4rec.errors import InputError, choose

# Rows of the global batch, as arrays with the batch as leading axis.
Rows = dict[str, np.ndarray]
Plan = Callable[[int], Rows]

# Batches that are packed together, which is far quicker than one by one.
_BLOCK_STEPS = 32
# Batches that tf.data asks for at a time: a call costs as much as a batch.
_STEPS_A_CALL = 8


class EpochOrder:
  """Endless stream of shuffled epochs, cut into batches.

  Epochs are concatenated: every example comes once before any comes again,
  and a batch may hold the end of one epoch and the start of the next.
  """

  def __init__(self, num_examples: int, batch_size: int, seed: int):
    """Args: number of examples, global batch size, seed of the shuffles."""
    if not num_examples:
      raise InputError('there is no example to train on.')
    self._num_examples = num_examples
    self._batch_size = batch_size
    self._seed = seed
    # A batch touches few epochs, and the next batch mostly the same ones.
    self._permutation = functools.lru_cache(maxsize=2)(self._permute)

  def __call__(self, step: int) -> np.ndarray:
    """[batch] int64, the examples of the batch of `step`."""
    position = step * self._batch_size + np.arange(self._batch_size)
    epoch, within = np.divmod(position, self._num_examples)
    chosen = np.empty(self._batch_size, np.int64)
    for number in range(epoch[0], epoch[-1] + 1):
      rows = epoch == number
      chosen[rows] = self._permutation(number)[within[rows]]
    return chosen

  def _permute(self, epoch: int) -> np.ndarray:
    return _generator(self._seed, 'order', epoch).permutation(
      self._num_examples
    )


def _generator(seed: int, purpose: str, counter: int) -> np.random.Generator:
  """Counter-based generator: any (seed, purpose, counter) at equal cost."""
  key = np.random.SeedSequence([seed, *purpose.encode()]).generate_state(
    2, np.uint64
  )
  # The counter's high words; Philox advances the low ones.
  return np.random.Generator(
    np.random.Philox(key=key, counter=[0, 0, 0, counter])
  )


# Least number of visible events of a user by the number of windows: each
# window needs a context and what follows.
_LEAST_VISIBLE = {1: 2, 2: 4}


def window_lengths(
  visible: np.ndarray, max_length: int, windows_per_user: int = 1
) -> np.ndarray:
  """[num_users] int32, the length of each user's windows.

  Args:
    visible: [num_users] int, events that may be seen.
    max_length: Events of a window at most.
    windows_per_user: Windows that a user's events are shared among.
  """
  return np.minimum(visible // windows_per_user, max_length).astype(np.int32)


def has_windows(visible: np.ndarray, windows_per_user: int = 1) -> np.ndarray:
  """[num_users] bool, who has events enough."""
  return visible >= _LEAST_VISIBLE[windows_per_user]


def trainable_users(
  visible: np.ndarray, batch_size: int, windows_per_user: int = 1
) -> np.ndarray:
  """The users with two visible events at least, or four for two windows.

  Args:
    visible: [num_users] int, how many first events of each user may be seen.
    batch_size: Global batch size.
    windows_per_user: 1 or 2.

  Returns:
    [num_trainable] int64.

  Raises:
    InputError: If they do not fill a batch.
  """
  users = np.flatnonzero(has_windows(visible, windows_per_user))
  if len(users) == 0:
    least = 'two' if windows_per_user == 1 else 'four'
    raise InputError(
      f'no user has {least} events that pre-training may see; use more data, '
      f'or another pretrain_scope.'
    )
  if len(users) < batch_size:
    # A user twice in a batch would be its own negative, and correlate.
    raise InputError(
      f'{len(users)} users can be pre-trained on, fewer than '
      f'batch_size={batch_size}; choose a smaller batch_size, or use more '
      f'data.'
    )
  return users


class PretrainPlan:
  """A random window of the visible events of each user, or two.

  Two windows are of one length and do not overlap: one lies in the older half
  of the user's visible events and one in the newer half. Which of them is the
  first is drawn.

  Args:
    offsets: [num_users + 1] int64, where each user's events start.
    visible: [num_users] int64, how many first events of each user may be
      seen; users with fewer than two are left out.
    max_length: Events of a window at most.
    batch_size: Global batch size.
    seed: Seed of order and windows.
    packing_shape: Rows to pack the windows of a batch into; None gives each
      a row of its own.
    windows_per_user: 1 or 2.
  """

  def __init__(
    self,
    offsets: np.ndarray,
    visible: np.ndarray,
    *,
    max_length: int,
    batch_size: int,
    seed: int,
    packing_shape: packing.Shape | None = None,
    windows_per_user: int = 1,
  ):
    self.users = trainable_users(visible, batch_size, windows_per_user)
    self._offsets = offsets
    self._visible = visible
    self._max_length = max_length
    self._seed = seed
    self._packing_shape = packing_shape
    self._windows_per_user = windows_per_user
    self._order = EpochOrder(len(self.users), batch_size, seed)
    self._block = functools.lru_cache(maxsize=2)(self._make_block)

  def __call__(self, step: int) -> Rows:
    """The windows of the batch of `step`.

    Returns:
      `start` and `length` of the windows and `index`, the number in the
      batch; with packing also `row` and `offset`, see `packing.Layout`; with
      two windows also `other_start`, of the second one.
    """
    block, number = divmod(step, _BLOCK_STEPS)
    rows = {key: array[number] for key, array in self._block(block).items()}
    users = self.users[self._order(step)]
    generator = _generator(self._seed, 'window', step)
    room = self._visible[users] // self._windows_per_user - rows['length'] + 1

    def draw():
      start = np.floor(generator.random(len(users)) * room).astype(np.int64)
      return self._offsets[users] + start

    rows |= {'start': draw(), 'index': np.arange(len(users), dtype=np.int32)}
    if self._windows_per_user == 2:
      older, newer = rows['start'], draw() + (self._visible[users] + 1) // 2
      is_swapped = generator.random(len(users)) < 0.5
      rows['start'] = np.where(is_swapped, newer, older)
      rows['other_start'] = np.where(is_swapped, older, newer)
    return rows

  def _make_block(self, block: int) -> Rows:
    """[steps, batch] lengths and places; many batches are packed at once."""
    first = block * _BLOCK_STEPS
    users = np.stack(
      [self._order(step) for step in range(first, first + _BLOCK_STEPS)]
    )
    visible = self._visible[self.users[users]]
    length = window_lengths(visible, self._max_length, self._windows_per_user)
    if self._packing_shape is None:
      return {'length': length}
    length, row, offset = self._packing_shape.fit(length)
    return {'length': length, 'row': row, 'offset': offset}


class ExamplePlan:
  """Shuffled epochs over a fixed table of examples.

  Args:
    examples: Arrays with the example as leading axis, such as `start`,
      `length` and `label`.
    batch_size: Global batch size.
    seed: Seed of the order.
  """

  def __init__(self, examples: Rows, *, batch_size: int, seed: int):
    self._examples = examples
    num_examples = len(next(iter(examples.values())))
    self._order = EpochOrder(num_examples, batch_size, seed)

  def __call__(self, step: int) -> Rows:
    """The chosen rows of every array."""
    chosen = self._order(step)
    return {key: array[chosen] for key, array in self._examples.items()}


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
  import tensorflow as tf

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
