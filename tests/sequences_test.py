"""Grouping events by user, the catalogue, and the prepared arrays."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from bt4rec.datasets import sequences
from bt4rec.errors import InputError
from tests import dataset_assertions

# user, item, seconds; in source order. Times of user 7 are equal in rows 0, 2
# and 5, so that the row decides; user 3 comes second in the file.
_EVENTS = np.array(
  [
    (7, 30, 50),
    (3, 100, 90),
    (7, 9, 50),
    (3, 9, 20),
    (7, 100, 10),
    (7, 2, 50),
    (11, 30, 0),
  ]
)
_TITLES = {2: 'Two', 9: 'Nine', 30: 'Thirty', 100: 'Hundred', 999: 'Unseen'}
_CATEGORIES = {
  2: ['drama', 'action'],
  30: ['drama'],
  100: ['western', 'drama', 'action', 'drama'],
  999: ['horror'],
}


def _dataset(events=_EVENTS, **overrides) -> sequences.SequenceDataset:
  arguments = {'titles': _TITLES, 'categories': _CATEGORIES, **overrides}
  return sequences.from_events(
    'tiny', events[:, 0], events[:, 1], events[:, 2], **arguments
  )


def _original_items(dataset, user: int) -> list:
  events = slice(dataset.offsets[user], dataset.offsets[user + 1])
  return dataset.catalogue.item_ids[dataset.items[events] - 1].tolist()


class TestFromEvents:
  def test_orders_a_user_by_time_then_source_row(self):
    dataset = _dataset()
    assert dataset.user_ids.tolist() == [3, 7, 11]
    assert _original_items(dataset, 0) == [9, 100]
    assert _original_items(dataset, 1) == [100, 30, 9, 2]
    assert _original_items(dataset, 2) == [30]
    assert dataset.timestamps.tolist() == [20, 90, 10, 50, 50, 50, 0]

  def test_counts_of_the_table(self):
    dataset = _dataset()
    assert (dataset.num_users, dataset.num_events) == (3, 7)
    assert dataset.offsets.tolist() == [0, 2, 6, 7]
    assert dataset.lengths.tolist() == [2, 4, 1]

  def test_dtypes(self):
    dataset = _dataset()
    assert dataset.items.dtype == np.int32
    for array in (dataset.offsets, dataset.timestamps, dataset.user_ids):
      assert array.dtype == np.int64
    assert dataset.catalogue.category_offsets.dtype == np.int64
    assert dataset.catalogue.category_values.dtype == np.int32

  def test_interleaving_the_users_changes_nothing(self):
    grouped = _EVENTS[np.argsort(_EVENTS[:, 0], kind='stable')]
    dataset_assertions.assert_equal(_dataset(grouped), _dataset())

  def test_integer_ids_ascend_numerically_and_strings_by_bytes(self):
    names = np.array(['9', '100', 'é', 'Z', 'a', '\U0001f600', '\uffee'])
    dataset = sequences.from_events('s', names, names, np.zeros(7, np.int64))
    expected = sorted(names.tolist(), key=lambda name: name.encode())
    assert dataset.user_ids.tolist() == expected
    assert dataset.catalogue.item_ids.tolist() == expected
    assert _dataset().catalogue.item_ids.tolist() == [2, 9, 30, 100]

  @pytest.mark.parametrize('kind', [str, int])
  def test_ids_as_arrow_and_pandas_give_them(self, kind, tmp_path):
    users, items = (
      np.array([kind(value) for value in column])
      for column in (_EVENTS[:, 0], _EVENTS[:, 1])
    )
    made = sequences.from_events(
      's', users.astype(object), items.astype(object), _EVENTS[:, 2]
    )
    expected = sequences.from_events('s', users, items, _EVENTS[:, 2])
    dataset_assertions.assert_equal(made, expected)
    assert made.user_ids.dtype == users.dtype
    sequences.save(made, str(tmp_path))
    dataset_assertions.assert_equal(sequences.load(str(tmp_path)), expected)

  @pytest.mark.parametrize(
    'ids, found',
    [
      (np.array(['a', None]), 'NoneType, str'),
      (np.array(['a', 7], object), 'int, str'),
      (np.array([1, np.nan]), 'float64'),
      (np.array([1, 1 << 63], np.uint64), 'uint64'),
      (np.array([1, 1 << 64]), 'int'),
    ],
  )
  @pytest.mark.parametrize('column', ['users', 'items'])
  def test_ids_that_are_none_are_refused(self, column, ids, found):
    columns = {'users': np.arange(2), 'items': np.arange(2), column: ids}
    with pytest.raises(InputError, match=f'{column} are of type {found};'):
      sequences.from_events('s', **columns, timestamps=np.arange(2))

  @pytest.mark.parametrize('unit', ['s', 'ms', 'ns'])
  def test_dates_are_seconds(self, unit):
    seconds = np.array([86_400, 0, 3])
    dates = seconds.astype('datetime64[s]').astype(f'datetime64[{unit}]')
    made = sequences.from_events('s', np.ones(3, int), np.arange(3), dates)
    assert made.timestamps.tolist() == [0, 3, 86_400]
    assert made.timestamps.dtype == np.int64

  @pytest.mark.parametrize(
    'timestamps',
    [
      np.array([1.5, 2.0]),
      np.array(['2019-12-31', '2020-01-01']),
      np.array(['2019-12-31', 'NaT'], 'datetime64[s]'),
    ],
    ids=['fractions', 'text', 'missing'],
  )
  def test_times_that_are_no_seconds_are_refused(self, timestamps):
    with pytest.raises(InputError, match='timestamps are of type'):
      sequences.from_events('s', np.arange(2), np.arange(2), timestamps)

  def test_no_event_is_refused(self):
    with pytest.raises(InputError, match="'tiny' has no events"):
      _dataset(_EVENTS[:0])


class TestCatalogue:
  def test_holds_the_items_with_events_and_no_others(self):
    catalogue = _dataset().catalogue
    assert catalogue.num_items == 4
    assert catalogue.titles.tolist() == ['Two', 'Nine', 'Thirty', 'Hundred']
    assert catalogue.category_names == ('action', 'drama', 'western')

  def test_padding_and_mask_stand_around_the_items(self):
    catalogue = _dataset().catalogue
    assert sequences.PADDING == 0
    assert (catalogue.mask_item, catalogue.vocabulary_size) == (5, 6)

  def test_an_item_weighs_its_categories_equally_and_once(self):
    third = np.float32(1 / 3)
    np.testing.assert_array_equal(
      _dataset().catalogue.category_weights(),
      np.array(
        [
          [0, 0, 0],  # Padding.
          [0.5, 0.5, 0],
          [0, 0, 0],  # Item 9 has no category.
          [0, 1, 0],
          [third, third, third],  # 'drama' is listed twice.
          [0, 0, 0],  # Mask token.
        ],
        np.float32,
      ),
    )

  def test_without_titles_and_categories(self):
    catalogue = _dataset(titles=None, categories=None).catalogue
    assert catalogue.titles.tolist() == [''] * 4
    assert catalogue.category_weights().shape == (6, 0)


class TestSaveAndLoad:
  def test_reads_back_equal(self, tmp_path):
    sequences.save(_dataset(), str(tmp_path / 'new' / 'folder'))
    dataset_assertions.assert_equal(
      sequences.load(str(tmp_path / 'new' / 'folder')), _dataset()
    )

  def test_string_ids_read_back_equal(self, tmp_path):
    ids = np.array(['é', 'b', 'é', 'aa'])
    dataset = sequences.from_events('s', ids, ids[::-1], np.arange(4))
    sequences.save(dataset, str(tmp_path))
    dataset_assertions.assert_equal(sequences.load(str(tmp_path)), dataset)

  @pytest.mark.parametrize('share', [0.0, 0.1, 0.9])
  @pytest.mark.parametrize(
    'name', ['dataset.json', 'items.npy', 'titles.npy', 'offsets.npy']
  )
  def test_cut_file_is_named(self, tmp_path, name, share):
    sequences.save(_dataset(), str(tmp_path))
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(share * len(data))])
    with pytest.raises(InputError, match=f'cannot read .*{name}'):
      sequences.load(str(tmp_path))

  @pytest.mark.parametrize('name', ['dataset.json', 'category_values.npy'])
  def test_missing_file_is_named(self, tmp_path, name):
    sequences.save(_dataset(), str(tmp_path))
    os.remove(tmp_path / name)
    with pytest.raises(InputError, match=f'cannot read .*{name}'):
      sequences.load(str(tmp_path))

  @pytest.mark.parametrize('header', ['[]', '3', '{"name": "tiny"}'])
  def test_header_of_another_form_is_named(self, tmp_path, header):
    sequences.save(_dataset(), str(tmp_path))
    (tmp_path / 'dataset.json').write_text(header)
    with pytest.raises(InputError, match=r'cannot read .*dataset.json'):
      sequences.load(str(tmp_path))

  def test_pickled_objects_are_refused(self, tmp_path):
    sequences.save(_dataset(), str(tmp_path))
    np.save(tmp_path / 'items.npy', np.array([{}], object), allow_pickle=True)
    with pytest.raises(InputError, match=r'items.npy'):
      sequences.load(str(tmp_path))

  @pytest.mark.parametrize(
    'name',
    [
      'user_ids',
      'offsets',
      'items',
      'timestamps',
      'item_ids',
      'titles',
      'category_offsets',
      'category_values',
    ],
  )
  def test_an_array_of_another_dataset_is_refused(self, tmp_path, name):
    other = np.append(_EVENTS, [(12, 999, 4)], axis=0)
    sequences.save(_dataset(), str(tmp_path / 'a'))
    sequences.save(_dataset(other), str(tmp_path / 'b'))
    os.replace(tmp_path / 'b' / f'{name}.npy', tmp_path / 'a' / f'{name}.npy')
    with pytest.raises(InputError, match='do not belong together'):
      sequences.load(str(tmp_path / 'a'))

  @pytest.mark.parametrize('token', [0, 5])
  def test_a_token_outside_of_the_catalogue_is_refused(self, tmp_path, token):
    sequences.save(_dataset(), str(tmp_path))
    items = _dataset().items.copy()
    items[3] = token
    np.save(tmp_path / 'items.npy', items)
    with pytest.raises(InputError, match='do not belong together'):
      sequences.load(str(tmp_path))

  def test_a_rewrite_killed_half_way_is_refused(self, tmp_path, monkeypatch):
    sequences.save(_dataset(), str(tmp_path))
    save = np.save

    def killed_at_items(file, array, **options):
      if file.name.endswith('items.npy.tmp'):
        raise KeyboardInterrupt
      save(file, array, **options)

    monkeypatch.setattr(np, 'save', killed_at_items)
    with pytest.raises(KeyboardInterrupt):
      sequences.save(_dataset(_EVENTS[::-1]), str(tmp_path))
    with pytest.raises(InputError, match=r'dataset.json'):
      sequences.load(str(tmp_path))

  def test_header_is_readable_json(self, tmp_path):
    sequences.save(_dataset(), str(tmp_path))
    header = json.loads((tmp_path / 'dataset.json').read_text())
    assert header['name'] == 'tiny'
    assert header['category_names'] == ['action', 'drama', 'western']

  def test_may_be_written_over_itself(self, tmp_path):
    sequences.save(_dataset(), str(tmp_path))
    loaded = sequences.load(str(tmp_path))
    sequences.save(loaded, str(tmp_path))
    for dataset in (loaded, sequences.load(str(tmp_path))):
      dataset_assertions.assert_equal(dataset, _dataset())

  def test_events_stay_in_their_files(self, tmp_path):
    # In a process of its own, whose memory cannot hold the events.
    num_users, length = 40_000, 400
    dataset = sequences.SequenceDataset(
      'large',
      np.arange(num_users),
      np.arange(num_users + 1) * length,
      np.resize(np.arange(1, 4, dtype=np.int32), num_users * length),
      np.zeros(1, np.int64),
      _dataset().catalogue,
    )
    sequences.save(dataset, str(tmp_path))
    # As many timestamps, without the disk they would take.
    timestamps = np.lib.format.open_memmap(
      tmp_path / 'timestamps.npy', 'w+', np.int64, (num_users * length,)
    )
    del timestamps
    program = f"""
import resource
import numpy as np
from bt4rec import pipeline, plans, pretrain_data, splits
from bt4rec.datasets import sequences

def data_bytes():
  with open('/proc/self/status') as f:
    text = f.read().split('VmData:')[1]
  return int(text.split()[0]) * 1024

most = data_bytes() + 48 * 2**20  # The items alone are 61 MiB.
resource.setrlimit(resource.RLIMIT_DATA, (most, most))
try:
  np.ones({num_users * length}, np.int32)
except MemoryError:
  print('no copy fits')
dataset = sequences.load({str(tmp_path)!r})
visible = splits.visible_lengths('shared', dataset.lengths)
plan = plans.PretrainPlan(
  dataset.offsets, visible, max_length=50, batch_size=128, seed=0)
feed = pipeline.feed(
  'device', plan, {{'items': dataset.items}}, max_length=50, batch_size=128)
rows = next(feed)
items = pipeline.cut_windows(
  {{'items': dataset.items}}, rows['start'], rows['length'], 50)['items']
pretrain_data.log_item_probability(dataset, visible)
print(splits.fingerprint(dataset) != '', (items > 0).all())
"""
    done = subprocess.run(
      [sys.executable, '-c', program], capture_output=True, text=True
    )
    assert done.stdout == 'no copy fits\nTrue True\n', done.stderr[-2_000:]


def test_header_alone_makes_a_directory_whole(tmp_path):
  sequences.save_header(str(tmp_path), 'logs', ('a',), {})
  assert (tmp_path / 'dataset.json').exists()
  sequences.remove_header(str(tmp_path))
  assert not list(tmp_path.iterdir())
