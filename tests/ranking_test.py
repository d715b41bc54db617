"""Tests of bt4rec.ranking against brute force and by hand."""

import json
import os
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from bt4rec import ranking


def _brute_force_rank(scores, target, seen):
  left = [i for i in range(len(scores)) if i == target or i not in seen]
  others = np.array([scores[i] for i in left if i != target])
  above = (others > scores[target]).sum()
  ties = (others == scores[target]).sum()
  return 1 + above + ties / 2


@pytest.mark.parametrize('item_block', [5, 7, 64])
def test_ranks_equal_brute_force_whatever_the_block(item_block):
  rng = np.random.default_rng(0)
  batch, num_items, dim, num_seen = 6, 23, 3, 8
  # Small integers: exact products, many ties.
  queries = rng.integers(-1, 2, (batch, dim)).astype(np.float32)
  table = rng.integers(-1, 2, (num_items, dim)).astype(np.float32)
  bias = rng.integers(0, 2, num_items).astype(np.float32)
  targets = rng.integers(0, num_items, batch).astype(np.int32)
  seen = rng.integers(-1, num_items, (batch, num_seen)).astype(np.int32)
  seen[0, :3] = [targets[0], 4, 4]  # The target itself, and a repetition.
  ranks, log_probabilities = ranking.rank_targets(
    queries,
    ranking.Candidates(table, bias),
    targets,
    seen,
    item_block=item_block,
  )
  scores = queries @ table.T + bias
  expected = [
    _brute_force_rank(scores[i], targets[i], set(seen[i]) - {-1})
    for i in range(batch)
  ]
  np.testing.assert_array_equal(ranks, expected)
  exact = scores.astype(np.float64)
  exact -= np.log(np.exp(exact).sum(1, keepdims=True))
  np.testing.assert_allclose(
    log_probabilities, exact[np.arange(batch), targets], rtol=1e-5
  )


def test_a_constant_model_is_no_better_than_chance():
  ranks, _ = ranking.rank_targets(
    jnp.zeros((2, 4)),
    ranking.Candidates(jnp.ones((101, 4)), jnp.zeros(101)),
    jnp.array([0, 100]),
    jnp.full((2, 1), -1),
  )
  np.testing.assert_array_equal(ranks, [51.0, 51.0])


def test_seen_items_are_those_of_the_whole_history():
  events = np.array([1, 2, 3, 4, 5, 6, 7, 3], np.int32)
  seen = ranking.seen_items(events, np.array([0, 5]), np.array([4, 7]))
  # Rows of the item table; padded to a power of two.
  assert seen.tolist() == [[0, 1, 2, 3], [5, 6, -1, -1]]


@pytest.mark.parametrize('item_block', [4, 5, 23, 64])
@pytest.mark.parametrize('k', [1, 3, 23])
def test_top_items_equal_a_whole_sort_whatever_the_block(item_block, k):
  rng = np.random.default_rng(1)
  batch, num_items, dim = 7, 23, 3
  # Small integers: exact products, many ties.
  queries = rng.integers(-1, 2, (batch, dim)).astype(np.float32)
  table = rng.integers(-1, 2, (num_items, dim)).astype(np.float32)
  bias = rng.integers(0, 2, num_items).astype(np.float32)
  # Rows behind the table are those of unknown items.
  seen = rng.integers(-1, num_items + 2, (batch, 9)).astype(np.int32)
  rows, scores = ranking.top_items(
    queries,
    ranking.Candidates(table, bias),
    seen,
    k=k,
    item_block=item_block,
  )
  exact = queries @ table.T + bias
  for user in range(batch):
    left = [i for i in range(num_items) if i not in seen[user]]
    # Of equal scores the lower row first; then empty places.
    best = sorted(left, key=lambda i: (-exact[user, i], i))[:k]
    empty = k - len(best)
    assert rows[user].tolist() == best + [-1] * empty
    expected = [exact[user, i] for i in best] + [-np.inf] * empty
    assert scores[user].tolist() == expected


def test_an_approximate_search_gives_real_scores_of_items_not_left_out():
  rng = np.random.default_rng(3)
  queries = rng.normal(size=(50, 5)).astype(np.float32)
  table = rng.normal(size=(300, 5)).astype(np.float32)
  bias = rng.normal(size=300).astype(np.float32)
  seen = rng.integers(0, 300, (50, 40)).astype(np.int32)
  candidates = ranking.Candidates(table, bias)
  rows, scores = ranking.top_items(
    queries, candidates, seen, k=20, item_block=64, recall_target=0.8
  )
  best, _ = ranking.top_items(queries, candidates, seen, k=20)
  rows, best = np.asarray(rows), np.asarray(best)
  exact = queries @ table.T + bias
  np.testing.assert_allclose(
    scores, np.take_along_axis(exact, rows, axis=1), rtol=1e-5
  )
  for user in range(50):
    assert len(set(rows[user])) == 20
    assert not set(rows[user]) & set(seen[user])
  found = [len(set(rows[u]) & set(best[u])) / 20 for u in range(50)]
  assert np.mean(found) >= 0.8


@pytest.mark.parametrize('item_block', [4, 5, 21, 64])
@pytest.mark.parametrize('of_unit_length', [False, True])
def test_other_rows_of_the_table_are_no_items(item_block, of_unit_length):
  rng = np.random.default_rng(4)
  queries = rng.normal(size=(6, 5)).astype(np.float32)
  table = rng.normal(size=(23, 5)).astype(np.float32)
  table[[0, 22]] = 100.0  # Padding and mask token would be the best.
  bias = rng.normal(size=21).astype(np.float32)
  candidates = ranking.Candidates(
    table, bias, first=1, of_unit_length=of_unit_length
  )
  items = table[1:22]
  if of_unit_length:
    items = items / np.linalg.norm(items, axis=1, keepdims=True)
  exact = queries @ items.T + bias
  nobody = np.full((6, 1), -1)
  best, scores = ranking.top_items(
    queries, candidates, nobody, k=21, item_block=item_block
  )
  order = np.argsort(-exact, axis=1)
  np.testing.assert_array_equal(best, order)
  expected = np.take_along_axis(exact, order, axis=1)
  np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)
  targets = np.array([0, 20, 7, 0, 20, 7])
  ranks, _ = ranking.rank_targets(
    queries, candidates, targets, nobody, item_block=item_block
  )
  place = (order == targets[:, None]).argmax(axis=1) + 1
  np.testing.assert_array_equal(ranks, place)


@pytest.mark.parametrize('of_unit_length', [False, True])
@pytest.mark.parametrize('name', ['rank_targets', 'top_items'])
def test_no_copy_of_the_table_is_made(name, of_unit_length):
  queries, seen = jnp.zeros((4, 8)), jnp.zeros((4, 1), jnp.int32)
  # Of no multiple of the block: padding would copy it.
  table, bias = jnp.zeros((100_003, 8)), jnp.zeros(100_001)
  candidates = ranking.Candidates(table, bias, 1, of_unit_length)
  if name == 'rank_targets':
    compiled = ranking.rank_targets.lower(
      queries, candidates, jnp.zeros(4, jnp.int32), seen, item_block=1024
    ).compile()
  else:
    compiled = ranking.top_items.lower(
      queries, candidates, seen, k=5, item_block=1024
    ).compile()
  assert compiled.memory_analysis().temp_size_in_bytes < table.nbytes / 10


def test_the_rank_is_the_place_among_the_best():
  rng = np.random.default_rng(2)
  queries = rng.normal(size=(9, 5)).astype(np.float32)
  table = rng.normal(size=(40, 5)).astype(np.float32)
  bias = rng.normal(size=40).astype(np.float32)
  targets = rng.integers(0, 40, 9).astype(np.int32)
  seen = np.where(targets[:, None] == 3, -1, 3)
  candidates = ranking.Candidates(table, bias)
  ranks, _ = ranking.rank_targets(
    queries, candidates, targets, seen, item_block=16
  )
  rows, _ = ranking.top_items(queries, candidates, seen, k=40, item_block=16)
  place = (np.asarray(rows) == targets[:, None]).argmax(axis=1) + 1
  np.testing.assert_array_equal(place, ranks)


@pytest.mark.slow
def test_ten_million_items_are_ranked_in_bounded_memory():
  # A process of its own, whose peak is its own too.
  program = pathlib.Path(__file__).parent / 'large_catalogue.py'
  output = subprocess.run(
    [sys.executable, str(program)],
    cwd=program.parents[1],
    env={**os.environ, 'PYTHONPATH': '.', 'XLA_FLAGS': ''},
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  )
  found = json.loads(output.stdout)
  assert (found['num_items'], found['num_users']) == (10_000_000, 1_000)
  assert found['bytes_beyond_the_table'] < 2**31
  assert found['right'] == found['checked'] == 3
