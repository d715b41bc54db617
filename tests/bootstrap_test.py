"""Tests of bt4rec.bootstrap against SciPy's resampling of users."""

import numpy as np
import pytest
import scipy.stats

from bt4rec import bootstrap


def _users(num_users=240):
  """Correlated hits of three rows, means of two seeds."""
  rng = np.random.default_rng(3)
  skill = rng.random(num_users)
  return [
    np.mean([skill + rng.random(num_users) < level for _ in '12'], axis=0)
    for level in (0.9, 0.7, 0.6)
  ]


def test_is_the_paired_percentile_interval_over_users():
  own, *others = _users()

  def gain(own, first, second, axis):
    best = np.maximum(first.mean(axis=axis), second.mean(axis=axis))
    return own.mean(axis=axis) / best - 1

  expected = scipy.stats.bootstrap(
    (own, *others),
    gain,
    paired=True,
    vectorized=True,
    n_resamples=20_000,
    method='percentile',
    rng=0,
  ).confidence_interval
  interval = bootstrap.relative_gain_interval(own, others)
  np.testing.assert_allclose(interval, expected, atol=0.02)
  # Unpaired it would be far wider than that tolerance.
  rng = np.random.default_rng(0)
  shuffled = [rng.permutation(row) for row in others]
  wide = np.subtract(*bootstrap.relative_gain_interval(own, shuffled)[::-1])
  assert wide > np.subtract(*expected[::-1]) + 0.03


def test_the_same_row_gains_nothing_in_any_resample():
  own = _users()[0]
  assert bootstrap.relative_gain_interval(own, [own]) == (0.0, 0.0)


def test_blocks_do_not_change_the_number_of_resamples(monkeypatch):
  own, *others = _users()
  whole = bootstrap.relative_gain_interval(own, others)
  monkeypatch.setattr(bootstrap, '_BLOCK', 1000)
  blocks = bootstrap.relative_gain_interval(own, others)
  np.testing.assert_allclose(whole, blocks, atol=1e-12)


def test_the_seed_decides():
  own, *others = _users()
  first, again, other = (
    bootstrap.relative_gain_interval(own, others, seed=s) for s in (0, 0, 1)
  )
  assert first == again != other


def test_without_a_hit_of_the_reference_there_is_no_interval():
  assert bootstrap.relative_gain_interval(np.ones(4), [np.zeros(4)]) is None


@pytest.mark.parametrize('level', [0.5, 0.95])
def test_the_level_is_the_share_within(level):
  own, *others = _users()
  low, high = bootstrap.relative_gain_interval(own, others, level=level)
  best = max(other.mean() for other in others)
  assert low < own.mean() / best - 1 < high
  # About normal: the half-width is z standard errors.
  wide = bootstrap.relative_gain_interval(own, others, level=0.95)
  z = scipy.stats.norm.ppf(0.5 + level / 2) / scipy.stats.norm.ppf(0.975)
  assert high - low == pytest.approx(z * (wide[1] - wide[0]), rel=0.1)
