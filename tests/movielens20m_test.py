"""MovieLens-20M: the CSV schema, the name of the result, unpacking.

The real files of this schema are those of ml-latest-small, and the catalogue
of MovieLens-20M; the ratings of 20M are generated.
"""

import os
import pathlib
import stat
import zipfile

import numpy as np
import pytest

from bt4rec import datasets
from bt4rec.datasets import archive, movielens, sequences
from bt4rec.errors import InputError
from configs import base
from tests import dataset_assertions, full_size

# User, movie, rating, second: user 2 has three ratings in one second.
_RATINGS = (
  (10, 31, 4.0, 90),
  (2, 1029, 3.5, 50),
  (2, 31, 2.0, 50),
  (2, 5, 5.0, 50),
  (2, 1029, 0.5, 20),
)
_MOVIES = (
  '5,"Father, The (1995)",Comedy|Drama',
  '31,Señor Ö (2001),(no genres listed)',
  '1029,"A ""quoted"" title",Drama',
  '7,Never rated,Horror',
)


def _write(folder: pathlib.Path, end: str = '\r\n') -> pathlib.Path:
  folder.mkdir()
  rows = [','.join(map(str, rating)) for rating in _RATINGS]
  lines = ['userId,movieId,rating,timestamp', *rows, '']
  (folder / 'ratings.csv').write_bytes(end.join(lines).encode())
  lines = ['movieId,title,genres', *_MOVIES, '']
  (folder / 'movies.csv').write_bytes(end.join(lines).encode())
  return folder


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
  return _write(tmp_path / 'ml-20m')


def _read(folder: pathlib.Path) -> sequences.SequenceDataset:
  return movielens.read_ml20m(str(folder), expect_official=False)


def _config(path, data_dir, **overrides):
  config = base.get_config().dataset
  config.update(
    {
      'name': 'ml20m',
      'path': str(path),
      'data_dir': str(data_dir),
      'expect_official': False,
      **overrides,
    }
  )
  return config


class TestReadFiles:
  @pytest.mark.parametrize('end', ['\r\n', '\n'])
  def test_by_hand(self, tmp_path, end):
    dataset = _read(_write(tmp_path / 'x', end))
    assert dataset.user_ids.tolist() == [2, 10]
    assert dataset.catalogue.item_ids.tolist() == [5, 31, 1029]
    # By second, then by row.
    items = dataset.catalogue.item_ids[dataset.items - 1]
    assert items.tolist() == [1029, 1029, 31, 5, 31]
    assert dataset.timestamps.tolist() == [20, 50, 50, 50, 90]
    assert dataset.offsets.tolist() == [0, 4, 5]
    assert dataset.catalogue.titles.tolist() == [
      'Father, The (1995)',
      'Señor Ö (2001)',
      'A "quoted" title',
    ]

  def test_no_genres_listed_is_no_genre(self, folder):
    catalogue = _read(folder).catalogue
    assert catalogue.category_names == ('Comedy', 'Drama')
    assert catalogue.category_offsets.tolist() == [0, 2, 2, 3]
    assert catalogue.category_values.tolist() == [0, 1, 1]

  def test_rows_are_counted(self, folder):
    origin = _read(folder).origin
    assert (origin['rows_read'], origin['events_kept']) == (5, 5)
    assert origin['dropped'] == {}

  def test_many_blocks_equal_a_plain_read(self, tmp_path, monkeypatch):
    full_size.write_ml20m(str(tmp_path), 3_000)
    # Blocks of a few rows, so that ids and rows go across their borders.
    monkeypatch.setattr('bt4rec.datasets.tables.MAX_LINE_BYTES', 200)
    dataset = _read(tmp_path)
    rows = np.loadtxt(tmp_path / 'ratings.csv', delimiter=',', skiprows=1)
    expected = sequences.from_events(
      '',
      rows[:, 0].astype(np.int64),
      rows[:, 1].astype(np.int64),
      rows[:, 3].astype(np.int64),
    )
    for key in ('user_ids', 'offsets', 'items', 'timestamps'):
      np.testing.assert_array_equal(
        getattr(dataset, key), getattr(expected, key), key, strict=True
      )
    assert dataset.num_events == 3_000


class TestName:
  def test_a_stand_in_never_carries_the_name(self, folder):
    assert _read(folder).name == 'ml20m-unofficial'

  def test_known_counts_carry_their_own(self, folder, monkeypatch):
    monkeypatch.setitem(movielens._SAME_FORMAT, (5, 2, 3), 'ml-tiny')
    assert _read(folder).name == 'ml-tiny'

  def test_official_counts_carry_it_always(self, folder, monkeypatch):
    monkeypatch.setitem(movielens.OFFICIAL, 'ml20m', (5, 2, 3))
    assert _read(folder).name == 'ml20m'
    assert movielens.read_ml20m(str(folder), expect_official=True).name == (
      'ml20m'
    )

  def test_other_counts_are_refused_by_default(self, folder):
    with pytest.raises(InputError) as error:
      movielens.read_ml20m(str(folder), expect_official=True)
    assert 'has 5 ratings where the official ml20m has 20,000,263' in str(
      error.value
    )
    assert 'expect_official=False' in str(error.value)


class TestBadFiles:
  @pytest.mark.parametrize(
    'name, old, new, words',
    [
      ('ratings.csv', '2,5,5.0,50', '2,5,5.0', 'line 5 has 3 fields'),
      ('ratings.csv', '2,5,5.0,50', '2,,5.0,50', "line 5, column 'movieId'"),
      ('ratings.csv', '2,5,5.0,50', '2,5,5.0,5O', "timestamp '5O'"),
      ('ratings.csv', '2,5,5.0', '2,-x5,5.0', "the id '-x5', which is no"),
      ('ratings.csv', 'movieId', 'itemId', "no column 'movieId'"),
      ('ratings.csv', None, '', 'ratings.csv is empty'),
      ('movies.csv', '31,Se', '32,Se', 'no line for movie 31'),
      ('movies.csv', 'ñ'.encode(), b'\xf1', 'line 3, column'),
      ('movies.csv', 'genres', 'tags', "no column 'genres'"),
    ],
  )
  def test_are_named_with_the_line(self, folder, name, old, new, words):
    file = folder / name
    old, new = (
      text.encode() if isinstance(text, str) else text for text in (old, new)
    )
    file.write_bytes(file.read_bytes().replace(old, new) if old else new)
    with pytest.raises(InputError) as error:
      _read(folder)
    assert words in str(error.value)
    assert name in str(error.value)

  def test_missing_file(self, folder):
    (folder / 'movies.csv').unlink()
    with pytest.raises(InputError, match=r'movies\.csv does not exist'):
      _read(folder)


class TestRecords:
  def test_equal_the_direct_read_and_keep_the_counts(self, folder, tmp_path):
    config = _config(folder, tmp_path / 'cache')
    written, cached = datasets.load(config), datasets.load(config)
    direct = _read(folder)
    dataset_assertions.assert_equal(written, cached)
    assert written.origin == {'source': 'ml20m', **direct.origin}
    np.testing.assert_array_equal(
      written.catalogue.titles, direct.catalogue.titles
    )

  def test_prepared_stand_in_is_found_under_its_source(self, folder, tmp_path):
    dataset = datasets.load(_config(folder, tmp_path / 'cache'))
    sequences.save(dataset, str(tmp_path / 'prepared'))
    prepared = str(tmp_path / 'prepared')
    config = base.get_config().dataset
    config.update({'name': 'ml20m', 'prepared': prepared})
    loaded = datasets.load(config)
    assert loaded.name == 'ml20m-unofficial'
    dataset_assertions.assert_equal(loaded, dataset)
    config.name = 'ml1m'
    with pytest.raises(InputError, match="holds the dataset 'ml20m'"):
      datasets.load(config)


class TestUnpack:
  """Archives are checked before anything is written."""

  def _archive(self, tmp_path, *members) -> str:
    path = str(tmp_path / 'x.zip')
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as f:
      for member in members:
        f.writestr(member, b'1' * 1000)
    return path

  def _refused(self, tmp_path, path: str) -> str:
    folder = tmp_path / 'out' / 'inner'
    folder.mkdir(parents=True)
    with pytest.raises(InputError) as error:
      archive.unpack(path, str(folder))
    # Not even the members before the bad one.
    assert [p for p in (tmp_path / 'out').rglob('*') if p.is_file()] == []
    return str(error.value)

  @pytest.mark.parametrize(
    'name', ['../evil', 'a/../../evil', '/etc/evil', '..\\evil']
  )
  def test_path_escape(self, tmp_path, name):
    path = self._archive(tmp_path, 'good', name)
    assert 'outside of its folder' in self._refused(tmp_path, path)

  def test_link(self, tmp_path):
    link = zipfile.ZipInfo('link')
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    path = self._archive(tmp_path, 'good', link)
    assert 'outside of its folder' in self._refused(tmp_path, path)

  def test_size(self, tmp_path, monkeypatch):
    monkeypatch.setattr(archive, 'MAX_UNPACKED_BYTES', 1999)
    path = self._archive(tmp_path, 'a', 'b')
    assert 'unpacks to 2,000 bytes' in self._refused(tmp_path, path)

  def test_a_member_longer_than_it_says_is_not_written_whole(self, tmp_path):
    path = self._archive(tmp_path, 'a')
    data = pathlib.Path(path).read_bytes()
    lie = data.replace((1000).to_bytes(4, 'little'), (9).to_bytes(4, 'little'))
    assert lie != data
    pathlib.Path(path).write_bytes(lie)
    with pytest.raises(InputError, match='not a whole zip file'):
      archive.unpack(path, str(tmp_path))
    assert os.path.getsize(tmp_path / 'a') <= 9

  def test_no_zip_file(self, tmp_path):
    path = tmp_path / 'x.zip'
    path.write_bytes(b'no zip')
    assert 'download it again' in self._refused(tmp_path, str(path))


class TestRealFiles:
  def test_ml_latest_small(self, shared_data):
    if shared_data is None or not (shared_data / 'ml-latest-small').is_dir():
      pytest.skip('no ml-latest-small')
    dataset = _read(shared_data / 'ml-latest-small')
    assert dataset.name == 'ml-latest-small'
    assert (dataset.num_events, dataset.num_users) == (100_836, 610)
    assert dataset.catalogue.num_items == 9_724
    assert len(dataset.catalogue.category_names) == 19
    # 34 of the 9,742 movies have no genre; some of them are never rated.
    without = int((np.diff(dataset.catalogue.category_offsets) == 0).sum())
    assert 0 < without <= 34
    # Grouped by user in the file, so a stable sort by time gives each user.
    rows = np.loadtxt(
      shared_data / 'ml-latest-small' / 'ratings.csv',
      delimiter=',',
      skiprows=1,
      dtype=float,
    ).astype(np.int64)
    user = rows[rows[:, 0] == 414]
    user = user[np.argsort(user[:, 3], kind='stable')]
    index = int(np.flatnonzero(dataset.user_ids == 414)[0])
    events = slice(dataset.offsets[index], dataset.offsets[index + 1])
    np.testing.assert_array_equal(
      dataset.catalogue.item_ids[dataset.items[events] - 1], user[:, 1]
    )

  def test_catalogue_of_20m(self, shared_data):
    if shared_data is None or not (shared_data / 'ml-20m-metadata').is_dir():
      pytest.skip('no catalogue of MovieLens-20M')
    titles, genres = movielens._read_movies_csv(
      str(shared_data / 'ml-20m-metadata' / 'movies.csv')
    )
    assert len(titles) == 27_278
    assert sum(not names for names in genres.values()) == 246
    # 20 values, one of them '(no genres listed)'.
    assert len({name for names in genres.values() for name in names}) == 19
