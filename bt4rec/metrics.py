"""Metrics from per-example outcomes; every example weighs the same."""

import numpy as np

_RECALL_AT = (1, 5, 10, 20)
_NDCG_AT = 10
_ACCURACY_AT = (1, 3)


def ranking_metrics(ranks: np.ndarray) -> dict[str, float]:
  """Metrics of one relevant item per example in a full-catalogue ranking.

  Args:
    ranks: [num_examples] float, from 1: one more than the items scored above
      the target, ties counted half.

  Returns:
    `recall@1/5/10/20` (equal to the hit rate), `ndcg@10` and `mrr`.
  """
  metrics = {f'recall@{k}': float(np.mean(ranks <= k)) for k in _RECALL_AT}
  gain = np.where(ranks <= _NDCG_AT, 1.0 / np.log2(1.0 + ranks), 0.0)
  metrics[f'ndcg@{_NDCG_AT}'] = float(np.mean(gain))
  metrics['mrr'] = float(np.mean(1.0 / ranks))
  return metrics


def category_metrics(
  scores: np.ndarray, labels: np.ndarray, label_weights: np.ndarray
) -> dict[str, float]:
  """Metrics where a set of classes is right for each example.

  Args:
    scores: [num_examples, num_classes] float.
    labels: [num_examples] int.
    label_weights: [num_labels, num_classes]; a class is right if positive.

  Returns:
    `accuracy@k`: the share of examples whose k best classes hold a right one.
  """
  order = np.argsort(-scores, axis=1, kind='stable')
  right = label_weights[labels] > 0
  hits = np.take_along_axis(right, order, axis=1)
  return {
    f'accuracy@{k}': float(hits[:, :k].any(axis=1).mean()) for k in _ACCURACY_AT
  }


def class_metrics(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
  """Metrics where one class is right for each example.

  Args:
    scores: [num_examples, num_classes] float.
    labels: [num_examples] int.

  Returns:
    `accuracy@1`; `macro_f1`, the mean over the classes that occur as label or
    as prediction of 2 tp / (2 tp + fp + fn); and, of two classes that both
    occur, `auroc`: the share of pairs with one example of each in which the
    second class scores higher for its own, ties counted half.
  """
  predictions = scores.argmax(axis=1)
  num_classes = scores.shape[1]
  predicted = np.bincount(predictions, minlength=num_classes)
  actual = np.bincount(labels, minlength=num_classes)
  right = predictions == labels
  hits = np.bincount(labels[right], minlength=num_classes)
  occurs = predicted + actual > 0
  f1 = 2 * hits[occurs] / (predicted + actual)[occurs]
  numbers = {'accuracy@1': float(right.mean()), 'macro_f1': float(f1.mean())}
  if num_classes == 2 and actual.all():
    numbers['auroc'] = _auroc(scores[:, 1] - scores[:, 0], labels == 1)
  return numbers


def _auroc(scores: np.ndarray, positive: np.ndarray) -> float:
  """Mann-Whitney's U over the number of pairs."""
  negatives = np.sort(scores[~positive])
  below, not_above = (
    np.searchsorted(negatives, scores[positive], side).mean()
    for side in ('left', 'right')
  )
  return float((below + not_above) / 2 / len(negatives))
