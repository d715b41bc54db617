"""Tests of bt4rec.metrics: numbers from pencil."""

import numpy as np
import pytest

from bt4rec import metrics


def test_ranking_metrics_by_hand():
  # A tie for the first place: rank 1.5.
  numbers = metrics.ranking_metrics(np.array([1.0, 1.5, 10.0, 21.0]))
  assert numbers['recall@1'] == 0.25
  assert numbers['recall@5'] == 0.5
  assert numbers['recall@10'] == 0.75
  assert numbers['recall@20'] == 0.75
  expected = (1 + 1 / np.log2(2.5) + 1 / np.log2(11)) / 4
  assert numbers['ndcg@10'] == pytest.approx(expected)
  assert numbers['mrr'] == pytest.approx((1 + 1 / 1.5 + 0.1 + 1 / 21) / 4)


def test_category_metrics_by_hand():
  scores = np.array([[3.0, 2, 1, 0], [0, 1, 2, 3], [3, 2, 1, 0]])
  # Right: {1}, {0, 3}, {3}.
  weights = np.array([[0, 1, 0, 0], [0.5, 0, 0, 0.5], [0, 0, 0, 1]])
  numbers = metrics.category_metrics(scores, np.array([0, 1, 2]), weights)
  assert numbers['accuracy@1'] == pytest.approx(1 / 3)
  assert numbers['accuracy@3'] == pytest.approx(2 / 3)


def test_class_metrics_by_hand():
  # Predictions 0 0 1, labels 0 1 1; class 2 never occurs and weighs nothing.
  scores = np.array([[1.0, 0, 0], [1, 0, 0], [0, 1, 0]])
  numbers = metrics.class_metrics(scores, np.array([0, 1, 1]))
  assert numbers['accuracy@1'] == pytest.approx(2 / 3)
  # Class 0: 2 / (2 + 1 + 0); class 1: 2 / (2 + 0 + 1).
  assert numbers['macro_f1'] == pytest.approx(2 / 3)


def test_auroc_counts_the_pairs_in_order_and_ties_half():
  # Positives 3 and 1, negatives 1, 0 and 2: of six pairs, 3 is above all
  # three; 1 is level with one, above one, below one.
  margins = np.array([3.0, 1, 1, 0, 2])
  scores = np.stack([-margins / 2, margins / 2], axis=1)
  numbers = metrics.class_metrics(scores, np.array([1, 1, 0, 0, 0]))
  assert numbers['auroc'] == pytest.approx((3 + 1 + 0.5) / 6)


def test_there_is_no_auroc_without_two_classes():
  for labels, num_classes in (([0, 0], 2), ([0, 1], 3)):
    scores = np.zeros((2, num_classes))
    assert 'auroc' not in metrics.class_metrics(scores, np.array(labels))


def test_predicting_one_class_costs_macro_f1():
  scores = np.tile([1.0, 0.0], (4, 1))
  numbers = metrics.class_metrics(scores, np.array([0, 0, 0, 1]))
  assert numbers['accuracy@1'] == 0.75
  # Class 0: 6 / (6 + 1); class 1: 0.
  assert numbers['macro_f1'] == pytest.approx(6 / 7 / 2)
