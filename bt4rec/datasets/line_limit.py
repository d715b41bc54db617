"""A limit on the length of the lines of a stream."""

import io
from typing import BinaryIO

from bt4rec.errors import InputError


def too_long(path: str, line: int, limit: int) -> InputError:
  """Returns the error of a line that is longer than `limit` bytes."""
  return InputError(
    f'{path}, line {line} is longer than {limit:,} bytes; a quote may be open, '
    f'or it is no CSV file.'
  )


class LimitedLines(io.RawIOBase):
  """A readable stream that refuses a line longer than a limit, its end counted.

  Nothing longer than the limit is ever asked of the stream below, so a file
  that is compressed cannot fill the memory with one line.
  """

  def __init__(self, stream: BinaryIO, limit: int, path: str):
    """Wraps a stream.

    Args:
      stream: Gives bytes in which `\\n` ends a line.
      limit: Bytes of the longest line.
      path: Of the file, for messages.
    """
    self._stream = stream
    self._limit = limit
    self._path = path
    self._lines = 0
    # Bytes of the line that is not ended yet.
    self._open = 0

  def readable(self) -> bool:
    return True

  def read(self, size: int = -1) -> bytes:
    """Reads up to `size` bytes, at most the limit.

    Raises:
      InputError: If a line is longer than the limit; the text has its number.
    """
    data = self._stream.read(
      min(size, self._limit) if size >= 0 else self._limit
    )
    # A line that begins within the data is no longer than it.
    first = data.find(b'\n')
    self._open += len(data) if first < 0 else first + 1
    if self._open > self._limit:
      raise too_long(self._path, self._lines + 1, self._limit)
    if first >= 0:
      self._lines += data.count(b'\n')
      self._open = len(data) - 1 - data.rfind(b'\n')
    return data

  def close(self) -> None:
    self._stream.close()
    super().close()
