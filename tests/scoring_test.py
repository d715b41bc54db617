"""Tests of bt4rec.scoring on scorers made by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from bt4rec import heads, ranking, scoring, vocabulary


class _NewestItem:
  """Scores the newest item 1 and the others 0, plus a bias."""

  max_history = 2

  def __init__(self, bias):
    self._bias = jnp.asarray(bias)
    self.lengths = []

  def queries(self, events, start, length):
    self.lengths += length.tolist()
    return np.eye(len(self._bias), dtype=np.float32)[
      events['items'][start + length - 1] - 1
    ]

  def candidates(self):
    return ranking.Candidates(jnp.eye(len(self._bias)), self._bias)


# Items 1, 2, 3, and then 4.
_HISTORIES = vocabulary.Tokens(
  np.array([1, 2, 3, 4], np.int32), np.array([0, 3, 4])
)


class TestTopItems:
  def test_by_score_and_bias(self):
    scorer = _NewestItem([0.1, 0.4, 0.2, 0.3, 0.0])
    rows, scores = scoring.top_items(scorer, _HISTORIES, 3, False)
    # The newest has 1.2 and 1.3; the others their bias.
    assert rows.tolist() == [[2, 1, 3], [3, 1, 2]]
    np.testing.assert_allclose(scores, [[1.2, 0.4, 0.3], [1.3, 0.4, 0.2]])

  def test_gives_the_scorer_no_more_than_it_uses(self):
    scorer = _NewestItem(np.zeros(5, np.float32))
    scoring.top_items(scorer, _HISTORIES, 1, False)
    assert set(scorer.lengths) == {1, 2}

  def test_leaves_out_what_was_seen_also_before_the_window(self):
    scorer = _NewestItem([0.1, 0.4, 0.2, 0.3, 0.0])
    rows, _ = scoring.top_items(scorer, _HISTORIES, 3, True)
    assert rows.tolist() == [[3, 4, -1], [1, 2, 0]]

  @pytest.mark.parametrize('number', [0, scoring._BLOCK + 3])
  def test_blocks_drop_nobody(self, number):
    histories = vocabulary.Tokens(
      np.arange(number, dtype=np.int32) % 5 + 1, np.arange(number + 1)
    )
    rows, _ = scoring.top_items(
      _NewestItem(np.zeros(5, np.float32)), histories, 1, False
    )
    assert rows[:, 0].tolist() == [i % 5 for i in range(number)]


def test_a_head_standardises_and_maps():
  params = {
    'linear': {
      'kernel': jnp.array([[1.0, 0.0], [2.0, 1.0]]),
      'bias': jnp.array([0.5, 0.0]),
    }
  }
  statistics = {'mean': jnp.array([1.0, 0.0]), 'std': jnp.array([2.0, 1.0])}
  candidates = ranking.Candidates(jnp.ones((3, 2)), jnp.zeros(3))
  head = heads.TrainedHead(params, statistics, candidates)
  # An embedding is the tokens of a window: [3, 1] -> [1, 1] -> [3.5, 1].
  scorer = scoring.HeadScorer(
    head,
    lambda events, start, length: np.stack(
      [events['items'][start], events['items'][start + length - 1]], axis=1
    ).astype(np.float32),
    max_history=4,
  )
  queries = scorer.queries(
    {'items': np.array([3, 7, 1], np.int32)},
    np.array([0]),
    np.array([3], np.int32),
  )
  np.testing.assert_allclose(queries, [[3.5, 1.0]])
  assert scorer.candidates() is candidates
