"""Rank, spread and verdict of matrices whose answer is known."""

import numpy as np
import pytest
import scipy.linalg

from bt4rec import health

_USERS = 64
_DIM = 20


def _matrix(rank: int, offset: float = 0.0) -> np.ndarray:
  """[64, 20] with `rank` equal singular values and a mean of `offset`."""
  # Columns of a Hadamard matrix, the constant one left out, are orthogonal,
  # of equal size and of mean 0.
  h = scipy.linalg.hadamard(_USERS)[:, 1 : _DIM + 1].astype(np.float32)
  h[:, rank:] = 0
  return h + np.float32(offset)


class TestSpectrum:
  @pytest.mark.parametrize('rank', [1, 3, _DIM])
  def test_equal_directions_are_counted(self, rank):
    numbers = health.spectrum(_matrix(rank))
    np.testing.assert_allclose(numbers['effective_rank'], rank, rtol=1e-4)

  def test_unequal_directions_by_hand(self):
    h = _matrix(2)
    h[:, 1] *= 3
    # Shares 1/4 and 3/4: entropy log 4 - 3/4 log 3.
    expected = 4 / 3**0.75
    numbers = health.spectrum(h)
    np.testing.assert_allclose(numbers['effective_rank'], expected, rtol=1e-4)

  def test_mean_is_no_direction(self):
    numbers = health.spectrum(_matrix(3, offset=5.0))
    np.testing.assert_allclose(numbers['effective_rank'], 3, rtol=1e-3)

  def test_spread_by_hand(self):
    # 5 of 20 columns have variance 1, the others 0; the mean is 2.
    numbers = health.spectrum(_matrix(5, offset=2.0))
    np.testing.assert_allclose(numbers['embedding_std'], 0.5, rtol=1e-5)
    # Mean square: 4 + 1/4.
    np.testing.assert_allclose(
      numbers['relative_spread'], 0.5 / np.sqrt(4.25), rtol=1e-5
    )


def _report(h):
  return health.report(h, h, h)


class TestAlignment:
  def test_by_hand(self):
    # Equal, at right angles and opposite, of any length.
    h_a = np.array([[3, 0], [2, 0], [1, 1]], np.float32)
    h_b = np.array([[5, 0], [0, 7], [-4, -4]], np.float32)
    expected = (0 + 2 + 4) / 3
    np.testing.assert_allclose(health.alignment(h_a, h_b), expected, rtol=1e-6)

  def test_equal_views_of_no_length_are_finite(self):
    assert health.alignment(np.zeros((2, 3)), np.zeros((2, 3))) == 0


class TestUniformity:
  def test_by_hand(self):
    # Squared distances 2, 4 and 2.
    h = np.array([[3, 0], [0, 0.5], [-2, 0]], np.float32)
    expected = np.log((2 * np.exp(-4) + np.exp(-8)) / 3)
    np.testing.assert_allclose(health.uniformity(h), expected, rtol=1e-6)

  def test_equal_users_are_not_uniform(self):
    h = np.tile(np.array([[1, 2, 3]], np.float32), (5, 1))
    np.testing.assert_allclose(health.uniformity(h), 0, atol=1e-5)


class TestReport:
  @pytest.mark.parametrize(
    'rank, expected',
    [
      (1, 'dimensional collapse'),
      # The limit: a tenth of the 20 dimensions.
      (3, 'healthy'),
      (_DIM, 'healthy'),
    ],
  )
  def test_verdict_by_rank(self, rank, expected):
    assert _report(_matrix(rank))['health'] == expected

  def test_alignment_is_between_the_parts(self):
    h = _matrix(3)
    numbers = health.report(h, h, -h)
    np.testing.assert_allclose(numbers['alignment'], 4, rtol=1e-6)
    np.testing.assert_allclose(
      numbers['uniformity'], health.uniformity(h), rtol=1e-6
    )

  def test_equal_rows_are_constant(self):
    numbers = _report(np.full((_USERS, _DIM), 1.5, np.float32))
    assert numbers['health'] == 'constant'
    assert all(
      np.isfinite(value) for value in numbers.values() if value != 'constant'
    )

  def test_spread_small_beside_the_mean_is_constant(self):
    # Spread 1 around 150, though of full rank.
    assert _report(_matrix(_DIM, 150.0))['health'] == 'constant'

  def test_zeros_are_constant(self):
    numbers = _report(np.zeros((_USERS, _DIM), np.float32))
    assert numbers['health'] == 'constant'

  def test_few_users_are_not_taken_for_a_collapse(self):
    # Three users span two directions at most: of 64 dimensions that is little,
    # of what is possible it is all.
    h = np.zeros((3, 64), np.float32)
    h[0, 7], h[1, 9], h[2, 30] = 1, 1, 1
    numbers = _report(h)
    np.testing.assert_allclose(numbers['effective_rank'], 2, rtol=1e-4)
    assert numbers['health'] == 'healthy'
