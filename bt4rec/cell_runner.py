"""Runs the cells of a grid, here or in several processes, and shows progress.

A finished cell is a line of `results.jsonl`, so a grid that was killed goes on
where it was; a cell that was cut in the middle goes on from its own
checkpoint. A cell that fails is reported and the others go on.
"""

import contextlib
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple

from absl import logging
from ml_collections import ConfigDict

from bt4rec import (
  downstream,
  grid,
  initial_encoder,
  pretrain,
  result_lines,
  supervised,
  unread,
  workdir,
)
from bt4rec.datasets import SequenceDataset
from bt4rec.errors import (
  InputError,
  NonFiniteLossError,
  StorageError,
  UnfinishedError,
)
from bt4rec.grid import Cell
from bt4rec.progress import format_seconds

# What a job tells the user of in one sentence.
_EXPECTED = (InputError, NonFiniteLossError, StorageError)


class Event(NamedTuple):
  """A cell came to its end.

  Attributes:
    cell: The cell.
    text: Its headline number, or why it failed.
    seconds: How long it took.
    failed: Whether it failed.
    diverged: Whether it failed because a loss was not finite.
  """

  cell: Cell
  text: str
  seconds: float
  failed: bool = False
  diverged: bool = False


Events = Generator[Event, None, None]


def run_cells(
  config: ConfigDict,
  directory: str,
  dataset: SequenceDataset,
  cells: Sequence[Cell],
  on_event: Callable[[Event], None] = lambda event: None,
) -> list[Event]:
  """Runs what is missing of a grid, unit by unit.

  Args:
    config: The whole config of the study.
    directory: The output directory, locked by the caller.
    dataset: The dataset.
    cells: The grid; see `grid.cells`.
    on_event: Called whenever a cell came to its end.

  Returns:
    The cells that failed.

  Raises:
    InputError: If the number of processes is not valid, or what is finished
      was made with another config.
  """
  processes = config.study.processes
  if processes < 1:
    raise InputError(f'study.processes={processes} must be at least 1.')
  results = os.path.join(directory, 'results.jsonl')
  if os.path.exists(results):
    # A line cut by a kill is dropped, its cell run again.
    workdir.keep_lines(results, lambda line: True)
  lines = {
    downstream.cell_name(line): line for line in workdir.read_lines(results)
  }
  for cell in cells:
    if cell.kind == 'pretrain':
      _check_overrides(config, cell)
  progress = _Progress(config, cells, processes)
  left: dict[str, list[Cell]] = {}
  for name, unit in grid.units(cells).items():
    seconds = {
      cell: _pretraining_seconds(config, cell, directory)
      if cell.kind == 'pretrain'
      else _evaluation_seconds(config, cell, lines, directory)
      for cell in unit
    }
    evaluated = [seconds[cell] for cell in unit if cell.task]
    if evaluated and None not in evaluated:
      # A pre-training may be removed for space when nobody asks for it.
      seconds = {cell: done or 0.0 for cell, done in seconds.items()}
    missing = [cell for cell in unit if seconds[cell] is None]
    for cell, done in seconds.items():
      if done is not None:
        progress.skip(cell, done)
    if missing:
      left[name] = missing
  failed: list[Event] = []
  with contextlib.closing(
    _start(config, directory, dataset, left, progress)
  ) as events:
    for event in events:
      progress.show(event)
      if event.failed:
        failed.append(event)
      on_event(event)
  return failed


def _start(config, directory, dataset, left, progress) -> Events:
  processes = min(config.study.processes, len(left))
  if processes > 1:
    # Imported here: a worker imports this module too.
    from bt4rec import cell_processes

    yield from cell_processes.run_units(
      config, directory, left, processes, progress.show_time
    )
    return
  for unit in left.values():
    yield from run_unit(config, directory, dataset, unit)


def require_all(failed: Sequence[Event], others: str) -> None:
  """Raises if cells failed.

  Args:
    failed: What `run_cells` returned.
    others: What has become of the others, for the sentence.

  Raises:
    UnfinishedError: If there is one.
  """
  if failed:
    first = failed[0]
    raise UnfinishedError(
      f'{len(failed)} jobs failed, the first of them {first.cell.directory}: '
      f'{first.text.rstrip(".")}; {others}, and the same command tries again.'
    )


def run_unit(
  config: ConfigDict,
  directory: str,
  dataset: SequenceDataset,
  unit: Sequence[Cell],
) -> Events:
  """Runs cells that share embeddings, one after the other.

  Args:
    config: The whole config of the study.
    directory: The study's workdir.
    dataset: The dataset.
    unit: The cells, their pre-training first where it is missing.

  Yields:
    What became of each, in their order. If the pre-training fails, the
    others cannot be run.
  """
  cache = supervised.FeatureCache()
  for number, cell in enumerate(unit):
    start = time.monotonic()
    try:
      text = _run_cell(config, cell, directory, dataset, cache)
    except Exception as error:
      # One night's other results must not hang on it, whatever it is.
      text = str(error)
      if not isinstance(error, _EXPECTED):
        logging.exception('%s failed', cell.directory)
        text = f'{type(error).__name__}: {text.partition(chr(10))[0]}'
      diverged = isinstance(error, NonFiniteLossError)
      yield Event(cell, text, time.monotonic() - start, True, diverged)
      if cell.kind == 'pretrain':
        for other in unit[number + 1 :]:
          yield Event(other, f'{cell.directory} failed', 0.0, True, diverged)
        return
    else:
      yield Event(cell, text, time.monotonic() - start)


def _run_cell(config, cell, directory, dataset, cache) -> str:
  """Runs one job to its end; returns what to say of it."""
  derived = _job_config(config, cell, directory)
  path = os.path.join(directory, cell.directory)
  with workdir.locked(path):
    workdir.check_config(derived, path)
    if cell.kind == 'pretrain':
      start = time.monotonic()
      pretrain.run(derived, path, dataset)
      seconds = f'{time.monotonic() - start:.1f}\n'
      workdir.write_atomically(os.path.join(path, 'done'), seconds)
      return 'done'
    result = downstream.run(derived, path, dataset, cache)
    result['settings'] = _settings(config, cell)
    downstream.write_result(directory, result)
    if cell.kind == 'probe':
      # Heads are cheap to train again and many.
      shutil.rmtree(path)
  metric = result_lines.HEADLINES[cell.task]
  numbers = result['metrics'] or result['validation']
  return f'{metric} {numbers[metric]:.3f}'


def _check_overrides(config, cell) -> None:
  """Refuses a row, or a place on an axis, with a setting that none reads."""
  derived = grid.cell_config(config, cell, '')
  row = config.study.pretrainings[cell.objective]
  unread.check_overrides(derived, row, f'study.pretrainings.{cell.objective}')
  if cell.axis:
    name = f'study.axes.{cell.axis}.settings.{cell.setting}'
    place = config.study.axes[cell.axis].settings[cell.setting]
    unread.check_overrides(derived, place, name)


def _job_config(config, cell, directory) -> ConfigDict:
  """What the workdir of a cell says it was made with."""
  return initial_encoder.with_own_encoder(
    grid.cell_config(config, cell, directory)
  )


def _pretraining_seconds(config, cell, directory) -> float | None:
  """How long a finished pre-training took, None if it is not finished."""
  path = os.path.join(directory, cell.directory)
  done = os.path.join(path, 'done')
  if not os.path.exists(done):
    return None
  workdir.check_config(_job_config(config, cell, directory), path)
  with open(done) as f:
    # Nothing in it where an older version wrote it.
    return float(f.read() or 0)


def _evaluation_seconds(config, cell, lines, directory) -> float | None:
  """How long a finished evaluation took, None if it is not finished."""
  line = lines.get(cell.name)
  if line is None:
    return None
  what = f'{cell.name} in {os.path.join(directory, "results.jsonl")}'
  made = result_lines.settings_of(line)
  workdir.check_same(made, _settings(config, cell), what)
  before = (line.get('pretraining') or {}).get('settings')
  if before and cell.source:
    # The pre-training itself need not be there any more.
    now = unread.settings(_job_config(config, cell.source, directory))
    workdir.check_same(before, now, f'the encoder of {what}')
  return line['wall_seconds']


def _settings(config, cell) -> dict:
  """What the result of a cell depends on, wherever the study lies."""
  return unread.settings(grid.cell_config(config, cell, ''))


class _Progress:
  """One line a cell, with the time left over the whole grid."""

  def __init__(self, config: ConfigDict, cells: Sequence[Cell], processes: int):
    self._amounts = {cell: _amount(config, cell) for cell in cells}
    self._total = len(cells)
    self._left = dict.fromkeys(cells)
    self._processes = processes
    # Kind -> seconds and amount of work of the cells that are done.
    self._known: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

  def skip(self, cell: Cell, seconds: float) -> None:
    """Notes a cell that was done before."""
    del self._left[cell]
    if not seconds:
      return  # Not known.
    known = self._known[cell.kind]
    known[0] += seconds
    known[1] += self._amounts[cell]

  def show(self, event: Event) -> None:
    """Notes a cell that came to its end, and says so."""
    cell = event.cell
    if event.failed:
      del self._left[cell]
      logging.error('%s: failed: %s', self._name(cell), event.text)
      return
    self.skip(cell, event.seconds)
    logging.info(
      '%s: %s (%.0f s)%s',
      self._name(cell),
      event.text,
      event.seconds,
      self._time_left(),
    )

  def show_time(self, running: Sequence[str]) -> None:
    """Says what is running where nothing has ended for a while."""
    logging.info(
      '[%d/%d] running: %s%s',
      self._total - len(self._left),
      self._total,
      ', '.join(running),
      self._time_left(),
    )

  def _name(self, cell: Cell) -> str:
    done = self._total - len(self._left)
    labels = f'{cell.task} {cell.label_fraction:.0%}' if cell.task else ''
    # The row `majority` is of the protocol of that name.
    parts = dict.fromkeys((cell.objective, cell.variant, cell.kind, labels))
    name = ' '.join(filter(None, parts))
    return f'[{done}/{self._total}] {name} seed {cell.seed}'

  def _time_left(self) -> str:
    if not self._known:
      return ''
    done = self._total - len(self._left)
    # Of a kind that is not known yet, as long as the average cell.
    average = sum(known[0] for known in self._known.values()) / done
    left = 0.0
    for cell in self._left:
      if cell.kind in self._known:
        seconds, amount = self._known[cell.kind]
        left += seconds / amount * self._amounts[cell]
      else:
        left += average
    units = len(grid.units(list(self._left)))
    busy = max(min(self._processes, units), 1)
    kinds = {cell.kind for cell in self._left}
    # A pre-training takes far longer than the average that stands for it.
    least = '' if kinds <= set(self._known) else 'more than '
    return f' ETA {least}{format_seconds(left / busy)}'


def _amount(config: ConfigDict, cell: Cell) -> float:
  """What the time of a cell is proportional to, among those of its kind."""
  if cell.kind != 'pretrain':
    return 1.0
  derived = grid.cell_config(config, cell, '')
  return float(derived.total_steps * derived.batch_size)
