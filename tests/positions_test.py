"""Positions by distance, against pencil and NumPy."""

import jax
import numpy as np
import pytest

from bt4rec import positions


def _rotated(vector: np.ndarray, position: int) -> np.ndarray:
  """One [head_dim] vector turned, pair by pair, as complex numbers."""
  half = len(vector) // 2
  turned = np.empty_like(vector)
  for pair in range(half):
    angle = position / 10_000 ** (pair / half)
    number = vector[pair] + 1j * vector[pair + half]
    number *= np.cos(angle) + 1j * np.sin(angle)
    turned[pair], turned[pair + half] = number.real, number.imag
  return turned


class TestRotate:
  def test_turns_each_pair_as_a_complex_number(self):
    x = np.random.default_rng(0).normal(size=(2, 5, 3, 8)).astype(np.float32)
    expected = np.empty_like(x)
    for row, slot, head in np.ndindex(2, 5, 3):
      expected[row, slot, head] = _rotated(x[row, slot, head], slot)
    np.testing.assert_allclose(positions.rotate(x), expected, atol=2e-6)
    # The first pair turns by a radian a slot, the last the slowest.
    np.testing.assert_allclose(
      expected[0, 1, 0, 0],
      np.cos(1) * x[0, 1, 0, 0] - np.sin(1) * x[0, 1, 0, 4],
      rtol=1e-5,
    )

  def test_scores_depend_on_the_distance_alone(self):
    query, key = np.float32(
      np.random.default_rng(1).normal(size=(2, 1, 1, 1, 6))
    )
    query, key = (
      np.asarray(positions.rotate(np.tile(x, (1, 9, 1, 1))))[0, :, 0]
      for x in (query, key)
    )
    scores = query @ key.T
    for distance in range(-8, 9):
      diagonal = np.diagonal(scores, distance)
      np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-5)
    # And on it they do: no two distances are alike.
    ends = np.concatenate([scores[0], scores[1:, 0]])
    assert np.diff(np.sort(ends)).min() > 1e-3

  def test_keeps_the_dtype(self):
    x = jax.numpy.ones((1, 3, 1, 4), jax.numpy.bfloat16)
    assert positions.rotate(x).dtype == x.dtype


class TestRelativeBuckets:
  @pytest.mark.parametrize(
    'age, causal, bucket',
    [
      # 16 of one distance, then 16 by the log of the distance, up to 128.
      (0, True, 0),
      (1, True, 1),
      (15, True, 15),
      (16, True, 16),
      # 16 * log(32 / 16) / log(128 / 16) = 5.33.
      (32, True, 21),
      (64, True, 26),
      (127, True, 31),
      (128, True, 31),
      (199, True, 31),
      (-3, True, 0),  # Never attended to.
      # Each way 8 of one distance, then 8 by the log.
      (0, False, 0),
      (7, False, 7),
      (8, False, 8),
      # 8 * log(16 / 8) / log(128 / 8) = 2.
      (15, False, 9),
      (16, False, 10),
      (32, False, 12),
      (128, False, 15),
      (199, False, 15),
      (-1, False, 17),
      (-7, False, 23),
      (-16, False, 26),
      (-199, False, 31),
    ],
  )
  def test_by_hand(self, age, causal, bucket):
    buckets = positions.relative_buckets(200, causal)
    query, key = max(age, 0), max(-age, 0)
    assert buckets[query, key] == bucket
    # Distances count, not places.
    diagonal = np.diagonal(buckets, -age)
    assert (diagonal == bucket).all()

  def test_the_bias_is_the_table_at_the_buckets(self):
    module = positions.RelativeBias(num_heads=3, causal=False)
    table = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
    bias = module.apply({'params': {'bias_embedding': table}}, 20)
    assert bias.shape == (1, 3, 20, 20)
    buckets = positions.relative_buckets(20, False)
    for head, query, key in ((0, 0, 0), (1, 19, 0), (2, 3, 12)):
      assert bias[0, head, query, key] == table[buckets[query, key], head]
