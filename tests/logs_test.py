"""The user's own logs: what is read, counted, dropped, and refused how."""

import gzip
import os
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bt4rec import datasets, pipeline, splits
from bt4rec.datasets import logs, movielens, sequences, tables, timestamps
from bt4rec.errors import InputError
from configs import base
from tests import dataset_assertions

_COLUMNS = base.get_config().dataset.columns.to_dict()
_HEAD = 'user,item,timestamp\n'


def _read(path, columns=None, **options) -> sequences.SequenceDataset:
  return logs.read_logs(
    str(path), columns={**_COLUMNS, **(columns or {})}, **options
  )


def _write(tmp_path, data, name='log.csv') -> pathlib.Path:
  path = tmp_path / name
  path.write_bytes(data.encode() if isinstance(data, str) else data)
  return path


def _read_text(tmp_path, data, columns=None, **options):
  return _read(_write(tmp_path, data), columns, **options)


def _events(dataset) -> list[tuple]:
  """(user, item, second) in the order of the dataset."""
  users = np.repeat(dataset.user_ids, dataset.lengths).tolist()
  items = dataset.catalogue.item_ids[dataset.items - 1].tolist()
  return list(zip(users, items, dataset.timestamps.tolist(), strict=True))


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


_DROP = 'or leave such rows out with --config.dataset.bad_rows=drop.'
_AGAIN = 'download or write the file again.'
_UNIT = (
  'is not a number of s since 1970, within the years 1677 to 2262 '
  '(dataset.timestamp_unit=s); correct the row, '
)
# Every bad input tried: the file, the options, and the sentence, in which
# FILE stands for the path.
_BAD_INPUTS = {
  'empty file': ('', {}, f'FILE is empty; {_AGAIN}'),
  'header alone': (_HEAD, {}, f'FILE has a header but no rows; {_AGAIN}'),
  'header without line end': (
    _HEAD.strip(),
    {},
    f'FILE has a header but no rows; {_AGAIN}',
  ),
  'missing column': (
    'user,item,time\n1,2,3\n',
    {},
    "FILE, line 1 has no column 'timestamp' for the timestamp; its columns "
    "are 'user', 'item', 'time'; name the right one with "
    '--config.dataset.columns.',
  ),
  'missing header': (
    '1,2,3\n1,4,5\n',
    {},
    "FILE, line 1 has no column 'user' for the user; its columns are '1', "
    "'2', '3'; name the right one with --config.dataset.columns.",
  ),
  'column twice': (
    'user,item,timestamp,item\n1,2,3,4\n',
    {},
    "FILE, line 1 has 2 columns 'item' for the item; its columns are 'user', "
    "'item', 'timestamp', 'item'; name the right one with "
    '--config.dataset.columns.',
  ),
  'missing category column': (
    _HEAD + '1,2,3\n',
    {'columns': {'category': 'genre'}},
    "FILE, line 1 has no column 'genre' for the category; its columns are "
    "'user', 'item', 'timestamp'; name the right one with "
    '--config.dataset.columns.',
  ),
  'null user id': (
    _HEAD + '1,2,3\n,2,4\n',
    {},
    "FILE, line 3, column 'user': the user id is missing; correct the row, "
    + _DROP,
  ),
  'null item id': (
    _HEAD + '1,2,3\n\n1,NULL,4\n',
    {},
    "FILE, line 4, column 'item': the item id is missing; correct the row, "
    + _DROP,
  ),
  'missing timestamp': (
    _HEAD + '1,2,\n',
    {},
    "FILE, line 2, column 'timestamp': the timestamp is missing; correct the "
    'row, ' + _DROP,
  ),
  'unparsable timestamp': (
    _HEAD + '1,2,3\n1,2,yesterday\n',
    {},
    "FILE, line 3, column 'timestamp': the timestamp 'yesterday' "
    + _UNIT
    + _DROP,
  ),
  'milliseconds taken for seconds': (
    _HEAD + '1,2,1600000000000\n',
    {},
    "FILE, line 2, column 'timestamp': the timestamp '1600000000000' "
    + _UNIT
    + _DROP,
  ),
  'a date taken for seconds': (
    _HEAD + '1,2,2020-01-01\n',
    {},
    "FILE, line 2, column 'timestamp': the timestamp '2020-01-01' "
    + _UNIT
    + _DROP,
  ),
  'a date that does not exist': (
    _HEAD + '1,2,2020-01-31\n1,2,2020-02-30\n',
    {'timestamp_unit': 'iso'},
    "FILE, line 3, column 'timestamp': the timestamp '2020-02-30' is not a "
    'date such as 2019-12-31 or 2019-12-31T23:59:59 '
    '(dataset.timestamp_unit=iso); correct the row, ' + _DROP,
  ),
  'too few fields': (
    _HEAD + '1,2,3\n\n4,5\n',
    {},
    'FILE, line 4 has 2 fields where the header has 3; quote fields that hold '
    "the delimiter ',', " + _DROP,
  ),
  'too many fields': (
    _HEAD + '1,2,3\n1,a,b,4\n',
    {},
    'FILE, line 3 has 4 fields where the header has 3; quote fields that hold '
    "the delimiter ',', " + _DROP,
  ),
  'another encoding': (
    (_HEAD + '1,a,3\n1,é,4\n').encode('latin-1'),
    {},
    "FILE, line 3, column 'item' is not utf-8 text; write the file as UTF-8, "
    'or name its encoding with --config.dataset.encoding.',
  ),
  'UTF-16': (
    (_HEAD + '1,2,3\n').encode('utf-16'),
    {},
    'FILE, line 1 is not utf-8 text; write the file as UTF-8, or name its '
    'encoding with --config.dataset.encoding.',
  ),
  'unknown encoding': (
    _HEAD + '1,2,3\n',
    {'encoding': 'klingon'},
    "dataset.encoding='klingon' is not known; use utf-8, latin-1, or another "
    'name that Python knows.',
  ),
  'open quote': (
    _HEAD + '1,"2,3\n4,5,6\n',
    {},
    'FILE, line 2 has 2 fields where the header has 3; quote fields that hold '
    "the delimiter ',', " + _DROP,
  ),
  'NUL in an id': (
    _HEAD + '1,a\0b,3\n',
    {},
    "the item id that starts with 'a\\x00b' holds a NUL character; use "
    'shorter, printable ids.',
  ),
  'endless id': (
    _HEAD + f'1,{"x" * 257},3\n',
    {},
    f"the item id that starts with '{'x' * 40}' is longer than 256 "
    'characters; use shorter, printable ids.',
  ),
  'rating that is none': (
    'user,item,timestamp,stars\n1,2,3,4.5\n1,2,3,good\n',
    {'columns': {'rating': 'stars'}, 'min_rating': 3.0},
    "FILE, line 3, column 'stars': the rating is no number; correct the row, "
    + _DROP,
  ),
  'nothing left': (
    _HEAD + '1,2,3\n',
    {'k_core': 5},
    "dataset 'logs' has no events; check the source files.",
  ),
  'unknown unit': (
    _HEAD + '1,2,3\n',
    {'timestamp_unit': 'minutes'},
    "unknown dataset.timestamp_unit 'minutes'; the valid names are: s, ms, "
    'us, ns, iso.',
  ),
  'unknown rule': (
    _HEAD + '1,2,3\n',
    {'bad_rows': 'ignore'},
    "unknown dataset.bad_rows 'ignore'; the valid names are: refuse, drop.",
  ),
  'long delimiter': (
    _HEAD + '1,2,3\n',
    {'delimiter': '::'},
    "dataset.delimiter='::' is not one character.",
  ),
  'rating without column': (
    _HEAD + '1,2,3\n',
    {'min_rating': 3.0},
    'dataset.min_rating is given, but dataset.columns.rating names no column; '
    'give both or neither.',
  ),
}


class TestBadInputs:
  @pytest.mark.parametrize('case', _BAD_INPUTS)
  def test_gets_its_sentence(self, tmp_path, case):
    data, options, sentence = _BAD_INPUTS[case]
    path = _write(tmp_path, data)
    with pytest.raises(InputError) as error:
      _read(path, **options)
    assert str(error.value).replace(str(path), 'FILE') == sentence
    assert '\n' not in sentence

  def test_compressed_files_have_the_same_lines(self, tmp_path):
    path = _write(tmp_path, gzip.compress((_HEAD + '1,2,3\n1,2,x').encode()))
    with pytest.raises(InputError, match=r"line 3, column 'timestamp'"):
      _read(path)

  @pytest.mark.parametrize('cut', [4, 2_000])
  def test_cut_gzip(self, tmp_path, cut):
    rng = np.random.default_rng(0)
    rows = ''.join(f'{i},1,1\n' for i in rng.integers(0, 10**9, 20_000))
    path = _write(tmp_path, gzip.compress((_HEAD + rows).encode())[:-cut])
    with pytest.raises(InputError, match='cannot be read after line'):
      _read(path)

  def test_cut_parquet(self, tmp_path):
    path = tmp_path / 'log.parquet'
    pq.write_table(pa.table({'user': [1], 'item': [2], 'timestamp': [3]}), path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match='is a damaged Parquet file'):
      _read(path)

  @pytest.mark.parametrize(
    'column, values, sentence',
    [
      ('user', [1, None], "row 2, column 'user': the user id is missing"),
      ('item', ['a', ''], "row 2, column 'item': the item id is missing"),
      ('item', [1.0, 2.0], "column 'item' is of the Parquet type double"),
      ('timestamp', [3, None], "row 2, column 'timestamp': the timestamp is"),
      ('timestamp', ['3', 'x'], "row 2, column 'timestamp': the timestamp 'x'"),
    ],
  )
  def test_parquet_rows_are_named(self, tmp_path, column, values, sentence):
    table = {'user': [1, 2], 'item': [3, 4], 'timestamp': [5, 6]}
    path = tmp_path / 'log.parquet'
    pq.write_table(pa.table({**table, column: values}), path)
    with pytest.raises(InputError) as error:
      _read(path)
    assert f'{path}, {sentence}' in str(error.value)

  def test_a_line_has_a_limit(self, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, 'MAX_LINE_BYTES', 64)
    rows = '1,2,3\n' * 9 + f'1,"{"x" * 300}",3\n'
    with pytest.raises(InputError, match='a line longer than 64 bytes after'):
      _read_text(tmp_path, _HEAD + rows)

  def test_missing_file_and_folder(self, tmp_path):
    with pytest.raises(InputError, match=r'none\.csv does not exist'):
      _read(tmp_path / 'none.csv')
    with pytest.raises(InputError, match='is a folder'):
      _read(tmp_path)
    path = _write(tmp_path, _HEAD + '1,2,3\n')
    with pytest.raises(InputError, match=r'dataset\.item_table must name'):
      _read(path, item_table=str(tmp_path / 'none.csv'))

  def test_no_path(self):
    config = base.get_config().dataset
    config.name = 'logs'
    with pytest.raises(InputError, match=r'--config\.dataset\.path'):
      datasets.load(config)

  def test_fewer_users_than_a_batch(self):
    offsets = np.array([0, 3, 6, 9])
    make = dict(max_length=2, seed=0)
    pipeline.PretrainPlan(offsets, np.array([2, 2, 2]), batch_size=3, **make)
    with pytest.raises(InputError) as error:
      pipeline.PretrainPlan(offsets, np.array([2, 1, 2]), batch_size=3, **make)
    assert str(error.value) == (
      '2 users can be pre-trained on, fewer than batch_size=3; choose a '
      'smaller batch_size, or use more data.'
    )


class TestBadRowsDropped:
  _ROWS = '1,a,3\n,a,4\n1,b\n2,a,x\n2,b,5\n\n2,,6\n3,c,7,8\n3,c,8\n'

  def test_each_is_counted_with_its_reason(self, tmp_path):
    dataset = _read_text(tmp_path, _HEAD + self._ROWS, bad_rows='drop')
    assert _events(dataset) == [(1, 'a', 3), (2, 'b', 5), (3, 'c', 8)]
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
    dataset = _read_text(tmp_path, _HEAD + ',,\n1,2,3\n', bad_rows='drop')
    assert sum(dataset.origin['dropped'].values()) == 1

  def test_lines_are_right_behind_dropped_rows(self, tmp_path, caplog):
    rows = self._ROWS + '3,c,8\n'
    _read_text(tmp_path, _HEAD + rows, bad_rows='drop')
    assert 'the first in line 11;' in caplog.text


class TestRepeatedEvents:
  # Rows 3, 5 and 6 repeat rows 1, 2 and 1; the others only look like it.
  _ROWS = '1,a,3\n2,a,3\n1,a,3\n1,b,3\n2,a,3\n1,a,3\n1,a,4\n'

  def test_kept_and_counted(self, tmp_path, caplog):
    dataset = _read_text(tmp_path, _HEAD + self._ROWS)
    assert dataset.num_events == 7
    assert dataset.origin['notes'] == {'repeated events, kept': 3}
    assert dataset.origin['dropped'] == {}
    assert '3 events repeat' in caplog.text
    assert 'the first in line 4; they are kept' in caplog.text

  def test_dropped_and_counted(self, tmp_path, caplog):
    dataset = _read_text(tmp_path, _HEAD + self._ROWS, duplicates='drop')
    assert _events(dataset) == [
      (1, 'a', 3),
      (1, 'b', 3),
      (1, 'a', 4),
      (2, 'a', 3),
    ]
    assert dataset.origin['dropped'] == {'repeated events': 3}
    assert 'they are left out' in caplog.text

  def test_equals_a_set_on_random_events(self, tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 5, (300, 3)).tolist()
    text = _HEAD + ''.join('{},{},{}\n'.format(*row) for row in rows)
    dataset = _read_text(tmp_path, text, duplicates='drop')
    kept = list(dict.fromkeys(map(tuple, rows)))
    expected = sorted(kept, key=lambda row: (row[0], row[2]))
    assert _events(dataset) == expected


class TestTimestamps:
  @pytest.mark.parametrize(
    'unit, text',
    [
      ('s', '1577836799'),
      ('s', '1577836799.0'),
      ('s', '1.577836799e9'),
      ('ms', '1577836799000'),
      ('us', '1577836799000000'),
      ('ns', '1577836799000000000'),
      ('iso', '2019-12-31 23:59:59'),
      ('iso', '2019-12-31T23:59:59Z'),
      ('iso', '2020-01-01T00:59:59+01:00'),
      ('iso', '2019-12-31T23:59:59.000'),
    ],
  )
  def test_of_one_moment_are_equal(self, tmp_path, unit, text):
    dataset = _read_text(tmp_path, f'{_HEAD}1,2,{text}\n', timestamp_unit=unit)
    assert dataset.timestamps.tolist() == [1577836799]

  def test_with_and_without_zone_in_one_file(self, tmp_path):
    rows = '1,a,2019-12-31\n1,b,2019-12-31T01:00+01:00\n1,c,2019-12-30\n'
    dataset = _read_text(tmp_path, _HEAD + rows, timestamp_unit='iso')
    assert _events(dataset) == [
      (1, 'c', 1577664000),
      (1, 'a', 1577750400),
      (1, 'b', 1577750400),
    ]

  @pytest.mark.parametrize(
    'unit, texts',
    [
      ('s', ('7.30', '7.2999999', '7.1')),
      ('ms', ('7300', '7299', '7100')),
      ('ns', ('7000000003', '7000000002', '7000000001')),
      ('iso', ('1970-01-01 00:00:07.3', '1970-01-01 00:00:07.2', '1970-01-01')),
    ],
  )
  def test_order_has_the_full_resolution(self, tmp_path, unit, texts):
    rows = ''.join(
      f'1,{item},{text}\n' for item, text in zip('cba', texts, strict=True)
    )
    dataset = _read_text(tmp_path, _HEAD + rows, timestamp_unit=unit)
    assert dataset.catalogue.item_ids[dataset.items - 1].tolist() == list('abc')

  def test_before_1970(self, tmp_path):
    dataset = _read_text(
      tmp_path, f'{_HEAD}1,a,1969-12-31\n1,b,1960-01-01\n', timestamp_unit='iso'
    )
    assert dataset.timestamps.tolist() == [-315619200, -86400]

  @pytest.mark.parametrize(
    'column',
    [
      pa.array([7, 5, None], pa.int32()),
      pa.array([7.5, 5.0, None]),
      pa.array([7_000, 5_000, None], pa.timestamp('ms')),
      pa.array([7_000, 5_000, None], pa.timestamp('ms', 'Asia/Tokyo')),
      pa.array(['7', ' 5 ', 'x']),
      pa.array(['7', '5', None]).dictionary_encode(),
    ],
    ids=str,
  )
  def test_types_of_parquet(self, column):
    times, valid = timestamps.to_nanoseconds(column, 's')
    assert (times[:2] // 10**9).tolist() == [7, 5]
    assert valid.tolist() == [True, True, False]


class TestIds:
  def test_integers_are_ordered_as_numbers(self, tmp_path):
    dataset = _read_text(tmp_path, _HEAD + '10,9,1\n9,10,1\n-1,100,1\n')
    assert dataset.user_ids.tolist() == [-1, 9, 10]
    assert dataset.catalogue.item_ids.tolist() == [9, 10, 100]
    assert dataset.user_ids.dtype == np.int64

  @pytest.mark.parametrize('odd', ['b', '07', '+7', '1.0', '9' * 20])
  def test_one_that_is_none_makes_all_text(self, tmp_path, odd):
    dataset = _read_text(tmp_path, f'{_HEAD}10,1,1\n9,1,1\n{odd},1,1\n')
    assert dataset.user_ids.tolist() == sorted(['10', '9', odd])

  def test_text_is_ordered_as_bytes(self, tmp_path):
    ids = ['Z', 'a', 'é', '\U0001d11e', '\uff5a', 'aa']
    rows = ''.join(f'u,{item},1\n' for item in ids)
    dataset = _read_text(tmp_path, _HEAD + rows)
    expected = sorted(ids, key=lambda item: item.encode())
    assert dataset.catalogue.item_ids.tolist() == expected

  def test_survive_the_records(self, tmp_path):
    config = base.get_config().dataset
    config.name = 'logs'
    config.path = str(_write(tmp_path, _HEAD + 'é,"x, ""y""",2\n' * 2))
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
    return _read(path, **options)

  @pytest.fixture
  def expected(self, tmp_path):
    return self._read(_write(tmp_path, self._csv(), 'expected.csv'))

  def test_by_hand(self, expected):
    assert _events(expected) == [
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
    path = _write(tmp_path, encode(self._csv()), 'log.data')
    dataset_assertions.assert_equal(self._read(path, **options), expected)

  def test_blocks_do_not_show(self, tmp_path, expected, monkeypatch):
    monkeypatch.setattr(tables, 'MAX_LINE_BYTES', 24)
    path = _write(tmp_path, self._csv())
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
    log = _write(tmp_path, self._csv(names='uit'))
    # An item without an event, and one twice: the first row counts.
    rows = 'i,c,n\n9,War,Nine\n7,Drama|War,Seven\n8,Zoo,Eight\n10,,Ten\n'
    items = _write(tmp_path, rows + '7,Zoo,Other\n', 'items.csv')
    dataset = self._read(log, item_table=str(items))
    dataset_assertions.assert_equal(dataset, expected)

  def test_items_that_the_item_table_lacks_are_counted(self, tmp_path):
    log = _write(tmp_path, self._csv(names='uit'))
    items = _write(tmp_path, 'i,c,n\n7,Drama,Seven\n', 'items.csv')
    dataset = self._read(log, item_table=str(items))
    assert dataset.origin['notes'] == {'items that the item table lacks': 2}
    assert _categories(dataset) == {7: ['Drama'], 9: [], 10: []}

  def test_without_separator_a_field_is_one_category(self, tmp_path):
    path = _write(tmp_path, self._csv())
    dataset = self._read(path, category_separator='')
    assert _categories(dataset)[7] == ['Drama|War']

  def test_rows_that_disagree_on_a_category_are_counted(self, tmp_path):
    rows = 'user,item,timestamp,c\n1,7,9,\n1,7,5,A\n2,7,1,B\n2,7,2,B\n'
    dataset = _read_text(tmp_path, rows, {'category': 'c'})
    # The first in the file, not in time.
    assert _categories(dataset) == {7: ['A']}
    assert dataset.origin['notes'] == {
      'rows with another category than their item had first': 2
    }

  def test_low_ratings_are_left_out_and_counted(self, tmp_path):
    rows = 'user,item,timestamp,r\n1,7,9,3\n1,8,5,2.99\n2,7,1,5\n'
    dataset = _read_text(tmp_path, rows, {'rating': 'r'}, min_rating=3.0)
    assert _events(dataset) == [(1, 7, 9), (2, 7, 1)]
    assert dataset.origin['dropped'] == {'events rated below 3': 1}


class TestEqualsMovieLens:
  """The same log gives the same dataset whatever the source."""

  def _assert_equal_to_ml1m(self, folder: str, tmp_path) -> None:
    with open(os.path.join(folder, 'ratings.dat')) as f:
      lines = f.read().replace('::', ',')
    path = _write(tmp_path, 'user,item,stars,timestamp\n' + lines)
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
    log = _read(
      folder / 'ratings.csv',
      {'user': 'userId', 'item': 'movieId', 'title': 'title'},
      item_table=str(folder / 'movies.csv'),
    )
    small = movielens.read_ml20m(str(folder), expect_official=False)
    assert splits.fingerprint(log) == splits.fingerprint(small)
    np.testing.assert_array_equal(log.catalogue.titles, small.catalogue.titles)
