"""The user's own logs: forms, ids, and what is counted or dropped.

Those that are refused stand in bad_inputs.py.
"""

import gzip
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bt4rec import datasets, splits
from bt4rec.datasets import movielens, tables
from configs import base
from tests import dataset_assertions, log_files


def _categories(dataset) -> dict:
  catalogue = dataset.catalogue
  return {
    item: [
      catalogue.category_names[i] for i in catalogue.category_values[first:last]
    ]
    for item, first, last in zip(
      catalogue.item_ids.tolist(),
      catalogue.category_offsets[:-1],
      catalogue.category_offsets[1:],
      strict=True,
    )
  }


class TestBadRowsDropped:
  _ROWS = '1,a,3\n,a,4\n1,b\n2,a,x\n2,b,5\n\n2,,6\n3,c,7,8\n3,c,8\n'

  def test_each_is_counted_with_its_reason(self, tmp_path):
    dataset = log_files.read_text(
      tmp_path, log_files.HEAD + self._ROWS, bad_rows='drop'
    )
    assert log_files.events_of(dataset) == [
      (1, 'a', 3),
      (2, 'b', 5),
      (3, 'c', 8),
    ]
    origin = dataset.origin
    assert origin['dropped'] == {
      "rows whose column 'user' cannot be read": 1,
      "rows whose column 'item' cannot be read": 1,
      "rows whose column 'timestamp' cannot be read": 1,
      'ragged rows': 2,
    }
    # Nothing disappears: what is read is kept or counted.
    assert origin['rows_read'] == 8
    assert origin['rows_read'] - sum(origin['dropped'].values()) == 3

  def test_a_row_without_anything_is_counted_once(self, tmp_path):
    dataset = log_files.read_text(
      tmp_path, log_files.HEAD + ',,\n1,2,3\n', bad_rows='drop'
    )
    assert sum(dataset.origin['dropped'].values()) == 1

  def test_lines_are_right_behind_dropped_rows(self, tmp_path, caplog):
    rows = self._ROWS + '3,c,8\n'
    log_files.read_text(tmp_path, log_files.HEAD + rows, bad_rows='drop')
    assert 'the first in line 11;' in caplog.text


class TestIds:
  def test_integers_are_ordered_as_numbers(self, tmp_path):
    dataset = log_files.read_text(
      tmp_path, log_files.HEAD + '10,9,1\n9,10,1\n-1,100,1\n'
    )
    assert dataset.user_ids.tolist() == [-1, 9, 10]
    assert dataset.catalogue.item_ids.tolist() == [9, 10, 100]
    assert dataset.user_ids.dtype == np.int64

  @pytest.mark.parametrize('odd', ['b', '07', '+7', '1.0', '9' * 20])
  def test_one_that_is_none_makes_all_text(self, tmp_path, odd):
    dataset = log_files.read_text(
      tmp_path, f'{log_files.HEAD}10,1,1\n9,1,1\n{odd},1,1\n'
    )
    assert dataset.user_ids.tolist() == sorted(['10', '9', odd])

  def test_text_is_ordered_as_bytes(self, tmp_path):
    ids = ['Z', 'a', 'é', '\U0001d11e', '\uff5a', 'aa']
    rows = ''.join(f'u,{item},1\n' for item in ids)
    dataset = log_files.read_text(tmp_path, log_files.HEAD + rows)
    expected = sorted(ids, key=lambda item: item.encode())
    assert dataset.catalogue.item_ids.tolist() == expected

  def test_survive_the_records(self, tmp_path):
    config = base.get_config().dataset
    config.name = 'logs'
    config.path = str(
      log_files.write(tmp_path, log_files.HEAD + 'é,"x, ""y""",2\n' * 2)
    )
    config.data_dir = str(tmp_path / 'cache')
    written, cached = datasets.load(config), datasets.load(config)
    dataset_assertions.assert_equal(written, cached)
    assert written.user_ids.tolist() == ['é']
    assert written.catalogue.item_ids.tolist() == ['x, "y"']
    # What was counted is told again when nothing is read again.
    assert cached.origin['notes'] == {'repeated events, kept': 1}


_LOG = {
  'u': ['b', 'a', 'b', 'a'],
  'i': [7, 10, 9, 7],
  't': [4, 3, 4, 1],
  'c': ['Drama|War', '', 'War', 'Drama|War'],
  'n': ['Seven', 'Ten', 'Nine', 'Seven'],
}
_NAMES = {
  'user': 'u',
  'item': 'i',
  'timestamp': 't',
  'category': 'c',
  'title': 'n',
}


class TestForms:
  """The same log in several forms."""

  def _csv(self, delimiter=',', names='uitcn') -> str:
    rows = zip(*(_LOG[name] for name in names), strict=True)
    lines = [delimiter.join(names)]
    lines += [delimiter.join(map(str, row)) for row in rows]
    return '\n'.join(lines) + '\n'

  def _read(self, path, **options):
    options = {'columns': _NAMES, 'category_separator': '|', **options}
    return log_files.read(path, **options)

  @pytest.fixture
  def expected(self, tmp_path):
    return self._read(log_files.write(tmp_path, self._csv(), 'expected.csv'))

  def test_by_hand(self, expected):
    assert log_files.events_of(expected) == [
      ('a', 7, 1),
      ('a', 10, 3),
      ('b', 7, 4),
      ('b', 9, 4),
    ]
    assert _categories(expected) == {7: ['Drama', 'War'], 9: ['War'], 10: []}
    assert expected.catalogue.titles.tolist() == ['Seven', 'Nine', 'Ten']

  @pytest.mark.parametrize(
    'encode, options',
    [
      (lambda text: gzip.compress(text.encode()), {}),
      (lambda text: b'\xef\xbb\xbf' + text.encode(), {}),
      (lambda text: text.replace('\n', '\r\n').encode(), {}),
      (lambda text: text.encode('utf-16'), {'encoding': 'utf-16'}),
      (lambda text: text.replace(',', '\t').encode(), {'delimiter': '\t'}),
      (lambda text: text[:-1].encode(), {}),
    ],
    ids=['gzip', 'mark', 'crlf', 'utf-16', 'tabs', 'no last line end'],
  )
  def test_csv(self, tmp_path, expected, encode, options):
    # The content says what it is, not the name.
    path = log_files.write(tmp_path, encode(self._csv()), 'log.data')
    dataset_assertions.assert_equal(self._read(path, **options), expected)

  def test_blocks_do_not_show(self, tmp_path, expected, monkeypatch):
    monkeypatch.setattr(tables, 'MAX_LINE_BYTES', 24)
    path = log_files.write(tmp_path, self._csv())
    dataset_assertions.assert_equal(self._read(path), expected)

  @pytest.mark.parametrize('as_list', [False, True])
  def test_parquet(self, tmp_path, expected, as_list):
    log = dict(_LOG)
    if as_list:
      log['c'] = [text.split('|') if text else None for text in log['c']]
    path = tmp_path / 'log.parquet'
    pq.write_table(pa.table(log), path, row_group_size=3)
    dataset_assertions.assert_equal(self._read(path), expected)

  def test_parquet_of_a_pandas_category(self, tmp_path, expected):
    table = pa.table(
      {
        name: pa.array(values).dictionary_encode()
        for name, values in _LOG.items()
      }
    )
    path = tmp_path / 'log.parquet'
    pq.write_table(table, path)
    dataset_assertions.assert_equal(self._read(path), expected)

  def test_item_table(self, tmp_path, expected):
    log = log_files.write(tmp_path, self._csv(names='uit'))
    # An item without an event, and one twice: the first row counts.
    rows = 'i,c,n\n9,War,Nine\n7,Drama|War,Seven\n8,Zoo,Eight\n10,,Ten\n'
    items = log_files.write(tmp_path, rows + '7,Zoo,Other\n', 'items.csv')
    dataset = self._read(log, item_table=str(items))
    dataset_assertions.assert_equal(dataset, expected)

  def test_items_that_the_item_table_lacks_are_counted(self, tmp_path):
    log = log_files.write(tmp_path, self._csv(names='uit'))
    items = log_files.write(tmp_path, 'i,c,n\n7,Drama,Seven\n', 'items.csv')
    dataset = self._read(log, item_table=str(items))
    assert dataset.origin['notes'] == {'items that the item table lacks': 2}
    assert _categories(dataset) == {7: ['Drama'], 9: [], 10: []}

  def test_without_separator_a_field_is_one_category(self, tmp_path):
    path = log_files.write(tmp_path, self._csv())
    dataset = self._read(path, category_separator='')
    assert _categories(dataset)[7] == ['Drama|War']

  def test_rows_that_disagree_on_a_category_are_counted(self, tmp_path):
    rows = 'user,item,timestamp,c\n1,7,9,\n1,7,5,A\n2,7,1,B\n2,7,2,B\n'
    dataset = log_files.read_text(tmp_path, rows, {'category': 'c'})
    # The first in the file, not in time.
    assert _categories(dataset) == {7: ['A']}
    assert dataset.origin['notes'] == {
      'rows with another category than their item had first': 2
    }

  def test_low_ratings_are_left_out_and_counted(self, tmp_path):
    rows = 'user,item,timestamp,r\n1,7,9,3\n1,8,5,2.99\n2,7,1,5\n'
    dataset = log_files.read_text(
      tmp_path, rows, {'rating': 'r'}, min_rating=3.0
    )
    assert log_files.events_of(dataset) == [(1, 7, 9), (2, 7, 1)]
    assert dataset.origin['dropped'] == {'events rated below 3': 1}


class TestEqualsMovieLens:
  """The same log gives the same dataset whatever the source."""

  def _assert_equal_to_ml1m(self, folder: str, tmp_path) -> None:
    with open(os.path.join(folder, 'ratings.dat')) as f:
      lines = f.read().replace('::', ',')
    path = log_files.write(tmp_path, 'user,item,stars,timestamp\n' + lines)
    config = base.get_config().dataset
    config.data_dir = str(tmp_path / 'cache')
    config.update({'name': 'logs', 'path': str(path)})
    log = datasets.load(config)
    config.update({'name': 'ml1m', 'path': folder, 'expect_official': False})
    ml1m = datasets.load(config)
    for key in ('user_ids', 'offsets', 'items', 'timestamps'):
      np.testing.assert_array_equal(
        getattr(log, key), getattr(ml1m, key), key, strict=True
      )
    np.testing.assert_array_equal(
      log.catalogue.item_ids, ml1m.catalogue.item_ids, strict=True
    )
    assert splits.fingerprint(log) == splits.fingerprint(ml1m)

  def test_generated(self, tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / 'ml'
    folder.mkdir()
    ratings = [
      f'{user}::{movie}::4::{second}\n'
      for user in range(1, 30)
      for movie, second in rng.integers(1, 40, (25, 2)).tolist()
    ]
    (folder / 'ratings.dat').write_text(''.join(ratings))
    (folder / 'movies.dat').write_text(
      ''.join(f'{movie}::T::Drama\n' for movie in range(1, 41))
    )
    self._assert_equal_to_ml1m(str(folder), tmp_path)

  def test_real(self, shared_data, tmp_path):
    if shared_data is None or not (shared_data / 'ml-1m').is_dir():
      pytest.skip('no MovieLens-1M')
    self._assert_equal_to_ml1m(str(shared_data / 'ml-1m'), tmp_path)

  def test_real_20m_schema(self, shared_data):
    if shared_data is None or not (shared_data / 'ml-latest-small').is_dir():
      pytest.skip('no ml-latest-small')
    folder = shared_data / 'ml-latest-small'
    log = log_files.read(
      folder / 'ratings.csv',
      {'user': 'userId', 'item': 'movieId', 'title': 'title'},
      item_table=str(folder / 'movies.csv'),
    )
    small = movielens.read_ml20m(str(folder), expect_official=False)
    assert splits.fingerprint(log) == splits.fingerprint(small)
    np.testing.assert_array_equal(log.catalogue.titles, small.catalogue.titles)
