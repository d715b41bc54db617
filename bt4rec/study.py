"""A grid of pre-trainings and downstream jobs; one line of results each.

Every cell is a job that could be run alone. A finished cell is a line of
`results.jsonl`, so a study that was killed goes on where it was; a cell that
was cut in the middle goes on from its own checkpoint.
"""

import dataclasses
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator

from absl import logging
from ml_collections import ConfigDict

from bt4rec import downstream, pretrain, report, supervised, tasks, workdir
from bt4rec.datasets import SequenceDataset
from bt4rec.errors import InputError, choose
from bt4rec.progress import format_seconds

# Rows of the table that are not a pre-training -> protocol.
_WITHOUT_PRETRAINING = {
  'majority': 'majority',
  'oracle': 'oracle',
  'scratch': 'scratch',
  'random': 'probe',
}


@dataclasses.dataclass(frozen=True)
class Cell:
  """One job of the grid.

  Attributes:
    kind: 'pretrain' or the protocol.
    objective: Row of the table.
    task: Downstream task, '' for a pre-training.
    label_fraction: Share of the labels, 0 for a pre-training.
    seed: Seed of the job.
  """

  kind: str
  objective: str
  task: str
  label_fraction: float
  seed: int

  @property
  def directory(self) -> str:
    """Where the job runs, within the study's workdir."""
    if self.kind == 'pretrain':
      return os.path.join('pretrain', f'{self.objective}-{self.seed}')
    return os.path.join('cells', self.name)

  @property
  def name(self) -> str:
    """As `downstream.cell_name` of the finished line."""
    return downstream.cell_name(
      {
        'task': self.task,
        'protocol': self.kind,
        'objective': self.objective,
        'label_fraction': self.label_fraction,
        'seed': self.seed,
      }
    )


def cells(config: ConfigDict) -> Iterator[Cell]:
  """The grid in the order it is run: seed by seed, encoder by encoder.

  Args:
    config: The whole config of a study.

  Raises:
    InputError: If a name is unknown or the grid is empty.
  """
  study = config.study
  for name in study.tasks:
    choose('task', name, tasks.TASKS)
  rows = dict(_WITHOUT_PRETRAINING) | dict.fromkeys(study.pretrainings, '')
  for name in study.rows:
    choose('row of the study', name, rows)
  for name in study.finetune:
    choose('fine-tuned row of the study', name, dict(study.pretrainings))
  for seed in study.seeds:
    for row in study.rows:
      if row in _WITHOUT_PRETRAINING:
        protocols = [_WITHOUT_PRETRAINING[row]]
      else:
        yield Cell('pretrain', row, '', 0.0, seed)
        protocols = ['probe'] + ['finetune'] * (row in study.finetune)
      for task in study.tasks:
        for protocol in protocols:
          for fraction in study.label_fractions:
            yield Cell(protocol, row, task, fraction, seed)


def cell_config(config: ConfigDict, cell: Cell, directory: str) -> ConfigDict:
  """The config of one job of the grid.

  Args:
    config: The whole config of the study.
    cell: The job.
    directory: The study's workdir.

  Returns:
    A config that `python -m bt4rec.main` would run alone.
  """
  derived = config.copy_and_resolve_references()
  with derived.unlocked():
    del derived.study
  derived.seed = cell.seed
  if cell.kind == 'pretrain':
    derived.update(config.study.pretrainings[cell.objective])
    return derived
  if cell.kind in config.study.protocols:
    derived.update(config.study.protocols[cell.kind])
  derived.task = cell.task
  derived.protocol = cell.kind
  derived.label = cell.objective
  derived.label_fraction = cell.label_fraction
  if cell.objective not in _WITHOUT_PRETRAINING:
    source = dataclasses.replace(cell, kind='pretrain')
    derived.init_from = os.path.join(directory, source.directory)
  return derived


def run(config: ConfigDict, directory: str, dataset: SequenceDataset) -> str:
  """Runs what is missing of the grid and writes the report.

  Args:
    config: The whole config of the study.
    directory: The output directory, locked by the caller.
    dataset: The dataset.

  Returns:
    The report as Markdown.
  """
  grid = list(cells(config))
  if not any(cell.task for cell in grid):
    raise InputError(
      'the study has no cell; give study.rows, study.tasks, '
      'study.label_fractions and study.seeds one entry each at least.'
    )
  results = os.path.join(directory, 'results.jsonl')
  # A line cut by a kill is dropped, its cell run again.
  workdir.keep_lines(results, lambda line: True)
  finished = {downstream.cell_name(li) for li in workdir.read_lines(results)}
  progress = _Progress(grid)
  cache, cached_for = supervised.FeatureCache(), None
  for cell in grid:
    if (cell.objective, cell.seed) != cached_for:
      cache = supervised.FeatureCache()
      cached_for = (cell.objective, cell.seed)
    start = time.monotonic()
    is_new = cell.name not in finished
    if is_new:
      summary = _run_cell(config, cell, directory, dataset, cache)
      progress.show(cell, summary, time.monotonic() - start)
    else:
      progress.skip(cell)
  text = report.make_report([directory])
  workdir.write_atomically(os.path.join(directory, 'report.md'), text)
  return text


def _run_cell(config, cell, directory, dataset, cache) -> str:
  """Runs one job to its end; returns what to say of it."""
  derived = cell_config(config, cell, directory)
  path = os.path.join(directory, cell.directory)
  os.makedirs(path, exist_ok=True)
  workdir.check_config(derived, path)
  if cell.kind == 'pretrain':
    done = os.path.join(path, 'done')
    if not os.path.exists(done):
      pretrain.run(derived, path, dataset)
      workdir.write_atomically(done, '')
    return 'done'
  result = downstream.run(derived, path, dataset, cache)
  downstream.write_result(directory, result)
  if cell.kind == 'probe':
    # Heads are cheap to train again and many.
    shutil.rmtree(path)
  metric = report.HEADLINES[cell.task]
  numbers = result['metrics'] or result['validation']
  return f'{metric} {numbers[metric]:.3f}'


class _Progress:
  """One line a cell, with the time left over the whole grid."""

  def __init__(self, grid: list[Cell]):
    self._left = list(grid)
    self._total = len(grid)
    self._seconds: dict[str, list[float]] = defaultdict(list)

  def skip(self, cell: Cell) -> None:
    self._left.remove(cell)

  def show(self, cell: Cell, summary: str, seconds: float) -> None:
    self._left.remove(cell)
    self._seconds[cell.kind].append(seconds)
    known = [s for kind in self._seconds.values() for s in kind]
    average = sum(known) / len(known)
    left = 0.0
    for other in self._left:
      same = self._seconds[other.kind]
      left += sum(same) / len(same) if same else average
    logging.info(
      '[%d/%d] %s %s %s seed %d: %s (%.0f s) ETA %s',
      self._total - len(self._left),
      self._total,
      cell.objective,
      cell.kind,
      f'{cell.task} {cell.label_fraction:.0%}' if cell.task else '',
      cell.seed,
      summary,
      seconds,
      format_seconds(left),
    )
