"""Reads CSV and Parquet files in blocks, in bounded memory.

The files are not trusted: a line has a limit on its length, nothing is
unpickled, and what cannot be read is one sentence that says where.
"""

import codecs
import csv
import gzip
import io
import zlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from absl import logging

from bt4rec.datasets import line_limit
from bt4rec.errors import InputError

# Of CSV files.
ENCODING = 'utf-8'
DELIMITER = ','
# Longest line with its end, in UTF-8, and the size of the blocks a CSV file is
# read in; so a line never lies in more than two blocks.
MAX_LINE_BYTES = 8 << 20
_BLOCK_ROWS = 1 << 17
_AGAIN = 'download or write the file again'
_PROGRESS_ROWS = 2_000_000
# Spellings of a missing value in CSV files.
_NULLS = ['', 'null', 'NULL', 'None', 'NaN', 'nan', '<NA>', '\\N']


class Table:
  """A CSV (plain or gzip) or Parquet file; its content says which.

  Attributes:
    path: The file.
    is_parquet: Whether it is a Parquet file.
    names: The names of its columns.
    remedy: What to do about a damaged row, for messages.
    column_flag: Flag that names a column, for messages; '{what}' in it is what
      the column holds; '' where the names are fixed.
    encoding_remedy: What to do about text in another encoding, for messages.
    rows_skipped: Ragged rows left out so far.
  """

  def __init__(
    self,
    path: str,
    *,
    encoding: str = ENCODING,
    delimiter: str = DELIMITER,
    skip_ragged: bool = False,
    remedy: str = _AGAIN,
    column_flag: str = '',
    encoding_remedy: str = _AGAIN,
  ):
    """Opens the file.

    Args:
      path: The file.
      encoding: Of CSV files; a name that Python knows.
      delimiter: Of CSV files.
      skip_ragged: Whether rows of a CSV file with too few or too many fields
        are left out and counted, instead of refused.
      remedy: What to do about a damaged row, for messages.
      column_flag: Flag that names a column, for messages; '{what}' in it is
        what the column holds; '' where the names are fixed.
      encoding_remedy: What to do about text in another encoding, likewise.

    Raises:
      InputError: If the file cannot be opened, is empty or has no header.
    """
    self.path = path
    self._encoding = encoding
    self._delimiter = delimiter
    self._skip_ragged = skip_ragged
    self.remedy = remedy
    self.column_flag = column_flag
    self.encoding_remedy = encoding_remedy
    # Numbers of the ragged rows, the header being 1.
    self._ragged: list[int] = []
    self._ragged_fields = (0, 0)
    try:
      with open(path, 'rb') as f:
        magic = f.read(4)
    except OSError as error:
      raise InputError(
        f'cannot open {path} ({error.strerror}); check the path.'
      ) from error
    if not magic:
      raise InputError(f'{path} is empty; {_AGAIN}.')
    self.is_parquet = magic == b'PAR1'
    self._is_gzip = magic[:2] == b'\x1f\x8b'
    self.names = self._read_names()

  @property
  def rows_skipped(self) -> int:
    return len(self._ragged)

  def place(self, row: int) -> str:
    """Where a row is, for messages: 'line 7' of a CSV, 'row 6' of a Parquet.

    Args:
      row: Number of the row as `blocks` counts, from 0, without rows skipped.
    """
    if self.is_parquet:
      return f'row {row + 1}'
    ragged = np.array(self._ragged, np.int64) - 2
    skipped = np.searchsorted(ragged - np.arange(len(ragged)), row, 'right')
    return f'line {self._line_number(row + int(skipped) + 2)}'

  def blocks(self, columns: list[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Reads columns block by block.

    Args:
      columns: Names, all in `names`.

    Yields:
      The number of the block's first row, and the block. The columns of a CSV
      are text with nulls where empty, those of a Parquet have its types.

    Raises:
      InputError: If the file is damaged; the text says where.
    """
    read = self._parquet_blocks if self.is_parquet else self._csv_blocks
    first = 0
    try:
      for block in read(columns):
        yield first, block
        before, first = first, first + block.num_rows
        if first // _PROGRESS_ROWS > before // _PROGRESS_ROWS:
          logging.info('%s: %d rows read', self.path, first)
    except UnicodeError as error:
      raise InputError(self._encoding_error(f'near row {first + 1}')) from error
    except (pa.ArrowException, OSError, EOFError) as error:
      raise InputError(self._explain(error, first)) from error
    if not first:
      raise InputError(self._no_rows())

  def _read_names(self) -> list[str]:
    if self.is_parquet:
      try:
        return pa.parquet.read_schema(self.path).names
      except (pa.ArrowException, OSError) as error:
        raise InputError(self._explain(error, 0)) from error
    try:
      with self._open_text() as f:
        line = f.readline(MAX_LINE_BYTES + 1)
    except LookupError as error:
      raise InputError(
        f'dataset.encoding={self._encoding!r} is not known; use utf-8, '
        f'latin-1, or another name that Python knows.'
      ) from error
    except (OSError, EOFError, zlib.error) as error:
      raise InputError(self._unreadable(error, 'in line 1')) from error
    if len(line.encode()) > MAX_LINE_BYTES:
      raise line_limit.too_long(self.path, 1, MAX_LINE_BYTES)
    if '\0' in line or '\ufffd' in line:
      raise InputError(self._encoding_error('line 1'))
    line = line.removeprefix('\ufeff').rstrip('\r\n')
    try:
      return next(csv.reader([line], delimiter=self._delimiter), [])
    except csv.Error as error:
      raise InputError(
        f'{self.path}, line 1 is no header ({error}); {_AGAIN}.'
      ) from error

  def _csv_blocks(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
    stream = pa.input_stream(
      self.path, compression='gzip' if self._is_gzip else None
    )
    if codecs.lookup(self._encoding).name != 'utf-8':
      stream = pa.transcoding_input_stream(stream, self._encoding, 'utf-8')
    reader = pa.csv.open_csv(
      line_limit.LimitedLines(stream, MAX_LINE_BYTES, self.path),
      # One thread, so that rows are numbered.
      pa.csv.ReadOptions(use_threads=False, block_size=MAX_LINE_BYTES),
      pa.csv.ParseOptions(
        delimiter=self._delimiter, invalid_row_handler=self._on_ragged
      ),
      pa.csv.ConvertOptions(
        include_columns=columns,
        # As bytes: the text is checked below, where the row is known.
        column_types=dict.fromkeys(columns, pa.binary()),
        strings_can_be_null=True,
        null_values=_NULLS,
      ),
    )
    first = 0
    for batch in reader:
      yield self._decode(batch, first)
      first += batch.num_rows

  def _decode(self, batch: pa.RecordBatch, first: int) -> pa.RecordBatch:
    decoded = []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
      try:
        decoded.append(column.cast(pa.string()))
      except pa.ArrowInvalid as error:
        for row, value in enumerate(column.to_pylist()):
          try:
            (value or b'').decode()
          except UnicodeError:
            where = f'{self.place(first + row)}, column {name!r}'
            raise InputError(self._encoding_error(where)) from error
        raise
    return pa.RecordBatch.from_arrays(decoded, batch.schema.names)

  def _on_ragged(self, row) -> str:
    if not self._skip_ragged:
      self._ragged_fields = (row.actual_columns, row.expected_columns)
    self._ragged.append(row.number)
    return 'skip' if self._skip_ragged else 'error'

  def _parquet_blocks(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
    with pa.parquet.ParquetFile(self.path) as file:
      yield from file.iter_batches(_BLOCK_ROWS, columns=columns)

  def _explain(self, error: Exception, first: int) -> str:
    if self.is_parquet:
      return f'{self.path} is a damaged Parquet file ({error}); {_AGAIN}.'
    if self._ragged and not self._skip_ragged:
      actual, expected = self._ragged_fields
      return (
        f'{self.path}, line {self._line_number(self._ragged[0])} has {actual} '
        f'fields where the header has {expected}; quote fields that hold the '
        f'delimiter {self._delimiter!r}, or {self.remedy}.'
      )
    if 'Empty CSV' in str(error):
      return self._no_rows()
    return self._unreadable(error, f'after {self.place(first)}')

  def _unreadable(self, error: Exception, where: str) -> str:
    return f'{self.path} cannot be read {where} ({error}); {_AGAIN}.'

  def _no_rows(self) -> str:
    return f'{self.path} has a header but no rows; {_AGAIN}.'

  def _encoding_error(self, where: str) -> str:
    return (
      f'{self.path}, {where} is not {self._encoding} text; '
      f'{self.encoding_remedy}.'
    )

  def _open_text(self) -> io.TextIOBase:
    open_bytes = gzip.open if self._is_gzip else open
    return io.TextIOWrapper(
      open_bytes(self.path, 'rb'), self._encoding, 'replace', newline='\n'
    )

  def _line_number(self, row: int) -> int:
    """Line of a row, the header being row 1; empty lines are no rows."""
    with self._open_text() as f:
      for number, line in enumerate(f, start=1):
        row -= line not in ('\n', '\r\n')
        if not row:
          return number
    return number
