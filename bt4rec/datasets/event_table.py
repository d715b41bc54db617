"""Reads the events of a table and refuses, or counts, what is wrong in it."""

import collections
import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bt4rec.datasets import timestamps
from bt4rec.datasets.events import Events, Gatherer
from bt4rec.datasets.tables import Table
from bt4rec.errors import InputError, choose

# Joins the values of a list; ASCII's own character for it.
LIST_SEPARATOR = '\x1f'


@dataclasses.dataclass(frozen=True)
class Layout:
  """Where the values of an event stand in a table.

  Attributes:
    user: Column of the user's id.
    item: Column of the item's id.
    timestamp: Column of the time.
    unit: Unit of the timestamps, a key of `timestamps.UNITS`.
    attributes: Name -> column of further text, such as 'category'.
    rating: Column of the rating; '' is none.
    min_rating: Events rated lower are left out.
    drop_bad_rows: Whether rows that cannot be read are left out and counted,
      instead of refused.
  """

  user: str
  item: str
  timestamp: str
  unit: str = 's'
  attributes: dict[str, str] = dataclasses.field(default_factory=dict)
  rating: str = ''
  min_rating: float = 0.0
  drop_bad_rows: bool = False


class Block(NamedTuple):
  """Some consecutive rows of a table.

  Attributes:
    first: Number of the first row, without ragged rows.
    columns: 'user', 'item' and each attribute -> [num_rows] text; the ids of
      rows that are kept are not null.
    times: [num_rows] int64, nanoseconds.
    kept: [num_rows] bool, which rows to keep.
  """

  first: int
  columns: dict[str, pa.Array]
  times: np.ndarray
  kept: np.ndarray


def read(table: Table, layout: Layout) -> Events:
  """Reads the events of a table.

  Args:
    table: An open table.
    layout: Its columns.

  Returns:
    The events in the order of the table.

  Raises:
    InputError: If a column is missing or a row cannot be read; the text names
      file, row and column.
  """
  gatherer = Gatherer(tuple(layout.attributes))
  dropped: collections.Counter[str] = collections.Counter()
  rows_read = 0
  for block in read_blocks(table, layout, dropped):
    rows_read += len(block.kept)
    gatherer.add(block.columns, block.times, block.kept)
  return gatherer.finish(rows_read + table.rows_skipped, dropped)


def read_blocks(
  table: Table, layout: Layout, dropped: collections.Counter[str]
) -> Iterator[Block]:
  """Reads the events of a table block by block.

  Args:
    table: An open table.
    layout: Its columns.
    dropped: Reason -> number of rows left out; counted up.

  Yields:
    The rows that are not ragged, in order.

  Raises:
    InputError: As `read` does.
  """
  choose('dataset.timestamp_unit', layout.unit, timestamps.UNITS)
  ids = {'user': layout.user, 'item': layout.item}
  text = {**ids, **layout.attributes}
  columns = {**text, 'timestamp': layout.timestamp}
  if layout.rating:
    columns['rating'] = layout.rating
  check_columns(table, columns)
  for first, block in table.blocks(sorted(set(columns.values()))):
    check = _BlockCheck(table, layout, first, dropped, block.num_rows)
    values = {
      name: as_text(table, column, block[column])
      for name, column in text.items()
    }
    for name, column in ids.items():
      check.require(
        np.asarray(values[name].is_valid()), column, f'the {name} id is missing'
      )
    times = check.times(block[layout.timestamp])
    if layout.rating:
      check.rating(block[layout.rating])
    yield Block(first, values, times, check.kept)
  dropped['ragged rows'] += table.rows_skipped


def check_columns(table: Table, columns: dict[str, str]) -> None:
  """Checks that each column is there, once.

  Args:
    table: An open table.
    columns: What each column holds -> its name.

  Raises:
    InputError: If some are not; the text names them, and lists those there are.
  """
  counts = {what: table.names.count(name) for what, name in columns.items()}
  wrong = [what for what, count in counts.items() if count != 1]
  if wrong:
    problems = [
      f'{counts[what] or "no"} column{"s" if counts[what] else ""} '
      f'{columns[what]!r} for the {what}'
      for what in wrong
    ]
    listed = ', '.join(repr(name[:40]) for name in table.names[:20])
    flags = [f'{table.column_flag.format(what=what)}=NAME' for what in wrong]
    ones = 'ones' if len(wrong) > 1 else 'one'
    remedy = f'name the right {ones} with {" ".join(flags)}'
    raise InputError(
      f'{table.path}, line 1 has {", ".join(problems)}; its columns are '
      f'{listed}; {remedy if table.column_flag else table.remedy}.'
    )


class _BlockCheck:
  """Refuses bad rows of one block, or marks and counts them.

  Attributes:
    kept: [num_rows] bool.
  """

  def __init__(
    self,
    table: Table,
    layout: Layout,
    first: int,
    dropped: collections.Counter,
    num_rows: int,
  ):
    self._table = table
    self._layout = layout
    self._first = first
    self._dropped = dropped
    self.kept = np.ones(num_rows, bool)

  def require(self, good: np.ndarray, column: str, problem: str) -> None:
    """Drops rows that are not good, or refuses the first of them."""
    bad = np.flatnonzero(self.kept & ~good)
    if not len(bad):
      return
    if not self._layout.drop_bad_rows:
      place = self._table.place(self._first + int(bad[0]))
      raise InputError(
        f'{self._table.path}, {place}, column {column!r}: {problem}; correct '
        f'the row, or {self._table.remedy}.'
      )
    self._dropped[f'rows whose column {column!r} cannot be read'] += len(bad)
    self.kept[bad] = False

  def times(self, column: pa.Array) -> np.ndarray:
    """[num_rows] int64 nanoseconds."""
    unit, name = self._layout.unit, self._layout.timestamp
    times, valid = timestamps.to_nanoseconds(column, unit)
    if not valid.all():
      first = int(np.flatnonzero(~valid)[0])
      value = column[first].as_py()
      expected = (
        'a date such as 2019-12-31 or 2019-12-31T23:59:59'
        if unit == 'iso'
        else f'a number of {unit} since 1970, within the years 1677 to 2262'
      )
      self.require(
        valid,
        name,
        'the timestamp is missing'
        if value is None
        else f'the timestamp {str(value)[:40]!r} is not {expected} '
        f'(dataset.timestamp_unit={unit}'
        f'{_unit_hint(column.slice(first, 1))})',
      )
    return times

  def rating(self, column: pa.Array) -> None:
    """Drops events rated too low."""
    name = self._layout.rating
    try:
      ratings = column.cast(pa.float64())
    except pa.ArrowInvalid:
      ratings = pa.array([_as_float(value) for value in column.to_pylist()])
    ratings = pc.fill_null(ratings.cast(pa.float64()), np.nan)
    numbers = ratings.to_numpy(zero_copy_only=False)
    self.require(~np.isnan(numbers), name, 'the rating is no number')
    low = self.kept & (numbers < self._layout.min_rating)
    self._dropped[f'events rated below {self._layout.min_rating:g}'] += int(
      low.sum()
    )
    self.kept &= ~low


def _unit_hint(timestamp: pa.Array) -> str:
  """The unit in which a timestamp can be read, for messages, if any."""
  for unit in timestamps.UNITS:
    _, valid = timestamps.to_nanoseconds(timestamp, unit)
    if valid.all():
      return f'; --config.dataset.timestamp_unit={unit} reads it'
  return ''


def _as_float(value) -> float | None:
  try:
    return float(value)
  except (TypeError, ValueError):
    return None


def as_text(table: Table, name: str, column: pa.Array) -> pa.Array:
  """Text of a column; lists are joined by the unit separator."""
  kind = column.type
  if pa.types.is_dictionary(kind):
    return as_text(table, name, column.cast(kind.value_type))
  if pa.types.is_list(kind) or pa.types.is_large_list(kind):
    if pa.types.is_string(kind.value_type):
      return pc.binary_join(column, LIST_SEPARATOR)
  if pa.types.is_integer(kind) or pa.types.is_large_string(kind):
    return column.cast(pa.string())
  if pa.types.is_string(kind):
    return pc.if_else(pc.equal(column, ''), pa.scalar(None, kind), column)
  raise InputError(
    f'{table.path}, column {name!r} is of the Parquet type {kind}; write it '
    f'as text or integers.'
  )
