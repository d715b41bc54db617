"""Rows of the table that need no encoder: majority, popularity, oracle."""

import jax.numpy as jnp
import numpy as np

from bt4rec import evaluate, popularity, ranking
from bt4rec.datasets import synthetic
from bt4rec.tasks import Examples, Task


def majority(
  task: Task,
  train: Examples,
  test: Examples,
  exclude_seen: bool,
  visible: np.ndarray,
) -> tuple[dict[str, float], np.ndarray]:
  """The same answer for everybody.

  Items are ranked by their number of events that pre-training may see;
  classes by their weight among the training labels.

  Args:
    task: The task.
    train: The labelled examples.
    test: What is evaluated.
    exclude_seen: Whether items already seen are left out.
    visible: [num_users] int, events of each user that pre-training may see.

  Returns:
    As `evaluate.evaluate`.
  """
  dataset = task.dataset
  if task.is_ranking:
    counts = popularity.item_counts(dataset, visible)
    return evaluate.evaluate(
      task,
      test,
      lambda rows: jnp.zeros((len(rows), 1)),
      ranking.Candidates(
        jnp.zeros((len(counts), 1)), jnp.log(counts.astype(np.float32) + 1.0)
      ),
      exclude_seen,
    )
  if task.label_weights is None:
    weights = np.bincount(train.labels, minlength=task.num_classes)
  else:
    weights = task.label_weights[train.labels].sum(axis=0)
  logits = np.log(weights.astype(np.float32) + 1e-6)
  return evaluate.evaluate(
    task, test, lambda rows: np.tile(logits, (len(rows), 1)), None, exclude_seen
  )


def oracle(
  task: Task, world: synthetic.World, test: Examples, exclude_seen: bool
) -> tuple[dict[str, float], np.ndarray]:
  """What a predictor that knows the synthetic users' interests reaches.

  It knows the distribution that every held-out event was drawn from, but not
  the draw; no model that sees only events does better in expectation.

  Returns:
    As `evaluate.evaluate`.
  """
  dataset = task.dataset
  truth = synthetic.make_truth(world)
  if task.is_ranking:
    num_items = dataset.catalogue.num_items
    return evaluate.evaluate(
      task,
      test,
      lambda rows: jnp.asarray(truth[test.ends[rows]]),
      ranking.Candidates(jnp.eye(num_items), jnp.zeros(num_items)),
      exclude_seen,
    )
  lasts = test.ends + 1
  if task.is_user_level:
    lasts = dataset.offsets[test.users + 1]
  logits = np.stack(
    [
      _expected_categories(task, truth, user, first, last)
      for user, first, last in zip(test.users, test.ends, lasts, strict=True)
    ]
  )
  return evaluate.evaluate(
    task, test, lambda rows: logits[rows], None, exclude_seen
  )


def _expected_categories(
  task: Task, truth: np.ndarray, user: int, first: int, last: int
) -> np.ndarray:
  """[num_categories] log of the score each category expects from the events.

  The score of a category is what the task counts: the probability that the
  item has it for `next_category`, its expected share for
  `favorite_category`.
  """
  dataset = task.dataset
  weights = dataset.catalogue.category_weights()[1:-1]
  if not task.is_user_level:
    weights = (weights > 0).astype(np.float32)
  expected = np.zeros(weights.shape[1])
  for event in range(first, last):
    log_weights = truth[event].astype(np.float64)
    log_weights[dataset.items[dataset.offsets[user] : event] - 1] = -np.inf
    probability = np.exp(log_weights - log_weights.max())
    expected += probability @ weights / probability.sum()
  return np.log(expected + 1e-12)
