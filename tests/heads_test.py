"""Tests of bt4rec.heads."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

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
