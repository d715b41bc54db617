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

from bt4rec import mesh

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
  sharding: mesh.RowSharding | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Weighted sums of the loss and of the hits over positions.

  The loss of eq. (8) of Sun et al. (2019), BERT4Rec, arXiv 1904.06690, which
  Klenitskiy and Vasilev (2023), arXiv 2309.07602, use for SASRec.

  Args:
    query: [num_positions, dim] float32.
    target: [num_positions] int, rows of the items to be predicted.
    weight: [num_positions] float32; no gradient flows to it.
    table: [num_rows, dim] float32; an item's score is
      `query @ table[item] + bias[item]`.
    bias: [num_rows] float32, -inf for a row that is no item's.
    block: Positions scored at a time; None chooses by device and catalogue.
    sharding: How the table is split over devices; None is not. Positions are
      split over all devices then.

  Returns:
    Two scalars: the sum of `weight * loss`, and that of the weights of the
    positions whose target's score is the largest.
  """
  table, bias = jnp.asarray(table), jnp.asarray(bias)
  return _weighted_sums(query, target, weight, table, bias, block, sharding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _weighted_sums(query, target, weight, table, bias, block, sharding):
  if sharding:  # Of which only a training step knows, with a gradient.
    sums, _ = _forward(query, target, weight, table, bias, block, sharding)
    return sums

  def add(sums, part):
    score = _Score(part, table, bias)
    return jax.tree.map(jnp.add, sums, score.sums), None

  blocks = _cut(query, target, weight, _size(block, table))
  sums, _ = lax.scan(add, (jnp.zeros(()), jnp.zeros(())), blocks)
  return sums


def _forward(query, target, weight, table, bias, block, sharding):
  """The sums, and the gradients of the first by query, table and bias."""
  arrays = query, target, weight, table, bias
  if not sharding:
    return _with_gradients(*arrays, block)

  def of_device(query, target, weight, table, bias):
    # The positions of those that share the table, against the own rows of it.
    query, target, weight = (
      lax.all_gather(x, mesh.MODEL, tiled=True) for x in (query, target, weight)
    )
    sums, (by_query, *by_rows) = _with_gradients(
      query, target, weight, table, bias, block, mesh.MODEL
    )
    sums, by_rows = lax.psum((sums, by_rows), mesh.DATA)
    by_query = lax.psum_scatter(by_query, mesh.MODEL, tiled=True)
    return sums, (by_query, *by_rows)

  split, rows = mesh.OF_BATCH, mesh.OF_ROWS
  return jax.shard_map(
    of_device,
    mesh=sharding.mesh,
    in_specs=(split, split, split, rows, rows),
    out_specs=((mesh.EVERYWHERE,) * 2, (split, rows, rows)),
    # It takes what a gathering makes equal for different.
    check_vma=False,
  )(*arrays)


def _with_gradients(query, target, weight, table, bias, block, axis_name=None):
  """As `_forward`, of the rows of a table that one device has.

  With `axis_name` the sums are those of all rows, and the gradient by the query
  is the share of these rows in it.
  """

  def add(sums, part):
    score = _Score(part, table, bias, axis_name)
    query, weight = part['query'], part['weight']
    # The gradient by the scores: the softmax less one at the target.
    share = score.exp * (weight / score.norm)[:, None]
    less = jnp.where(score.is_here, weight, 0.0)
    target = score.target
    by_query = share @ table - less[:, None] * table[target]
    by_table = (share.T @ query).at[target].add(-less[:, None] * query)
    by_bias = share.sum(0).at[target].add(-less)
    new = (*score.sums, by_table, by_bias)
    return jax.tree.map(jnp.add, sums, new), by_query

  start = (jnp.zeros(()),) * 2 + (jnp.zeros_like(table), jnp.zeros_like(bias))
  blocks = _cut(query, target, weight, _size(block, table))
  sums, by_query = lax.scan(add, start, blocks)
  loss, right, by_table, by_bias = sums
  by_query = by_query.swapaxes(0, 1).reshape(-1, query.shape[1])[: len(query)]
  return (loss, right), (by_query, by_table, by_bias)


def _backward(block, sharding, gradients, cotangents):
  del block, sharding
  by_query, by_table, by_bias = (cotangents[0] * g for g in gradients)
  return by_query, None, None, by_table, by_bias


_weighted_sums.defvjp(_forward, _backward)


def _size(block: int | None, table: jax.Array) -> int:
  if block is not None:
    return block
  scores = _SCORES.get(jax.default_backend(), _SCORES_OF_OTHERS)
  return max(1, scores // len(table) // _ROUNDING) * _ROUNDING


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


class _Score:
  """The scores of a block of positions.

  Attributes:
    target: [block] the target's row on this device, any if it is another's.
    is_here: [block] bool, whether it is this one's.
    exp: [block, rows] of the scores of this device's rows less the largest.
    norm: [block] the sums of the exps over all rows.
    sums: Weighted sums of loss and hits.
  """

  def __init__(self, part, table, bias, axis_name=None):
    def over_rows(reduce, x):
      return reduce(x, axis_name) if axis_name else x

    first = lax.axis_index(axis_name) * len(table) if axis_name else 0
    target = part['target'] - first
    self.is_here = (target >= 0) & (target < len(table))
    self.target = jnp.where(self.is_here, target, 0)
    scores = part['query'] @ table.T + bias[None]
    # Out of the scores, not by another product, so that it is equal to the bit.
    own = jnp.take_along_axis(scores, self.target[:, None], axis=1)[:, 0]
    own = over_rows(lax.psum, jnp.where(self.is_here, own, 0.0))
    best = over_rows(lax.pmax, scores.max(1))
    self.exp = jnp.exp(scores - best[:, None])
    self.norm = over_rows(lax.psum, self.exp.sum(1))
    weight = part['weight']
    # What fills up a block may have no score: infinity times 0 is none.
    loss = jnp.where(weight > 0, jnp.log(self.norm) + best - own, 0.0)
    self.sums = (weight * loss).sum(), (weight * (own >= best)).sum()
