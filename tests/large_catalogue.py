"""Ranks a catalogue of millions, and recommends from it; prints the memory.

  python tests/large_catalogue.py [NUM_ITEMS] [NUM_USERS] [DIM]

One JSON line: the bytes that were needed at most beyond the item table (of
Linux' peak of the resident set), and how many of the users looked at have the
rank and the best items of a loop over NumPy's scores.
"""

import json
import re
import sys
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from bt4rec import evaluate, scoring, tasks, vocabulary

_HISTORY = 50
_K = 100
_CHECKED = 3


class _Scorer:
  """Random queries against a random table."""

  max_history = _HISTORY
  features = ()

  def __init__(self, table: np.ndarray, queries: np.ndarray):
    self._queries = queries
    # There, and not on its way, before memory is looked at.
    self._table, self._bias = jax.block_until_ready(
      (jnp.asarray(table), jnp.zeros(len(table)))
    )

  def queries(self, events, start, length) -> np.ndarray:
    del events, length
    return self._queries[start // _HISTORY]

  def candidates(self):
    return self._table, self._bias


def _bytes(name: str) -> int:
  with open('/proc/self/status') as f:
    kilobytes = re.search(rf'{name}:\s+(\d+) kB', f.read())
  assert kilobytes
  return 1024 * int(kilobytes[1])


def measure(num_items: int, num_users: int, dim: int) -> dict:
  """Runs both, and says what they needed."""
  rng = np.random.default_rng(0)
  table = rng.standard_normal((num_items, dim), np.float32)
  scorer = _Scorer(table, rng.standard_normal((num_users, dim), np.float32))
  tokens = rng.integers(1, num_items + 1, num_users * _HISTORY, np.int32)
  offsets = np.arange(num_users + 1) * _HISTORY
  labels = rng.integers(0, num_items, num_users, np.int32)
  examples = tasks.Examples(np.arange(num_users), offsets[1:], labels)
  task = SimpleNamespace(dataset=SimpleNamespace(items=tokens, offsets=offsets))
  with open('/proc/self/clear_refs', 'w') as f:
    f.write('5')  # The peak starts anew.
  before, start = _bytes('VmRSS'), time.perf_counter()
  queries = scorer.queries(None, offsets[:-1], None)
  _, ranks = evaluate.rank_examples(
    task, examples, lambda rows: queries[rows], *scorer.candidates(), True
  )
  ranked = time.perf_counter()
  best, _ = scoring.top_items(
    scorer, vocabulary.Tokens(tokens, offsets), _K, True
  )
  recommended = time.perf_counter()
  peak = _bytes('VmHWM')
  right = 0
  for user in range(_CHECKED):
    scores = table @ queries[user]
    own = scores[labels[user]]
    scores[tokens[offsets[user] : offsets[user + 1]] - 1] = -np.inf
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
  print(json.dumps(measure(*(_sizes + [10_000_000, 1_000, 16][len(_sizes) :]))))
