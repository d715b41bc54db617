"""Correlated items, against a loop over pairs."""

import dataclasses

import numpy as np
import pytest

from bt4rec import co_occurrence, pretrain_data, splits
from bt4rec.datasets import sequences
from bt4rec.errors import InputError
from tests import tiny


class TestCorrelatedItems:
  # Users with items 1 2 3 | 1 2 | 2 4 4 | 5 | 3 1, the last of each hidden
  # but for the second; items are numbered from 10.
  _USERS = np.array([1, 1, 1, 1, 2, 2, 3, 3, 3, 3, 4, 4, 5, 5, 5])
  _ITEMS = np.array([1, 2, 3, 5, 1, 2, 2, 4, 4, 1, 5, 1, 3, 1, 2]) + 9
  _VISIBLE = np.array([3, 2, 3, 1, 2])

  def _dataset(self):
    return sequences.from_events(
      'hand', self._USERS, self._ITEMS, np.arange(len(self._USERS))
    )

  def test_equals_the_loop_over_pairs(self):
    dataset = self._dataset()
    seen = [{1, 2, 3}, {1, 2}, {2, 4}, {5}, {3, 1}]
    expected = np.zeros((7, 4), int)
    for i in range(1, 6):
      scores = {}
      for j in set(range(1, 6)) - {i}:
        both = [items for items in seen if {i, j} <= items]
        if both:
          total = sum(1 / np.log(1 + len(items)) for items in both)
          with_i, with_j = (sum(k in s for s in seen) for k in (i, j))
          scores[j] = total / np.sqrt(with_i * with_j)
      best = sorted(scores, key=lambda j: (-scores[j], j))
      expected[i, : len(best)] = best
    # By pencil: item 2 shares users with 1, 4 and 3, item 5 with none.
    assert expected[2].tolist() == [1, 4, 3, 0]
    assert not expected[5].any()
    table = co_occurrence.correlated_items(dataset, self._VISIBLE, 4)
    np.testing.assert_array_equal(table, expected)
    assert table.dtype == np.int32
    for count in (1, 2):
      np.testing.assert_array_equal(
        co_occurrence.correlated_items(dataset, self._VISIBLE, count),
        expected[:, :count],
      )

  def test_blocks_do_not_change_it(self, monkeypatch):
    dataset = tiny.dataset()
    visible = pretrain_data.visible_events(dataset, tiny.config())
    whole = co_occurrence.correlated_items(dataset, visible, 5)
    monkeypatch.setattr(co_occurrence, '_BLOCK', 7)
    np.testing.assert_array_equal(
      co_occurrence.correlated_items(dataset, visible, 5), whole
    )
    # More than there are.
    wide = co_occurrence.correlated_items(dataset, visible, 50)
    assert wide.shape == (dataset.catalogue.vocabulary_size, 50)
    np.testing.assert_array_equal(wide[:, 0], whole[:, 0])

  def test_hidden_events_have_no_part_in_it(self):
    dataset = self._dataset()
    other = dataset.items.copy()
    hidden = splits.positions_within(dataset.lengths) >= np.repeat(
      self._VISIBLE, dataset.lengths
    )
    other[hidden] = 4
    changed = dataclasses.replace(dataset, items=other)
    np.testing.assert_array_equal(
      co_occurrence.correlated_items(changed, self._VISIBLE, 3),
      co_occurrence.correlated_items(dataset, self._VISIBLE, 3),
    )

  def test_refuses_no_items(self):
    with pytest.raises(InputError, match='num_correlated=0 must'):
      co_occurrence.correlated_items(self._dataset(), self._VISIBLE, 0)
