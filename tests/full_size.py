"""Writes generated files of the size and schema of the real ones.

  python tests/full_size.py ml20m DIR [NUM_RATINGS]
  python tests/full_size.py yelp DIR [NUM_REVIEWS]

Then `python -m bt4rec.describe` reads them with --config.dataset.path=DIR.
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


if __name__ == '__main__':
  _kind, _folder, *_size = sys.argv[1:]
  os.makedirs(_folder, exist_ok=True)
  {'ml20m': write_ml20m, 'yelp': write_yelp}[_kind](
    _folder, *(int(size) for size in _size)
  )
