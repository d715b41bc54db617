"""Events in memory: ids as small integers, until they become a dataset."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bt4rec.datasets import sequences, timestamps
from bt4rec.errors import InputError

MAX_ID_LENGTH = 256
# Written as Python would; '007' is text, since 7 is another id.
_INTEGER = r'^(0|-?[1-9][0-9]{0,17})$'


class Encoded(NamedTuple):
  """A column as codes.

  Attributes:
    values: [num_values] int64 or str, distinct, ascending.
    codes: [num_rows] int32, rows of `values`; -1 is null.
  """

  values: np.ndarray
  codes: np.ndarray


@dataclasses.dataclass
class Events:
  """Events in the order of the source.

  Attributes:
    user: [num_events] encoded ids.
    item: [num_events] encoded ids.
    times: [num_events] int64, nanoseconds.
    attributes: Further columns by name, such as 'category'.
    rows_read: Rows of the source.
    dropped: Reason -> number of rows or events left out.
    notes: What else was counted -> number.
    rows: [num_events] int64, row of each event in the source; None where it
      is the event's own number.
  """

  user: Encoded
  item: Encoded
  times: np.ndarray
  attributes: dict[str, Encoded]
  rows_read: int
  dropped: dict[str, int] = dataclasses.field(default_factory=dict)
  notes: dict[str, int] = dataclasses.field(default_factory=dict)
  rows: np.ndarray | None = None

  def __len__(self) -> int:
    return len(self.times)

  def keep(self, kept: np.ndarray, reason: str) -> None:
    """Leaves out events and counts them.

    Args:
      kept: [num_events] bool.
      reason: Why the others are left out.
    """
    if kept.all():
      return
    self.dropped[reason] = int(len(kept) - kept.sum())
    self.user = Encoded(self.user.values, self.user.codes[kept])
    self.item = Encoded(self.item.values, self.item.codes[kept])
    self.times = self.times[kept]
    rows = np.arange(len(kept)) if self.rows is None else self.rows
    self.rows = rows[kept]
    self.attributes = {
      name: Encoded(column.values, column.codes[kept])
      for name, column in self.attributes.items()
    }


class Gatherer:
  """Collects events block by block; ids are kept once, not once per event."""

  def __init__(
    self, attributes: Sequence[str] = (), *, users_are_text: bool = False
  ):
    """Prepares for blocks.

    Args:
      attributes: The names of the columns beside user, item and time.
      users_are_text: Whether user ids stay text even where all of them are
        integers, since other parts of the source have some that are not.
    """
    self._text = {'user'} if users_are_text else set()
    self._names = ('user', 'item', *attributes)
    self._chunks: dict[str, list] = {name: [] for name in self._names}
    self._times: list[np.ndarray] = []
    self._kept: list[np.ndarray] = []

  def add(
    self, columns: dict[str, pa.Array], times: np.ndarray, kept: np.ndarray
  ) -> None:
    """Adds a block.

    Args:
      columns: [num_rows] text for 'user', 'item' and each attribute; the ids
        of rows that are kept are not null.
      times: [num_rows] int64, nanoseconds.
      kept: [num_rows] bool, which rows to keep.
    """
    mask = None if kept.all() else pa.array(kept)
    for name in self._names:
      column = columns[name].filter(mask) if mask is not None else columns[name]
      self._chunks[name].append(column.dictionary_encode())
    self._times.append(times[kept] if mask is not None else times)
    self._kept.append(kept)

  def finish(self, rows_read: int, dropped: dict[str, int]) -> Events:
    """Returns the events of all blocks; the gatherer is empty afterwards."""
    encoded = {
      name: _encode(self._chunks.pop(name), name, name in self._text)
      for name in self._names
    }
    times = np.concatenate([np.zeros(0, np.int64), *self._times])
    self._times = []
    kept = np.concatenate([np.zeros(0, bool), *self._kept])
    return Events(
      user=encoded.pop('user'),
      item=encoded.pop('item'),
      times=times,
      attributes=encoded,
      rows_read=rows_read,
      dropped={reason: count for reason, count in dropped.items() if count},
      rows=None if kept.all() else np.flatnonzero(kept),
    )


def _encode(
  chunks: list[pa.DictionaryArray], name: str, keep_text: bool
) -> Encoded:
  if not chunks:
    return Encoded(np.zeros(0, np.int64), np.zeros(0, np.int32))
  column = pa.chunked_array(chunks).unify_dictionaries()
  chunks.clear()
  codes = np.concatenate(
    [
      pc.fill_null(chunk.indices, -1).to_numpy(zero_copy_only=False)
      for chunk in column.chunks
    ]
  )
  text = column.chunk(0).dictionary
  if name in ('user', 'item'):
    check_ids(text, name)
  values = to_ids(text, keep_text or not are_integers(text))
  order = np.argsort(values, kind='stable')
  # One more place at the end, for the code -1.
  rank = np.full(len(values) + 1, -1, np.int32)
  rank[order] = np.arange(len(values), dtype=np.int32)
  return Encoded(values[order], rank[codes])


def are_integers(text: pa.Array) -> bool:
  """Whether all ids are integers, so that they order as numbers do."""
  return pc.all(pc.match_substring_regex(text, _INTEGER)).as_py()


def to_ids(text: pa.Array, keep_text: bool) -> np.ndarray:
  """[num_ids] ids as str or, where `keep_text` is False, int64."""
  if keep_text:
    return np.array(text.to_pylist(), dtype=np.str_)
  return text.cast(pa.int64()).to_numpy(zero_copy_only=False)


def check_ids(text: pa.Array, name: str) -> None:
  """Refuses ids that are too long or hold NUL.

  Args:
    text: [num_ids] ids.
    name: 'user' or 'item', for the message.

  Raises:
    InputError: If there is such an id.
  """
  for what, bad in (
    (
      f'is longer than {MAX_ID_LENGTH} characters',
      pc.greater(pc.utf8_length(text), MAX_ID_LENGTH),
    ),
    ('holds a NUL character', pc.match_substring(text, '\0')),
  ):
    if pc.any(bad).as_py():
      example = text.filter(bad)[0].as_py()[:40]
      raise InputError(
        f'the {name} id that starts with {example!r} {what}; use shorter, '
        f'printable ids.'
      )


def attribute_of_items(events: Events, name: str) -> dict[str, str]:
  """Item id as text -> its value in a column of the events: the first one.

  Rows that give an item another value than its first are counted.
  """
  column = events.attributes[name]
  # Backwards: of repeated rows the last one written stays.
  first = np.full(len(events.item.values), -1, np.int32)
  known = column.codes >= 0
  items, codes = events.item.codes[known], column.codes[known]
  first[items[::-1]] = codes[::-1]
  differs = int((codes != first[items]).sum())
  if differs:
    events.notes[differs_note(name)] = differs
  has_value = np.flatnonzero(first >= 0)
  return dict(
    zip(
      events.item.values[has_value].astype(str).tolist(),
      column.values[first[has_value]].astype(str).tolist(),
      strict=True,
    )
  )


def differs_note(name: str) -> str:
  """What the rows are called that `attribute_of_items` counts."""
  return f'rows with another {name} than their item had first'


def to_dataset(
  name: str,
  events: Events,
  *,
  titles: dict[str, str] | None = None,
  categories: dict[str, list[str]] | None = None,
) -> sequences.SequenceDataset:
  """Groups and orders the events.

  Args:
    name: Name of the dataset.
    events: The events to keep.
    titles: Item id as text -> title.
    categories: Item id as text -> category names.

  Raises:
    InputError: If there is none; the text says what was left out, and why.
  """
  if not len(events):
    raise no_events(name, events.rows_read, events.dropped)
  dataset = sequences.from_indexed_events(
    name,
    events.user.values,
    events.user.codes,
    events.item.values,
    events.item.codes,
    events.times,
    ticks_per_second=timestamps.TICKS_PER_SECOND,
    titles=_by_id(events.item.values, titles or {}),
    categories=_by_id(events.item.values, categories or {}),
  )
  origin = {
    'rows_read': events.rows_read,
    'events_kept': len(events),
    'dropped': events.dropped,
    'notes': events.notes,
  }
  return dataclasses.replace(dataset, origin=origin)


def no_events(name: str, rows_read: int, dropped: dict[str, int]) -> InputError:
  """The error that a source has no event left.

  Args:
    name: Name of the dataset.
    rows_read: Rows of the source.
    dropped: Reason -> number of rows or events left out.
  """
  left_out = ', '.join(f'{count:,} {why}' for why, count in dropped.items())
  return InputError(
    f'dataset {name!r} has no events: {rows_read:,} rows read, left out '
    f'{left_out or "none"}; check the source files and the dataset options.'
  )


def _by_id(values: np.ndarray, by_text: dict) -> dict:
  return {
    value: by_text[str(value)]
    for value in values.tolist()
    if str(value) in by_text
  }
