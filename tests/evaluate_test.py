"""Tests of bt4rec.evaluate against brute force and by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from bt4rec import baselines, evaluate, ranking, splits, tasks
from bt4rec.datasets import sequences, synthetic
from configs import presets


def _task(histories, name='next_item'):
  users = np.repeat(np.arange(len(histories)), [len(h) for h in histories])
  items = np.concatenate(histories)
  dataset = sequences.from_events(
    'hand', users, items, np.arange(len(items)),
    categories={i: [f'c{i % 2}'] for i in range(1, 30)},
  )  # fmt: skip
  return tasks.TASKS[name](dataset, 0)


class TestRanking:
  def test_seen_items_are_never_recommended_but_the_target_always_is(self):
    # Item i scores i: the best unseen item for everybody is the highest.
    task = _task([[1, 5, 4, 3], [1, 2, 5, 5]])
    items = ranking.Candidates(jnp.arange(1.0, 6.0)[:, None], jnp.zeros(5))
    numbers, ranks = evaluate.evaluate(
      task, task.test(), lambda rows: jnp.ones((len(rows), 1)), items, True
    )
    # User 0: target 3, items 5 and 4 are seen, so it is first. User 1 comes
    # back to item 5, which stays in and is first.
    assert ranks.tolist() == [1.0, 1.0]
    assert numbers['recall@1'] == 1.0
    _, ranks = evaluate.evaluate(
      task, task.test(), lambda rows: jnp.ones((len(rows), 1)), items, False
    )
    assert ranks.tolist() == [3.0, 1.0]

  def test_blocks_drop_nobody(self):
    task = _task([[1, 2, 3]] * (evaluate._BLOCK + 3))
    _, ranks = evaluate.evaluate(
      task,
      task.test(),
      lambda rows: jnp.ones((len(rows), 1)),
      ranking.Candidates(jnp.array([[0.0], [1.0], [2.0]]), jnp.zeros(3)),
      False,
    )
    assert ranks.tolist() == [1.0] * (evaluate._BLOCK + 3)


class TestClassification:
  def test_loss_is_the_cross_entropy_with_the_uniform_distribution(self):
    task = _task([[1, 2, 3, 4]], 'next_category')
    logits = np.log(np.array([[0.25, 0.75]], np.float32))
    numbers, right = evaluate.evaluate(
      task, task.test(), lambda rows: logits[rows], None, True
    )
    # Item 4 has category c0.
    assert numbers['loss'] == pytest.approx(np.log(4), rel=1e-5)
    assert numbers['accuracy@1'] == 0.0
    assert right.tolist() == [0.0]


def _majority(task, train, scope='shared'):
  visible = splits.visible_lengths(scope, task.dataset.lengths)
  return baselines.majority(task, train, task.test(), True, visible)


class TestBaselines:
  def test_popularity_counts_what_pre_training_sees(self):
    # Visible: all but the last two. Item 1 is the most frequent there, item 9
    # only among held-out events.
    histories = [[1, 2, 9, 9]] * 3 + [[1, 3, 9, 2]]
    task = _task(histories)
    train, _ = task.train_and_validation(1.0, 0)
    _, ranks = _majority(task, train)
    # Counts: 1: 4, 2: 3, 3: 1, 9: 0. Seen 1, 2 and 9; target 9 stays in and
    # only item 3 is above it. Last user: seen 1, 3, 9; target 2 is first.
    assert ranks.tolist() == [2.0, 2.0, 2.0, 1.0]

  def test_popularity_is_that_of_the_scope(self):
    # 11 events: `shared` hides the last five, `leave_two_out` two. Of the
    # unseen items 5 is before the target 6 if the middle ones count.
    histories = [[1, 2, 1, 2, 1, 6, 5, 5, 5, 1, 1], [*[1] * 9, 2, 6]]
    task = _task(histories)
    train, _ = task.train_and_validation(1.0, 0)
    ranks = {
      scope: _majority(task, train, scope)[1][1].item()
      for scope in ('shared', 'leave_two_out')
    }
    assert ranks == {'shared': 1.0, 'leave_two_out': 2.0}

  def test_majority_class_comes_from_the_training_labels(self):
    task = _task([[1, 3, 3, 5, 2]] * 4, 'next_category')
    train, _ = task.train_and_validation(1.0, 0)
    numbers, _ = _majority(task, train)
    assert numbers['accuracy@1'] == 0.0

  @pytest.mark.parametrize('name', presets.EVENT_TASKS)
  def test_oracle_beats_the_majority_and_predictors_of_noise(self, name):
    world = synthetic.World(num_users=300, num_items=60, max_events=30)
    task = tasks.TASKS[name](synthetic.make_dataset(world), 0)
    train, _ = task.train_and_validation(1.0, 0)
    best, _ = baselines.oracle(task, world, task.test(), True)
    same, _ = _majority(task, train)
    metric = 'recall@10' if task.is_ranking else 'accuracy@1'
    assert best[metric] > same[metric] + 0.1
