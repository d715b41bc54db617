"""Reads the raw files of MovieLens-1M and MovieLens-20M.

F. M. Harper and J. A. Konstan (2015), The MovieLens Datasets: History and
Context, https://doi.org/10.1145/2827872.
"""

import dataclasses
import os
import re
from collections.abc import Iterable

import numpy as np

from bt4rec.datasets import event_table, events, sequences, tables
from bt4rec.errors import InputError

ML1M_URL = 'https://files.grouplens.org/datasets/movielens/ml-1m.zip'
ML20M_URL = 'https://files.grouplens.org/datasets/movielens/ml-20m.zip'

# What the official archives hold: ratings, users, rated movies.
OFFICIAL = {
  'ml1m': (1_000_209, 6_040, 3_706),
  'ml20m': (20_000_263, 138_493, 26_744),
}
# Other sets in the format of MovieLens-20M.
_SAME_FORMAT = {(100_836, 610, 9_724): 'ml-latest-small'}
_UNPACK = 'unpack the archive again'
_NO_GENRE = '(no genres listed)'

_RATING_LINE = re.compile(rb'[0-9]{1,9}::[0-9]{1,9}::[1-5]::[0-9]{1,11}\r?\n')
_RATINGS = re.compile(rb'(?:' + _RATING_LINE.pattern + rb')*')
_USER_LINE = re.compile(r'([0-9]{1,9})::([FM])::([0-9]+)::([0-9]+)::[^:]*\r?\n')
_USER_COLUMNS = ('user', 'gender', 'age', 'occupation')


def ml1m_files(path: str) -> list[str]:
  """Returns the files of a MovieLens-1M folder that are read.

  Raises:
    InputError: If one is missing; the text names it.
  """
  return _files(path, 'ml-1m.zip', ('ratings.dat', 'movies.dat'))


def ml20m_files(path: str) -> list[str]:
  """Like `ml1m_files`, of a MovieLens-20M folder."""
  return _files(path, 'ml-20m.zip', ('ratings.csv', 'movies.csv'))


def _files(path: str, archive: str, names: tuple[str, ...]) -> list[str]:
  files = [os.path.join(path, name) for name in names]
  for file in files:
    if not os.path.isfile(file):
      raise InputError(
        f'{file} does not exist; --config.dataset.path must name the folder '
        f'of the unpacked {archive} ({", ".join(names)}).'
      )
  return files


def read_ml1m(path: str, expect_official: bool) -> sequences.SequenceDataset:
  """Reads a folder with ratings.dat and movies.dat.

  Args:
    path: The folder of the unpacked archive.
    expect_official: Whether the counts must be those of the official archive.

  Returns:
    Every rating as an event; nothing is dropped. It is named by its counts:
    'ml1m', or 'ml1m-unofficial'.

  Raises:
    InputError: If a file is missing, malformed or cut, naming file and line.
  """
  ratings_file, movies_file = ml1m_files(path)
  columns = _read_ratings(ratings_file)
  titles, categories = _read_movies(movies_file)
  dataset = sequences.from_events(
    'ml1m',
    users=columns[:, 0],
    items=columns[:, 1],
    timestamps=columns[:, 3],
    titles=titles,
    categories=categories,
  )
  _check_movies(dataset, titles, ratings_file, movies_file)
  return _name_by_counts(dataset, expect_official, ratings_file)


def read_ml1m_users(file: str) -> dict[str, tuple[str, ...]]:
  """Reads users.dat.

  Args:
    file: The file of the unpacked archive.

  Returns:
    'user', 'gender' (F or M), 'age' (the youngest of its bucket; 1 is under
    18) and 'occupation' (a number) -> text of each user. The ZIP codes are
    left out.

  Raises:
    InputError: If the file is missing, malformed or cut, naming the line.
  """
  rows = []
  try:
    with open(file, encoding='latin-1', newline='\n') as f:
      for number, line in enumerate(f, start=1):
        matched = _USER_LINE.fullmatch(line)
        if not matched:
          raise InputError(
            f'{file}, line {number}: {line.strip()[:80]!r} is not '
            f'UserID::Gender::Age::Occupation::Zip ended by a line feed; the '
            f'file is damaged or cut, {_UNPACK}.'
          )
        rows.append(matched.groups())
  except OSError as error:
    raise InputError(
      f'cannot open {file} ({error.strerror}); {_UNPACK}, or check the path.'
    ) from error
  if not rows:
    raise InputError(f'{file} is empty; {_UNPACK}.')
  return dict(zip(_USER_COLUMNS, zip(*rows, strict=True), strict=True))


def read_ml20m(path: str, expect_official: bool) -> sequences.SequenceDataset:
  """Reads a folder with ratings.csv and movies.csv, block by block.

  Args:
    path: The folder of the unpacked archive.
    expect_official: Whether the counts must be those of the official archive.

  Returns:
    Every rating as an event. It is named by its counts: 'ml20m', the set in
    the same format that has them, or 'ml20m-unofficial'.

  Raises:
    InputError: If a file is missing, malformed or cut, naming file and line.
  """
  ratings_file, movies_file = ml20m_files(path)
  ratings = event_table.read(
    tables.Table(ratings_file, remedy=_UNPACK),
    event_table.Layout(user='userId', item='movieId', timestamp='timestamp'),
  )
  for ids in (ratings.user.values, ratings.item.values):
    if ids.dtype.kind != 'i':
      example = next((i for i in ids.tolist() if not i.isdecimal()), ids[0])
      raise InputError(
        f'{ratings_file} has the id {str(example)[:40]!r}, which is no whole '
        f'number; {_UNPACK}.'
      )
  titles, categories = _read_movies_csv(movies_file)
  dataset = events.to_dataset(
    'ml20m', ratings, titles=titles, categories=categories
  )
  _check_movies(dataset, titles, ratings_file, movies_file)
  return _name_by_counts(dataset, expect_official, ratings_file)


def _read_movies_csv(file: str) -> tuple[dict[str, str], dict[str, list[str]]]:
  """Movie id as text -> title, movie id as text -> genres."""
  table = tables.Table(file, remedy=_UNPACK)
  names = ['movieId', 'title', 'genres']
  event_table.check_columns(table, {name: name for name in names})
  titles: dict[str, str] = {}
  categories: dict[str, list[str]] = {}
  for _, block in table.blocks(names):
    columns = (block[name].to_pylist() for name in names)
    for movie, title, genres in zip(*columns, strict=True):
      titles[movie] = title or ''
      categories[movie] = [
        genre for genre in (genres or '').split('|') if genre != _NO_GENRE
      ]
  return titles, categories


def _check_movies(
  dataset: sequences.SequenceDataset,
  titles: Iterable[int | str],
  ratings_file: str,
  movies_file: str,
) -> None:
  known = set(map(str, titles))
  missing = [
    i for i in dataset.catalogue.item_ids.tolist() if str(i) not in known
  ]
  if missing:
    raise InputError(
      f'{movies_file} has no line for movie {missing[0]}, which '
      f'{ratings_file} rates; take both files from one archive.'
    )


def _read_ratings(file: str) -> np.ndarray:
  """[num_ratings, 4] int64: user, item, stars, seconds, in file order."""
  with open(file, 'rb') as f:
    data = f.read()
  if not data:
    raise InputError(f'{file} is empty; unpack the archive again.')
  matched = _RATINGS.match(data)
  end = matched.end() if matched else 0
  if end < len(data):
    line = data.count(b'\n', 0, end) + 1
    text = data[end : end + 80].split(b'\n')[0].decode('latin-1')
    raise InputError(
      f'{file}, line {line}: {text!r} is not '
      f'UserID::MovieID::Rating::Timestamp ended by a line feed; the file is '
      f'damaged or cut, unpack the archive again.'
    )
  flat = np.array(data.replace(b'::', b' ').split(), dtype=np.int64)
  return flat.reshape(-1, 4)


def _read_movies(file: str) -> tuple[dict[int, str], dict[int, list[str]]]:
  """Movie id -> title, movie id -> genres."""
  titles, categories = {}, {}
  # The file is Latin-1: 50 of its lines are not UTF-8.
  with open(file, encoding='latin-1', newline='\n') as f:
    for number, line in enumerate(f, start=1):
      # A title may hold '::', the id and the genres cannot.
      movie, _, rest = line.rstrip('\r\n').partition('::')
      title, separator, genres = rest.rpartition('::')
      whole = separator and genres and line.endswith('\n')
      if not movie.isdecimal() or not whole:
        raise InputError(
          f'{file}, line {number}: {line.strip()[:80]!r} is not '
          f'MovieID::Title::Genres ended by a line feed; the file is '
          f'damaged or cut, unpack the archive again.'
        )
      titles[int(movie)] = title
      categories[int(movie)] = genres.split('|')
  return titles, categories


def _counts(dataset: sequences.SequenceDataset) -> tuple[int, int, int]:
  return dataset.num_events, dataset.num_users, dataset.catalogue.num_items


def _name_by_counts(
  dataset: sequences.SequenceDataset, expect_official: bool, file: str
) -> sequences.SequenceDataset:
  """Lets no stand-in carry the name of the official set."""
  if expect_official:
    _check_counts(dataset, file)
  if _counts(dataset) == OFFICIAL[dataset.name]:
    return dataset
  name = _SAME_FORMAT.get(_counts(dataset), f'{dataset.name}-unofficial')
  return dataclasses.replace(dataset, name=name)


def _check_counts(dataset: sequences.SequenceDataset, file: str) -> None:
  for what, found, official in zip(
    ('ratings', 'users', 'rated movies'),
    _counts(dataset),
    OFFICIAL[dataset.name],
    strict=True,
  ):
    if found != official:
      raise InputError(
        f'{file} has {found:,} {what} where the official {dataset.name} has '
        f'{official:,}; unpack the archive again, or pass '
        f'--config.dataset.expect_official=False to use the file as it is.'
      )
