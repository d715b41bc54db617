"""The Beam pipeline prepares what `logs` reads in memory, array by array.

Needs the extra `beam`; launch/test.sh runs it in an environment of its own.
"""

import dataclasses
import gzip
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest

from bt4rec import splits
from bt4rec.datasets import logs, sequences
from bt4rec.errors import InputError
from configs import base
from tests import dataset_assertions

pytest.importorskip('apache_beam')

from apache_beam.io import localfilesystem

from bt4rec.datasets import beam_files, beam_job

_HEAD = 'user,item,timestamp,genre,name\n'
_COLUMNS = {'category': 'genre', 'title': 'name'}


def _rows(num_rows: int, user, item) -> list[str]:
  """Ties, repeats, missing and contradicting titles, several categories."""
  rng = np.random.default_rng(num_rows)
  rows = []
  for who, what, second, kind in zip(
    (rng.random(num_rows) ** 2 * 60).astype(int).tolist(),
    (rng.random(num_rows) ** 2 * 40).astype(int).tolist(),
    rng.integers(0, 12, num_rows).tolist(),
    rng.integers(0, 9, num_rows).tolist(),
    strict=True,
  ):
    genre = ['', 'A|B', f'C{what % 3}|A', f'C{what % 3}'][min(kind, 3)]
    name = '' if kind == 8 else f'Film {what}' + ' again' * (kind == 7)
    rows.append(f'{user(who)},{item(what)},{second},{genre},{name}\n')
  return rows


def _config(path, options=None, columns=None):
  config = base.get_config().dataset
  config.update({'name': 'logs', 'path': str(path), **(options or {})})
  config.columns.update(_COLUMNS if columns is None else columns)
  return config


def _prepare(config, directory, **options) -> sequences.SequenceDataset:
  beam_job.prepare(config, str(directory), **options)
  return sequences.load(str(directory))


def _read_in_memory(config, path) -> sequences.SequenceDataset:
  fields = config.to_dict()
  keys = (
    'columns',
    'timestamp_unit',
    'category_separator',
    'item_table',
    'min_rating',
    'encoding',
    'delimiter',
    'bad_rows',
    'duplicates',
  )
  return logs.read_logs(str(path), **{key: fields[key] for key in keys})


def _assert_same(prepared, in_memory) -> None:
  """Equal arrays, types, catalogue, counts and split."""
  origin = dict(prepared.origin)
  assert origin.pop('source') == 'logs'
  assert set(origin.pop('vocabulary')) >= {'min_item_events', 'rare_items'}
  dataset_assertions.assert_equal(
    dataclasses.replace(prepared, origin=origin), in_memory
  )
  assert splits.fingerprint(prepared) == splits.fingerprint(in_memory)


# How ids are written: numbers as text would order otherwise (10 before 9).
_IDS = {
  'integers': (lambda user: user * 7, lambda item: item - 5),
  'text': (lambda user: f'ü{user}', lambda item: f'i{item:03}'),
  'leading zeros': (lambda user: f'{user:02}', lambda item: item),
}


class TestEqualsLogs:
  @pytest.mark.parametrize('duplicates', ['keep', 'drop'])
  @pytest.mark.parametrize('ids', _IDS)
  def test_files_of_every_kind(self, tmp_path, ids, duplicates):
    rows = _rows(900, *_IDS[ids])
    whole = tmp_path / 'whole.csv'
    whole.write_text(''.join([_HEAD, *rows]))
    parts = tmp_path / 'parts'
    parts.mkdir()
    # Written out of order; their names order them.
    (parts / 'c.csv').write_text(''.join([_HEAD, *rows[500:]]))
    (parts / 'a.csv.gz').write_bytes(
      gzip.compress(''.join([_HEAD, *rows[:200]]).encode())
    )
    part = tmp_path / 'part.csv'
    part.write_text(''.join([_HEAD, *rows[200:500]]))
    text = pyarrow.csv.ConvertOptions(
      column_types=dict.fromkeys(('user', 'item'), pyarrow.string()),
      strings_can_be_null=True,
    )
    pyarrow.parquet.write_table(
      pyarrow.csv.read_csv(part, convert_options=text), parts / 'b.parquet'
    )
    config = _config(
      parts / '*', {'duplicates': duplicates, 'category_separator': '|'}
    )
    prepared = _prepare(config, tmp_path / 'out', events_per_shard=100)
    expected = _read_in_memory(config, whole)
    assert expected.origin['notes']
    _assert_same(prepared, expected)

  def test_one_id_of_the_last_file_makes_all_text(self, tmp_path):
    rows = _rows(300, *_IDS['integers'])
    rows[-1] = 'guest,x,3,A,Film\n'
    whole = tmp_path / 'whole.csv'
    whole.write_text(''.join([_HEAD, *rows]))
    for name, part in (('a', rows[:200]), ('b', rows[200:])):
      (tmp_path / f'part-{name}.csv').write_text(''.join([_HEAD, *part]))
    config = _config(tmp_path / 'part-*.csv')
    prepared = _prepare(config, tmp_path / 'out', events_per_shard=50)
    expected = _read_in_memory(config, whole)
    assert expected.user_ids[-1] == 'guest'
    _assert_same(prepared, expected)

  def test_bad_rows_and_low_ratings(self, tmp_path):
    rows = ['user,item,timestamp,stars\n']
    rows += [f'{i % 9},{i % 5},{i},{i % 6}\n' for i in range(300)]
    # Left out, so these users and items do not make the ids text.
    rows[40] = 'total,1,never,5\n'
    rows[50] = '1,2\n'
    rows[60] = ',3,4,5\n'
    rows[70] = '1,x,4,1\n'
    log = tmp_path / 'log.csv'
    log.write_text(''.join(rows))
    config = _config(
      log,
      {'bad_rows': 'drop', 'min_rating': 3.0},
      {'rating': 'stars'},
    )
    prepared = _prepare(config, tmp_path / 'out', events_per_shard=20)
    expected = _read_in_memory(config, log)
    assert len(expected.origin['dropped']) == 4
    assert expected.user_ids.dtype == np.int64
    _assert_same(prepared, expected)

  def test_item_table(self, tmp_path):
    log = tmp_path / 'log.csv'
    log.write_text(''.join([_HEAD, *_rows(300, *_IDS['integers'])]))
    table = tmp_path / 'items.csv'
    table.write_text(
      'item,genre,name\n' + ''.join(f'{i},G{i % 3},T {i}\n' for i in range(25))
    )
    config = _config(log, {'item_table': str(table)})
    prepared = _prepare(config, tmp_path / 'out', events_per_shard=50)
    assert prepared.origin['notes']['items that the item table lacks'] > 0
    _assert_same(prepared, _read_in_memory(config, log))

  def test_iso_dates_within_a_second_and_before_1970(self, tmp_path):
    rng = np.random.default_rng(0)
    log = tmp_path / 'log.csv'
    log.write_text(
      'user,item,timestamp\n'
      + ''.join(
        f'{i % 4},{i},1969-12-31T23:59:5{rng.integers(10)}.{rng.integers(99)}\n'
        for i in range(200)
      )
    )
    config = _config(log, {'timestamp_unit': 'iso'}, {})
    prepared = _prepare(config, tmp_path / 'out', events_per_shard=30)
    _assert_same(prepared, _read_in_memory(config, log))

  def test_real(self, shared_data, tmp_path):
    if shared_data is None or not (shared_data / 'ml-1m').is_dir():
      pytest.skip('no MovieLens-1M')
    with open(shared_data / 'ml-1m' / 'ratings.dat') as f:
      lines = f.read().replace('::', ',')
    log = tmp_path / 'log.csv'
    log.write_text('user,item,stars,timestamp\n' + lines)
    config = _config(log, {}, {})
    prepared = _prepare(config, tmp_path / 'out', events_per_shard=100_000)
    assert (prepared.num_users, prepared.num_events) == (6_040, 1_000_209)
    _assert_same(prepared, _read_in_memory(config, log))

  def test_several_processes(self, tmp_path):
    log = tmp_path / 'log.csv'
    log.write_text(''.join([_HEAD, *_rows(900, *_IDS['text'])]))
    config = _config(log, {'category_separator': '|'})
    prepared = _prepare(
      config,
      tmp_path / 'out',
      events_per_shard=100,
      beam_flags=[
        '--direct_num_workers=2',
        '--direct_running_mode=multi_processing',
      ],
    )
    _assert_same(prepared, _read_in_memory(config, log))


class TestRareItems:
  def test_equals_a_log_without_them(self, tmp_path):
    rows = _rows(300, *_IDS['text'])
    items = [row.split(',')[1] for row in rows]
    frequent = [
      row
      for row, item in zip(rows, items, strict=True)
      if items.count(item) > 5
    ]
    log, without = tmp_path / 'log.csv', tmp_path / 'without.csv'
    log.write_text(''.join([_HEAD, *rows]))
    without.write_text(''.join([_HEAD, *frequent]))
    config = _config(log)
    prepared = _prepare(
      config, tmp_path / 'out', min_item_events=6, events_per_shard=50
    )
    expected = _read_in_memory(config, without)
    for key in ('user_ids', 'offsets', 'items', 'timestamps'):
      np.testing.assert_array_equal(
        getattr(prepared, key), getattr(expected, key)
      )
    dataset_assertions.assert_equal(prepared.catalogue, expected.catalogue)
    lost = len(rows) - len(frequent)
    assert prepared.origin['dropped'] == {
      'events of items with fewer than 6 events': lost
    }
    assert prepared.origin['vocabulary'] == {
      'min_item_events': 6,
      'rare_items': len(set(items)) - expected.catalogue.num_items,
      'rare_item_rule': 'left out with their events; unknown when encoded',
    }

  def test_by_hand(self, tmp_path):
    log = tmp_path / 'log.csv'
    log.write_text('user,item,timestamp\n1,a,5\n2,b,1\n1,c,3\n1,a,4\n')
    prepared = _prepare(
      _config(log, columns={}), tmp_path / 'out', min_item_events=2
    )
    assert prepared.user_ids.tolist() == [1]
    assert prepared.items.tolist() == [1, 1]
    assert prepared.timestamps.tolist() == [4, 5]
    assert prepared.origin['rows_read'] == 4
    assert prepared.origin['events_kept'] == 2
    assert prepared.origin['notes'] == {
      'users of rare items alone, left out': 1
    }


class TestWhatIsLeftBehind:
  def _log(self, tmp_path, rows='1,2,3\n4,5,6\n'):
    log = tmp_path / 'log.csv'
    log.write_text('user,item,timestamp\n' + rows)
    return _config(log, columns={})

  def test_nothing_but_the_arrays(self, tmp_path):
    out = tmp_path / 'out'
    (out / 'prepare-shards').mkdir(parents=True)
    (out / 'prepare-shards' / 'sorted-0-of-a-killed-run').write_text('x')
    _prepare(self._log(tmp_path), out)
    assert sorted(path.name for path in out.iterdir()) == [
      'category_offsets.npy',
      'category_values.npy',
      'dataset.json',
      'item_ids.npy',
      'items.npy',
      'lock',
      'offsets.npy',
      'timestamps.npy',
      'titles.npy',
      'user_ids.npy',
    ]

  def test_bad_input_leaves_the_arrays_of_before(self, tmp_path):
    out = tmp_path / 'out'
    before = _prepare(self._log(tmp_path), out)
    with pytest.raises(InputError):
      _prepare(self._log(tmp_path, '1,2,x\n'), out)
    dataset_assertions.assert_equal(sequences.load(str(out)), before)

  def test_half_written_arrays_are_not_taken_for_whole(
    self, tmp_path, monkeypatch
  ):
    out = tmp_path / 'out'
    config = self._log(tmp_path)
    _prepare(config, out)

    def stop(*unused_args, **unused_options):
      raise KeyboardInterrupt

    with monkeypatch.context() as patch:
      patch.setattr(beam_job.shards, 'concatenate', stop)
      with pytest.raises(KeyboardInterrupt):
        _prepare(config, out)
    with pytest.raises(InputError, match=r'dataset\.json'):
      sequences.load(str(out))
    assert _prepare(config, out).num_events == 2

  def test_a_kill_and_the_same_command(self, tmp_path):
    log = tmp_path / 'log.csv'
    log.write_text(''.join([_HEAD, *_rows(100_000, *_IDS['integers'])]))
    config = _config(log)
    out = tmp_path / 'out'
    command = [
      sys.executable,
      '-m',
      'bt4rec.prepare',
      '--config=configs/pretrain.py:logs',
      f'--config.dataset.path={log}',
      '--config.dataset.columns.category=genre',
      '--config.dataset.columns.title=name',
      '--events_per_shard=100',
      f'--output={out}',
    ]
    job = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(out.glob('prepare-shards/sorted-*')):
      assert job.poll() is None and time.monotonic() < deadline
      time.sleep(0.01)
    job.send_signal(signal.SIGKILL)
    job.wait()
    with pytest.raises(InputError):
      sequences.load(str(out))
    subprocess.run(command, stderr=subprocess.DEVNULL, check=True)
    _assert_same(sequences.load(str(out)), _read_in_memory(config, log))
    assert not (out / 'prepare-shards').exists()


class _OtherMachine(localfilesystem.LocalFileSystem):
  """A file system that Python's open does not read."""

  @classmethod
  def scheme(cls):
    return 'other'

  def match(self, patterns, limits=None):
    results = super().match([self._strip(pattern) for pattern in patterns])
    for result in results:
      for file in result.metadata_list:
        file.path = 'other://' + file.path
    return results

  def join(self, base, *paths):
    return os.path.join(base, *paths)

  def exists(self, path):
    return super().exists(self._strip(path))

  def mkdirs(self, path):
    super().mkdirs(self._strip(path))

  def delete(self, paths):
    for path in paths:
      os.remove(self._strip(path))

  def open(self, path, *options, **named):
    return super().open(self._strip(path), *options, **named)

  def create(self, path, *options, **named):
    return super().create(self._strip(path), *options, **named)

  def _strip(self, path):
    return path.removeprefix('other://')


class TestRemoteFiles:
  def test_log_item_table_and_shards(self, tmp_path):
    log = tmp_path / 'log.csv'
    log.write_text(''.join([_HEAD, *_rows(300, *_IDS['text'])]))
    table = tmp_path / 'items.csv'
    table.write_text('item,genre,name\ni001,G,T\n')
    options = {'item_table': f'other://{table}'}
    prepared = _prepare(
      _config(f'other://{tmp_path}/lo*.csv', options),
      tmp_path / 'out',
      events_per_shard=50,
      shards_folder=f'other://{tmp_path}/shards',
    )
    config = _config(log, {'item_table': str(table)})
    _assert_same(prepared, _read_in_memory(config, log))
    assert not list((tmp_path / 'shards').glob('**/*-*-*'))

  def test_messages_name_the_file_and_not_its_copy(self, tmp_path):
    log = tmp_path / 'log.csv'
    log.write_text('user,item,timestamp\n1,2,x\n')
    path = f'other://{log}'
    with pytest.raises(InputError) as error:
      _prepare(_config(path, columns={}), tmp_path / 'out')
    assert str(error.value).startswith(f"{path}, line 2, column 'timestamp'")


class TestBadInput:
  def test_first_bad_row_is_the_sentence_of_logs(self, tmp_path):
    (tmp_path / 'a.csv').write_text('user,item,timestamp\n1,2,3\n')
    bad = tmp_path / 'b.csv'
    bad.write_text('user,item,timestamp\n1,2,3\n1,,3\n')
    (tmp_path / 'c.csv').write_text('user,item\n1,2\n')
    config = _config(tmp_path / '*.csv', columns={})
    with pytest.raises(InputError) as ours:
      _prepare(config, tmp_path / 'out')
    with pytest.raises(InputError) as theirs:
      _read_in_memory(config, bad)
    assert str(ours.value) == str(theirs.value)

  def test_item_table_is_looked_at_first(self, tmp_path):
    log = tmp_path / 'log.csv'
    log.write_text(_HEAD + '1,2,x,,\n')
    with pytest.raises(InputError, match=r'cannot open /none\.csv'):
      _prepare(_config(log, {'item_table': '/none.csv'}), tmp_path / 'out')
    table = tmp_path / 'items.csv'
    table.write_text('item,name\n1,T\n')
    with pytest.raises(InputError, match="has no column 'genre'"):
      _prepare(_config(log, {'item_table': str(table)}), tmp_path / 'out')

  def test_delimiter_of_parquet_files_alone(self, tmp_path):
    table = pyarrow.table({'user': [1], 'item': [2], 'timestamp': [3]})
    pyarrow.parquet.write_table(table, tmp_path / 'b.parquet')
    config = _config(tmp_path / '*', {'delimiter': ';'}, {})
    with pytest.raises(InputError, match='is for CSV files, but'):
      _prepare(config, tmp_path / 'out')
    (tmp_path / 'a').write_text('user;item;timestamp\n1;4;3\n')
    assert _prepare(config, tmp_path / 'out').items.tolist() == [2, 1]

  def test_endless_id(self, tmp_path):
    log = tmp_path / 'log.csv'
    log.write_text(f'user,item,timestamp\n1,{"x" * 257},3\n')
    with pytest.raises(InputError, match='is longer than 256 characters'):
      _prepare(_config(log, columns={}), tmp_path / 'out')

  @pytest.mark.parametrize('rows, threshold', [('1,2,3\n', 2), ('1,2,x\n', 1)])
  def test_nothing_left(self, tmp_path, rows, threshold):
    log = tmp_path / 'log.csv'
    log.write_text('user,item,timestamp\n' + rows)
    config = _config(log, {'bad_rows': 'drop'}, {})
    with pytest.raises(InputError, match="dataset 'logs' has no events"):
      _prepare(config, tmp_path / 'out', min_item_events=threshold)

  @pytest.mark.parametrize(
    'options, sentence',
    [
      ({'name': 'ml1m'}, "dataset 'ml1m' is prepared by bt4rec.describe"),
      ({'path': ''}, 'name your files with --config.dataset.path'),
      ({'path': '/none/*.csv'}, 'no file matches /none/'),
      ({'prepared': 'x'}, 'dataset.prepared is set'),
      ({'expect_official': False}, 'would be ignored by dataset'),
      ({'category_separator': '|'}, 'dataset.columns.category names no column'),
      ({'k_core': 5}, 'dataset.k_core=5 needs all events at once'),
      ({'duplicates': 'x'}, "unknown dataset.duplicates 'x'"),
      ({'min_rating': 2.0}, 'dataset.columns.rating names no column'),
      ({'item_table': '/none.csv'}, 'dataset.item_table is given, but neither'),
    ],
  )
  def test_options(self, tmp_path, options, sentence):
    log = tmp_path / 'log.csv'
    log.write_text('user,item,timestamp\n1,2,3\n')
    with pytest.raises(InputError, match=sentence):
      _prepare(_config(log, options, {}), tmp_path / 'out')

  @pytest.mark.parametrize(
    'options, sentence',
    [
      ({'min_item_events': 0}, '--min_item_events=0 is less than 1'),
      ({'events_per_shard': 0}, '--events_per_shard=0 is less than 1'),
      ({'beam_flags': ['--direct_workers=2']}, 'does not know --direct_worker'),
      ({'beam_flags': ['--runner=Fast']}, 'Unexpected pipeline runner: Fast'),
    ],
  )
  def test_flags(self, tmp_path, options, sentence):
    log = tmp_path / 'log.csv'
    log.write_text('user,item,timestamp\n1,2,3\n')
    with pytest.raises(InputError, match=sentence):
      _prepare(_config(log, columns={}), tmp_path / 'out', **options)


class TestCommand:
  def _run(self, *arguments):
    return subprocess.run(
      [sys.executable, '-m', 'bt4rec.prepare', *arguments],
      capture_output=True,
      text=True,
    )

  def test_writes_to_a_url(self, tmp_path):
    (tmp_path / 'log.csv').write_text('user,item,timestamp\n1,2,3\n1,4,5\n')
    program = (
      'import runpy, sys; from tests import bucket; bucket.register(); '
      'runpy.run_module("bt4rec.prepare", run_name="__main__", alter_sys=True)'
    )
    done = subprocess.run(
      [
        sys.executable,
        '-c',
        program,
        '--config=configs/pretrain.py:logs',
        f'--config.dataset.path={tmp_path}/log.csv',
        '--output=bucket://mine/arrays',
      ],
      capture_output=True,
      text=True,
      env={
        **os.environ,
        'BUCKETS': str(tmp_path),
        'XDG_CACHE_HOME': str(tmp_path / 'cache'),
      },
    )
    assert done.returncode == 0, done.stderr
    assert 'dataset.prepared=bucket://mine/arrays' in done.stdout
    written = sequences.load(str(tmp_path / 'mine' / 'arrays'))
    assert written.items.tolist() == [1, 2]

  def test_passes_flags_of_beam_and_says_what_it_wrote(self, tmp_path):
    (tmp_path / 'a.csv').write_text('user,item,timestamp\n1,2,3\n')
    (tmp_path / 'b.csv').write_text('user,item,timestamp\n1,4,3\n')
    output = tmp_path / 'out'
    done = self._run(
      '--config=configs/pretrain.py:logs',
      f'--config.dataset.path={tmp_path}/*.csv',
      f'--output={output}',
      '--',
      '--runner=DirectRunner',
      '--direct_running_mode=in_memory',
    )
    assert done.returncode == 0, done.stderr
    assert f'  {output}/dataset.json  (prepared arrays)\n' in done.stdout
    assert f'--config.dataset.prepared={output}' in done.stdout
    assert sequences.load(str(output)).items.tolist() == [1, 2]
    header = json.loads((output / 'dataset.json').read_text())
    assert header['origin']['rows_read'] == 2

  @pytest.mark.parametrize(
    'arguments, sentence',
    [
      ([], '--config is missing'),
      (['logs.csv'], "unexpected argument 'logs.csv'"),
      (['--runner=DirectRunner'], 'unknown flag --runner'),
      (
        ['--config=configs/pretrain.py:logs', '--config.dataset.path=none.csv'],
        'no file matches none.csv',
      ),
    ],
  )
  def test_bad_input_is_one_sentence(self, tmp_path, arguments, sentence):
    done = self._run(*arguments, f'--output={tmp_path / "out"}')
    assert done.returncode == 2, done.stderr
    assert 'Traceback' not in done.stderr
    (line,) = [
      line for line in done.stderr.splitlines() if line.startswith('bt4rec: ')
    ]
    assert sentence in line


def test_list_files_is_in_the_order_of_names(tmp_path):
  for name in ('b.csv', 'a10.csv', 'a9.csv'):
    (tmp_path / name).write_text('x')
  assert beam_files.list_files(f'{tmp_path}/*.csv') == [
    str(tmp_path / name) for name in ('a10.csv', 'a9.csv', 'b.csv')
  ]
