"""One pass over a split: scores in blocks, ranks by counting, metrics."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bt4rec import metrics, pipeline
from bt4rec.datasets import SequenceDataset
from bt4rec.tasks import Examples, Task

_BLOCK = 512
_ITEM_BLOCK = 8192
# Row numbers of a block of examples -> their queries [block, dim].
Query = Callable[[np.ndarray], jax.Array | np.ndarray]


@functools.partial(jax.jit, static_argnames=('item_block',))
def rank_targets(
  queries: jax.Array,
  item_table: jax.Array,
  bias: jax.Array,
  targets: jax.Array,
  seen: jax.Array,
  item_block: int = _ITEM_BLOCK,
) -> tuple[jax.Array, jax.Array]:
  """Ranks each target among all items, by counting, in blocks of items.

  Items are scored `queries @ item_table.T + bias`. Nothing is sorted, and no
  more than [batch, item_block] scores exist at a time.

  Args:
    queries: [batch, dim] float.
    item_table: [num_items, dim] float.
    bias: [num_items] float.
    targets: [batch] int32, row of each target in the table.
    seen: [batch, num_seen] int32, rows left out of the ranking; negative and
      the target itself are ignored, repetitions count once.
    item_block: Items scored at a time.

  Returns:
    [batch] float32 ranks from 1, ties counted half, and [batch] float32 log
    probabilities of the targets under the softmax over all items, seen ones
    included.
  """
  num_items = item_table.shape[0]
  num_blocks = -(-num_items // item_block)
  padding = num_blocks * item_block - num_items
  table = jnp.pad(item_table.astype(jnp.float32), ((0, padding), (0, 0)))
  blocks = table.reshape(num_blocks, item_block, -1)
  biases = jnp.pad(bias, (0, padding), constant_values=-jnp.inf)
  biases = biases.reshape(num_blocks, item_block)
  rows = jnp.arange(queries.shape[0])
  firsts = jnp.arange(num_blocks) * item_block

  def scores_of(block, bias):
    return queries.astype(jnp.float32) @ block.T + bias[None]

  def find_target(found, inputs):
    first, block, bias = inputs
    scores = scores_of(block, bias)  # [batch, item_block]
    local = targets - first
    inside = (local >= 0) & (local < item_block)
    own = scores[rows, jnp.clip(local, 0, item_block - 1)]
    norm = jax.nn.logsumexp(scores, axis=1)
    return (
      jnp.where(inside, own, found[0]),
      jnp.logaddexp(found[1], norm),
    ), None

  start = jnp.full(queries.shape[:1], -jnp.inf)
  # The target's score comes out of the same product it is compared with, so
  # that equal scores are equal to the bit.
  (target_score, norm), _ = lax.scan(
    find_target, (start, start), (firsts, blocks, biases)
  )

  def count_above(rank, inputs):
    first, block, bias = inputs
    scores = scores_of(block, bias)
    local = jnp.where(seen >= 0, seen - first[None, None], -1)
    local = jnp.where((local >= 0) & (local < item_block), local, item_block)
    left_out = jnp.zeros(scores.shape, bool)
    left_out = left_out.at[rows[:, None], local].set(True, mode='drop')
    own = first + jnp.arange(item_block)[None] == targets[:, None]
    above = (scores > target_score[:, None]).astype(jnp.float32)
    ties = (scores == target_score[:, None]).astype(jnp.float32)
    counts = jnp.where(left_out | own, 0.0, above + 0.5 * ties)
    return rank + counts.sum(1), None

  rank, _ = lax.scan(
    count_above, jnp.ones(queries.shape[:1]), (firsts, blocks, biases)
  )
  return rank, target_score - norm


def seen_items(
  dataset: SequenceDataset, examples: Examples, rows: np.ndarray
) -> np.ndarray:
  """The items of the whole input of each example, not of its window alone.

  Args:
    dataset: The dataset.
    examples: The examples.
    rows: [block] int, which of them.

  Returns:
    [block, num_seen] int32 rows of the item table, -1 where an input is
    shorter; `num_seen` is a power of two, so that there are few shapes.
  """
  ends = examples.ends[rows]
  starts = dataset.offsets[examples.users[rows]]
  longest = int((ends - starts).max())
  width = 1 << max(longest - 1, 0).bit_length()
  index = starts[:, None] + np.arange(width)
  inside = index < ends[:, None]
  tokens = dataset.items[np.minimum(index, dataset.num_events - 1)]
  return np.where(inside, tokens - 1, -1).astype(np.int32)


def rank_examples(
  task: Task,
  examples: Examples,
  query: Query,
  item_table: jax.Array,
  bias: jax.Array,
  exclude_seen: bool,
) -> tuple[dict[str, float], np.ndarray]:
  """Full-catalogue ranking of the targets of `next_item`.

  Args:
    task: The task.
    examples: Its examples.
    query: Rows of the examples -> their queries.
    item_table: [num_items, dim] float.
    bias: [num_items] float.
    exclude_seen: Whether items of the input are left out of the ranking; the
      target itself never is.

  Returns:
    The metrics with `loss`, the mean of -log p(target), and [num_examples]
    float ranks.
  """
  ranks, log_probabilities = np.empty((2, len(examples)), np.float32)
  for rows, real in pipeline.padded_blocks(len(examples), _BLOCK):
    if exclude_seen:
      seen = seen_items(task.dataset, examples, rows)
    else:
      seen = np.full((len(rows), 1), -1, np.int32)
    rank, log_probability = rank_targets(
      query(rows), item_table, bias, examples.labels[rows], seen
    )
    ranks[rows[:real]] = rank[:real]
    log_probabilities[rows[:real]] = log_probability[:real]
  loss = -float(log_probabilities.mean(dtype=np.float64))
  return {'loss': loss, **metrics.ranking_metrics(ranks)}, ranks


def classify_examples(
  task: Task, examples: Examples, query: Query
) -> tuple[dict[str, float], np.ndarray]:
  """Metrics of a classification task.

  Args:
    task: The task.
    examples: Its examples.
    query: Rows of the examples -> their logits [block, num_classes].

  Returns:
    The metrics with `loss`, the mean cross-entropy, and [num_examples] float,
    1 where the best class is right.
  """
  logits = np.empty((len(examples), task.num_classes), np.float32)
  for rows, real in pipeline.padded_blocks(len(examples), _BLOCK):
    logits[rows[:real]] = query(rows)[:real]
  log_probability = np.asarray(jax.nn.log_softmax(logits.astype(np.float64)))
  best = logits.argmax(axis=1)
  if task.label_weights is None:
    numbers = metrics.class_metrics(logits, examples.labels)
    expected = log_probability[np.arange(len(examples)), examples.labels]
    right = best == examples.labels
  else:
    numbers = metrics.category_metrics(
      logits, examples.labels, task.label_weights
    )
    weights = task.label_weights[examples.labels]
    expected = (weights * log_probability).sum(axis=1)
    right = weights[np.arange(len(examples)), best] > 0
  return {'loss': -float(expected.mean()), **numbers}, right.astype(np.float32)


def evaluate(
  task: Task,
  examples: Examples,
  query: Query,
  item_table: jax.Array | None,
  exclude_seen: bool,
  bias: jax.Array | None = None,
) -> tuple[dict[str, float], np.ndarray]:
  """Evaluates queries on examples by the task's metrics.

  Args:
    task: The task.
    examples: Its examples of one split.
    query: Rows of the examples -> queries, for a ranking task, or logits.
    item_table: [num_items, dim] float for a ranking task, else None.
    exclude_seen: See `rank_examples`.
    bias: [num_items] float, added to the scores of a ranking task.

  Returns:
    The metrics, and the outcome of each example: its rank, or whether it was
    classified right.
  """
  if item_table is None:
    return classify_examples(task, examples, query)
  if bias is None:
    bias = jnp.zeros(len(item_table))
  return rank_examples(task, examples, query, item_table, bias, exclude_seen)
