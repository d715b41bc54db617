"""Dropout against the statistics of independent coins."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bt4rec.dropout import Dropout


def _apply(rate, x, seed=0, train=True):
  rngs = {'dropout': jax.random.key(seed)}
  return np.asarray(Dropout(rate).apply({}, x, train, rngs=rngs), np.float32)


@pytest.mark.parametrize('rate', [0.1, 0.5, 0.9])
def test_drops_its_share_and_keeps_the_expectation(rate):
  size = 500, 201
  dropped = _apply(rate, jnp.ones(size)) == 0
  # Five standard deviations of a binomial share.
  bound = 5 * np.sqrt(rate * (1 - rate) / dropped.size)
  assert abs(dropped.mean() - rate) < bound
  # Both halves of a word, and numbers of one word: not the same coins.
  assert abs(dropped[:, ::2].mean() - dropped[:, 1::2].mean()) < 3 * bound
  together = (dropped[:, :200:2] & dropped[:, 1:200:2]).mean()
  assert abs(together - rate**2) < 4 * bound
  kept = _apply(rate, jnp.ones(size))[~dropped]
  np.testing.assert_allclose(kept, 1 / (1 - rate), rtol=2e-4)


def test_the_rate_is_a_multiple_of_a_level():
  # 1/3 of 65,536 is 21,845 levels and a third: 65,536 / 43,691 is kept.
  kept = _apply(1 / 3, jnp.full((4, 8), 43_691.0))
  assert set(np.unique(kept)) == {0.0, 65_536.0}


def test_is_the_identity_when_not_trained_or_without_a_rate():
  x = jnp.arange(6.0).reshape(2, 3)
  np.testing.assert_array_equal(_apply(0.5, x, train=False), x)
  np.testing.assert_array_equal(_apply(0.0, x), x)


def test_another_key_is_another_mask_and_the_type_stays():
  x = jnp.ones((64, 33), jnp.bfloat16)
  rngs = {'dropout': jax.random.key(0)}
  assert Dropout(0.5).apply({}, x, True, rngs=rngs).dtype == jnp.bfloat16
  first, again, other = (_apply(0.5, x, seed) for seed in (0, 0, 1))
  np.testing.assert_array_equal(first, again)
  # Half of the coins differ; 2,112 of them, a deviation is 1.1 %.
  assert 0.4 < (first != other).mean() < 0.6
