"""Heads trained on labels: from the embedding of a user to outputs."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bt4rec import ranking


class Head(nn.Module):
  """Linear map of the user embedding to a task's outputs, zero at first."""

  num_outputs: int

  @nn.compact
  def __call__(self, h: jax.Array) -> jax.Array:
    """[batch, dim] -> [batch, num_outputs] float32."""
    return nn.Dense(
      self.num_outputs, kernel_init=nn.initializers.zeros, name='linear'
    )(h)


@dataclasses.dataclass(frozen=True)
class TrainedHead:
  """A head with what belongs to it.

  Attributes:
    params: Parameters of `Head`.
    batch_stats: `mean` and `std`, each [dim], by which a probe standardises
      embeddings; empty where encoder and head were trained together.
    candidates: The items that outputs are compared with; None for a
      classification, whose outputs are logits.
  """

  params: dict
  batch_stats: dict
  candidates: ranking.Candidates | None

  def __call__(self, h: Any) -> jax.Array:
    """[batch, dim] embeddings -> [batch, width or num_classes] float32."""
    return _apply(self.params, self.batch_stats, h)


def probe_table(item_table: jax.Array) -> jax.Array:
  """Conditions a frozen item table for a probe of it.

  A linear map is as free as before: centring adds the same to all scores of a
  user, and the scale is the map's to choose. It decides how fast the scores
  move: with rows of the length 1, on average, the probe of presets.py
  converges; with the scale of the logits of a class, a `sqrt(dim)`-th of it, it
  stops long before.

  Args:
    item_table: [num_items, dim] float.
  """
  centred = item_table - item_table.mean(0, keepdims=True)
  return centred / _scale(item_table)[None]


def _scale(item_table: jax.Array) -> jax.Array:
  return (item_table.std(0) + 1e-6) * item_table.shape[1] ** 0.5


def unconditioned(
  params: dict, batch_stats: dict, item_table: jax.Array | None = None
) -> dict:
  """A probe's head as one of embeddings and items as they are.

  Args:
    params: Of a `Head` on standardised embeddings.
    batch_stats: `mean` and `std`, each [dim], they were standardised by.
    item_table: [num_items, dim], of whose `probe_table` the outputs are scored
      against; None for a classification.

  Returns:
    Parameters of a `Head` with the same logits; or the same scores but for a
    number that all items of a user have in common.
  """
  linear = params['linear']
  kernel = linear['kernel'] / batch_stats['std'][:, None]
  bias = linear['bias'] - batch_stats['mean'] @ kernel
  if item_table is not None:
    scale = _scale(item_table)
    kernel, bias = kernel / scale[None], bias / scale
  return {'linear': {'kernel': kernel, 'bias': bias}}


@jax.jit
def _apply(params: dict, batch_stats: dict, h: Any) -> jax.Array:
  if batch_stats:
    h = (h - batch_stats['mean'][None]) / batch_stats['std'][None]
  head = Head(params['linear']['bias'].shape[0])
  return jnp.asarray(head.apply({'params': params}, h))
