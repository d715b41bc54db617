"""From finished evaluations to a table. Reads files only."""

import os
import sys
from collections import defaultdict

import numpy as np

from bt4rec import workdir
from bt4rec.errors import InputError

# Task -> the metric of the main table.
HEADLINES = {
  'next_item': 'recall@10',
  'next_category': 'accuracy@1',
  'favorite_category': 'accuracy@1',
}
# Rows the gain of the others is given over, where they are there.
_REFERENCES = (
  'dual_encoder_public_code',
  'dual_encoder_plain',
  'dual_encoder_tuned',
)


def read_results(directories: list[str]) -> list[dict]:
  """Reads `results.jsonl` of workdirs.

  Raises:
    InputError: If there is none, or results of one dataset come from
      different splits or kinds of pre-training, or some of them from
      validation alone, which no table may mix.
  """
  lines = []
  for directory in directories:
    path = os.path.join(directory, 'results.jsonl')
    found = workdir.read_lines(path)
    if not found:
      raise InputError(
        f'{path} has no finished evaluation; name the workdirs of studies or '
        f'downstream jobs.'
      )
    lines.extend(found)
  for key, remedy in (
    ('split_fingerprint', 'report the data separately'),
    ('inductive', 'report the two settings separately'),
  ):
    kinds = defaultdict(set)
    for line in lines:
      kinds[line['dataset']].add(line[key])
    for dataset, values in kinds.items():
      if len(values) > 1:
        raise InputError(
          f'the results on {dataset} have different values of {key} '
          f'({", ".join(sorted(map(str, values)))}); {remedy}.'
        )
  for dataset in {line['dataset'] for line in lines}:
    of_dataset = [line for line in lines if line['dataset'] == dataset]
    if len({bool(line['metrics']) for line in of_dataset}) > 1:
      raise InputError(
        f'some of the results on {dataset} are of the test split and some of '
        f'validation alone (evaluate_test); report them separately.'
      )
  return lines


def make_report(directories: list[str]) -> str:
  """Returns the report of the results in workdirs as Markdown.

  It shows the test metrics, or those of validation where no test was made.
  """
  lines = read_results(directories)
  parts = []
  for dataset in dict.fromkeys(line['dataset'] for line in lines):
    of_dataset = [line for line in lines if line['dataset'] == dataset]
    parts.append(_describe(dataset, of_dataset))
    for task in dict.fromkeys(line['task'] for line in of_dataset):
      chosen = [line for line in of_dataset if line['task'] == task]
      parts.append(_task_table(task, chosen))
  return '\n\n'.join(parts) + '\n'


def _describe(dataset: str, lines: list[dict]) -> str:
  seeds = sorted({line['seed'] for line in lines})
  users = 'training users only' if lines[0]['inductive'] else 'all users'
  commits = ', '.join(sorted({line['commit'] for line in lines}))
  devices = ', '.join(sorted({line['device'] for line in lines}))
  hours = sum(line['wall_seconds'] for line in lines) / 3600
  return (
    f'# {dataset}\n\n'
    f'Mean ± standard deviation over seeds {seeds}. Pre-trained on the '
    f'visible past of {users}. Split {lines[0]["split_fingerprint"]}, commit '
    f'{commits}, {devices}, {hours:.2f} h of downstream training.'
  )


def _task_table(task: str, lines: list[dict]) -> str:
  """Markdown table: a row per encoder, a column per label fraction."""
  metric = HEADLINES[task]
  fractions = sorted({line['label_fraction'] for line in lines})
  values = defaultdict(list)
  for line in sorted(lines, key=lambda line: line['seed']):
    row = (line['objective'], line['protocol'])
    numbers = line['metrics'] or line['validation']
    values[row, line['label_fraction']].append(numbers[metric])
  rows = list(dict.fromkeys(row for row, _ in values))
  split = '' if lines[0]['metrics'] else ' on validation'
  header = [f'{task}: {metric}{split}', *(f'{f:.0%} labels' for f in fractions)]
  table = [header, ['---'] * len(header)]
  for row in rows:
    objective, protocol = row
    name = objective if objective == protocol else f'{objective}, {protocol}'
    table.append([name, *(_mean_std(values.get((row, f))) for f in fractions)])
  table += _gains(values, rows, fractions)
  return '\n'.join('| ' + ' | '.join(cells) + ' |' for cells in table)


def _gains(values, rows, fractions) -> list[list[str]]:
  """Rows with the relative gain of Barlow Twins over each dual encoder."""
  gains = []
  for protocol in ('probe', 'finetune'):
    own = ('barlow_twins', protocol)
    for reference in _REFERENCES:
      other = (reference, protocol)
      if own not in rows or other not in rows:
        continue
      cells = [
        _relative(values.get((own, f)), values.get((other, f)))
        for f in fractions
      ]
      gains.append([f'gain over {reference}, {protocol}', *cells])
  return gains


def _mean_std(values: list[float] | None) -> str:
  if not values:
    return ''
  if len(values) == 1:
    return f'{values[0]:.3f}'
  return f'{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}'


def _relative(own: list[float] | None, other: list[float] | None) -> str:
  if not own or not other or not np.mean(other):
    return ''
  return f'{np.mean(own) / np.mean(other) - 1:+.1%}'


def main(arguments: list[str]) -> int:
  """Prints the report of the workdirs given; returns the exit status."""
  if not arguments or arguments[0].startswith('-'):
    print('usage: python -m bt4rec.report WORKDIR [WORKDIR...]')
    return 0 if arguments[:1] in (['--help'], ['-h']) else 2
  try:
    print(make_report(arguments), end='')
  except InputError as error:
    print(f'bt4rec: {error}', file=sys.stderr)
    return 2
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
