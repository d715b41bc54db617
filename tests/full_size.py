"""Writes generated files of the size and schema of the real ones.

  python tests/full_size.py ml20m DIR [NUM_RATINGS]
  python tests/full_size.py yelp DIR [NUM_REVIEWS]
  python tests/full_size.py prepared DIR [NUM_EVENTS]

Then `python -m bt4rec.describe` reads the first two with
--config.dataset.path=DIR, and `python -m bt4rec.benchmark` the prepared arrays
with --prepared=DIR.
"""

import json
import os
import sys

import numpy as np
import pyarrow as pa
import pyarrow.csv

_BLOCK = 1_000_000


def write_ml20m(folder: str, num_ratings: int = 20_000_263) -> None:
  """Ratings grouped by user, not in the order of time."""
  rng = np.random.default_rng(0)
  num_users = max(1, num_ratings * 138_493 // 20_000_263)
  movies = np.sort(rng.choice(131_262, 27_278, replace=False)) + 1
  popularity = 1 / np.arange(10, 10 + len(movies))
  cumulative = np.cumsum(rng.permutation(popularity))
  users = np.sort(rng.integers(1, num_users + 1, num_ratings, dtype=np.int32))
  with open(os.path.join(folder, 'movies.csv'), 'w', newline='') as f:
    f.write('movieId,title,genres\r\n')
    for movie in movies.tolist():
      f.write(f'{movie},"Movie, The {movie}",Drama|Genre {movie % 17}\r\n')
  options = pa.csv.WriteOptions(quoting_style='none')
  with open(os.path.join(folder, 'ratings.csv'), 'wb') as f:
    for first in range(0, num_ratings, _BLOCK):
      block = users[first : first + _BLOCK]
      drawn = rng.random(len(block)) * cumulative[-1]
      table = pa.table(
        {
          'userId': block,
          'movieId': movies[np.searchsorted(cumulative, drawn)],
          'rating': rng.integers(1, 11, len(block)) / 2,
          'timestamp': 789_652_009 + rng.integers(0, 25_000_000, len(block)),
        }
      )
      options.include_header = first == 0
      pa.csv.write_csv(table, f, options)


def write_yelp(folder: str, num_reviews: int = 7_000_000) -> None:
  """Reviews with 500 characters of text, ids of 22."""
  rng = np.random.default_rng(0)
  num_users = num_reviews * 2 // 7 + 1
  num_businesses = num_reviews * 150 // 7_000 + 1
  path = os.path.join(folder, 'yelp_academic_dataset_business.json')
  with open(path, 'w') as f:
    for business in range(num_businesses):
      names = f'Restaurants, Kind {business % 300}' if business % 999 else None
      f.write(
        json.dumps({'business_id': f'b{business:021}', 'categories': names})
        + '\n'
      )
  text = 'lorem ipsum ' * 42
  path = os.path.join(folder, 'yelp_academic_dataset_review.json')
  with open(path, 'w') as f:
    for first in range(0, num_reviews, _BLOCK):
      count = min(_BLOCK, num_reviews - first)
      # A few users write most of the reviews.
      users = (rng.random(count) ** 3 * num_users).astype(int).tolist()
      items = (rng.random(count) ** 2 * num_businesses).astype(int).tolist()
      dates = np.datetime64('2005-03-01T00:00:00') + rng.integers(
        0, 5 * 10**8, count
      )
      for user, item, date in zip(users, items, dates.tolist(), strict=True):
        f.write(
          f'{{"review_id":"r","user_id":"u{user:021}","business_id":'
          f'"b{item:021}","stars":4.0,"useful":0,"funny":0,"cool":0,'
          f'"text":"{text}","date":"{date:%Y-%m-%d %H:%M:%S}"}}\n'
        )


def write_prepared(folder: str, num_events: int = 1_000_000_000) -> None:
  """Users of 50 events, a million items; the timestamps take no disk."""
  from bt4rec.datasets import sequences

  num_users, num_items = num_events // 50, 1_000_000
  small = sequences.from_events(
    'logs',
    np.arange(num_items),
    np.arange(num_items),
    np.zeros(num_items, np.int64),
  )
  sequences.save(small, folder)
  for name, array in {
    'user_ids': np.arange(num_users),
    'offsets': np.arange(num_users + 1) * 50,
  }.items():
    np.save(os.path.join(folder, f'{name}.npy'), array)
  for name, dtype in {'items': np.int32, 'timestamps': np.int64}.items():
    np.lib.format.open_memmap(
      os.path.join(folder, f'{name}.npy'), 'w+', dtype, (num_users * 50,)
    ).flush()
  # Past the header, block by block: a map would count as memory.
  path = os.path.join(folder, 'items.npy')
  rng = np.random.default_rng(0)
  with open(path, 'r+b') as f:
    f.seek(os.path.getsize(path) - 4 * num_users * 50)
    for first in range(0, num_users * 50, _BLOCK):
      count = min(_BLOCK, num_users * 50 - first)
      f.write(rng.integers(1, num_items + 1, count, np.int32).tobytes())


if __name__ == '__main__':
  _kind, _folder, *_size = sys.argv[1:]
  os.makedirs(_folder, exist_ok=True)
  _WRITERS = {
    'ml20m': write_ml20m,
    'yelp': write_yelp,
    'prepared': write_prepared,
  }
  _WRITERS[_kind](_folder, *(int(size) for size in _size))
