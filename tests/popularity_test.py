"""Tests of bt4rec.popularity: counts by hand, bins, metrics of each."""

import numpy as np

from bt4rec import metrics, popularity
from bt4rec.datasets import sequences

# Of items a to d: user 0 has a a b c, user 1 has b a d.
_ITEMS = np.array([10, 10, 20, 30, 20, 10, 40])


def _dataset():
  return sequences.from_events(
    'synthetic', np.array([0, 0, 0, 0, 1, 1, 1]), _ITEMS, np.arange(7)
  )


def test_only_visible_events_count():
  counts = popularity.item_counts(_dataset(), np.array([3, 2]))
  np.testing.assert_array_equal(counts, [3, 2, 0, 0])
  counts = popularity.item_counts(_dataset(), np.array([0, 3]))
  np.testing.assert_array_equal(counts, [1, 1, 0, 1])


def test_bins_end_at_half_powers_of_ten(monkeypatch):
  counts = np.array([0, 1, 2, 3, 4, 10, 11, 30, 31, 100])
  monkeypatch.setattr(popularity, 'item_counts', lambda *_: counts)
  ranks = np.arange(1.0, 11.0)
  groups = popularity.metrics_by_popularity(None, None, np.arange(10), ranks)
  # The last event is not beyond 100, so no bin is.
  assert [(g['max_events'], g['num_test']) for g in groups] == [
    (0, 1),
    (1, 1),
    (3, 2),
    (10, 2),
    (30, 2),
    (100, 2),
  ]
  assert groups[2]['metrics'] == metrics.ranking_metrics(ranks[2:4])
  # Bins without an example are left out.
  groups = popularity.metrics_by_popularity(
    None, None, np.array([9, 0]), ranks[:2]
  )
  assert [g['max_events'] for g in groups] == [0, 100]
