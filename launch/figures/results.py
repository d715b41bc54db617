"""Draws a picture of each dataset's results in README.md, where it is shown.

Command:  .venv/bin/python launch/figures/results.py
          (with the extra `plots`, which launch/test.sh installs)
"""

import hashlib
import pathlib
import re

from matplotlib.backends.backend_agg import FigureCanvasAgg

from bt4rec import report_plots

_ROOT = pathlib.Path(__file__).resolve().parents[2]
# Picture -> the section of README.md that it is of.
SECTIONS = {'ml1m': 'MovieLens-1M', 'yelp': 'Yelp'}
_DPI = 150


def path_of(picture: str) -> pathlib.Path:
  """Where a picture lies."""
  return pathlib.Path(__file__).with_name(f'{picture}.png')


def table_of(readme: str, heading: str) -> str:
  """The tables of a section of README.md."""
  section = readme.partition(f'### {heading}\n')[2].partition('\n### ')[0]
  rows = [line for line in section.splitlines() if line.startswith('|')]
  return '\n'.join(rows)


def lines_of(table: str) -> list[dict]:
  """Evaluations, as in `results.jsonl`, with the figures of the table.

  Of several seeds: the mean, and one standard deviation below and above it,
  whose mean and standard deviation are those of the table.
  """
  lines = []
  for row in table.splitlines():
    name, *cells = (cell.strip() for cell in row.strip('|').split('|'))
    if ': ' in name:
      task, metric = name.split(': ')
      fractions = [float(cell.partition('%')[0]) / 100 for cell in cells]
    objective, _, protocol = name.partition(', ')
    for fraction, cell in zip(fractions, cells, strict=True):
      found = re.fullmatch(r'([\d.]+)(?: ± ([\d.]+))?', cell)
      if not found:
        continue
      mean, std = float(found[1]), found[2]
      values = [mean]
      if std:
        values = [mean - float(std), mean, mean + float(std)]
      lines += [
        {
          'dataset': 'results',
          'task': task,
          'objective': objective,
          'protocol': protocol or objective,
          'label_fraction': fraction,
          'seed': seed,
          'metrics': {metric: value},
        }
        for seed, value in enumerate(values)
      ]
  return lines


def digest_of(table: str) -> str:
  """By which a picture is known to be that of a table."""
  return hashlib.sha256(table.encode()).hexdigest()


def main() -> None:
  """Draws the pictures."""
  readme = (_ROOT / 'README.md').read_text()
  for picture, heading in SECTIONS.items():
    table = table_of(readme, heading)
    figure = report_plots.accuracy_by_label_fraction(lines_of(table))
    figure.set_dpi(_DPI)
    with open(path_of(picture), 'wb') as f:
      FigureCanvasAgg(figure).print_png(
        f, metadata={'Source': f'README.md {digest_of(table)}'}
      )
    print(path_of(picture))


if __name__ == '__main__':
  main()
