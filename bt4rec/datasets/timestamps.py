"""Timestamps of the source files -> nanoseconds.

Events are ordered by the full resolution of the source and stored in seconds
afterwards; nanoseconds in int64 reach from 1677 to 2262.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

TICKS_PER_SECOND = 1_000_000_000
# Unit -> nanoseconds. 'iso' is text such as 2019-12-31 or 2019-12-31T23:59:59.
UNITS = {
  's': 1_000_000_000,
  'ms': 1_000_000,
  'us': 1_000,
  'ns': 1,
  'iso': 0,
}

_WHOLE = r'^[+-]?[0-9]{1,19}$'
_DECIMAL = r'^[+-]?[0-9]{1,19}(\.[0-9]*)?([eE][+]?[0-9]{1,2})?$'
_ZONE = r'(Z|[+-][0-9]{2}(:?[0-9]{2})?)$'
_DATE_AND_ZONE = r'^.{10}[T ].*' + _ZONE


def to_nanoseconds(
  column: pa.Array, unit: str
) -> tuple[np.ndarray, np.ndarray]:
  """Reads timestamps.

  Args:
    column: [n] text or numbers, counted in `unit` since 1970; or dates of
      Arrow's own types, which carry their unit. Without a zone they are UTC.
    unit: A key of `UNITS`.

  Returns:
    [n] int64 nanoseconds, and [n] bool, whether each could be read; a null
    could not.
  """
  if pa.types.is_dictionary(column.type):
    column = column.cast(column.type.value_type)
  if pa.types.is_temporal(column.type):
    return _split(_cast_dates(column))
  if pa.types.is_integer(column.type) and unit != 'iso':
    return _scale(column.cast(pa.int64(), safe=False), UNITS[unit])
  if pa.types.is_floating(column.type) and unit != 'iso':
    return _scale_floats(column, UNITS[unit])
  text = pc.utf8_trim_whitespace(column.cast(pa.string()))
  if unit == 'iso':
    return _split(_parse_dates(text))
  return _parse_numbers(text, UNITS[unit])


def _split(dates: pa.Array) -> tuple[np.ndarray, np.ndarray]:
  """Arrow timestamps, null where unreadable -> values and validity."""
  valid = np.asarray(dates.is_valid())
  numbers = pc.fill_null(dates.cast(pa.int64()), 0)
  return numbers.to_numpy(zero_copy_only=False), valid


def _scale(numbers: pa.Array, factor: int) -> tuple[np.ndarray, np.ndarray]:
  valid = np.asarray(numbers.is_valid())
  values = pc.fill_null(numbers, 0).to_numpy(zero_copy_only=False)
  fits = np.abs(values) <= np.iinfo(np.int64).max // factor
  return np.where(fits, values, 0) * factor, valid & fits


def _scale_floats(
  numbers: pa.Array, factor: int
) -> tuple[np.ndarray, np.ndarray]:
  values = pc.fill_null(numbers.cast(pa.float64()), np.nan).to_numpy(
    zero_copy_only=False
  )
  limit = np.iinfo(np.int64).max // factor
  valid = np.abs(values) < limit  # False for NaN.
  values = np.where(valid, values, 0.0)
  whole = np.floor(values)
  # The fraction apart: the product as a whole has more digits than a float64.
  fraction = np.round((values - whole) * factor).astype(np.int64)
  return whole.astype(np.int64) * factor + fraction, valid


def _parse_numbers(
  text: pa.Array, factor: int
) -> tuple[np.ndarray, np.ndarray]:
  is_whole = pc.fill_null(pc.match_substring_regex(text, _WHOLE), False)
  if pc.all(is_whole).as_py():
    try:
      return _scale(text.cast(pa.int64()), factor)
    except pa.ArrowInvalid:
      pass  # Nineteen digits may exceed int64; floats tell which.
  is_number = pc.fill_null(pc.match_substring_regex(text, _DECIMAL), False)
  numbers = pc.if_else(is_number, text, pa.scalar(None, pa.string()))
  return _scale_floats(numbers.cast(pa.float64()), factor)


def _cast_dates(column: pa.Array) -> pa.Array:
  if getattr(column.type, 'tz', None):
    column = column.cast(pa.timestamp(column.type.unit, 'UTC'))
    column = column.cast(pa.timestamp(column.type.unit))
  try:
    return column.cast(pa.timestamp('ns'))
  except pa.ArrowInvalid:
    return _one_by_one(column, lambda one: one.cast(pa.timestamp('ns')))


def _parse_dates(text: pa.Array) -> pa.Array:
  """Null where a text is no date."""
  try:
    return text.cast(pa.timestamp('ns'))
  except pa.ArrowInvalid:
    pass
  zoned = pc.fill_null(pc.match_substring_regex(text, _DATE_AND_ZONE), False)
  if pc.all(zoned).as_py():
    try:
      return text.cast(pa.timestamp('ns', 'UTC')).cast(pa.timestamp('ns'))
    except pa.ArrowInvalid:
      pass
  return _one_by_one(text, _parse_date)


def _parse_date(one: pa.Array) -> pa.Array:
  if pc.match_substring_regex(one, _DATE_AND_ZONE)[0].as_py():
    one = one.cast(pa.timestamp('ns', 'UTC'))
  return one.cast(pa.timestamp('ns'))


def _one_by_one(column: pa.Array, cast) -> pa.Array:
  """int64 nanoseconds; slow, for blocks that have something unreadable."""
  results = []
  for row in range(len(column)):
    try:
      one = cast(column.slice(row, 1)).cast(pa.int64())
      results.append(one[0].as_py())
    except pa.ArrowInvalid:
      results.append(None)
  return pa.array(results, pa.int64())
