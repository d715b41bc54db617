"""The limit on the length of a line, exact wherever reads happen to end."""

import io

import numpy as np
import pytest

from bt4rec.datasets import line_limit
from bt4rec.errors import InputError


def _read_all(data: bytes, limit: int, sizes) -> bytes:
  """Reads in pieces of the sizes, over and over."""
  stream = line_limit.LimitedLines(io.BytesIO(data), limit, 'FILE')
  pieces = [b'?']
  while pieces[-1]:
    pieces.append(stream.read(sizes[len(pieces) % len(sizes)]))
  return b''.join(pieces[1:])


@pytest.mark.parametrize('end', [b'', b'\n', b'\nab\n'])
@pytest.mark.parametrize('before', [b'', b'a\n', b'\n\nabc\n'])
@pytest.mark.parametrize('size', [1, 3, 9, 10, 11, 100, -1])
def test_the_longest_line_counts_its_end(before, end, size):
  longest = b'x' * (10 - len(end[:1]))
  data = before + longest + end
  assert _read_all(data, 10, [size]) == data
  with pytest.raises(InputError) as error:
    _read_all(before + longest + b'x' + end, 10, [size])
  line = len(before.splitlines()) + 1
  assert str(error.value) == (
    f'FILE, line {line} is longer than 10 bytes; a quote may be open, or it is '
    f'no CSV file.'
  )


def test_equals_splitting_the_whole_on_random_texts():
  rng = np.random.default_rng(0)
  refused = 0
  for _ in range(300):
    data = rng.choice([10, 97], rng.integers(60), p=[0.2, 0.8])
    data = data.astype(np.uint8).tobytes()
    sizes = rng.integers(1, 12, 5).tolist()
    lines = data.splitlines(keepends=True)
    long = [n for n, line in enumerate(lines, start=1) if len(line) > 8]
    if not long:
      assert _read_all(data, 8, sizes) == data
      continue
    refused += 1
    with pytest.raises(InputError, match=f'line {long[0]} is longer'):
      _read_all(data, 8, sizes)
  assert 50 < refused < 250
