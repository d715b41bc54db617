"""Planes, neighbours and labelled users against independent counts."""

import numpy as np
import pytest

from bt4rec import analysis, splits
from bt4rec.datasets import sequences
from bt4rec.errors import InputError
from tests import tiny


def _table(rows=700, dim=5) -> np.ndarray:
  """Far off the origin, so that centring matters; two blocks of queries."""
  rng = np.random.default_rng(3)
  return (rng.normal(size=(rows, dim)) + 4).astype(np.float32)


class TestPrincipalPlane:
  def test_finds_the_two_directions_of_a_known_matrix(self):
    # Along (3, 4) / 5 with variance 9 and across it with variance 4.
    along, across = np.array([0.6, 0.8, 0]), np.array([-0.8, 0.6, 0])
    signs = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])
    h = 3 * signs[:, :1] * along + 2 * signs[:, 1:] * across + 7
    plane = analysis.principal_plane(h)
    np.testing.assert_allclose(plane.explained, [9 / 13, 4 / 13], rtol=1e-6)
    np.testing.assert_allclose(plane.points[:, 0], 3 * signs[:, 0], atol=1e-6)
    # The largest entry of (-0.8, 0.6) is made positive.
    np.testing.assert_allclose(plane.points[:, 1], -2 * signs[:, 1], atol=1e-6)

  def test_distances_in_a_plane_are_kept(self):
    h = _table(6, 2)
    points = analysis.principal_plane(h).points
    for i in range(6):
      np.testing.assert_allclose(
        np.linalg.norm(points - points[i], axis=1),
        np.linalg.norm(h - h[i], axis=1),
        rtol=1e-5,
        atol=1e-5,
      )


class TestNearest:
  def test_equals_a_loop_over_all_cosines(self):
    table, k = _table(), 4
    queries = np.array([0, 699, 5, *range(100, 690)])
    found = analysis.nearest(table, queries, k)
    centered = table.astype(np.float64) - table.mean(0, dtype=np.float64)
    for query, rows, cosines in zip(queries, *found, strict=True):
      expected = [
        -2.0
        if row == query
        else x
        @ centered[query]
        / np.linalg.norm(x)
        / np.linalg.norm(centered[query])
        for row, x in enumerate(centered)
      ]
      order = np.argsort(expected)[::-1][:k]
      np.testing.assert_array_equal(rows, order)
      np.testing.assert_allclose(cosines, np.array(expected)[order], atol=1e-5)

  @pytest.mark.parametrize('k', [0, 700])
  def test_k_must_leave_the_query_out(self, k):
    with pytest.raises(InputError, match=f'k={k} .* below 700'):
      analysis.nearest(_table(), np.array([0]), k)


class TestAgreement:
  def test_by_hand(self):
    labels = np.array([0, 0, 1, 1, 1])
    neighbours = np.array([[1, 2], [0, 2], [3, 4], [0, 1], [2, 3]])
    assert analysis.agreement(labels, neighbours) == 0.6
    # Pairs of equal label: 2 of the zeros, 6 of the ones, of 20.
    assert analysis.chance_agreement(labels) == 0.4

  def test_chance_is_the_mean_over_random_neighbours(self):
    labels = np.random.default_rng(0).integers(0, 3, 40)
    everybody = np.array([[j for j in range(40) if j != i] for i in range(40)])
    np.testing.assert_allclose(
      analysis.agreement(labels, everybody), analysis.chance_agreement(labels)
    )


class TestLabelledUsers:
  def test_no_test_user_and_no_held_out_event(self):
    dataset = tiny.dataset()
    found = analysis.labelled_users(dataset, 0, 1_000)
    test = splits.user_splits(dataset.user_ids, 0)['test']
    assert len(found.users) > 20 and not test[found.users].any()
    visible = splits.visible_lengths('shared', dataset.lengths)[found.users]
    np.testing.assert_array_equal(
      found.ends - dataset.offsets[found.users], visible
    )
    assert found.names == dataset.catalogue.category_names

  def test_the_label_is_the_category_after_the_cut(self):
    dataset = tiny.dataset()
    found = analysis.labelled_users(dataset, 0, 1_000)
    weights = dataset.catalogue.category_weights()
    for user, end, label in zip(*found[:3], strict=True):
      later = dataset.items[end : dataset.offsets[user + 1]]
      shares = weights[later].sum(0).round(5)
      assert shares[label] == shares.max()

  def test_most_is_kept_and_the_same_every_time(self):
    one, other = (
      analysis.labelled_users(tiny.dataset(), 0, 7) for _ in range(2)
    )
    assert len(one.users) == len(set(one.users.tolist())) == 7
    np.testing.assert_array_equal(one.users, other.users)
    # Not the first ones: a log may be sorted by something that matters.
    everybody = analysis.labelled_users(tiny.dataset(), 0, 1_000).users
    assert set(one.users) != set(everybody[:7])

  def test_without_categories_everybody_has_one_label(self):
    dataset = sequences.from_events(
      'plain', np.repeat([5, 6], 12), np.arange(24), np.arange(24)
    )
    found = analysis.labelled_users(dataset, 0, 10)
    np.testing.assert_array_equal(found.ends, [12, 24])
    assert found.labels.tolist() == [0, 0] and found.names == ('no category',)


def _dataset():
  """Two users; item 9 three times, 7 twice, 8 once; 8 has no title."""
  return sequences.from_events(
    'few',
    np.array([1, 1, 1, 2, 2, 2]),
    np.array([7, 9, 9, 8, 7, 9]),
    np.arange(6),
    titles={7: 'Heat', 9: 'The A|B'},
    categories={7: ['Drama', 'Crime'], 9: ['Drama']},
  )


class TestTables:
  def test_popular_items_are_the_most_frequent(self):
    dataset = _dataset()
    assert analysis.popular_items(dataset, 2).tolist() == [2, 0]
    assert analysis.popular_items(dataset, 2, 'hEA').tolist() == [0]
    with pytest.raises(InputError, match="no title of few has 'x'"):
      analysis.popular_items(dataset, 2, 'x')

  def test_items_have_title_and_categories_or_their_id(self):
    names = analysis.describe_items(_dataset().catalogue, np.array([9, 8, 7]))
    assert names == ['The A|B (Drama)', '8', 'Heat (Crime, Drama)']

  def test_item_neighbours_name_the_query_once(self):
    found = analysis.Neighbours(
      np.array([[2, 1], [0, 2]]), np.array([[0.876, -0.5], [0.3, 0.2]])
    )
    rows = np.array([0, 1])
    text = analysis.item_neighbours(_dataset().catalogue, rows, found)
    assert text.split('\n') == [
      '| item | nearest | cosine |',
      '| --- | --- | --- |',
      r'| Heat (Crime, Drama) | The A\|B (Drama) | 0.88 |',
      '|  | 8 | -0.50 |',
      '| 8 | Heat (Crime, Drama) | 0.30 |',
      r'|  | The A\|B (Drama) | 0.20 |',
    ]

  def test_users_show_nothing_after_their_cut(self):
    dataset = _dataset()
    users = analysis.LabelledUsers(
      np.array([0, 1]), np.array([2, 5]), np.array([1, 0]), ('Crime', 'Drama')
    )
    found = analysis.Neighbours(np.array([[1]]), np.array([[1.0]]))
    text = analysis.user_neighbours(dataset, users, np.array([0]), found)
    assert text.split('\n')[2] == (
      r'| 1 (**Drama**): … Heat (Crime, Drama); The A\|B (Drama) '
      '| 2 (**Crime**): … 8; Heat (Crime, Drama) | 1.00 |'
    )


def test_users_are_embedded_from_their_newest_events_before_the_cut():
  dataset = tiny.dataset()
  users = analysis.labelled_users(dataset, 0, 5)
  wanted = []

  class Encoder:
    max_length = 4
    features = ()

    def embed_windows(self, events, start, length):
      np.testing.assert_array_equal(events['items'], dataset.items)
      wanted.extend(zip(start, length, strict=True))
      return np.zeros((len(start), 2))

  analysis.embed_users(Encoder(), dataset, users)
  assert wanted == [(end - 4, 4) for end in users.ends]
