"""What TensorBoard's projector is given: tables, names, categories."""

import os
import re

import numpy as np

from bt4rec import embedding_projector
from bt4rec.datasets import sequences
from bt4rec.embedding_projector import Points


def _dataset():
  """Two users, three items; b has no title, and item c no category."""
  return sequences.from_events(
    'made',
    users=np.array(['ann', 'ann', 'ann', 'bob', 'bob']),
    items=np.array(['a', 'b', 'a', 'c', 'b']),
    timestamps=np.arange(5),
    titles={'a': 'An\tItem\nhere', 'c': 'C'},
    categories={'a': ['Drama', 'Comedy'], 'b': ['Drama']},
  )


def test_files_belong_together(tmp_path):
  vectors = np.arange(6, dtype=np.float32).reshape(3, 2) / 4
  points = Points(vectors, {'id': [1, 2, 3], 'title': ['x', 'é\ty', '']})
  embedding_projector.write(str(tmp_path), {'items': points, 'users': points})
  config = (tmp_path / 'projector_config.pbtxt').read_text()
  assert re.findall(r'tensor_name: "(\w+)"', config) == ['items', 'users']
  tensors = re.findall(r'tensor_path: "(.+)"', config)
  metadata = re.findall(r'metadata_path: "(.+)"', config)
  for table, names in zip(tensors, metadata, strict=True):
    np.testing.assert_array_equal(np.loadtxt(tmp_path / table), vectors)
    # A header, and a row for each row; a tab in a title ends no cell.
    assert (tmp_path / names).read_text() == ('id\ttitle\n1\tx\n2\té y\n3\t\n')


def test_writing_again_replaces(tmp_path):
  for number in (3, 2):
    points = Points(
      np.ones((number, 2)), {'a': [0] * number, 'b': [1] * number}
    )
    embedding_projector.write(str(tmp_path), {'users': points})
  config = (tmp_path / 'projector_config.pbtxt').read_text()
  assert config.count('embeddings {') == 1
  assert len((tmp_path / 'users.tsv').read_text().splitlines()) == 2
  assert not [name for name in os.listdir(tmp_path) if name.endswith('.tmp')]


def test_users_have_favourite_and_newest_item_of_their_window():
  vectors = np.zeros((3, 2))
  points = embedding_projector.user_points(
    # Of ann's events the first two and the last, of bob's the first.
    _dataset(),
    np.array([0, 2, 3]),
    np.array([2, 1, 1]),
    vectors,
  )
  assert points.vectors is vectors
  columns = {name: list(column) for name, column in points.columns.items()}
  assert columns == {
    'user_id': ['ann', 'ann', 'bob'],
    'events': [2, 1, 1],
    'newest_item': ['b', 'An\tItem\nhere', 'C'],
    # Drama has 1.5 of 2; Comedy and Drama are level; c has none.
    'favorite_category': ['Drama', 'Comedy', ''],
  }


def test_items_are_the_most_popular_with_their_categories(monkeypatch):
  monkeypatch.setattr(embedding_projector, 'MAX_ITEMS', 2)
  # Padding, a, b, c, mask.
  rows = embedding_projector.popular_items(np.array([0.0, -3, -1, -2, 0]))
  assert rows.tolist() == [1, 2]
  points = embedding_projector.item_points(
    _dataset().catalogue, np.array([2, 0]), np.zeros((2, 1))
  )
  columns = {name: list(column) for name, column in points.columns.items()}
  assert columns == {
    'item_id': ['c', 'a'],
    'popularity_rank': [1, 2],
    'title': ['C', 'An\tItem\nhere'],
    'categories': ['', 'Comedy|Drama'],
  }
