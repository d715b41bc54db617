"""One pass over a split, block by block: outcomes of examples, metrics."""

from collections.abc import Callable

import jax
import numpy as np

from bt4rec import features, metrics, pipeline, progress, ranking, scoring
from bt4rec.tasks import Examples, Task

_BLOCK = 512
# Row numbers of a block of examples -> their queries [block, dim].
Query = Callable[[np.ndarray], jax.Array | np.ndarray]


def rank_examples(
  task: Task,
  examples: Examples,
  query: Query,
  candidates: ranking.Candidates,
  exclude_seen: bool,
) -> tuple[dict[str, float], np.ndarray]:
  """Full-catalogue ranking of the targets of `next_item`.

  Args:
    task: The task.
    examples: Its examples.
    query: Rows of the examples -> their queries.
    candidates: All items.
    exclude_seen: Whether items of the input are left out of the ranking; the
      target itself never is.

  Returns:
    The metrics with `loss`, the mean of -log p(target), and [num_examples]
    float ranks.
  """
  ranks, log_probabilities = np.empty((2, len(examples)), np.float32)
  starts = examples.starts(task.dataset.offsets)
  blocks = pipeline.padded_blocks(len(examples), _BLOCK)
  for rows, real in progress.track('rank', len(examples), blocks):
    if exclude_seen:
      seen = ranking.seen_items(
        task.dataset.items, starts[rows], examples.ends[rows]
      )
    else:
      seen = np.full((len(rows), 1), -1, np.int32)
    rank, log_probability = ranking.rank_targets(
      query(rows), candidates, examples.labels[rows], seen
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
  blocks = pipeline.padded_blocks(len(examples), _BLOCK)
  for rows, real in progress.track('classify', len(examples), blocks):
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
  candidates: ranking.Candidates | None,
  exclude_seen: bool,
  bias: jax.Array | None = None,
) -> tuple[dict[str, float], np.ndarray]:
  """Evaluates queries on examples by the task's metrics.

  Args:
    task: The task.
    examples: Its examples of one split.
    query: Rows of the examples -> queries, for a ranking task, or logits.
    candidates: All items for a ranking task, else None.
    exclude_seen: See `rank_examples`.

  Returns:
    The metrics, and the outcome of each example: its rank, or whether it was
    classified right.
  """
  if candidates is None:
    return classify_examples(task, examples, query)
  return rank_examples(task, examples, query, candidates, exclude_seen)


def evaluate_scorer(
  scorer: scoring.ItemScorer, task: Task, examples: Examples, exclude_seen: bool
) -> tuple[dict[str, float], np.ndarray]:
  """Ranks the next items of examples in the whole catalogue.

  Args:
    scorer: What scores the items.
    task: A ranking task.
    examples: Its examples of one split.
    exclude_seen: See `rank_examples`.

  Returns:
    The metrics, and [num_examples] float32 ranks.
  """
  windows = examples.windows(task.dataset.offsets, scorer.max_history)
  events = features.events_of(task.dataset, scorer.features)
  queries = scorer.queries(events, **windows)
  return rank_examples(
    task,
    examples,
    lambda rows: queries[rows],
    scorer.candidates(),
    exclude_seen,
  )
