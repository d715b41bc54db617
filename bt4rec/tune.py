"""Random search of a pre-training's settings, judged on validation alone.

A trial is a pre-training with drawn settings and a linear probe of every task,
so a search is a study whose rows are its trials. The number of trials and of
steps is the same whatever is searched, and no trial is cut short. Before the
first one comes what the search starts from, so that it cannot end below that.
"""

import functools
import hashlib
import json
import math
import os
import pprint
from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from bt4rec import cell_runner, grid, result_lines, workdir
from bt4rec.datasets import SequenceDataset
from bt4rec.errors import InputError, choose

# A position in [0, 1) and the rest of the entry -> value.
_KINDS: dict[str, Callable] = {
  'uniform': lambda u, low, high: _round(low + u * (high - low)),
  'log_uniform': lambda u, low, high: _round(low * (high / low) ** u),
  'choice': lambda u, *values: values[int(u * len(values))],
}

# Name of the trial that nothing is drawn for.
_START = 'start'


def _round(value: float) -> float:
  """What is printed is what was run."""
  return float(f'{value:.3g}')


def draw(space: dict, seed: int, trial: int, path: str = '') -> dict:
  """Draws the settings of a trial.

  A function of the seed, the trial and the name of the field alone: other
  fields, or more trials, change nothing of it, and two searches draw the same
  value where they have a field and its range in common.

  Args:
    space: Field -> group of fields, or a tuple: ('uniform', low, high),
      ('log_uniform', low, high) or ('choice', value, ...).
    seed: Seed of the search.
    trial: Number of the trial.
    path: Name of the group, followed by a dot.

  Returns:
    Field -> value, in groups as in `space`. Numbers that were not chosen from a
    list have three digits.

  Raises:
    InputError: If an entry of the space cannot be read.
  """
  values = {}
  for name, entry in space.items():
    if isinstance(entry, dict):
      values[name] = draw(entry, seed, trial, f'{path}{name}.')
      continue
    kind, *rest = entry
    value_at = choose(f'kind of {path}{name} in the space', kind, _KINDS)
    digest = hashlib.blake2b(
      f'search {seed} {path}{name}'.encode(), digest_size=16
    )
    # The counter's high word is the trial.
    bits = np.random.Philox(
      key=int.from_bytes(digest.digest(), 'little'), counter=[0, 0, 0, trial]
    )
    try:
      values[name] = value_at(np.random.Generator(bits).random(), *rest)
    except (TypeError, ZeroDivisionError, IndexError) as error:
      raise InputError(
        f'the space of {path}{name} is {tuple(entry)}; give a low and a high '
        f'number, above 0 for log_uniform, or the values to choose from.'
      ) from error
  return values


def score(numbers: dict[str, float], majority: dict[str, float]) -> float:
  """What trials are compared by: the gain over the majority class.

  The geometric mean over the tasks of metric / the majority's metric, so that
  one per cent more counts the same on an easy task and on a hard one.

  Args:
    numbers: Task -> metric of the trial on validation.
    majority: Task -> the same of the majority class, or popularity.
  """
  ratios = [numbers[task] / max(majority[task], 1e-9) for task in majority]
  return math.prod(ratios) ** (1 / len(ratios))


def run(config: ConfigDict, directory: str, dataset: SequenceDataset) -> str:
  """Runs what is missing of the trials and names the best.

  Args:
    config: The whole config of a search.
    directory: The output directory, locked by the caller; gets
      `trials.jsonl`, a line a trial.
    dataset: The dataset.

  Returns:
    The trials as Markdown, the best first, and its settings as an entry for
    configs/presets.py.

  Raises:
    InputError: If the config is not valid.
    UnfinishedError: If a trial failed for another reason than a loss that is
      not finite, which is a result of its settings.
  """
  search = config.tune
  if search.num_trials < 1:
    raise InputError(f'tune.num_trials={search.num_trials} must be at least 1.')
  if config.evaluate_test:
    raise InputError(
      'a search is judged on validation; leave evaluate_test=False.'
    )
  for field in ('seeds', 'label_fractions'):
    if len(config.study[field]) != 1:
      raise InputError(
        f'study.{field}={tuple(config.study[field])}: a trial is judged by one '
        f'number for each task; give one of the {field.replace("_", " ")}.'
      )
  drawn = _draw_all(config)
  study = _make_study(config)
  errors: dict[str, str] = {}

  def note(event: cell_runner.Event) -> None:
    if event.failed:
      errors.setdefault(event.cell.objective, event.text)
    _write_trials(directory, config, drawn, errors)

  failed = cell_runner.run_cells(
    study, directory, dataset, grid.cells(study), note
  )
  trials = _write_trials(directory, config, drawn, errors)
  text = _describe(config, trials)
  path = os.path.join(directory, 'report.md')
  workdir.write_atomically(path, text)
  cell_runner.require_all(
    [event for event in failed if not event.diverged],
    f'the report of the others is {path}',
  )
  return text


def _draw_all(config: ConfigDict) -> dict[str, dict]:
  """Name of each trial -> its settings, of the start none."""
  search = config.tune
  return {
    f'{search.row}-{_START}': {},
    **{
      f'{search.row}-{trial}': draw(search.space.to_dict(), search.seed, trial)
      for trial in range(search.num_trials)
    },
  }


def _make_study(config: ConfigDict) -> ConfigDict:
  """The study whose rows are the trials."""
  drawn = _draw_all(config)
  study = config.copy_and_resolve_references()
  with study.unlocked():
    study.study.pretrainings = ConfigDict(
      {
        name: _merged(config.tune.base, values)
        for name, values in drawn.items()
      }
    )
  study.study.rows = ('majority', *drawn)
  return study


def parts(config: ConfigDict) -> list[Callable[[ConfigDict], ConfigDict]]:
  """As `grid.parts`, of the config of a search."""

  def of_search(part: Callable, config: ConfigDict) -> ConfigDict:
    return part(_make_study(config))

  return [
    functools.partial(of_search, part)
    for part in grid.parts(_make_study(config))
  ]


def _merged(base: ConfigDict, values: dict) -> ConfigDict:
  merged = base.copy_and_resolve_references()
  with merged.unlocked():
    merged.update(values)
  return merged


def _write_trials(directory, config, drawn, errors) -> list[dict]:
  """Rewrites `trials.jsonl` from the results; returns its lines."""
  found: dict[str, dict] = {}
  for line in workdir.read_lines(os.path.join(directory, 'results.jsonl')):
    found.setdefault(line['objective'], {})[line['task']] = line['validation']
  majority = _headlines(found.get('majority', {}))
  trials = []
  for name, values in drawn.items():
    validation = found.get(name, {})
    # One that is not finished has no line yet.
    is_done = set(validation) == set(majority) == set(config.study.tasks)
    if not is_done and name not in errors:
      continue
    trials.append(
      {
        'trial': name.rpartition('-')[2],
        'objective': config.tune.row,
        'seed': config.tune.seed,
        'values': values,
        'score': score(_headlines(validation), majority) if is_done else None,
        'validation': validation,
        'error': errors.get(name, ''),
      }
    )
  text = ''.join(json.dumps(trial) + '\n' for trial in trials)
  workdir.write_atomically(os.path.join(directory, 'trials.jsonl'), text)
  return trials


def _headlines(of_task: dict[str, dict]) -> dict[str, float]:
  return {
    task: numbers[result_lines.HEADLINES[task]]
    for task, numbers in of_task.items()
  }


def _describe(config: ConfigDict, trials: list[dict]) -> str:
  """The table of the trials and the settings of the best."""
  ranked = sorted(
    trials, key=lambda trial: (trial['score'] is None, -(trial['score'] or 0))
  )
  tasks = list(config.study.tasks)
  rows = [['trial', 'score', *tasks, 'settings']]
  rows.append(['---'] * len(rows[0]))
  for trial in ranked:
    values = json.dumps(trial['values']).replace('"', '')
    if trial['score'] is None:
      middle = [trial['error'], *[''] * len(tasks)]
    else:
      numbers = _headlines(trial['validation'])
      middle = [f'{trial["score"]:.3f}', *(f'{numbers[t]:.3f}' for t in tasks)]
    rows.append([trial['trial'], *middle, values])
  parts = [
    f'# {config.dataset.name}: {config.tune.row}, {len(trials)} trials',
    f'Validation, probes with {config.study.label_fractions[0]:.0%} of the '
    f'labels. Score: geometric mean over the tasks of the metric relative to '
    f'the majority class. Seed {config.tune.seed}.',
    '\n'.join('| ' + ' | '.join(row) + ' |' for row in rows),
  ]
  if ranked and ranked[0]['score'] is not None:
    parts.append(_fragment(config, ranked[0]))
  return '\n\n'.join(parts) + '\n'


def _fragment(config: ConfigDict, best: dict) -> str:
  """The best trial as a row of `pretrainings` in configs/presets.py."""
  overrides = _merged(config.tune.base, best['values']).to_dict()
  lines = pprint.pformat(overrides, width=72, sort_dicts=False).splitlines()
  body = '\n'.join(f'    {line}' for line in lines).lstrip()
  return (
    f'For configs/presets.py (trial {best["trial"]}, score '
    f'{best["score"]:.3f}):\n\n```python\n'
    f'    # Of configs/tune.py:{config.dataset.name},{config.tune.row}.\n'
    f"    '{config.tune.row}': {body},\n```"
  )
