"""Scores of all items in blocks: ranks by counting, and the best ones.

No more than [batch, item_block] scores exist at a time, and of the table no
copy. The two functions score alike, so that the rank of an item is its place
among the best.
"""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bt4rec import pipeline

_ITEM_BLOCK = 8192


@flax.struct.dataclass
class Candidates:
  """What queries are compared with: an item scores `query @ row + bias`.

  A table of gigabytes is given as it lies in an encoder: the rows of tokens
  that are no items are left out, and lengths taken, a block at a time.

  Attributes:
    table: [num_rows, dim] float, with the items in neighbouring rows.
    bias: [num_items] float.
    first: Row of the first item.
    of_unit_length: Whether rows are divided by their lengths first.
  """

  table: jax.Array
  bias: jax.Array
  first: int = flax.struct.field(pytree_node=False, default=0)
  of_unit_length: bool = flax.struct.field(pytree_node=False, default=False)

  @property
  def num_items(self) -> int:
    """Items to choose from."""
    return len(self.bias)


def unit_length(x: jax.Array) -> jax.Array:
  """Rows divided by their lengths: [..., dim] -> [..., dim] float32."""
  x = x.astype(jnp.float32)
  return x * lax.rsqrt((x**2).sum(-1, keepdims=True) + 1e-12)


@functools.partial(jax.jit, static_argnames=('item_block',))
def rank_targets(
  queries: jax.Array,
  candidates: Candidates,
  targets: jax.Array,
  seen: jax.Array,
  item_block: int = _ITEM_BLOCK,
) -> tuple[jax.Array, jax.Array]:
  """Ranks each target among all items, by counting; nothing is sorted.

  Args:
    queries: [batch, dim] float.
    candidates: What is ranked.
    targets: [batch] int32, place of each target among the items.
    seen: [batch, num_seen] int32, items left out of the ranking; places
      outside of the catalogue and the target itself are ignored, repetitions
      count once.
    item_block: Items scored at a time.

  Returns:
    [batch] float32 ranks from 1, ties counted half, and [batch] float32 log
    probabilities of the targets under the softmax over all items, seen ones
    included.
  """
  blocks = _Blocks(queries, candidates, item_block)
  rows = jnp.arange(queries.shape[0])

  def find_target(found, first):
    number, scores = blocks.score(first)
    local = targets - number[0]
    inside = (targets >= first) & (local < scores.shape[1])
    own = scores[rows, jnp.clip(local, 0, scores.shape[1] - 1)]
    norm = jax.nn.logsumexp(scores, axis=1)
    return (
      jnp.where(inside, own, found[0]),
      jnp.logaddexp(found[1], norm),
    ), None

  start = jnp.full(queries.shape[:1], -jnp.inf)
  # The target's score comes out of the same product it is compared with, so
  # that equal scores are equal to the bit.
  (target_score, norm), _ = lax.scan(find_target, (start, start), blocks.firsts)

  def count_above(rank, first):
    number, scores = blocks.score(first)
    own = number[None] == targets[:, None]
    above = (scores > target_score[:, None]).astype(jnp.float32)
    ties = (scores == target_score[:, None]).astype(jnp.float32)
    left_out = _left_out(seen, number[0], scores.shape)
    counts = jnp.where(left_out | own, 0.0, above + 0.5 * ties)
    return rank + counts.sum(1), None

  rank, _ = lax.scan(count_above, jnp.ones(queries.shape[:1]), blocks.firsts)
  return rank, target_score - norm


@functools.partial(
  jax.jit, static_argnames=('k', 'item_block', 'recall_target')
)
def top_items(
  queries: jax.Array,
  candidates: Candidates,
  seen: jax.Array,
  *,
  k: int,
  item_block: int = _ITEM_BLOCK,
  recall_target: float = 1.0,
) -> tuple[jax.Array, jax.Array]:
  """The best items, scored as `rank_targets` does.

  Args:
    queries: [batch, dim] float.
    candidates: What is ranked.
    seen: [batch, num_seen] int32, items left out; places outside of the
      catalogue are ignored.
    k: Number of items.
    item_block: Items scored at a time.
    recall_target: Expected share of the best items that is found; below 1
      they are searched by `lax.approx_max_k`, which is quicker on a TPU.

  Returns:
    [batch, k] int32 items by descending score, of equal scores the lower
    one first, and [batch, k] float32 scores. Where fewer than k items are left,
    the last places are item -1 with score -inf.
  """
  blocks = _Blocks(queries, candidates, item_block)

  def merge(best, first):
    number, scores = blocks.score(first)
    left_out = _left_out(seen, number[0], scores.shape)
    scores = jnp.where(left_out, -jnp.inf, scores)
    number = jnp.broadcast_to(number, scores.shape)
    if recall_target < 1:
      # Within the block alone, so that what is lost does not add up.
      scores, place = lax.approx_max_k(
        scores, min(k, scores.shape[1]), recall_target=recall_target
      )
      number = jnp.take_along_axis(number, place, axis=1)
    # The rows so far are lower and stand first; top_k keeps the order of
    # equal ones, so that ties, and the empty places, come out as promised.
    scores = jnp.concatenate([best[0], scores], axis=1)
    number = jnp.concatenate([best[1], number], axis=1)
    top, place = lax.top_k(scores, k)
    return (top, jnp.take_along_axis(number, place, axis=1)), None

  shape = (queries.shape[0], k)
  start = (jnp.full(shape, -jnp.inf), jnp.full(shape, -1, jnp.int32))
  (scores, rows), _ = lax.scan(merge, start, blocks.firsts)
  return rows, scores


def seen_items(
  events: np.ndarray, starts: np.ndarray, ends: np.ndarray
) -> np.ndarray:
  """The items of whole inputs, not of their windows alone.

  Args:
    events: [num_events] int32 tokens, flat.
    starts: [batch] int64, first event of each input.
    ends: [batch] int64, one past its last.

  Returns:
    [batch, num_seen] int32 items from 0, -1 where an input is
    shorter; `num_seen` is a power of two, so that there are few shapes.
  """
  longest = int((ends - starts).max())
  width = pipeline.power_of_two(longest)
  index = starts[:, None] + np.arange(width)
  tokens = events[np.minimum(index, len(events) - 1)]
  return np.where(index < ends[:, None], tokens - 1, -1).astype(np.int32)


class _Blocks:
  """The scores of a batch, a block of items at a time."""

  def __init__(
    self, queries: jax.Array, candidates: Candidates, item_block: int
  ):
    self._queries = queries.astype(jnp.float32)
    self._candidates = candidates
    num_items = candidates.num_items
    self._size = min(item_block, num_items)
    # First item of each block; the last block may reach beyond the last item.
    self.firsts = jnp.arange(0, num_items, self._size, dtype=jnp.int32)

  def score(self, first: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The block that starts at `first`.

    All blocks are of one size, so the last one starts earlier and takes items
    of the one before along, with the score -inf.

    Returns:
      [item_block] int32 items, ascending by one, and [batch, item_block]
      float32 scores.
    """
    all_of = self._candidates
    start = jnp.minimum(first, all_of.num_items - self._size)
    # Slices within the loop: no copy of a table of gigabytes.
    table, bias = (
      lax.dynamic_slice_in_dim(array, row, self._size).astype(jnp.float32)
      for array, row in (
        (all_of.table, all_of.first + start),
        (all_of.bias, start),
      )
    )
    if all_of.of_unit_length:
      table = unit_length(table)
    number = start + jnp.arange(self._size, dtype=jnp.int32)
    bias = jnp.where(number >= first, bias, -jnp.inf)
    return number, self._queries @ table.T + bias[None]


def _left_out(
  seen: jax.Array, start: jax.Array, shape: tuple[int, ...]
) -> jax.Array:
  """[batch, item_block] bool, whether an item is among the seen ones."""
  local = jnp.where(seen >= 0, seen - start, -1)
  # A negative index would count from the end.
  local = jnp.where(local >= 0, local, shape[1])
  rows = jnp.arange(shape[0])[:, None]
  return jnp.zeros(shape, bool).at[rows, local].set(True, mode='drop')
