"""MovieLens-1M: raw files, records, the cache and the archive.

The small files are generated; the real ones are read where they are.
"""

import functools
import hashlib
import io
import os
import pathlib
import socket
import urllib.request
import zipfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import downloader
from tensorflow_datasets.core.download import util as download_util

from bt4rec import datasets
from bt4rec.datasets import movielens, sequences, user_sequences
from bt4rec.errors import InputError
from configs import base
from tests import dataset_assertions

_GENRES = ('Action', "Children's", 'Drama', 'Film-Noir')


def _write(folder: pathlib.Path, seed: int = 0) -> list[tuple[int, ...]]:
  """Writes a small MovieLens-1M folder and returns its ratings."""
  rng = np.random.default_rng(seed)
  folder.mkdir(parents=True)
  ratings = []
  for user in (1, 2, 10, 9):
    # Movies 3 and 4 are never rated; many ratings share a second.
    for movie in rng.permutation([1, 2, 5, 7, 30, 111])[: 3 + user % 4]:
      stars, second = rng.integers(1, 6), 956_703_932 + rng.integers(3)
      ratings.append((user, int(movie), int(stars), int(second)))
  (folder / 'ratings.dat').write_text(
    ''.join('{}::{}::{}::{}\n'.format(*rating) for rating in ratings)
  )
  lines = [
    f'{movie}::Film {movie}: é ñ (1995)::{"|".join(_GENRES[: 1 + movie % 4])}\n'
    for movie in (1, 2, 3, 4, 5, 7, 30)
  ]
  lines.append('111::A::B (2000)::Drama\n')
  (folder / 'movies.dat').write_text(''.join(lines), encoding='latin-1')
  return ratings


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
  """A folder with small generated files."""
  _write(tmp_path / 'ml-1m')
  return tmp_path / 'ml-1m'


def _config(path, data_dir, **overrides):
  config = base.get_config().dataset
  config.update(
    {
      'name': 'ml1m',
      'path': str(path),
      'data_dir': str(data_dir),
      'expect_official': False,
      **overrides,
    }
  )
  return config


def _load_source(path, data_dir, **overrides) -> sequences.SequenceDataset:
  """Loads through the records, without a config."""
  arguments = {
    'source': 'ml1m',
    'path': str(path),
    'files': movielens.ml1m_files(str(path)) if path else [],
    'url': movielens.ML1M_URL,
    'read': lambda path: movielens.read_ml1m(path, expect_official=False),
    'options': {},
    **overrides,
  }
  source = user_sequences.SourceConfig(**arguments)
  return user_sequences.load(source, str(data_dir))


def _never_read(path: str) -> sequences.SequenceDataset:
  raise AssertionError(f'{path} is read although its records are there')


def _replace_line(file: pathlib.Path, number: int, line: str) -> None:
  lines = file.read_text(encoding='latin-1').splitlines(keepends=True)
  lines[number - 1] = line
  file.write_text(''.join(lines), encoding='latin-1')


def _histories(ratings) -> dict[int, list[tuple[int, int]]]:
  """User -> (movie, second) by (second, row); the independent reference."""
  histories: dict[int, list] = {}
  for user, movie, _, second in ratings:
    histories.setdefault(user, []).append((movie, second))
  return {
    user: sorted(events, key=lambda event: event[1])
    for user, events in histories.items()
  }


def _assert_histories(dataset, ratings) -> None:
  expected = _histories(ratings)
  assert dataset.user_ids.tolist() == sorted(expected)
  movies = dataset.catalogue.item_ids[dataset.items - 1]
  for user, first, end in zip(
    dataset.user_ids.tolist(),
    dataset.offsets[:-1],
    dataset.offsets[1:],
    strict=True,
  ):
    found = zip(
      movies[first:end].tolist(),
      dataset.timestamps[first:end].tolist(),
      strict=True,
    )
    assert list(found) == expected[user], user


class TestReadFiles:
  def test_nothing_is_dropped_and_order_is_time_then_row(self, tmp_path):
    ratings = _write(tmp_path / 'a')
    dataset = movielens.read_ml1m(str(tmp_path / 'a'), expect_official=False)
    assert dataset.num_events == len(ratings)
    _assert_histories(dataset, ratings)

  def test_catalogue_has_the_rated_movies_as_they_are_written(self, folder):
    catalogue = movielens.read_ml1m(str(folder), False).catalogue
    assert catalogue.item_ids.tolist() == [1, 2, 5, 7, 30, 111]
    assert catalogue.titles[0] == 'Film 1: é ñ (1995)'
    assert catalogue.titles[-1] == 'A::B (2000)'
    assert catalogue.category_names == _GENRES
    # Movie 1 has the first two genres, movie 7 all four, movie 111 the third.
    weights = catalogue.category_weights()
    assert weights[1].tolist() == [0.5, 0.5, 0, 0]
    assert weights[4].tolist() == [0.25] * 4
    assert weights[6].tolist() == [0, 0, 1, 0]

  def test_a_stand_in_never_carries_the_name(self, folder, monkeypatch):
    dataset = movielens.read_ml1m(str(folder), False)
    assert dataset.name == 'ml1m-unofficial'
    monkeypatch.setitem(
      movielens.OFFICIAL,
      'ml1m',
      (dataset.num_events, dataset.num_users, dataset.catalogue.num_items),
    )
    for expect_official in (False, True):
      assert movielens.read_ml1m(str(folder), expect_official).name == 'ml1m'

  def test_line_ends_of_windows_are_read(self, folder):
    before = movielens.read_ml1m(str(folder), False)
    for name in ('ratings.dat', 'movies.dat'):
      data = (folder / name).read_bytes()
      (folder / name).write_bytes(data.replace(b'\n', b'\r\n'))
    dataset_assertions.assert_equal(
      movielens.read_ml1m(str(folder), False), before
    )


class TestBadFiles:
  """One sentence that names the file and the line."""

  @pytest.mark.parametrize('name', ['ratings.dat', 'movies.dat'])
  def test_missing_file(self, folder, tmp_path, name):
    os.remove(folder / name)
    with pytest.raises(InputError, match=f'{name} does not exist; .*path'):
      datasets.load(_config(folder, tmp_path / 'cache'))

  def test_missing_folder(self, tmp_path):
    with pytest.raises(InputError, match=r'nowhere/ratings\.dat does not'):
      datasets.load(_config(tmp_path / 'nowhere', tmp_path / 'cache'))

  @pytest.mark.parametrize(
    'line',
    [
      '1::2::6::10\n',
      '1::2::0::10\n',
      '1::2::3.5::10\n',
      '1::2::3\n',
      '1::2::3::4::5\n',
      '1:2:3:4\n',
      'user::2::3::4\n',
      '-1::2::3::4\n',
      ' 1::2::3::4\n',
      '1,2,3,4\n',
      '1::2::3::4,\n',
      '\n',
      '\0\0\0\0\n',
    ],
  )
  @pytest.mark.parametrize('number', [1, 4])
  def test_malformed_rating(self, folder, line, number):
    _replace_line(folder / 'ratings.dat', number, line)
    with pytest.raises(InputError) as error:
      movielens.read_ml1m(str(folder), False)
    assert f'{folder}/ratings.dat, line {number}: ' in str(error.value)
    assert repr(line.strip('\n')) in str(error.value)
    assert '\n' not in str(error.value)

  @pytest.mark.parametrize(
    'line', ['7\n', '7::Title\n', 'x::Title::Drama\n', '7::Title::\n', '\n']
  )
  def test_malformed_movie(self, folder, line):
    _replace_line(folder / 'movies.dat', 3, line)
    with pytest.raises(InputError) as error:
      movielens.read_ml1m(str(folder), False)
    assert f'{folder}/movies.dat, line 3: ' in str(error.value)
    assert '\n' not in str(error.value)

  @pytest.mark.parametrize('name', ['ratings.dat', 'movies.dat'])
  @pytest.mark.parametrize('cut', [1, 4, 9])
  def test_cut_within_the_last_line(self, folder, name, cut):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:-cut])
    last = data.count(b'\n')
    with pytest.raises(InputError, match=rf'{name}, line {last}: .* cut'):
      movielens.read_ml1m(str(folder), False)

  def test_cut_between_lines_is_told_by_the_official_counts(self, folder):
    with pytest.raises(
      InputError, match=r'ratings\.dat has 18 ratings .* 1,000,209; .*=False'
    ):
      movielens.read_ml1m(str(folder), True)

  def test_empty_ratings(self, folder):
    (folder / 'ratings.dat').write_text('')
    with pytest.raises(InputError, match=r'ratings\.dat is empty'):
      movielens.read_ml1m(str(folder), False)

  def test_movie_without_a_line(self, folder):
    lines = (folder / 'movies.dat').read_bytes().splitlines(keepends=True)
    (folder / 'movies.dat').write_bytes(b''.join(lines[:-1]))
    with pytest.raises(InputError, match=r'movies\.dat has no line for .* 111'):
      movielens.read_ml1m(str(folder), False)

  def test_bad_file_is_told_through_the_records_and_can_be_mended(
    self, folder, tmp_path
  ):
    good = (folder / 'ratings.dat').read_text()
    _replace_line(folder / 'ratings.dat', 2, 'oops\n')
    config = _config(folder, tmp_path / 'cache')
    with pytest.raises(InputError, match=r'ratings\.dat, line 2'):
      datasets.load(config)
    (folder / 'ratings.dat').write_text(good)
    assert datasets.load(config).num_events == good.count('\n')


class TestRecords:
  def test_equal_the_direct_read_when_written_and_when_cached(
    self, folder, tmp_path
  ):
    direct = movielens.read_ml1m(str(folder), False)
    written = _load_source(folder, tmp_path / 'cache')
    cached = _load_source(folder, tmp_path / 'cache', read=_never_read)
    dataset_assertions.assert_equal(written, direct)
    dataset_assertions.assert_equal(cached, direct)

  def test_order_survives_several_files(self, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(
      tfds.download,
      'DownloadConfig',
      functools.partial(tfds.download.DownloadConfig, num_shards=3),
    )
    loaded = _load_source(folder, tmp_path / 'cache')
    assert len(list((tmp_path / 'cache').rglob('*.tfrecord-*'))) == 3
    dataset_assertions.assert_equal(
      loaded, movielens.read_ml1m(str(folder), False)
    )

  def test_string_ids_that_are_not_ascii_read_back_equal(
    self, folder, tmp_path
  ):
    users = np.array(['é', 'b', 'é', '\U0001f600', '007'])
    items = np.array(['x', 'ß', 'ß', 'y', '1'])
    dataset = sequences.from_events(
      'strings', users, items, np.arange(5), categories={'ß': ['ü', 'a']}
    )
    loaded = _load_source(folder, tmp_path / 'cache', read=lambda path: dataset)
    dataset_assertions.assert_equal(loaded, dataset)

  def test_a_changed_file_is_not_served_stale(self, folder, tmp_path):
    config = _config(folder, tmp_path / 'cache')
    before = datasets.load(config)
    _replace_line(folder / 'ratings.dat', 1, '77::1::3::956703940\n')
    after = datasets.load(config)
    assert 77 not in before.user_ids
    assert 77 in after.user_ids
    _replace_line(folder / 'movies.dat', 1, '1::New title::Drama\n')
    assert datasets.load(config).catalogue.titles[0] == 'New title'
    caches = os.listdir(tmp_path / 'cache' / 'user_sequences')
    assert len(caches) == 3

  def test_another_option_is_not_served_from_the_same_cache(
    self, folder, tmp_path
  ):
    datasets.load(_config(folder, tmp_path / 'cache'))
    with pytest.raises(InputError, match='official'):
      datasets.load(_config(folder, tmp_path / 'cache', expect_official=True))

  def test_the_same_files_elsewhere_share_the_cache(self, folder, tmp_path):
    first = _load_source(folder, tmp_path / 'cache')
    moved = folder.rename(tmp_path / 'moved')
    second = _load_source(moved, tmp_path / 'cache', read=_never_read)
    dataset_assertions.assert_equal(second, first)


@pytest.fixture
def lookups(monkeypatch) -> list:
  """A machine without network; the host names it asked for."""
  asked = []

  def fails(host, *args, **kwargs):
    asked.append(host)
    raise socket.gaierror(-3, 'Temporary failure in name resolution')

  monkeypatch.setattr(socket, 'getaddrinfo', fails)
  return asked


class TestNetwork:
  def test_a_path_needs_none(self, folder, tmp_path, lookups):
    datasets.load(_config(folder, tmp_path / 'cache'))
    assert lookups == []

  def test_without_one_the_download_fails_at_once(self, tmp_path, lookups):
    with pytest.raises(
      InputError, match=r'cannot download https://.*ml-1m\.zip .*dataset\.path'
    ):
      datasets.load(_config('', tmp_path / 'cache'))
    # No retries.
    assert len(lookups) == 1

  @pytest.mark.parametrize(
    'error', [download_util.DownloadError('503'), ConnectionResetError(104)]
  )
  def test_one_that_breaks_during_the_download_is_told(
    self, tmp_path, lookups, monkeypatch, error
  ):
    def breaks(*args, **kwargs):
      raise error

    monkeypatch.setattr(
      urllib.request, 'urlopen', lambda *args, **kwargs: io.BytesIO()
    )
    # Otherwise TFDS tries for minutes.
    monkeypatch.setattr(downloader, '_open_url', breaks)
    with pytest.raises(InputError, match=r'cannot download https://.*ml-1m'):
      datasets.load(_config('', tmp_path / 'cache'))
    assert lookups == []


class TestArchive:
  """From a `file:` address instead of the network."""

  @pytest.fixture
  def archive(self, folder, tmp_path, monkeypatch, lookups) -> pathlib.Path:
    path = tmp_path / 'server' / 'ml-1m.zip'
    path.parent.mkdir()
    with zipfile.ZipFile(path, 'w') as file:
      for name in ('ratings.dat', 'movies.dat'):
        file.write(folder / name, f'ml-1m/{name}')
    data = path.read_bytes()
    info = tfds.download.checksums.UrlInfo(
      size=len(data),
      checksum=hashlib.sha256(data).hexdigest(),
      filename='ml-1m.zip',
    )
    monkeypatch.setattr(movielens, 'ML1M_URL', path.as_uri())
    monkeypatch.setattr(
      user_sequences.UserSequences, 'url_infos', {path.as_uri(): info}
    )
    return path

  def test_is_unpacked_and_read(self, archive, folder, tmp_path, lookups):
    direct = movielens.read_ml1m(str(folder), False)
    written = _load_source('', tmp_path / 'cache')
    # The second time without the archive.
    os.remove(archive)
    cached = _load_source('', tmp_path / 'cache', read=_never_read)
    dataset_assertions.assert_equal(written, direct)
    dataset_assertions.assert_equal(cached, direct)
    assert lookups == []

  def test_another_checksum_is_refused(self, archive, tmp_path):
    recorded = hashlib.sha256(archive.read_bytes()).hexdigest()
    data = bytearray(archive.read_bytes())
    data[40] ^= 1
    archive.write_bytes(data)
    # Again when the bad one lies in the cache of downloads.
    for _ in range(2):
      with pytest.raises(InputError) as error:
        _load_source('', tmp_path / 'cache', read=_never_read)
      assert archive.as_uri() in str(error.value)
      assert recorded in str(error.value)
      assert '\n' not in str(error.value)

  def test_the_official_one_has_its_checksum_recorded(self):
    info = user_sequences.UserSequences.url_infos[movielens.ML1M_URL]
    assert int(info.size) == 5_917_549
    assert info.checksum == (
      'a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20'
    )


@functools.cache
def _read_once(path: str) -> sequences.SequenceDataset:
  return movielens.read_ml1m(path, expect_official=True)


class TestRealFiles:
  """The counts are published; the rest is read independently here."""

  @pytest.fixture
  def real(self, shared_data) -> pathlib.Path:
    if shared_data is None or not (shared_data / 'ml-1m').is_dir():
      pytest.skip('the real MovieLens-1M is not here')
    return shared_data / 'ml-1m'

  @pytest.fixture
  def direct(self, real) -> sequences.SequenceDataset:
    return _read_once(str(real))

  def test_counts_and_order(self, real, direct):
    assert direct.num_events == 1_000_209
    assert direct.num_users == 6_040
    assert direct.catalogue.num_items == 3_706
    assert len(direct.catalogue.category_names) == 18
    assert (direct.lengths.min(), direct.lengths.max()) == (20, 2_314)
    with open(real / 'ratings.dat') as file:
      ratings = [tuple(map(int, line.split('::'))) for line in file]
    _assert_histories(direct, ratings)

  def test_users_are_those_of_the_file(self, real):
    users = movielens.read_ml1m_users(str(real / 'users.dat'))
    rows = (real / 'users.dat').read_text('latin-1').splitlines()
    assert list(zip(*users.values(), strict=True)) == [
      tuple(row.split('::')[:4]) for row in rows
    ]
    assert (users['gender'].count('F'), len(rows)) == (1_709, 6_040)

  def test_titles_and_genres_are_those_of_the_file(self, real, direct):
    catalogue = direct.catalogue
    rows = (real / 'movies.dat').read_bytes().decode('latin-1').split('\n')
    movies = {row.split('::')[0]: row.split('::')[1:] for row in rows if row}
    assert len(movies) == 3_883
    for row, movie in enumerate(catalogue.item_ids.tolist()):
      title, genres = movies[str(movie)]
      assert catalogue.titles[row] == title
      first, end = catalogue.category_offsets[row : row + 2]
      names = [
        catalogue.category_names[value]
        for value in catalogue.category_values[first:end]
      ]
      assert names == sorted(genres.split('|'))

  def test_records_equal_the_direct_read(self, real, direct, tmp_path, lookups):
    written = _load_source(real, tmp_path)
    cached = _load_source(real, tmp_path, read=_never_read)
    dataset_assertions.assert_equal(written, direct)
    dataset_assertions.assert_equal(cached, direct)
    assert lookups == []
