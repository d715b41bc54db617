"""Users and items as points for TensorBoard's Embedding Projector.

TensorBoard reads `projector_config.pbtxt` in a run's directory, and the tables
it names. tensorboardX appends to that file at each call, so that a run which
was killed and went on would list its points twice; here they are replaced.
"""

import dataclasses
import io
import os
from collections.abc import Sequence

import numpy as np

from bt4rec import workdir
from bt4rec.datasets import Catalogue, SequenceDataset

Column = Sequence | np.ndarray
# The browser computes neighbours and t-SNE of them.
MAX_ITEMS = 2_000


@dataclasses.dataclass(frozen=True)
class Points:
  """Embeddings, and what to show beside each.

  Attributes:
    vectors: [num_points, dim] float32.
    columns: Name -> [num_points] values, two columns at least.
  """

  vectors: np.ndarray
  columns: dict[str, Column]


def write(directory: str, points: dict[str, Points]) -> None:
  """Replaces what the projector shows of a run.

  Args:
    directory: Where the run's events lie.
    points: Name of a set of points -> the points.
  """
  os.makedirs(directory, exist_ok=True)
  entries = []
  for name, shown in points.items():
    table = io.StringIO()
    np.savetxt(table, shown.vectors, fmt='%.6g', delimiter='\t')
    rows = zip(*shown.columns.values(), strict=True)
    lines = ['\t'.join(map(_cell, row)) for row in (shown.columns, *rows)]
    files = {
      'tensor_path': (f'{name}.tsv', table.getvalue()),
      'metadata_path': (f'{name}_metadata.tsv', '\n'.join(lines) + '\n'),
    }
    entry = [f'tensor_name: "{name}"']
    for key, (file, text) in files.items():
      workdir.write_atomically(os.path.join(directory, file), text)
      entry.append(f'{key}: "{file}"')
    entries.append('embeddings {\n  ' + '\n  '.join(entry) + '\n}\n')
  workdir.write_atomically(
    os.path.join(directory, 'projector_config.pbtxt'), ''.join(entries)
  )


def _cell(value) -> str:
  """A value as text without the characters that end a cell or a row."""
  return ' '.join(str(value).split())


def user_points(
  dataset: SequenceDataset,
  start: np.ndarray,
  length: np.ndarray,
  vectors: np.ndarray,
) -> Points:
  """Users with the category and the newest item of a window of theirs.

  Args:
    dataset: The dataset.
    start: [num_users] int, first event of the window of each.
    length: [num_users] int, events of the window, at least 1.
    vectors: [num_users, dim] float32, embeddings of the windows.
  """
  catalogue = dataset.catalogue
  users = np.searchsorted(dataset.offsets, start, side='right') - 1
  columns: dict[str, Column] = {
    'user_id': dataset.user_ids[users],
    'events': length,
    'newest_item': _names(catalogue)[dataset.items[start + length - 1] - 1],
  }
  if catalogue.category_names:
    weights = catalogue.category_weights()
    shares = np.array(
      [
        weights[dataset.items[first : first + number]].sum(axis=0)
        for first, number in zip(start, length, strict=True)
      ]
    )
    names = np.array([*catalogue.category_names, ''])
    best = np.where(shares.any(axis=1), shares.argmax(axis=1), -1)
    columns['favorite_category'] = names[best]
  return Points(vectors, columns)


def popular_items(log_q: np.ndarray) -> np.ndarray:
  """[at most MAX_ITEMS] rows of the items drawn most often, best first.

  Args:
    log_q: [vocabulary_size] log probability of each item.
  """
  return np.argsort(-log_q[1:-1], kind='stable')[:MAX_ITEMS]


def item_points(
  catalogue: Catalogue, rows: np.ndarray, vectors: np.ndarray
) -> Points:
  """Items with titles and categories.

  Args:
    catalogue: The items.
    rows: [num_points] rows of the catalogue, the most popular first.
    vectors: [num_points, dim] float32.
  """
  columns: dict[str, Column] = {
    'item_id': catalogue.item_ids[rows],
    'popularity_rank': np.arange(1, len(rows) + 1),
  }
  if (catalogue.titles != '').any():
    columns['title'] = catalogue.titles[rows]
  if catalogue.category_names:
    names = catalogue.category_names
    offsets = catalogue.category_offsets
    columns['categories'] = [
      '|'.join(
        names[i]
        for i in catalogue.category_values[offsets[row] : offsets[row + 1]]
      )
      for row in rows
    ]
  return Points(vectors, columns)


def _names(catalogue: Catalogue) -> np.ndarray:
  """[num_items] str, titles, or ids where there is none."""
  ids = catalogue.item_ids.astype(np.str_)
  return np.where(catalogue.titles == '', ids, catalogue.titles)
