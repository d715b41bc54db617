"""Finished evaluations, as lines of `results.jsonl`: read, check, group.

A line is a dict as `downstream.run` returns it, here with two keys besides:
`workdir`, that it was read from, as it was named; and `directory`, where that
is, or its copy.
"""

import dataclasses
import functools
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from bt4rec import downstream, remote, workdir
from bt4rec.errors import InputError

# Task -> the metric of the main table.
HEADLINES = {
  'next_item': 'recall@10',
  'next_category': 'accuracy@1',
  'favorite_category': 'accuracy@1',
  'user_attribute': 'accuracy@1',
}
# What tells pre-trainings of one name apart -> how a row of the table says it.
_SETTINGS = {
  'batch_size': 'batch {}',
  'num_negatives': '{} negatives',
  'total_steps': 'of {} steps',
  'step': 'step {}',
}


# Of a job's settings, what lines of one row may differ in.
_OF_THE_LINE = ('seed', 'label', 'label_fraction', 'init_from', 'init_step')


@dataclasses.dataclass(frozen=True)
class Row:
  """A row of a table: its lines differ in task, label fraction and seed alone.

  Attributes:
    objective: What was pre-trained, or the row's own name.
    protocol: How the labels were used.
    setting: What else tells it from others of this name: (key of
      `line['pretraining']`, value), or (axis of `line['variant']` with its
      '=', value), None where the variant does not name the axis.
  """

  objective: str
  protocol: str
  setting: tuple[tuple[str, Any], ...] = ()

  @property
  def name(self) -> str:
    """Such as 'barlow_twins, probe, batch_size=32'."""
    names = [self.objective]
    if self.protocol != self.objective:
      names.append(self.protocol)
    return ', '.join([*names, *self.setting_names])

  @property
  def setting_names(self) -> list[str]:
    """The setting in words."""
    names = []
    for key, value in self.setting:
      if key in _SETTINGS:
        text = 'unknown' if value is None else f'{value:,}'
        names.append(_SETTINGS[key].format(text))
      elif value is not None:
        names.append(f'{key}{value}')
    return names

  @property
  def is_variant(self) -> bool:
    """Whether a study made it by varying what the others have alike."""
    return any(
      key not in _SETTINGS and value is not None for key, value in self.setting
    )

  def without(self, *keys: str) -> 'Row':
    """The row with part of its setting left open."""
    rest = tuple(pair for pair in self.setting if pair[0] not in keys)
    return dataclasses.replace(self, setting=rest)


def headline(line: dict, numbers: dict | None = None) -> float:
  """The metric of the main table, of the test or else of validation.

  Args:
    line: A finished evaluation.
    numbers: Metrics to take it from instead, such as those of a cold start.
  """
  if numbers is None:
    numbers = line['metrics'] or line['validation']
  return numbers[HEADLINES[line['task']]]


def settings_of(line: dict) -> dict[str, Any]:
  """What an evaluation was made with; empty where its version did not say.

  A field that a version did not know had what is its default now, but for
  those named here.
  """
  settings = line.get('settings') or {}
  if settings and line['protocol'] == 'finetune':
    return {'head.total_steps': 0, **settings}
  return settings


def usual_fraction(lines: list[dict]) -> float:
  """The label fraction with the most lines, of several the one near 10 %."""
  counts = Counter(line['label_fraction'] for line in lines)
  return max(counts, key=lambda f: (counts[f], -abs(np.log(f / 0.1))))


def task_name(line: dict) -> str:
  """The task with what it asks for: 'next_item', 'user_attribute gender'."""
  return ' '.join(filter(None, [line['task'], line.get('attribute')]))


def read_results(directories: list[str]) -> list[dict]:
  """Reads `results.jsonl` of workdirs.

  Raises:
    InputError: If a workdir has none; if results of one dataset come from
      different splits or kinds of pre-training, or some of them from
      validation alone, which no table may mix; if the seeds of a row had
      different settings; or if one evaluation is there twice.
  """
  lines: list[dict] = []
  for directory in directories:
    # Checkpoints are the most of a workdir, and not read.
    local = remote.fetched(directory, without=['checkpoints'])
    found = workdir.read_lines(os.path.join(local, 'results.jsonl'))
    if not found:
      raise InputError(
        f'{directory}/results.jsonl has no finished evaluation; name the '
        f'workdirs of studies or downstream jobs.'
      )
    lines.extend(
      {**line, 'directory': local, 'workdir': remote.shown(directory)}
      for line in found
    )
  for of_dataset in by_dataset(lines).values():
    _check_comparable(of_dataset)
    for row, of_row in by_row(of_dataset).items():
      _check_distinct(row, of_row)
      _check_alike(row, of_row)
  return lines


def by_dataset(lines: list[dict]) -> dict[str, list[dict]]:
  """Dataset -> its lines, in the order they were read."""
  return _group(lines, lambda line: line['dataset'])


def by_task(lines: list[dict]) -> dict[str, list[dict]]:
  """Task -> its lines; the tasks in the order of `HEADLINES`."""
  groups = _group(lines, lambda line: line['task'])
  return {task: groups[task] for task in HEADLINES if task in groups}


def by_row(
  lines: list[dict], first: str | None = None
) -> dict[Row, list[dict]]:
  """Groups the lines of one dataset by the row of the table they belong to.

  Variants of a study, and pre-trainings of one name that differ, are rows of
  their own. What follows from the rest of the setting is not part of it. The
  step is one only where several steps of one pre-training were evaluated:
  early stopping chooses another one with each seed.

  Args:
    lines: Lines of one dataset.
    first: Key of `line['pretraining']` to tell rows apart by before all else.
  """
  rows: dict[Row, list[dict]] = {}
  names = _group(lines, lambda line: (line['objective'], line['protocol']))
  for (objective, protocol), of_name in names.items():
    axes = dict.fromkeys(axis for line in of_name for axis in _variant(line))
    axes.pop(f'{first}=', None)
    keys = dict.fromkeys([*([first] if first else []), *axes, *_SETTINGS])
    kept: list[str] = []
    for key in keys:
      if _tells_apart(of_name, kept, key):
        kept.append(key)
    settings = _group(of_name, functools.partial(_setting, keys=kept))
    for setting, of_row in settings.items():
      pairs = tuple(zip(kept, setting, strict=True))
      rows[Row(objective, protocol, pairs)] = of_row
  return rows


def main_rows(rows: dict[Row, list[dict]]) -> dict[Row, list[dict]]:
  """The rows of the main table: no variants, where there is what they vary."""
  chosen = {}
  names = _group(rows, lambda row: (row.objective, row.protocol))
  for of_name in names.values():
    plain = [row for row in of_name if not row.is_variant]
    chosen.update({row: rows[row] for row in plain or of_name})
  return chosen


def user_outcomes(lines: list[dict]) -> np.ndarray | None:
  """What the headline metric is the mean of, per test user.

  Args:
    lines: Lines of one task, row and label fraction, one a seed.

  Returns:
    [num_users] float64, the mean over seeds of 1 where the user is a hit and
    0 where not; None where a line has no outcomes on disk.

  Raises:
    InputError: If outcomes are not those of the reported metric.
  """
  hits = []
  for line in lines:
    name = f'{downstream.cell_name(line)}.npy'
    path = os.path.join(line['directory'], 'outcomes', name)
    if not line['metrics'] or not os.path.exists(path):
      return None
    try:
      outcomes = np.load(path)
    except (OSError, ValueError) as error:
      raise InputError(
        f'cannot read {path} ({error}); run its evaluation again, or remove '
        f'the file to do without the interval.'
      ) from error
    # An outcome is the rank of the item, or whether the class was right.
    ranks = HEADLINES[line['task']].partition('recall@')[2]
    hit = outcomes <= int(ranks) if ranks else outcomes
    mean = hit.mean(dtype=np.float64) if len(hit) else np.nan
    if not np.isclose(mean, headline(line), rtol=0, atol=1e-6):
      raise InputError(
        f'{path} has {len(hit)} outcomes of mean {mean:.6f}, but the result '
        f'says {HEADLINES[line["task"]]} {headline(line):.6f}; the two are '
        f'not of one run: run the evaluation again.'
      )
    hits.append(hit)
  if len({len(hit) for hit in hits}) > 1:
    raise InputError(
      f'{lines[0]["task"]} on {lines[0]["dataset"]} has '
      f'{", ".join(str(len(hit)) for hit in hits)} test examples with seeds '
      f'{", ".join(str(line["seed"]) for line in lines)}; the users differ: '
      f'report them separately.'
    )
  return np.stack(hits).astype(np.float64).mean(axis=0)


def _group(things: Iterable, key: Callable[[Any], Any]) -> dict[Any, list]:
  groups = defaultdict(list)
  for thing in things:
    groups[key(thing)].append(thing)
  return dict(groups)


def _variant(line: dict) -> dict[str, str]:
  """'a=1,b=2' -> {'a=': '1', 'b=': '2'}."""
  parts = filter(None, (line.get('variant') or '').split(','))
  named = (part.partition('=') for part in parts)
  return {axis + equals: value for axis, equals, value in named}


def _setting(line: dict, keys: list[str]) -> tuple:
  facts = {**(line.get('pretraining') or {}), **_variant(line)}
  return tuple(facts.get(key) for key in keys)


def _tells_apart(lines: list[dict], kept: list[str], key: str) -> bool:
  """Whether a fact differs between lines that agree in those kept."""
  fields = ('task', 'label_fraction', 'seed') if key == 'step' else ()
  groups = _group(
    lines,
    lambda line: (_setting(line, kept), *(line[field] for field in fields)),
  )
  # A line of an older version does not say; it is no evidence.
  unknown = {(None,)} if key in _SETTINGS else set()
  return any(
    len({_setting(line, [key]) for line in group} - unknown) > 1
    for group in groups.values()
  )


def _check_comparable(lines: list[dict]) -> None:
  """Refuses lines of one dataset that no table may mix."""
  dataset = lines[0]['dataset']
  for key, remedy in (
    ('split_fingerprint', 'report the data separately'),
    ('category_fingerprint', 'report the data separately'),
    ('attribute', 'report each by itself'),
    ('label_fingerprint', 'report the labels separately'),
    ('split_seed', 'report the splits separately'),
    ('exclude_seen', 'report the two settings separately'),
    ('inductive', 'report the two settings separately'),
    ('pretrain_scope', 'report the two scopes separately'),
  ):
    # A line of an older version does not say all; it is no evidence.
    facts = [{**(line.get('pretraining') or {}), **line} for line in lines]
    values = {line[key] for line in facts if key in line}
    if len(values) > 1:
      raise InputError(
        f'the results on {dataset} have different values of {key} '
        f'({", ".join(sorted(map(str, values)))}); {remedy}.'
      )
  if len({bool(line['metrics']) for line in lines}) > 1:
    raise InputError(
      f'some of the results on {dataset} are of the test split and some of '
      f'validation alone (evaluate_test); report them separately.'
    )


def _check_distinct(row: Row, lines: list[dict]) -> None:
  """Refuses the same evaluation twice, which would pass for two seeds."""
  cells = _group(
    lines,
    lambda line: (line['task'], line['label_fraction'], line['seed']),
  )
  for (task, fraction, seed), same in cells.items():
    if len(same) > 1:
      folders = ' and in '.join(line['workdir'] for line in same)
      raise InputError(
        f'{row.name} on {task} of {lines[0]["dataset"]} with label fraction '
        f'{fraction:g} and seed {seed} is there more than once, in '
        f'{folders}; report one of them, or give the runs different names '
        f'with --config.label.'
      )


def _check_alike(row: Row, lines: list[dict]) -> None:
  """Refuses other settings of encoder or evaluation in the place of seeds."""
  # The first line of each kind that says what it was made with, and that.
  first: dict[str, tuple[dict, dict]] = {}
  for line in lines:
    encoder = (line.get('pretraining') or {}).get('settings')
    made = {'the pre-training': encoder, line['task']: settings_of(line)}
    for kind, settings in made.items():
      if not settings:
        continue
      other, before = first.setdefault(kind, (line, settings))
      # A version that did not know a field had its default.
      for key in sorted({*before} & {*settings} - {*_OF_THE_LINE}):
        if before[key] != settings[key]:
          raise InputError(
            f'{row.name} on {line["dataset"]} is no row of one kind: '
            f'{kind} has {key}={before[key]!r} with seed {other["seed"]} '
            f'in {other["workdir"]} and {settings[key]!r} with seed '
            f'{line["seed"]} in {line["workdir"]}; report them separately, or '
            f'give the runs different names with --config.label.'
          )
