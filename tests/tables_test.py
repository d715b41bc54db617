"""CSV and Parquet files as blocks: limits, line numbers, damaged files.

The sentences stand in bad_inputs.py.
"""

import gzip

import numpy as np
import pytest

from bt4rec.datasets import json_lines, tables
from bt4rec.errors import InputError
from tests import log_files

_HEAD = log_files.HEAD


def _num_rows(path) -> int:
  table = tables.Table(str(path), encoding='utf-8')
  return sum(block.num_rows for _, block in table.blocks(['item']))


class TestLineLimit:
  """Exact: a line of the limit is read, one byte more is refused."""

  @pytest.mark.parametrize('limit', [64, 1_000])
  @pytest.mark.parametrize('pack', [bytes, gzip.compress], ids=['csv', 'gzip'])
  @pytest.mark.parametrize('rows', [0, 9, 400])
  def test_of_csv(self, tmp_path, monkeypatch, limit, pack, rows):
    monkeypatch.setattr(tables, 'MAX_LINE_BYTES', limit)
    before = (_HEAD + '1,2,3\n' * rows).encode()
    line = b'1,' + b'x' * (limit - 5) + b',3\n'
    assert len(line) == limit
    path = log_files.write(tmp_path, pack(before + line + b'4,5,6\n'))
    assert _num_rows(path) == rows + 2
    path = log_files.write(tmp_path, pack(before + b'1' + line))
    with pytest.raises(InputError, match=f'line {rows + 2} is longer than'):
      _num_rows(path)

  def test_of_a_last_line_that_is_not_ended(self, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, 'MAX_LINE_BYTES', 64)
    path = log_files.write(tmp_path, _HEAD + '1,' + 'x' * 61 + ',3')
    with pytest.raises(InputError, match='line 2 is longer than 64 bytes'):
      _num_rows(path)
    path = log_files.write(tmp_path, _HEAD + '1,' + 'x' * 60 + ',3')
    assert _num_rows(path) == 1

  @pytest.mark.parametrize('encoding', ['utf-16', 'utf-16-le', 'latin-1'])
  def test_is_that_of_the_text_in_utf8(self, tmp_path, monkeypatch, encoding):
    monkeypatch.setattr(tables, 'MAX_LINE_BYTES', 64)

    def read(line):
      data = (_HEAD + '1,2,3\n' * 40 + line).encode(encoding)
      path = log_files.write(tmp_path, data)
      return log_files.read(path, encoding=encoding).num_events

    # 29 of two bytes and 6 of one.
    assert read('1,' + 'é' * 29 + ',3\n') == 41
    with pytest.raises(InputError, match='line 42 is longer than 64 bytes'):
      read('1,' + 'é' * 30 + ',3\n')

  def test_of_the_header(self, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, 'MAX_LINE_BYTES', 64)
    more = ',' + 'é' * 21
    head = 'user,item,timestamp' + more + '\n'
    assert len(head.encode()) == 63
    assert _num_rows(log_files.write(tmp_path, head + '1,2,3,4\n')) == 1
    head = 'user,item,timestamp' + more + 'ab\n'
    with pytest.raises(InputError, match='line 1 is longer than 64 bytes'):
      _num_rows(log_files.write(tmp_path, head + '1,2,3,4\n'))

  @pytest.mark.parametrize('name', ['x.json', 'x.json.gz'])
  def test_of_json_lines(self, tmp_path, monkeypatch, name):
    monkeypatch.setattr(json_lines, 'MAX_LINE_BYTES', 64)

    def read(line):
      data = b'{}\n' + line
      path = log_files.write(
        tmp_path, gzip.compress(data) if name.endswith('gz') else data, name
      )
      return len(list(json_lines.read(str(path))))

    line = b'{"a": "' + b'x' * 54 + b'"}\n'
    assert len(line) == 64
    assert read(line) == 2
    with pytest.raises(InputError, match=r'line 2 .* longer than 64 bytes'):
      read(b' ' + line)


class TestDamagedFiles:
  def test_compressed_files_have_the_same_lines(self, tmp_path):
    data = gzip.compress((_HEAD + '1,2,3\n1,2,x').encode())
    with pytest.raises(InputError, match=r"line 3, column 'timestamp'"):
      log_files.read_text(tmp_path, data)

  @pytest.mark.parametrize('damage', ['cut 4', 'cut 2000', 'first', 'middle'])
  @pytest.mark.parametrize('read', [tables.Table, json_lines.read])
  def test_gzip(self, tmp_path, damage, read):
    rng = np.random.default_rng(0)
    rows = ''.join(f'{{"a":{i}}}\n' for i in rng.integers(0, 10**9, 20_000))
    data = bytearray(gzip.compress(('{"a":0}\n' + rows).encode()))
    if damage.startswith('cut'):
      del data[-int(damage[4:]) :]
    else:
      # Bits that are no deflate block, where it starts or far behind.
      first = 10 if damage == 'first' else len(data) // 2
      data[first : first + 60] = b'\xff' * 60
    path = str(log_files.write(tmp_path, bytes(data), 'x.gz'))
    with pytest.raises(InputError, match=r'x\.gz'):
      if read is tables.Table:
        list(tables.Table(path).blocks(['{"a":0}']))
      else:
        list(json_lines.read(path))

  def test_several_gzip_files_in_one_are_read(self, tmp_path):
    parts = [(_HEAD + '1,2,3\n').encode(), b'4,5,6\n']
    path = log_files.write(tmp_path, b''.join(map(gzip.compress, parts)))
    assert _num_rows(path) == 2
