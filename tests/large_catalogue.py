"""Ranks a catalogue of millions, and recommends from it; prints the memory.

  python tests/large_catalogue.py [NUM_ITEMS] [NUM_USERS] [DIM]

A dual encoder with random parameters, evaluated and used as any other. One JSON
line: the bytes that were needed at most beyond the item table (of Linux' peak
of the resident set), and how many of the users looked at have the rank and the
best items of a loop over NumPy's scores.
"""

import json
import re
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from bt4rec import evaluate, pretext, scoring, tasks, vocabulary
from bt4rec.datasets import Catalogue, SequenceDataset
from configs import base

_HISTORY = 50
_K = 100
_CHECKED = 3


def _bytes(name: str) -> int:
  with open('/proc/self/status') as f:
    kilobytes = re.search(rf'{name}:\s+(\d+) kB', f.read())
  assert kilobytes
  return 1024 * int(kilobytes[1])


def _dataset(num_items: int, num_users: int) -> SequenceDataset:
  rng = np.random.default_rng(0)
  number = num_users * (_HISTORY + 1)
  return SequenceDataset(
    name='large',
    items=rng.integers(1, num_items + 1, number, np.int32),
    timestamps=np.arange(number),
    offsets=np.arange(num_users + 1) * (_HISTORY + 1),
    user_ids=np.arange(num_users),
    catalogue=Catalogue(
      item_ids=np.arange(num_items),
      titles=np.full(num_items, ''),
      category_names=(),
      category_offsets=np.zeros(num_items + 1, np.int64),
      category_values=np.zeros(0, np.int32),
    ),
  )


def _scorer(dataset: SequenceDataset, table: np.ndarray):
  config = base.get_config()
  config.objective = 'dual_encoder'
  config.encoder.name = 'bag_of_items'
  config.encoder.dim = table.shape[1]
  config.max_length = _HISTORY + 1
  params = {
    # There, and not on its way, before memory is looked at.
    'encoder': {
      'item_table': {'embedding': jax.block_until_ready(jnp.asarray(table))}
    },
    'objective': {'log_temperature': jnp.log(0.1)},
  }
  model = pretext.make_model(config, dataset.catalogue, None)
  return scoring.ObjectiveScorer(model, params)


def measure(num_items: int, num_users: int, dim: int) -> dict:
  """Runs both, and says what they needed."""
  dataset = _dataset(num_items, num_users)
  rng = np.random.default_rng(1)
  table = rng.standard_normal((num_items + 2, dim), np.float32)
  scorer = _scorer(dataset, table)
  task = tasks.NextItem(dataset, 0)
  examples = task.test()
  histories = vocabulary.Tokens(
    np.delete(dataset.items, dataset.offsets[1:] - 1),
    np.arange(num_users + 1) * _HISTORY,
  )
  with open('/proc/self/clear_refs', 'w') as f:
    f.write('5')  # The peak starts anew.
  before, start = _bytes('VmRSS'), time.perf_counter()
  _, ranks = evaluate.evaluate_scorer(scorer, task, examples, True)
  ranked = time.perf_counter()
  best, _ = scoring.top_items(scorer, histories, _K, True)
  recommended = time.perf_counter()
  peak = _bytes('VmHWM')
  right = 0
  lengths = np.linalg.norm(table[1:-1], axis=1)
  for user in range(_CHECKED):
    *history, target = dataset.items[
      dataset.offsets[user] : dataset.offsets[user + 1]
    ]
    scores = table[1:-1] @ table[history].mean(0) / lengths
    own = scores[target - 1]
    scores[np.array(history) - 1] = -np.inf
    # Rounding may turn two neighbours around.
    is_close = abs(1 + (scores > own).sum() - ranks[user]) <= 5
    expected = np.argpartition(-scores, _K)[:_K]
    right += is_close and len(np.intersect1d(best[user], expected)) >= _K - 1
  return {
    'num_items': num_items,
    'num_users': num_users,
    'dim': dim,
    'table_bytes': table.nbytes,
    'bytes_beyond_the_table': peak - before,
    'rank_seconds': round(ranked - start, 1),
    'recommend_seconds': round(recommended - ranked, 1),
    'checked': _CHECKED,
    'right': int(right),
  }


if __name__ == '__main__':
  _sizes = [int(size) for size in sys.argv[1:]]
  print(json.dumps(measure(*(_sizes + [10_000_000, 1_000, 64][len(_sizes) :]))))
