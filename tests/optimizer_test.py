"""Schedule, weight decay and the chain of transformations."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bt4rec import optimizer, pretrain
from bt4rec.errors import InputError
from tests import tiny


def _config(**overrides):
  config = tiny.config().optimizer
  config.update({'learning_rate': 0.3, 'warmup_steps': 4, **overrides})
  return config


class TestMakeSchedule:
  @pytest.mark.parametrize(
    'step, rate',
    [
      (0, 0.0),
      (1, 0.3 / 4),
      (4, 0.3),
      # Half of the way from 4 to 12: (1 + cos(pi / 2)) / 2.
      (8, 0.3 / 2),
      # (1 + cos(pi 3 / 4)) / 2.
      (10, 0.3 * (1 - np.sqrt(0.5)) / 2),
      (12, 0.0),
    ],
  )
  def test_warms_up_then_falls_as_a_cosine(self, step, rate):
    schedule = optimizer.make_schedule(_config(), total_steps=12)
    np.testing.assert_allclose(schedule(step), rate, rtol=1e-6, atol=1e-8)

  def test_constant_stays_at_the_peak(self):
    config = _config(schedule='constant')
    schedule = optimizer.make_schedule(config, total_steps=12)
    rates = [float(schedule(step)) for step in (0, 2, 4, 5, 12)]
    np.testing.assert_allclose(rates, [0, 0.15, 0.3, 0.3, 0.3], rtol=1e-6)

  def test_refuses_an_unknown_schedule(self):
    with pytest.raises(InputError, match=r"'linear'.*cosine, constant"):
      optimizer.make_schedule(_config(schedule='linear'), total_steps=12)

  def test_without_warm_up_starts_at_the_peak(self):
    schedule = optimizer.make_schedule(_config(warmup_steps=0), total_steps=12)
    np.testing.assert_allclose(schedule(0), 0.3, rtol=1e-6)

  @pytest.mark.parametrize('warmup_steps', [-1, 12, 13])
  def test_refuses_a_warm_up_that_does_not_end(self, warmup_steps):
    with pytest.raises(
      InputError, match=rf'warmup_steps={warmup_steps} .*total_steps=12'
    ):
      optimizer.make_schedule(
        _config(warmup_steps=warmup_steps), total_steps=12
      )


class TestDecayMask:
  def _decayed(self, **overrides):
    """Paths of the decayed parameters of a real pre-training."""
    config = tiny.config(**overrides)
    params = pretrain.make_job(config, tiny.dataset()).state.params
    mask = optimizer.decay_mask(params, config.optimizer.decay_exclude)
    assert jax.tree.structure(mask) == jax.tree.structure(params)
    return {
      '/'.join(str(key.key) for key in path)
      for path, decays in jax.tree_util.tree_leaves_with_path(mask)
      if decays
    }

  def test_leaves_out_norms_biases_and_embeddings(self):
    block = 'encoder/blocks_0'
    kernels = {
      f'{block}/attention/qkv/kernel',
      f'{block}/attention/out/kernel',
      f'{block}/up/kernel',
      f'{block}/down/kernel',
    }
    assert self._decayed(encoder={'pooling': 'class_token'}) == kernels | {
      'objective/projector/dense_0/kernel',
      'objective/projector/dense_1/kernel',
    }

  def test_leaves_out_the_temperature(self):
    decayed = self._decayed(
      objective='dual_encoder', encoder={'name': 'bag_of_items'}
    )
    assert decayed == set()


class TestMakeOptimizer:
  @pytest.mark.parametrize('clip_norm', [0.5, 0.0])
  def test_equals_the_chain_by_hand(self, clip_norm):
    config = _config(b1=0.8, b2=0.95, weight_decay=0.1, clip_norm=clip_norm)
    schedule = optimizer.make_schedule(config, total_steps=9)
    tx = optimizer.make_optimizer(config, schedule)
    params = {
      'dense': {
        'kernel': jnp.array([[1.0, -2.0, 0.5]]),
        'bias': jnp.array([3.0, 1.0]),
      },
      'norm': {'scale': jnp.array([2.0])},
    }

    # AdamW as in algorithm 2 of Loshchilov and Hutter (2019), in float64.
    def flat(tree):
      return [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]

    # Alphabetical: bias, kernel, scale.
    decays = (0.0, 0.1, 0.0)
    expected = flat(params)
    first = [np.zeros_like(leaf) for leaf in expected]
    second = [np.zeros_like(leaf) for leaf in expected]
    state = tx.init(params)
    rng = np.random.default_rng(0)
    for step in range(6):
      grads = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32),
        params,
      )
      updates, state = tx.update(grads, state, params)
      params = optax.apply_updates(params, updates)
      flat_grads = flat(grads)
      norm = np.sqrt(sum((g**2).sum() for g in flat_grads))
      scale = min(1.0, clip_norm / norm) if clip_norm else 1.0
      for i, gradient in enumerate(flat_grads):
        g = scale * gradient
        first[i] = 0.8 * first[i] + 0.2 * g
        second[i] = 0.95 * second[i] + 0.05 * g**2
        m = first[i] / (1 - 0.8 ** (step + 1))
        v = second[i] / (1 - 0.95 ** (step + 1))
        update = m / (np.sqrt(v) + 1e-8) + decays[i] * expected[i]
        expected[i] = expected[i] - float(schedule(step)) * update
    for leaf, value in zip(flat(params), expected, strict=True):
      np.testing.assert_allclose(leaf, value, rtol=1e-5, atol=1e-6)

  def test_the_item_table_has_a_rate_of_its_own(self):
    # From the same state every parameter moves as without it, the item table
    # that many times as far, its decay included where it is decayed.
    config = _config(weight_decay=0.1, decay_exclude=('norm',))
    params = {
      'encoder': {
        'item_table': {'embedding': jnp.array([[1.0, -2.0]])},
        'up': {'kernel': jnp.array([[3.0, 0.5]])},
      },
      'objective': {'item_projector': {'kernel': jnp.array([[0.7]])}},
    }
    grads = jax.tree.map(lambda x: x**2 - 0.3, params)
    schedule = optimizer.make_schedule(config, total_steps=9)
    moved = []
    for rate in (1.0, 4.0, 0.0):
      config.item_table_rate = rate
      tx = optimizer.make_optimizer(config, schedule)
      state = tx.init(params)
      # The rate of the schedule is 0 at first.
      for _ in range(3):
        updates, state = tx.update(grads, state, params)
      moved.append(updates)
    for rate, updates in zip((4.0, 0.0), moved[1:], strict=True):
      expected = moved[0] | {
        'encoder': {
          'item_table': {
            'embedding': rate * moved[0]['encoder']['item_table']['embedding']
          },
          'up': moved[0]['encoder']['up'],
        }
      }
      jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
        updates,
        expected,
      )
    assert np.abs(moved[0]['encoder']['item_table']['embedding']).min() > 0.1

  def test_refuses_a_negative_rate_of_the_item_table(self):
    with pytest.raises(InputError, match=r'item_table_rate=-1\.0 must be'):
      optimizer.make_optimizer(_config(item_table_rate=-1.0), lambda step: step)

  def test_the_item_table_of_a_model_is_found(self):
    params = pretrain.make_job(tiny.config(), tiny.dataset()).state.params
    mask = optimizer._item_table_mask(params)
    found = [
      jax.tree_util.keystr(path)
      for path, chosen in jax.tree_util.tree_leaves_with_path(mask)
      if chosen
    ]
    assert found == ["['encoder']['item_table']['embedding']"]
