"""Several short sequences in one row, so that little padding is computed on.

A *layout* gives, for each sequence of a batch, its row and its first slot in
it, in a fixed number of rows. The encoder arranges its tokens by it, lets no
token attend to another sequence's, and pools each sequence by itself; so the
embeddings are those of one sequence a row. What the layout costs is that a
batch with too many events has its longest sequences cut.
"""

import bisect
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from bt4rec.errors import InputError

# A window needs two events: a context and what follows.
_SHORTEST = 2
# Random batches that the number of rows is chosen by.
_TRIALS = 64


@dataclasses.dataclass(frozen=True)
class Shape:
  """The rows a batch is packed into; static under `jit`.

  A batch is cut into groups, each packed into rows of its own, so that a
  device or a process that has whole groups needs nothing of the others.

  Attributes:
    row_length: Slots of a row.
    rows_per_group: Rows of a group.
    sequences_per_group: Sequences of a group.
    reserved: Slots of a sequence besides its events: 1 for a class token.
  """

  row_length: int
  rows_per_group: int
  sequences_per_group: int
  reserved: int = 0

  @property
  def slots_per_sequence(self) -> float:
    """Slots of all rows over the number of sequences."""
    return self.rows_per_group * self.row_length / self.sequences_per_group

  def fit(
    self, lengths: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places the sequences of some batches: best fit, the longest first.

    A sequence that fits nowhere is cut to the largest gap. Where even that is
    too small, the group starts again with its longest sequences cut by one.

    Args:
      lengths: [num_batches, batch] int, events of each sequence.

    Returns:
      Three [num_batches, batch] int32: the length each sequence may keep, its
      row within its group, and its first slot.
    """
    groups = lengths.reshape(-1, self.sequences_per_group).astype(np.int32)
    kept, row, offset = (np.empty_like(groups) for _ in range(3))
    longest = groups.max(axis=1)
    # Those whose sum is too large need not be tried.
    room = self.rows_per_group * self.row_length
    room -= self.reserved * self.sequences_per_group
    pending = np.arange(len(groups))
    while len(pending):
      total = np.minimum(groups[pending], longest[pending, None]).sum(axis=1)
      pending = pending[total > room]
      longest[pending] -= 1
    pending = np.arange(len(groups))
    while len(pending):
      wanted = np.minimum(groups[pending], longest[pending, None])
      *placed, fits = self._best_fit(wanted)
      for target, found in zip((kept, row, offset), placed, strict=True):
        target[pending[fits]] = found[fits]
      pending = pending[~fits]
      longest[pending] -= 1
      if (longest[pending] < _SHORTEST).any():
        raise ValueError(f'{self} has too few rows for its sequences.')
    shape = lengths.shape
    return kept.reshape(shape), row.reshape(shape), offset.reshape(shape)

  def _best_fit(self, wanted: np.ndarray) -> tuple[np.ndarray, ...]:
    """[num_groups, sequences] -> lengths, rows, offsets, and who fits."""
    every = np.arange(len(wanted))
    order = np.argsort(-wanted, axis=1, kind='stable')
    kept, row, offset = (np.zeros_like(wanted) for _ in range(3))
    free = np.full(
      (len(wanted), self.rows_per_group), self.row_length, np.int32
    )
    fits = np.ones(len(wanted), bool)
    # One sequence of every group at a time.
    for sequence in order.T:
      asked = wanted[every, sequence]
      size = asked + self.reserved
      left = free - size[:, None]
      # The fullest row that has room: unsigned, what is negative is large.
      best = left.view(np.uint32).argmin(axis=1)
      none = left[every, best] < 0
      best = np.where(none, free.argmax(axis=1), best) if none.any() else best
      gap = free[every, best]
      size = np.minimum(size, gap)
      fits &= size >= np.minimum(asked, _SHORTEST) + self.reserved
      kept[every, sequence] = size - self.reserved
      row[every, sequence] = best
      offset[every, sequence] = self.row_length - gap
      free[every, best] = gap - size
    return kept, row, offset, fits


def choose_shape(
  lengths: np.ndarray,
  *,
  batch_size: int,
  max_length: int,
  max_cut: float,
  num_groups: int = 1,
  reserved: int = 0,
) -> Shape:
  """Chooses the smallest number of rows that cuts few enough events.

  Args:
    lengths: [num_sequences] int, events of all there are, 2 at least.
    batch_size: Sequences of a batch.
    max_length: Events of a sequence at most.
    max_cut: Largest share of the events that may be cut, on average over
      random batches.
    num_groups: Groups of a batch.
    reserved: See `Shape`.

  Raises:
    InputError: If `max_cut` or `num_groups` is not valid.
  """
  if not 0 <= max_cut < 1:
    raise InputError(
      f'packing.max_cut={max_cut} must be at least 0 and below 1.'
    )
  if num_groups < 1 or batch_size % num_groups:
    raise InputError(
      f'packing.num_groups={num_groups} does not divide '
      f'batch_size={batch_size}; choose a divisor.'
    )
  sequences = batch_size // num_groups
  drawn = np.random.default_rng(0).choice(lengths, (_TRIALS, sequences))

  def shape_of(rows: int) -> Shape:
    return Shape(max_length + reserved, rows, sequences, reserved)

  def cuts_few(rows: int) -> bool:
    kept, _, _ = shape_of(rows).fit(drawn)
    return kept.sum() >= (1 - max_cut) * drawn.sum()

  # One sequence a row always fits, and shortest sequences fit at least so.
  low = -(-sequences // ((max_length + reserved) // (_SHORTEST + reserved)))
  choices = range(low, sequences)
  return shape_of(low + bisect.bisect_left(choices, True, key=cuts_few))


@struct.dataclass
class Layout:
  """Where the sequences of a batch lie.

  Attributes:
    row: [num_sequences] int32, row within the group.
    offset: [num_sequences] int32, first slot in the row.
    shape: The rows.
  """

  row: jax.Array
  offset: jax.Array
  shape: Shape = struct.field(pytree_node=False)

  def repeat(self, times: int) -> 'Layout':
    """The layout of `times` versions of each sequence, side by side.

    Args:
      times: Versions of each sequence; version `v` of sequence `i` is number
        `i * times + v`.
    """
    shape = dataclasses.replace(
      self.shape,
      rows_per_group=self.shape.rows_per_group * times,
      sequences_per_group=self.shape.sequences_per_group * times,
    )
    version = jnp.arange(times)[None]
    return Layout(
      (self.row[:, None] * times + version).reshape(-1),
      jnp.repeat(self.offset, times),
      shape,
    )


class Padded:
  """One sequence a row, padding after it.

  Args:
    real: [num_sequences, length] bool, which tokens are real; a prefix.
  """

  def __init__(self, real: jax.Array):
    self._real = real

  def arrange(self, values: jax.Array) -> jax.Array:
    """[num_sequences, length] -> [num_rows, row_length], 0 where empty."""
    return values

  def segments(self) -> tuple[jax.Array, jax.Array]:
    """Which slots attend to which: those of a number, to those of the same.

    Returns:
      Numbers of a slot as query, broadcast to [num_rows, row_length], and as
      key, [num_rows, row_length].
    """
    padding = (~self._real).astype(jnp.int32)
    return jnp.zeros_like(padding[:, :1]), padding

  def mean(self, x: jax.Array) -> jax.Array:
    """[num_rows, row_length, dim] -> [num_sequences, dim] float32."""
    weight = self._real[..., None].astype(jnp.float32)
    return (x * weight).sum(1) / jnp.maximum(weight.sum(1), 1.0)

  def at(self, x: jax.Array, position: jax.Array) -> jax.Array:
    """[num_rows, row_length, dim] -> [num_sequences, dim] at `position`."""
    return jnp.take_along_axis(x, position[:, None, None], axis=1)[:, 0]

  def restore(self, x: jax.Array) -> jax.Array:
    """[num_rows, row_length, dim] -> [num_sequences, length, dim]."""
    return x


class Packed:
  """Several sequences a row.

  Args:
    real: [num_sequences, length] bool, which tokens are real; a prefix.
    layout: Where the sequences lie, each with room for its real tokens.
  """

  def __init__(self, real: jax.Array, layout: Layout):
    shape = layout.shape
    self._shape = shape
    self._length = real.shape[1]
    # All indices are within a group, so that groups stay on their devices.
    self._grouped = (-1, shape.sequences_per_group)
    self._first = (layout.row * shape.row_length + layout.offset).reshape(
      self._grouped
    )
    self._real = real.reshape(*self._grouped, self._length)
    num_slots = shape.rows_per_group * shape.row_length
    slot = self._first[..., None] + jnp.arange(self._length)[None, None]
    self._slot = jnp.where(self._real, slot, num_slots)
    num_tokens = shape.sequences_per_group * self._length
    # [num_groups, num_slots], the token in each slot.
    self._token = jax.vmap(
      lambda slot: (
        jnp.full(num_slots, num_tokens)
        .at[slot]
        .set(jnp.arange(num_tokens), mode='drop')
      )
    )(self._slot.reshape(len(self._slot), -1))
    # [num_groups, num_slots], the sequence in each slot; that of an empty one
    # is a number further.
    self._sequence = self._token // self._length

  def arrange(self, values: jax.Array) -> jax.Array:
    """[num_sequences, length] -> [num_rows, row_length], 0 where empty."""
    arranged = jax.vmap(
      lambda group, token: group.at[token].get(mode='fill', fill_value=0)
    )(values.reshape(len(self._token), -1), self._token)
    return arranged.reshape(-1, self._shape.row_length)

  def segments(self) -> tuple[jax.Array, jax.Array]:
    """As `Padded.segments`."""
    sequence = self._sequence.reshape(-1, self._shape.row_length)
    # Empty slots attend to one another: no query is left without a key.
    return sequence, sequence

  def mean(self, x: jax.Array) -> jax.Array:
    """[num_rows, row_length, dim] -> [num_sequences, dim] float32."""
    num_sequences = self._shape.sequences_per_group
    total = jax.vmap(
      lambda x, sequence: jax.ops.segment_sum(x, sequence, num_sequences)
    )(self._slots_of(x), self._sequence)
    count = jnp.maximum(self._real.sum(-1), 1)[..., None]
    return (total / count).reshape(-1, x.shape[-1])

  def at(self, x: jax.Array, position: jax.Array) -> jax.Array:
    """[num_rows, row_length, dim] -> [num_sequences, dim] at `position`."""
    slot = self._first + position.reshape(self._grouped)
    return jax.vmap(lambda x, slot: x[slot])(self._slots_of(x), slot).reshape(
      -1, x.shape[-1]
    )

  def restore(self, x: jax.Array) -> jax.Array:
    """[num_rows, row_length, dim] -> [num_sequences, length, dim]."""
    restored = jax.vmap(
      lambda x, slot: x.at[slot].get(mode='fill', fill_value=0)
    )(self._slots_of(x), self._slot)
    return restored.reshape(-1, self._length, x.shape[-1])

  def _slots_of(self, x: jax.Array) -> jax.Array:
    return x.reshape(len(self._token), -1, x.shape[-1])


def arrangement(real: jax.Array, layout: Layout | None) -> Padded | Packed:
  """Returns how sequences stand in rows: packed by a layout, or one a row."""
  return Padded(real) if layout is None else Packed(real, layout)
