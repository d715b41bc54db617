"""Reads the raw files of MovieLens-1M.

F. M. Harper and J. A. Konstan (2015), The MovieLens Datasets: History and
Context, https://doi.org/10.1145/2827872.
"""

import os
import re

import numpy as np

from bt4rec.datasets import sequences
from bt4rec.errors import InputError

ML1M_URL = 'https://files.grouplens.org/datasets/movielens/ml-1m.zip'
# What the official archive holds.
ML1M_RATINGS = 1_000_209
ML1M_USERS = 6_040
ML1M_ITEMS = 3_706

_RATING_LINE = re.compile(rb'[0-9]{1,9}::[0-9]{1,9}::[1-5]::[0-9]{1,11}\r?\n')
_RATINGS = re.compile(rb'(?:' + _RATING_LINE.pattern + rb')*')


def ml1m_files(path: str) -> list[str]:
  """Returns the files of a MovieLens-1M folder that are read.

  Raises:
    InputError: If one is missing; the text names it.
  """
  files = [os.path.join(path, name) for name in ('ratings.dat', 'movies.dat')]
  for file in files:
    if not os.path.isfile(file):
      raise InputError(
        f'{file} does not exist; --config.dataset.path must name the folder '
        f'of the unpacked ml-1m.zip (ratings.dat, movies.dat, users.dat).'
      )
  return files


def read_ml1m(path: str, expect_official: bool) -> sequences.SequenceDataset:
  """Reads a folder with ratings.dat and movies.dat.

  Args:
    path: The folder of the unpacked archive.
    expect_official: Whether the counts must be those of the official archive.

  Returns:
    Every rating as an event; nothing is dropped.

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
  missing = sorted(set(dataset.catalogue.item_ids.tolist()) - set(titles))
  if missing:
    raise InputError(
      f'{movies_file} has no line for movie {missing[0]}, which '
      f'{ratings_file} rates; take both files from one archive.'
    )
  if expect_official:
    _check_counts(dataset, ratings_file)
  return dataset


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


def _check_counts(dataset: sequences.SequenceDataset, file: str) -> None:
  for what, found, official in (
    ('ratings', dataset.num_events, ML1M_RATINGS),
    ('users', dataset.num_users, ML1M_USERS),
    ('rated movies', dataset.catalogue.num_items, ML1M_ITEMS),
  ):
    if found != official:
      raise InputError(
        f'{file} has {found:,} {what} where the official MovieLens-1M has '
        f'{official:,}; unpack the archive again, or pass '
        f'--config.dataset.expect_official=False to use the file as it is.'
      )
