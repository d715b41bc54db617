"""The cells of a study: which jobs there are, and the config of each.

Every cell is a job that could be run alone. A study has a main grid of rows,
tasks, label fractions and seeds, and axes besides: named lists of overrides,
each varied alone around the grid's own setting.
"""

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterator, Sequence

from ml_collections import ConfigDict

from bt4rec import downstream, tasks
from bt4rec.errors import InputError, choose
from bt4rec.overrides import override

# Rows of the table that are not a pre-training -> protocol.
WITHOUT_PRETRAINING = {
  'majority': 'majority',
  'oracle': 'oracle',
  'scratch': 'scratch',
  'random': 'probe',
}
# What an axis may override -> whether it makes pre-trainings of its own.
_STAGES = {'pretrain': True, 'downstream': False}
_PROTOCOLS = {'probe': True, 'finetune': True}


@dataclasses.dataclass(frozen=True)
class Cell:
  """One job of the grid.

  Attributes:
    kind: 'pretrain' or the protocol.
    objective: Row of the table.
    task: Downstream task, '' for a pre-training.
    label_fraction: Share of the labels, 0 for a pre-training.
    seed: Seed of the job.
    axis: The axis it is varied along, '' if none.
    setting: Name of its place on the axis.
    source: Its pre-training, None for rows without; itself if it is one.
  """

  kind: str
  objective: str
  task: str
  label_fraction: float
  seed: int
  axis: str = ''
  setting: str = ''
  source: 'Cell | None' = None

  def __post_init__(self):
    # Part of the name, which is that of a finished line: 1 is 1.0 there.
    object.__setattr__(self, 'label_fraction', float(self.label_fraction))

  @property
  def variant(self) -> str:
    """Where it lies off the main grid, such as 'batch_size=32'."""
    return f'{self.axis}={self.setting}' if self.axis else ''

  @property
  def unit(self) -> str:
    """Cells of the same unit share a pre-training, or are of one row."""
    of = self.source or self
    parts = [of.objective, str(of.seed), *filter(None, [of.variant])]
    return '-'.join(parts)

  @property
  def directory(self) -> str:
    """Where the job runs, within the study's workdir."""
    if self.kind == 'pretrain':
      return os.path.join('pretrain', self.unit)
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
        'variant': self.variant,
      }
    )


def cells(config: ConfigDict) -> list[Cell]:
  """The grid in the order it is run: seed by seed, encoder by encoder.

  A place on an axis that overrides nothing is that of the main grid, and is
  there once.

  Args:
    config: The whole config of a study.

  Raises:
    InputError: If a name is unknown or the grid is empty.
  """
  study = config.study
  pretrainings = dict(study.pretrainings)
  encoders = pretrainings | dict(study.encoders)
  varied = {k: v for k, v in pretrainings.items() if k not in study.encoders}
  rows = dict(WITHOUT_PRETRAINING) | encoders
  for name in study.rows:
    choose('row of the study', name, rows)
  for name in study.finetune:
    choose('fine-tuned row of the study', name, encoders)
  for name in study.tasks:
    choose('task', name, tasks.TASKS)
  for name, axis in study.axes.items():
    choose(f'stage of the axis {name}', axis.stage, _STAGES)
    for row in axis.rows:
      choose(f'row of the axis {name}', row, varied)
    for place in axis.places:
      choose(f'place of the axis {name}', place, axis.settings)
    for protocol in axis.protocols:
      choose(f'protocol of the axis {name}', protocol, _PROTOCOLS)
  grid: dict[Cell, None] = {}
  for seed in study.seeds:
    grid |= dict.fromkeys(_main_grid(study, seed))
    grid |= dict.fromkeys(_along_axes(config, seed))
  if not any(cell.task for cell in grid):
    raise InputError(
      'the study has no cell; give study.rows, study.tasks, '
      'study.label_fractions and study.seeds one entry each at least.'
    )
  return list(grid)


def _main_grid(study: ConfigDict, seed: int) -> Iterator[Cell]:
  for row in study.rows:
    if row in WITHOUT_PRETRAINING:
      protocols = [WITHOUT_PRETRAINING[row]]
    else:
      protocols = ['probe'] + ['finetune'] * (row in study.finetune)
    source = None
    if row in study.pretrainings and row not in study.encoders:
      source = Cell('pretrain', row, '', 0.0, seed)
      yield source
    for task in study.tasks:
      for protocol in protocols:
        for fraction in study.label_fractions:
          yield Cell(protocol, row, task, fraction, seed, source=source)


def _along_axes(config: ConfigDict, seed: int) -> Iterator[Cell]:
  study = config.study
  for name, axis in study.axes.items():
    places = axis.places or axis.settings
    for row, setting in itertools.product(axis.rows, places):
      source = Cell('pretrain', row, '', 0.0, seed)
      if _STAGES[axis.stage]:
        source = _vary(config, source, name, setting)
      yield source
      for task, protocol, fraction in itertools.product(
        study.tasks, axis.protocols, axis.label_fractions
      ):
        cell = Cell(protocol, row, task, fraction, seed, source=source)
        if _STAGES[axis.stage]:
          yield dataclasses.replace(
            cell, axis=source.axis, setting=source.setting
          )
        else:
          yield _vary(config, cell, name, setting)


def _vary(config: ConfigDict, cell: Cell, axis: str, setting: str) -> Cell:
  """The cell at a place of an axis; itself where that changes nothing."""
  varied = dataclasses.replace(cell, axis=axis, setting=setting)
  own, plain = (cell_config(config, c, '') for c in (varied, cell))
  own.variant = plain.variant
  return cell if own == plain else varied


def cell_config(config: ConfigDict, cell: Cell, directory: str) -> ConfigDict:
  """The config of one job of the grid.

  Args:
    config: The whole config of the study.
    cell: The job.
    directory: The study's workdir.

  Returns:
    A config that `python -m bt4rec.main` would run alone.
  """
  study = config.study
  derived = config.copy_and_resolve_references()
  with derived.unlocked():
    for group in {'study', 'tune'} & set(derived):
      del derived[group]
  derived.seed = cell.seed
  derived.label = cell.objective
  derived.variant = cell.variant
  derived.init_from = ''
  if cell.kind == 'pretrain':
    derived.task = 'pretrain'
    override(derived, study.pretrainings[cell.objective])
  else:
    derived.update(study.protocols.get(cell.kind, {}))
    derived.keep_steps = ()
    derived.task = cell.task
    derived.protocol = cell.kind
    derived.label_fraction = cell.label_fraction
    if cell.objective in study.encoders:
      derived.init_from = study.encoders[cell.objective]
    elif cell.source:
      derived.init_from = os.path.join(directory, cell.source.directory)
  if cell.axis:
    axis = study.axes[cell.axis]
    if _STAGES[axis.stage] == (cell.kind == 'pretrain'):
      change = override if cell.kind == 'pretrain' else ConfigDict.update
      change(derived, axis.settings[cell.setting])
  return derived


def parts(config: ConfigDict) -> list[Callable[[ConfigDict], ConfigDict]]:
  """What gives the configs of the cells, of such a config as this.

  Args:
    config: The whole config of a study.

  Returns:
    A function of a config for each cell; cells that differ in seed and label
    fraction alone have one.
  """
  kinds = {
    (cell.kind, cell.objective, cell.task, cell.variant): cell
    for cell in cells(config)
  }
  return [
    functools.partial(cell_config, cell=cell, directory='')
    for cell in kinds.values()
  ]


def units(grid: Sequence[Cell]) -> dict[str, list[Cell]]:
  """Name -> the cells that are run one after the other in one process.

  Args:
    grid: The cells.

  Returns:
    Cells that share a pre-training, which comes first, or that are of one row
    and seed.
  """
  found: dict[str, list[Cell]] = {}
  for cell in grid:
    found.setdefault(cell.unit, []).append(cell)
  return found
