"""Softmax cross-entropy over all items, a block of positions at a time.

The scores of all positions would be the largest array of a step: 1,024 windows
of 200 events and 27,000 items make 22 GB. Since the loss is a weighted sum, its
gradient is known up to one factor as soon as the scores are; so both are
computed together, block by block, and no scores are kept or computed again.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

# Scores that exist at a time: those that stay in a core's cache, or those that
# keep an accelerator busy.
_SCORES = {'cpu': 2**20}
_SCORES_OF_OTHERS = 2**26
# A block is a multiple of it, so that devices can share it.
_ROUNDING = 64


def full_cross_entropy(
  query: jax.Array,
  target: jax.Array,
  weight: jax.Array,
  table: jax.Array,
  bias: jax.Array,
  block: int | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Weighted sums of the loss and of the hits over positions.

  The loss of eq. (8) of Sun et al. (2019), BERT4Rec, arXiv 1904.06690, which
  Klenitskiy and Vasilev (2023), arXiv 2309.07602, use for SASRec.

  Args:
    query: [num_positions, dim] float32.
    target: [num_positions] int, rows of the items to be predicted.
    weight: [num_positions] float32; no gradient flows to it.
    table: [num_items, dim] float32; an item's score is
      `query @ table[item] + bias[item]`.
    bias: [num_items] float32.
    block: Positions scored at a time; None chooses by device and catalogue.

  Returns:
    Two scalars: the sum of `weight * loss`, and that of the weights of the
    positions whose target's score is the largest.
  """
  if block is None:
    scores = _SCORES.get(jax.default_backend(), _SCORES_OF_OTHERS)
    block = max(1, scores // len(table) // _ROUNDING) * _ROUNDING
  table, bias = jnp.asarray(table), jnp.asarray(bias)
  return _weighted_sums(query, target, weight, table, bias, block)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _weighted_sums(query, target, weight, table, bias, block):
  def add(sums, part):
    own, best, exp = _score(part, table, bias)
    loss, right = _sums(part['weight'], own, best, exp)
    return (sums[0] + loss, sums[1] + right), None

  blocks = _cut(query, target, weight, block)
  sums, _ = lax.scan(add, (jnp.zeros(()), jnp.zeros(())), blocks)
  return sums


def _forward(query, target, weight, table, bias, block):
  def add(sums, part):
    query, target, weight = part['query'], part['target'], part['weight']
    own, best, exp = _score(part, table, bias)
    loss, right = _sums(weight, own, best, exp)
    # The gradient by the scores: the softmax less one at the target.
    share = exp * (weight / exp.sum(1))[:, None]
    by_query = share @ table - weight[:, None] * table[target]
    by_table = (share.T @ query).at[target].add(-weight[:, None] * query)
    by_bias = share.sum(0).at[target].add(-weight)
    new = (loss, right, by_table, by_bias)
    return jax.tree.map(jnp.add, sums, new), by_query

  start = jnp.zeros(()), jnp.zeros(()), jnp.zeros_like(table), 0.0 * bias
  sums, by_query = lax.scan(add, start, _cut(query, target, weight, block))
  loss, right, by_table, by_bias = sums
  by_query = by_query.swapaxes(0, 1).reshape(-1, query.shape[1])[: len(query)]
  return (loss, right), (by_query, by_table, by_bias)


def _backward(block, gradients, cotangents):
  del block
  by_query, by_table, by_bias = (cotangents[0] * g for g in gradients)
  return by_query, None, None, by_table, by_bias


_weighted_sums.defvjp(_forward, _backward)


def _cut(query, target, weight, block) -> dict[str, jax.Array]:
  """Cuts positions into [num_blocks, block, ...], the last ones of weight 0.

  Neighbours come into different blocks, so that of positions that are split
  over devices each block has some of every device.
  """
  block = min(block, -(-len(query) // _ROUNDING) * _ROUNDING)
  num_blocks = -(-len(query) // block)
  padding = num_blocks * block - len(query)

  def cut(x):
    x = jnp.pad(x, ((0, padding), *((0, 0),) * (x.ndim - 1)))
    return x.reshape(block, num_blocks, *x.shape[1:]).swapaxes(0, 1)

  return {'query': cut(query), 'target': cut(target), 'weight': cut(weight)}


def _score(part, table, bias):
  """[block] the target's score and the largest, [block, num_items] exps."""
  scores = part['query'] @ table.T + bias[None]
  # Out of the scores, not by another product, so that it is equal to the bit.
  own = jnp.take_along_axis(scores, part['target'][:, None], axis=1)[:, 0]
  best = scores.max(1)
  return own, best, jnp.exp(scores - best[:, None])


def _sums(weight, own, best, exp):
  loss = jnp.log(exp.sum(1)) + best - own
  return (weight * loss).sum(), (weight * (own >= best)).sum()
