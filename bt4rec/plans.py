"""Which window stands where: batches as pure functions of the step.

A *plan* gives, for the whole global batch of a step, which example stands in
each row, where its window starts, and where it lies if windows are packed.
Resuming at a step is therefore calling the plan at that step; there is no
iterator state to save. NumPy alone; `pipeline` carries plans out.
"""

import functools
from collections.abc import Callable

import numpy as np

from bt4rec import packing
from bt4rec.errors import InputError

# Rows of the global batch, as arrays with the batch as leading axis.
Rows = dict[str, np.ndarray]
Plan = Callable[[int], Rows]

# Batches that are packed together, which is far quicker than one by one.
_BLOCK_STEPS = 32


class EpochOrder:
  """Endless stream of shuffled epochs, cut into batches.

  Epochs are concatenated: every example comes once before any comes again,
  and a batch may hold the end of one epoch and the start of the next. With
  `whole_batches` none does, and each epoch leaves out the examples that would
  not fill a batch, others each time.

  Args:
    num_examples: Number of examples; a batch of them at least, if whole.
    batch_size: Global batch size.
    seed: Seed of the shuffles.
    whole_batches: Whether a batch holds an example once at most.
  """

  def __init__(
    self,
    num_examples: int,
    batch_size: int,
    seed: int,
    whole_batches: bool = False,
  ):
    if not num_examples:
      raise InputError('there is no example to train on.')
    self._num_examples = num_examples
    self.per_epoch = num_examples
    if whole_batches:
      self.per_epoch -= num_examples % batch_size
    self._batch_size = batch_size
    self._seed = seed
    # A batch touches few epochs, and the next batch mostly the same ones.
    self._permutation = functools.lru_cache(maxsize=2)(self._permute)

  def __call__(self, step: int) -> np.ndarray:
    """[batch] int64, the examples of the batch of `step`."""
    position = step * self._batch_size + np.arange(self._batch_size)
    epoch, within = np.divmod(position, self.per_epoch)
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
    raise InputError(
      f'{len(users)} users can be pre-trained on, fewer than '
      f'batch_size={batch_size}; choose a smaller batch_size, or use more '
      f'data.'
    )
  return users


class PretrainPlan:
  """A random window of the visible events of each user, or two.

  No user is in a batch twice: he would be his own negative, and correlate.
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
    self._order = EpochOrder(
      len(self.users), batch_size, seed, whole_batches=True
    )
    # Whom an epoch has, each once.
    self.users_per_epoch = self._order.per_epoch
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
