"""Tests of bt4rec.heads."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bt4rec import heads, optimizer, supervised
from configs import base, presets

_EXAMPLES, _DIM, _ITEMS = 2_000, 64, 200


def test_a_probe_of_items_converges():
  # Items drawn by a linear map that is known. The likeliest map explains them
  # at least as well as the true one, so a probe that stops short shows.
  rng = np.random.default_rng(0)
  h = rng.normal(size=(_EXAMPLES, _DIM)).astype(np.float32)
  # A table of another scale and place, as encoders leave it.
  table = 0.02 * rng.normal(size=(_ITEMS, _DIM)).astype(np.float32) + 0.1
  scores = h @ rng.normal(size=(_DIM, _DIM)) @ (table - 0.1).T * 150 / _DIM
  log_p = scores - np.log(np.exp(scores).sum(1, keepdims=True))
  labels = np.array([rng.choice(_ITEMS, p=p / p.sum()) for p in np.exp(log_p)])
  of_truth = -log_p[np.arange(_EXAMPLES), labels].mean()
  # Items differ enough that there is something to learn.
  assert of_truth < np.log(_ITEMS) - 0.2

  config = base.get_config()
  config.update(presets.protocols()['probe'])
  steps = config.total_steps
  update = optimizer.make_optimizer(
    config.optimizer, optimizer.make_schedule(config.optimizer, steps)
  )
  head = heads.Head(_DIM)
  batch = {
    'item_table': heads.probe_table(jnp.asarray(table)),
    'label': jnp.asarray(labels),
  }

  def loss_of(params):
    return supervised.cross_entropy(head.apply({'params': params}, h), batch)

  def step(carry, _):
    params, state = carry
    updates, state = update.update(jax.grad(loss_of)(params), state, params)
    return (optax.apply_updates(params, updates), state), None

  params = head.init(jax.random.key(0), h)['params']
  (params, _), _ = jax.jit(
    lambda carry: jax.lax.scan(step, carry, length=steps)
  )((params, update.init(params)))
  assert loss_of(params) < of_truth


@pytest.mark.parametrize('is_ranking', [True, False])
def test_a_head_of_raw_embeddings_scores_as_the_probe_does(is_ranking):
  rng = np.random.default_rng(0)
  h = rng.normal(3.0, [0.1, 2.0, 30.0], (5, 3))
  table = rng.normal(-1.0, [5.0, 0.2, 1.0], (7, 3))
  stats = {'mean': h.mean(0), 'std': h.std(0)}
  linear = {'kernel': rng.normal(size=(3, 3)), 'bias': rng.normal(size=3)}
  # The probe, by hand.
  outputs = (h - h.mean(0)) / h.std(0) @ linear['kernel'] + linear['bias']
  found = heads.unconditioned(
    {'linear': linear}, stats, jnp.asarray(table) if is_ranking else None
  )['linear']
  raw = h @ np.asarray(found['kernel']) + np.asarray(found['bias'])
  if not is_ranking:
    np.testing.assert_allclose(raw, outputs, rtol=1e-4)
    return
  scores = outputs @ ((table - table.mean(0)) / table.std(0) / 3**0.5).T
  # All items of a user have what is left in common.
  left = raw @ table.T - scores
  np.testing.assert_allclose(left, np.tile(left[:, :1], (1, 7)), atol=1e-4)
