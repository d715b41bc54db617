"""The plots of the dataset card."""

import os

import numpy as np

from bt4rec import figures
from bt4rec.datasets import SequenceDataset

_COLOR = figures.COLORS[0]


def save_plots(dataset: SequenceDataset, directory: str) -> list[str]:
  """Draws length histogram, popularity curve and events over time.

  Args:
    dataset: The dataset.
    directory: Where the PNG files go; it is made.

  Returns:
    The files.

  Raises:
    ImportError: If matplotlib, the extra `plots`, is not installed.
  """
  files = []
  for name, draw in _PLOTS.items():
    figure, (axes,) = figures.new_figure()
    draw(dataset, axes)
    axes.set_title(f'{dataset.name}: {name.replace("_", " ")}')
    files.append(figures.save(figure, os.path.join(directory, f'{name}.png')))
  return files


def _draw_lengths(dataset: SequenceDataset, axes) -> None:
  lengths = dataset.lengths
  # Bins of about equal ratio, with edges between the whole numbers.
  edges = np.geomspace(lengths.min(), lengths.max() + 1, 40)
  edges = np.unique(np.floor(edges)) - 0.5
  counts, _ = np.histogram(lengths, edges)
  # Per length, since a bin may hold one length and the next one two.
  axes.stairs(counts / np.diff(edges), edges, fill=True, color=_COLOR)
  axes.set(xscale='log', xlabel='events of a user', ylabel='users per length')


def _draw_popularity(dataset: SequenceDataset, axes) -> None:
  counts = np.bincount(dataset.items, minlength=2)[1:]
  axes.plot(np.arange(1, len(counts) + 1), np.sort(counts)[::-1], color=_COLOR)
  axes.set(
    xscale='log', yscale='log', xlabel='rank of the item', ylabel='events'
  )


def _draw_time(dataset: SequenceDataset, axes) -> None:
  seconds = dataset.timestamps
  counts, edges = np.histogram(seconds, 100)
  # NumPy's dates reach beyond those of the standard library.
  dates = edges[:-1].astype('int64').astype('datetime64[s]')
  axes.plot(dates, counts, color=_COLOR)
  axes.set(ylabel='events', ylim=(0, None))
  axes.tick_params(axis='x', rotation=30)


_PLOTS = {
  'events_per_user': _draw_lengths,
  'popularity_of_items': _draw_popularity,
  'events_over_time': _draw_time,
}
