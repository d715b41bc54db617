"""Reads the user's own logs: a table of user, item and timestamp."""

import dataclasses
import os
from collections.abc import Iterable

import numpy as np
from absl import logging

from bt4rec.datasets import event_table, events, filters, sequences, tables
from bt4rec.errors import InputError, choose

_ROW_REMEDY = 'leave such rows out with --config.dataset.bad_rows=drop'
_COLUMN_FLAG = '--config.dataset.columns.{what}'
_ENCODING_REMEDY = (
  'write the file as UTF-8, or name its encoding with --config.dataset.encoding'
)
# Value of the config -> whether to drop.
_BAD_ROWS = {'refuse': False, 'drop': True}
_DUPLICATES = {'keep': False, 'drop': True}


@dataclasses.dataclass(frozen=True)
class Format:
  """What a log and its item table look like, and what is left out.

  Attributes:
    layout: The columns of the log.
    described: 'category', 'title' -> column in the log or the item table.
    drop_duplicates: Whether repeated events are left out.
    encoding: Of CSV files.
    delimiter: Of CSV files.
  """

  layout: event_table.Layout
  described: dict[str, str]
  drop_duplicates: bool
  encoding: str
  delimiter: str

  def open(self, path: str) -> tables.Table:
    """Opens the log or the item table.

    Raises:
      InputError: If it cannot be opened, is empty or has no header.
    """
    return tables.Table(
      path,
      encoding=self.encoding,
      delimiter=self.delimiter,
      skip_ragged=self.layout.drop_bad_rows,
      remedy=_ROW_REMEDY,
      column_flag=_COLUMN_FLAG,
      encoding_remedy=_ENCODING_REMEDY,
    )

  def check_csv_options(
    self, path: str, opened: Iterable[tables.Table]
  ) -> None:
    """Refuses options of CSV files where all files are Parquet.

    Args:
      path: The log, for the message.
      opened: The files of log and item table; not looked at where none of
        the options is set.

    Raises:
      InputError: If such an option is set.
    """
    changed = [
      (option, value)
      for option, value, default in (
        ('encoding', self.encoding, tables.ENCODING),
        ('delimiter', self.delimiter, tables.DELIMITER),
      )
      if value != default
    ]
    if changed and all(table.is_parquet for table in opened):
      option, value = changed[0]
      raise InputError(
        f'dataset.{option}={value!r} is for CSV files, but {path} is a '
        f'Parquet file; leave it out.'
      )


def log_files(path: str, item_table: str) -> list[str]:
  """Returns the files that are read.

  Raises:
    InputError: If one is missing; the text names it.
  """
  files = [path] + ([os.path.expanduser(item_table)] if item_table else [])
  for file, flag in zip(files, ('path', 'item_table'), strict=False):
    if not os.path.isfile(file):
      problem = 'is a folder' if os.path.isdir(file) else 'does not exist'
      raise InputError(
        f'{file} {problem}; --config.dataset.{flag} must name a CSV or '
        f'Parquet file.'
      )
  return files


def read_logs(
  path: str,
  *,
  columns: dict[str, str],
  timestamp_unit: str = 's',
  category_separator: str = '',
  item_table: str = '',
  min_rating: float = 0.0,
  encoding: str = tables.ENCODING,
  delimiter: str = tables.DELIMITER,
  bad_rows: str = 'refuse',
  duplicates: str = 'keep',
  k_core: int = 0,
) -> sequences.SequenceDataset:
  """Reads a log.

  Args:
    path: CSV (plain or gzip) or Parquet file.
    columns: 'user', 'item', 'timestamp' -> name of the column; 'category',
      'title', 'rating' -> name, or '' for none.
    timestamp_unit: 's', 'ms', 'us', 'ns', or 'iso' for dates as text.
    category_separator: Between the names of several categories; '' where an
      item has one.
    item_table: File with the item, category and title columns, where these
      stand apart; '' where they stand in the log, or nowhere.
    min_rating: Events rated lower are left out; goes with a rating column.
    encoding: Of CSV files.
    delimiter: Of CSV files.
    bad_rows: 'refuse' or 'drop'.
    duplicates: 'keep' or 'drop', for events that repeat an earlier user,
      item and timestamp.
    k_core: Smallest number of events of users and items; 0 keeps all.

  Returns:
    The dataset; `origin` says what was left out.

  Raises:
    InputError: If something cannot be read, naming file, row and column.
  """
  form = make_format(
    columns=columns,
    timestamp_unit=timestamp_unit,
    category_separator=category_separator,
    item_table=item_table,
    min_rating=min_rating,
    encoding=encoding,
    delimiter=delimiter,
    bad_rows=bad_rows,
    duplicates=duplicates,
  )
  log, *item_tables = opened = [
    form.open(file) for file in log_files(path, item_table)
  ]
  form.check_csv_options(path, opened)
  found = event_table.read(log, form.layout)
  _handle_duplicates(found, log, form.drop_duplicates)
  filters.k_core(found, k_core)
  if item_tables:
    texts = read_items(item_tables[0], form, found.item.values, found.notes)
  else:
    texts = {
      name: events.attribute_of_items(found, name) for name in form.described
    }
  return events.to_dataset(
    'logs',
    found,
    titles=texts.get('title'),
    categories={
      item: split_categories(text, category_separator)
      for item, text in texts.get('category', {}).items()
    },
  )


def make_format(
  *,
  columns: dict[str, str],
  timestamp_unit: str,
  category_separator: str,
  item_table: str,
  min_rating: float,
  encoding: str,
  delimiter: str,
  bad_rows: str,
  duplicates: str,
) -> Format:
  """Checks the options of `read_logs` that need no file.

  Raises:
    InputError: If one is not valid.
  """
  drop_bad_rows = choose('dataset.bad_rows', bad_rows, _BAD_ROWS)
  drop_duplicates = choose('dataset.duplicates', duplicates, _DUPLICATES)
  _check_pairs(columns, category_separator, item_table, min_rating)
  if len(delimiter) != 1:
    raise InputError(f'dataset.delimiter={delimiter!r} is not one character.')
  described = {
    name: columns[name] for name in ('category', 'title') if columns[name]
  }
  layout = event_table.Layout(
    user=columns['user'],
    item=columns['item'],
    timestamp=columns['timestamp'],
    unit=timestamp_unit,
    attributes={} if item_table else described,
    rating=columns['rating'],
    min_rating=min_rating,
    drop_bad_rows=drop_bad_rows,
  )
  return Format(layout, described, drop_duplicates, encoding, delimiter)


def split_categories(text: str, separator: str) -> list[str]:
  """Names of the categories in one field; empty ones are left out."""
  parts = [text]
  for mark in (event_table.LIST_SEPARATOR, separator):
    if mark:
      parts = [piece for part in parts for piece in part.split(mark)]
  return [part.strip() for part in parts if part.strip()]


def _check_pairs(
  columns: dict[str, str],
  category_separator: str,
  item_table: str,
  min_rating: float,
) -> None:
  """Refuses an option that is read only together with another one."""
  for option, value, column in (
    ('dataset.min_rating', min_rating, 'rating'),
    ('dataset.category_separator', category_separator, 'category'),
  ):
    if value and not columns[column]:
      raise InputError(
        f'{option} is given, but dataset.columns.{column} names no column; '
        f'give both or neither.'
      )
  if columns['rating'] and not min_rating:
    raise InputError(
      'dataset.columns.rating is given, but dataset.min_rating=0 keeps all '
      'events; give both or neither.'
    )
  if item_table and not (columns['category'] or columns['title']):
    raise InputError(
      'dataset.item_table is given, but neither dataset.columns.category nor '
      'dataset.columns.title names a column of it; name one, or leave it out.'
    )


def _handle_duplicates(
  found: events.Events, log: tables.Table, drop: bool
) -> None:
  rows = found.rows
  repeats = filters.handle_repeats(found, drop)
  if not repeats.any():
    return
  first = int(repeats.argmax())
  row = first if rows is None else int(rows[first])
  logging.warning(
    '%s: %d events repeat the user, item and timestamp of an earlier row, the '
    'first in %s; they are %s (--config.dataset.duplicates).',
    log.path,
    repeats.sum(),
    log.place(row),
    'left out' if drop else 'kept',
  )


def read_items(
  table: tables.Table, form: Format, item_ids: np.ndarray, notes: dict[str, int]
) -> dict[str, dict[str, str]]:
  """Reads titles and categories of items.

  Args:
    table: The open item table.
    form: Its columns.
    item_ids: [num_items] int64 or str, the items wanted.
    notes: Gets the number of items that the table lacks, if any.

  Returns:
    'title', 'category' -> item id as text -> text.

  Raises:
    InputError: If the table cannot be read.
  """
  item, described = form.layout.item, form.described
  event_table.check_columns(table, {'item': item, **described})
  wanted = set(map(str, item_ids.tolist()))
  texts: dict[str, dict[str, str]] = {name: {} for name in described}
  seen: set[str] = set()
  for _, block in table.blocks([item, *described.values()]):
    ids = event_table.as_text(table, item, block[item]).to_pylist()
    for name, column in described.items():
      values = event_table.as_text(table, column, block[column]).to_pylist()
      for key, value in zip(ids, values, strict=True):
        if key in wanted and value is not None:
          texts[name].setdefault(key, value)
    seen.update(key for key in ids if key in wanted)
  missing = len(wanted) - len(seen)
  if missing:
    notes['items that the item table lacks'] = missing
  return texts
