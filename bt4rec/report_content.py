"""What a report says, before it is Markdown or HTML."""

import dataclasses
import os
import sys

from absl import logging

from bt4rec import (
  figures,
  remote,
  report_plots,
  report_tables,
  result_lines,
  workdir,
)
from bt4rec.errors import InputError, StorageError

_GAIN = (
  'Gain: of Barlow Twins, relative, of the means over the seeds that both have.'
)
_INTERVAL = (
  'In brackets the 95 % interval of a paired bootstrap over the test users '
  '(10,000 resamples of the users, each averaged over the seeds). It is about '
  'these seeds and other users, not about other seeds.'
)
_CURVES = 'A line for each seed. Losses of different objectives do not compare.'


@dataclasses.dataclass(frozen=True)
class Picture:
  """A plot, drawn.

  Attributes:
    name: Of its file, without the ending.
    title: What it shows.
    caption: How to read it.
    png: The bytes of the PNG file.
  """

  name: str
  title: str
  caption: str
  png: bytes


@dataclasses.dataclass(frozen=True)
class Section:
  """What the report says of one dataset.

  Attributes:
    dataset: Its name.
    notes: Paragraphs that say what the tables show.
    tables: The main tables.
    pictures: The plots.
    details: Tables of short inputs, and of what a study varied.
    provenance: Name -> what the results were made of and with.
  """

  dataset: str
  notes: list[str]
  tables: list[report_tables.Table]
  pictures: list[Picture]
  details: list[report_tables.Table]
  provenance: dict[str, str]


def make_sections(lines: list[dict], with_plots: bool) -> list[Section]:
  """Makes the content of a report.

  Args:
    lines: Of `result_lines.read_results`.
    with_plots: Whether to draw; without matplotlib a log line says how to get
      it, and there are no plots.

  Returns:
    A section for each dataset.
  """
  sections = []
  for dataset, of_dataset in result_lines.by_dataset(lines).items():
    tables = report_tables.main_tables(of_dataset)
    sections.append(
      Section(
        dataset,
        _notes(of_dataset, tables),
        tables,
        _pictures(dataset, of_dataset) if with_plots else [],
        [
          *report_tables.cold_start_tables(of_dataset),
          *report_tables.variant_tables(of_dataset),
        ],
        _provenance(of_dataset),
      )
    )
  return sections


def _notes(lines: list[dict], tables: list[report_tables.Table]) -> list[str]:
  seeds = sorted({line['seed'] for line in lines})
  users = 'training users only' if lines[0]['inductive'] else 'all users'
  scopes = {(x.get('pretraining') or {}).get('pretrain_scope') for x in lines}
  events = 'the visible past'
  if 'leave_two_out' in scopes:
    events = 'all but the last two events'
  of_seeds = f'Seed {seeds[0]}'
  if len(seeds) > 1:
    of_seeds = f'Mean ± standard deviation over seeds {seeds}'
  notes = [f'{of_seeds}. Pre-trained on {events} of {users}.']
  cells = [cell for table in tables for row in table.rows for cell in row]
  if any(cell.startswith('gain') for cell in cells):
    has_interval = any('[' in cell for cell in cells)
    notes.append(f'{_GAIN} {_INTERVAL}' if has_interval else _GAIN)
  return notes


def _provenance(lines: list[dict]) -> dict[str, str]:
  def values(key):
    return sorted({line[key] for line in lines if line.get(key)})

  versions = dict.fromkeys(
    ', '.join(f'{name} {number}' for name, number in line['versions'].items())
    for line in lines
    if line.get('versions')
  )
  hours = sum(line['wall_seconds'] for line in lines) / 3600
  facts = {
    'Split fingerprint': lines[0]['split_fingerprint'],
    'Commit': ', '.join(values('commit')),
    'Device': ', '.join(values('device')),
    'Time': f'{hours:.2f} h of downstream training',
    'Versions': '; '.join(versions),
    'Command': '; '.join(values('command')),
    'Results': ', '.join(
      f'{name} ({count})' for name, count in _counts(lines, 'workdir').items()
    ),
  }
  return {name: fact for name, fact in facts.items() if fact}


def _counts(lines: list[dict], key: str) -> dict[str, int]:
  counts: dict[str, int] = {}
  for line in lines:
    counts[line[key]] = counts.get(line[key], 0) + 1
  return counts


def _pictures(dataset: str, lines: list[dict]) -> list[Picture]:
  drawn = []
  try:
    for name, plot in report_plots.PLOTS.items():
      drawn.append((name, plot.title, plot.caption, plot.draw(lines)))
    curves = report_plots.learning_curves(_runs(lines))
    drawn.append(('learning_curves', 'Learning curves', _CURVES, curves))
  except ImportError:
    logging.warning(
      'no plots: matplotlib is not installed; %s -m pip install matplotlib.',
      sys.executable,
    )
    return []
  return [
    Picture(f'{dataset}-{name}', title, caption, figures.png(figure))
    for name, title, caption, figure in drawn
    if figure is not None
  ]


def _copy_of(source: str) -> str:
  """Where a pre-training can be read; where it cannot it has no curve."""
  try:
    return remote.fetched(source, without=['checkpoints'])
  except (InputError, StorageError) as error:
    logging.warning('no learning curve of %s: %s', source, error)
    return source


def _runs(lines: list[dict]) -> dict[str, list[list[dict]]]:
  """Name -> metrics of its runs: the trainings, and what they started from."""
  folders: dict[str, str] = {}
  for directory, count in _counts(lines, 'directory').items():
    pretrainings = os.path.join(directory, 'pretrain')
    if os.path.isdir(pretrainings):
      for name in sorted(os.listdir(pretrainings)):
        folders.setdefault(os.path.join(pretrainings, name), name)
      continue
    if os.path.exists(os.path.join(directory, 'config.json')):
      source = workdir.read_config(directory).get('init_from')
      if source:
        copy = _copy_of(source)
        folders.setdefault(os.path.abspath(copy), os.path.basename(source))
    if count == 1:
      (line,) = (li for li in lines if li['directory'] == directory)
      (row,) = result_lines.by_row([line])
      folders[directory] = f'{row.name}\n{line["task"]}'
  runs: dict[str, list[list[dict]]] = {}
  for folder, name in folders.items():
    found = workdir.read_lines(os.path.join(folder, 'metrics.jsonl'))
    if found:
      config = workdir.read_config(folder)
      # What a study varies would be many more.
      if not config.get('variant'):
        name = name.removesuffix(f'-{config.seed}')
        runs.setdefault(name, []).append(found)
  return runs
