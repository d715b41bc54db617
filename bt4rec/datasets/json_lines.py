"""Reads JSON lines, one bounded line at a time."""

import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator

from absl import logging

from bt4rec.datasets.tables import MAX_LINE_BYTES
from bt4rec.errors import InputError

_PROGRESS_ROWS = 1_000_000
# The parser recurses; Python's own limit would be met in odd places.
_MAX_DEPTH = 100
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')


def read(path: str) -> Iterator[tuple[int, dict]]:
  """Reads a file (plain or gzip) of one JSON object a line.

  Yields:
    The number of the line, from 1, and the object.

  Raises:
    InputError: If a line is too long, or no JSON object.
  """
  open_bytes: Callable = gzip.open if path.endswith('.gz') else open
  number = 0
  try:
    with open_bytes(path, 'rb') as f:
      while line := f.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
          raise ValueError(f'it is longer than {MAX_LINE_BYTES:,} bytes')
        if line.isspace():
          continue
        if _depth(line) > _MAX_DEPTH:
          raise ValueError(f'it is nested deeper than {_MAX_DEPTH}')
        value = json.loads(line)
        if not isinstance(value, dict):
          raise ValueError('it is no object')
        yield number, value
        if number % _PROGRESS_ROWS == 0:
          logging.info('%s: %d lines read', path, number)
  except ValueError as error:
    raise InputError(
      f'{path}, line {number} is not a JSON object ({error}); the file is '
      f'damaged or cut, unpack the archive again.'
    ) from error
  except (OSError, EOFError, zlib.error) as error:
    raise InputError(
      f'{path} cannot be read after line {number} ({error}); unpack the '
      f'archive again.'
    ) from error
  if not number:
    raise InputError(f'{path} is empty; unpack the archive again.')


def _depth(line: bytes) -> int:
  """How deep the line is nested, or more."""
  brackets = line.count(b'[') + line.count(b'{')
  if brackets <= _MAX_DEPTH:
    return brackets
  depth = deepest = 0
  for character in _STRING.sub(b'', line):
    depth += (character in b'[{') - (character in b']}')
    deepest = max(deepest, depth)
  return deepest
