"""The shards of a log as arrays, and the prepared arrays made of them."""

import contextlib
import os
from collections.abc import Iterable
from typing import BinaryIO, NamedTuple

import numpy as np

from bt4rec.datasets import events


class Shard(NamedTuple):
  """The users of a shard with their events, ready to be concatenated.

  Attributes:
    user_ids: [num_users] int64 or str, ascending.
    lengths: [num_users] int64, the number of events of each.
    items: [num_events] int32, rows of `item_ids` counted from 1 or, where
      that is empty, tokens of the whole log.
    timestamps: [num_events] int64, seconds.
    item_ids: [num_items] int64 or str, ascending.
  """

  user_ids: np.ndarray
  lengths: np.ndarray
  items: np.ndarray
  timestamps: np.ndarray
  item_ids: np.ndarray

  def save(self, file: BinaryIO) -> None:
    """Writes the arrays one after another."""
    for array in self:
      np.lib.format.write_array(file, array, allow_pickle=False)

  @classmethod
  def load(cls, file: BinaryIO) -> 'Shard':
    """Reads what `save` wrote; nothing is unpickled."""
    return cls(
      *(np.lib.format.read_array(file, allow_pickle=False) for _ in cls._fields)
    )


def sort_events(found: events.Events) -> Shard:
  """Groups the events of a shard by user and orders them, as in `logs`."""
  dataset = events.to_dataset('shard', found)
  return Shard(
    dataset.user_ids,
    dataset.lengths,
    dataset.items,
    dataset.timestamps,
    dataset.catalogue.item_ids,
  )


def to_tokens(shard: Shard, item_ids: np.ndarray) -> Shard:
  """Counts items as the whole log does, and leaves out the others' events.

  Args:
    shard: What `sort_events` returned.
    item_ids: [num_items] int64 or str, the vocabulary.

  Returns:
    The shard with tokens of the vocabulary, and without users who have no
    event left.
  """
  own = shard.item_ids
  if item_ids.dtype.kind == 'U':
    own = own.astype(np.str_)
  row = np.searchsorted(item_ids, own)
  token = np.zeros(len(own) + 1, np.int32)
  if len(item_ids):
    found = item_ids[np.minimum(row, len(item_ids) - 1)] == own
    token[1:] = np.where(found, row + 1, 0)
  items = token[shard.items]
  kept = items > 0
  user = np.repeat(np.arange(len(shard.lengths)), shard.lengths)
  lengths = np.bincount(user[kept], minlength=len(shard.lengths))
  return Shard(
    shard.user_ids[lengths > 0],
    lengths[lengths > 0],
    items[kept],
    shard.timestamps[kept],
    item_ids[:0],
  )


def concatenate(
  shards: Iterable[Shard],
  directory: str,
  *,
  num_users: int,
  num_events: int,
  user_ids: np.dtype,
) -> None:
  """Writes the prepared arrays of users, one shard after another.

  Args:
    shards: In the order of their users.
    directory: Where `sequences.load` shall find them.
    num_users: Users of all shards.
    num_events: Events of all shards.
    user_ids: The type that holds every user id.
  """
  writers = {
    'user_ids': _ArrayWriter(user_ids, num_users),
    'offsets': _ArrayWriter(np.dtype(np.int64), num_users + 1),
    'items': _ArrayWriter(np.dtype(np.int32), num_events),
    'timestamps': _ArrayWriter(np.dtype(np.int64), num_events),
  }
  for key, writer in writers.items():
    writer.open(os.path.join(directory, f'{key}.npy'))
  total = np.zeros(1, np.int64)
  writers['offsets'].add(total)
  for shard in shards:
    offsets = total[-1] + np.cumsum(shard.lengths)
    writers['user_ids'].add(shard.user_ids)
    writers['offsets'].add(offsets)
    writers['items'].add(shard.items)
    writers['timestamps'].add(shard.timestamps)
    total = np.append(total, offsets)[-1:]
  for writer in writers.values():
    writer.close()


class _ArrayWriter:
  """Writes a one-dimensional .npy file piece by piece."""

  def __init__(self, dtype: np.dtype, length: int):
    self._dtype = dtype
    self._length = length
    self._written = 0

  def open(self, path: str) -> None:
    # Whoever has a file of before mapped into memory keeps it.
    with contextlib.suppress(FileNotFoundError):
      os.remove(path)
    self._file = open(path, 'wb')
    np.lib.format.write_array_header_1_0(
      self._file,
      {
        'descr': np.lib.format.dtype_to_descr(self._dtype),
        'fortran_order': False,
        'shape': (self._length,),
      },
    )

  def add(self, piece: np.ndarray) -> None:
    self._written += len(piece)
    self._file.write(piece.astype(self._dtype, copy=False).tobytes())

  def close(self) -> None:
    self._file.close()
    if self._written != self._length:
      raise ValueError(
        f'{self._file.name} has {self._written} values, not {self._length}'
      )
