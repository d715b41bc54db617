"""What representations look like: maps, neighbours, users with their label."""

import itertools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from bt4rec import encode, features, pipeline, ranking, tasks
from bt4rec.datasets import Catalogue, SequenceDataset
from bt4rec.errors import InputError

_BLOCK = 512
# Newest items of a user that a table shows.
_NEWEST = 3


class Plane(NamedTuple):
  """Embeddings on the plane of their two largest principal components.

  Attributes:
    points: [num_users, 2] float32.
    explained: [2] float32, share of the whole variance on each axis.
  """

  points: np.ndarray
  explained: np.ndarray


def principal_plane(h: np.ndarray) -> Plane:
  """Projects centred embeddings on their first two principal components.

  The signs are chosen so that the largest entry of each component is positive:
  the singular value decomposition leaves them open.

  Args:
    h: [num_users, dim] float; two users and two dimensions at least.
  """
  centered = h - h.mean(0, keepdims=True)
  _, values, components = np.linalg.svd(centered, full_matrices=False)
  components = components[:2]
  largest = np.abs(components).argmax(axis=1)
  components = components * np.sign(components[np.arange(2), largest])[:, None]
  explained = values[:2] ** 2 / np.maximum((values**2).sum(), 1e-12)
  return Plane(centered @ components.T, explained)


class Neighbours(NamedTuple):
  """The nearest rows of a table.

  Attributes:
    rows: [num_queries, k] int32, the nearest first.
    cosines: [num_queries, k] float32.
  """

  rows: np.ndarray
  cosines: np.ndarray


def nearest(table: np.ndarray, queries: np.ndarray, k: int) -> Neighbours:
  """Finds the rows of a table that are nearest to some of its own.

  By the cosine of centred rows: what all share tells none apart. No more than
  [512, 8192] cosines exist at a time.

  Args:
    table: [num_rows, dim] float.
    queries: [num_queries] int, rows of the table; none is its own neighbour.
    k: Number of neighbours.

  Raises:
    InputError: If k is not within the table.
  """
  if not 1 <= k < len(table):
    raise InputError(
      f'k={k} must be at least 1 and below {len(table)}, the number of rows.'
    )
  centered = table - table.mean(0, keepdims=True)
  norm = np.linalg.norm(centered, axis=1, keepdims=True)
  unit = jnp.asarray(centered / np.maximum(norm, 1e-12))
  candidates = ranking.Candidates(unit, jnp.zeros(len(unit)))
  rows = np.empty((len(queries), k), np.int32)
  cosines = np.empty((len(queries), k), np.float32)
  for block, real in pipeline.padded_blocks(len(queries), _BLOCK):
    own = queries[block]
    seen = np.asarray(own, np.int32)[:, None]
    found = ranking.top_items(unit[own], candidates, seen, k=k)
    rows[block[:real]], cosines[block[:real]] = (p[:real] for p in found)
  return Neighbours(rows, cosines)


def agreement(labels: np.ndarray, neighbours: np.ndarray) -> float:
  """Share of neighbours that have the label of their query.

  Args:
    labels: [num_rows] int; the queries are all rows, in order.
    neighbours: [num_rows, k] int, rows.
  """
  return float((labels[neighbours] == labels[:, None]).mean())


def chance_agreement(labels: np.ndarray) -> float:
  """The agreement of neighbours drawn at random from the other rows."""
  counts = np.bincount(labels)
  others = counts * (counts - 1)
  return float(others.sum() / (len(labels) * (len(labels) - 1)))


class LabelledUsers(NamedTuple):
  """Users whose favourite category is known, test users left out.

  Attributes:
    users: [num_users] int64, rows of the dataset.
    ends: [num_users] int64, one past the last event that may be embedded.
    labels: [num_users] int32, category of most of the events after that.
    names: Names of the categories.
  """

  users: np.ndarray
  ends: np.ndarray
  labels: np.ndarray
  names: tuple[str, ...]


def labelled_users(
  dataset: SequenceDataset, split_seed: int, most: int
) -> LabelledUsers:
  """The users of `favorite_category`, training and validation.

  Of data without categories all users, to their last event, under one label.

  Args:
    dataset: The dataset.
    split_seed: Seed of the split of users.
    most: Number of users at most, drawn with a fixed seed.
  """
  if dataset.catalogue.category_names:
    task = tasks.FavoriteCategory(dataset, split_seed)
    parts = task.train_and_validation(1.0, 0)
    users, ends, labels = (
      np.concatenate([getattr(part, field) for part in parts])
      for field in ('users', 'ends', 'labels')
    )
    names = dataset.catalogue.category_names
  else:
    users = np.arange(dataset.num_users)
    ends = dataset.offsets[1:]
    labels, names = np.zeros(len(users), np.int32), ('no category',)
  rng = np.random.default_rng(0)
  chosen = np.sort(rng.permutation(len(users))[:most])
  return LabelledUsers(users[chosen], ends[chosen], labels[chosen], names)


def embed_users(
  encoder: encode.Encoder, dataset: SequenceDataset, users: LabelledUsers
) -> np.ndarray:
  """[num_users, dim] float32, of the newest events before `users.ends`."""
  examples = tasks.Examples(users.users, users.ends, users.labels)
  windows = examples.windows(dataset.offsets, encoder.max_length)
  events = features.events_of(dataset, encoder.features)
  return encoder.embed_windows(events, **windows)


def popular_items(
  dataset: SequenceDataset, count: int, title: str = ''
) -> np.ndarray:
  """Rows of the items with most events, most frequent first.

  Args:
    dataset: The dataset.
    count: Number of items at most.
    title: Part of their titles, in any case; '' is all.

  Returns:
    [count or fewer] int64.

  Raises:
    InputError: If no title has that part.
  """
  catalogue = dataset.catalogue
  has_title = np.char.find(np.char.lower(catalogue.titles), title.lower()) >= 0
  rows = np.flatnonzero(has_title)
  if not len(rows):
    raise InputError(f'no title of {dataset.name} has {title!r} in it.')
  counts = np.bincount(dataset.items, minlength=catalogue.num_items + 1)[1:]
  return rows[np.argsort(-counts[rows], kind='stable')[:count]]


def item_neighbours(
  catalogue: Catalogue, rows: np.ndarray, found: Neighbours
) -> str:
  """Items with their nearest ones, as a Markdown table.

  Args:
    catalogue: The items.
    rows: [num_queries] int, rows of the item table.
    found: Their neighbours.
  """
  return _table(
    [_item(catalogue, row) for row in rows],
    [[_item(catalogue, row) for row in near] for near in found.rows],
    found.cosines,
    'item',
  )


def user_neighbours(
  dataset: SequenceDataset,
  users: LabelledUsers,
  rows: np.ndarray,
  found: Neighbours,
) -> str:
  """Users with their nearest ones and newest items, as a Markdown table.

  Args:
    dataset: The dataset.
    users: The users that were embedded.
    rows: [num_queries] int, places among `users`.
    found: Their neighbours, places among `users`.
  """

  def describe(row: int) -> str:
    first = max(users.ends[row] - _NEWEST, dataset.offsets[users.users[row]])
    newest = dataset.items[first : users.ends[row]] - 1
    titles = '; '.join(_item(dataset.catalogue, item) for item in newest)
    user = dataset.user_ids[users.users[row]]
    return f'{user} (**{users.names[users.labels[row]]}**): … {titles}'

  return _table(
    [describe(row) for row in rows],
    [[describe(row) for row in near] for near in found.rows],
    found.cosines,
    'user (favourite category): newest items',
  )


def columns_table(columns: dict[str, list[str]]) -> str:
  """Columns side by side as a Markdown table, of equal length or not.

  Args:
    columns: Heading -> cells.
  """
  # A bar in a title would end the cell.
  cells = [
    [cell.replace('|', r'\|') for cell in column] for column in columns.values()
  ]
  rows = [list(columns), ['---'] * len(columns)]
  rows += [list(row) for row in itertools.zip_longest(*cells, fillvalue='')]
  return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def _title(catalogue: Catalogue, row: int) -> str:
  return str(catalogue.titles[row]) or str(catalogue.item_ids[row])


def describe_items(catalogue: Catalogue, item_ids: np.ndarray) -> list[str]:
  """Title and categories of each item; its id where it has no title.

  Args:
    catalogue: The items.
    item_ids: [num_items] original ids, all of them in the catalogue.
  """
  rows = np.searchsorted(catalogue.item_ids, item_ids)
  return [_item(catalogue, row) for row in rows]


def _item(catalogue: Catalogue, row: int) -> str:
  first, last = catalogue.category_offsets[row : row + 2]
  names = [
    catalogue.category_names[value]
    for value in catalogue.category_values[first:last]
  ]
  return _title(catalogue, row) + (f' ({", ".join(names)})' if names else '')


def _table(
  queries: list[str], near: list[list[str]], cosines: np.ndarray, head: str
) -> str:
  again = [''] * (cosines.shape[1] - 1)  # A query is named once.
  return columns_table(
    {
      head: [cell for query in queries for cell in (query, *again)],
      'nearest': [name for names in near for name in names],
      'cosine': [f'{value:.2f}' for value in cosines.ravel()],
    }
  )
