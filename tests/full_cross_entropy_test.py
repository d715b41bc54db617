"""The blocked loss against a loop, whatever the block; its memory."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bt4rec.objectives.full_cross_entropy import full_cross_entropy
from tests.gradients import gradient_by_differences

_NUM_POSITIONS, _NUM_ITEMS, _DIM = 11, 7, 3


def _inputs():
  rng = np.random.default_rng(0)
  return {
    'query': rng.normal(size=(_NUM_POSITIONS, _DIM)).astype(np.float32),
    'target': rng.integers(0, _NUM_ITEMS, _NUM_POSITIONS),
    # Some do not count; the others count differently.
    'weight': (rng.integers(0, 4, _NUM_POSITIONS) / 2).astype(np.float32),
    'table': rng.normal(size=(_NUM_ITEMS, _DIM)).astype(np.float32),
    'bias': rng.normal(size=_NUM_ITEMS).astype(np.float32),
  }


def _loop(query, target, weight, table, bias):
  loss = hits = 0.0
  for i in range(len(query)):
    scores = [
      sum(q * t for q, t in zip(query[i], row, strict=True)) + b
      for row, b in zip(table, bias, strict=True)
    ]
    own = scores[target[i]]
    loss += weight[i] * (math.log(sum(map(math.exp, scores))) - own)
    hits += weight[i] * (own == max(scores))
  return loss, hits


# One position, no divisor of their number, more than there are, the default.
@pytest.mark.parametrize('block', [1, 4, 64, None])
class TestBlocks:
  def test_sums_equal_the_loop(self, block):
    inputs = _inputs()
    loss, hits = full_cross_entropy(**inputs, block=block)
    expected = _loop(**inputs)
    np.testing.assert_allclose(loss, expected[0], rtol=1e-5)
    assert hits == expected[1] > 0
    # The pass with a gradient is another one.
    (with_gradient, same_hits), _ = jax.vjp(
      lambda query: full_cross_entropy(**{**inputs, 'query': query}),
      inputs['query'],
    )
    np.testing.assert_allclose(with_gradient, loss, rtol=1e-6)
    assert same_hits == hits

  @pytest.mark.parametrize('name', ['query', 'table', 'bias'])
  def test_gradient_equals_differences_of_the_loop(self, block, name):
    inputs = _inputs()

    def blocked(x):
      loss, hits = full_cross_entropy(**{**inputs, name: x}, block=block)
      # Hits have no gradient; the factor must reach that of the loss.
      return 3 * loss + hits

    expected = gradient_by_differences(
      lambda x: 3 * _loop(**{**inputs, name: x})[0], inputs[name]
    )
    np.testing.assert_allclose(
      jax.grad(blocked)(inputs[name]), expected, rtol=1e-3, atol=1e-4
    )


def test_large_scores_do_not_overflow():
  table = jnp.array([[200.0], [100.0], [-300.0]])
  loss, _ = full_cross_entropy(
    jnp.ones((1, 1)), jnp.array([1]), jnp.ones(1), table, jnp.zeros(3)
  )
  assert loss == 100.0  # exp(200) is no float32.


def test_scores_of_a_block_alone_exist_at_a_time():
  positions, items = 4096, 1000
  compiled = (
    jax.jit(jax.grad(lambda q, *rest: full_cross_entropy(q, *rest, 64)[0]))
    .lower(
      jnp.zeros((positions, 4)),
      jnp.zeros(positions, jnp.int32),
      jnp.ones(positions),
      jnp.zeros((items, 4)),
      jnp.zeros(items),
    )
    .compile()
  )
  all_scores = 4 * positions * items
  assert compiled.memory_analysis().temp_size_in_bytes < all_scores / 5
