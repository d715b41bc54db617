"""Cuts a log into shards: ranges of users, each small enough for memory.

A shard is read by the code that reads a whole log. Shards follow the order of
the user ids, so that one after another they are the prepared arrays.
"""

from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa

from bt4rec.datasets import event_table, events

# Bits of a position that number the row in its file; the file stands above.
_ROW_BITS = 40
# User ids drawn from the log for each shard that is to be: the shards' sizes
# vary by 1 / sqrt(256), a sixteenth.
_SAMPLES_PER_SHARD = 256

_COMPRESSED = pa.ipc.IpcWriteOptions(compression='lz4')


class Ranges(NamedTuple):
  """Which users each shard has.

  Attributes:
    users_are_text: Whether user ids are text in the log as a whole.
    bounds: [num_shards - 1] int64 or str, ascending: the first user id of
      every shard but the first.
  """

  users_are_text: bool
  bounds: np.ndarray

  @property
  def num_shards(self) -> int:
    return len(self.bounds) + 1


def sampling_stride(events_per_shard: int) -> int:
  """Of how many events one is drawn for `make_ranges`."""
  return max(1, events_per_shard // _SAMPLES_PER_SHARD)


def make_ranges(
  sample: list[str], users_are_text: bool, events_per_shard: int
) -> Ranges:
  """Cuts the users so that every shard has about as many events.

  Args:
    sample: User ids of events drawn at random, one of `sampling_stride`.
    users_are_text: Whether user ids are text in the log as a whole.
    events_per_shard: Events of a shard, about.
  """
  ids = np.sort(
    events.to_ids(pa.array(sample, pa.string()), keep_text=users_are_text)
  )
  step = events_per_shard // sampling_stride(events_per_shard)
  return Ranges(users_are_text, np.unique(ids[step::step]))


def cut_block(
  block: event_table.Block, file: int, ranges: Ranges
) -> Iterator[tuple[int, pa.RecordBatch]]:
  """Cuts a block of a log into the pieces of each shard.

  Args:
    block: The block.
    file: Number of the file it is from.
    ranges: The shards.

  Yields:
    Number of a shard, and its rows.
  """
  position = (file << _ROW_BITS) + block.first + np.arange(len(block.kept))
  batch = pa.RecordBatch.from_pydict(
    {
      **block.columns,
      'time': pa.array(block.times),
      'position': pa.array(position),
    }
  ).filter(pa.array(block.kept))
  users = batch['user'].dictionary_encode()
  ids = events.to_ids(users.dictionary, ranges.users_are_text)
  shard = np.searchsorted(ranges.bounds, ids, side='right')[users.indices]
  # Stable: the rows of a piece stay in the order of the file.
  batch = batch.take(pa.array(np.argsort(shard, kind='stable')))
  counts = np.bincount(shard, minlength=ranges.num_shards)
  first = np.cumsum(counts) - counts
  for number in np.flatnonzero(counts).tolist():
    yield number, batch.slice(first[number], counts[number])


class Piece(NamedTuple):
  """Where rows of a shard lie: bytes of a file that holds those of others."""

  path: str
  offset: int
  length: int


def write_pieces(
  rows: dict[int, list[pa.RecordBatch]], path: str, file: BinaryIO
) -> Iterator[tuple[int, Piece]]:
  """Writes rows shard by shard, each as an Arrow stream.

  Args:
    rows: Number of a shard -> its rows.
    path: The name of the file.
    file: The file, empty.

  Yields:
    Number of a shard, and where its rows lie.
  """
  offset = 0
  for shard, batches in rows.items():
    sink = pa.BufferOutputStream()
    schema = batches[0].schema
    with pa.ipc.new_stream(sink, schema, options=_COMPRESSED) as writer:
      for batch in batches:
        writer.write_batch(batch)
    data = sink.getvalue()
    file.write(data)
    yield shard, Piece(path, offset, data.size)
    offset += data.size


def read_piece(piece: Piece, file: BinaryIO) -> list[pa.RecordBatch]:
  """Reads what `write_pieces` wrote for a shard."""
  file.seek(piece.offset)
  with pa.ipc.open_stream(file.read(piece.length)) as reader:
    return list(reader)


def gather(
  batches: Iterable[pa.RecordBatch], attributes: Iterable[str], ranges: Ranges
) -> tuple[events.Events, np.ndarray]:
  """Puts the pieces of a shard together, in the order of the log.

  Args:
    batches: What `cut_block` gave for the shard, in any order.
    attributes: Names of the further columns.
    ranges: The shards.

  Returns:
    The events, and the [num_events] int64 position of each in the log.
  """
  # A batch has rows of one block, so the first one orders it.
  batches = sorted(batches, key=lambda batch: batch['position'][0].as_py())
  gatherer = events.Gatherer(
    tuple(attributes), users_are_text=ranges.users_are_text
  )
  for batch in batches:
    columns = {name: batch[name] for name in batch.schema.names}
    gatherer.add(columns, np.asarray(batch['time']), np.ones(len(batch), bool))
  positions = np.concatenate([batch['position'] for batch in batches])
  return gatherer.finish(len(positions), {}), positions
