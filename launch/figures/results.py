"""Draws ml1m.png from the results table of README.md, where it is shown.

Command:  .venv/bin/python launch/figures/ml1m.py
          (with the extra `plots`, which launch/test.sh installs)
"""

import hashlib
import pathlib
import re

from matplotlib.backends.backend_agg import FigureCanvasAgg

from bt4rec import report_plots

_ROOT = pathlib.Path(__file__).resolve().parents[2]
_HEADING = '### MovieLens-1M\n'
_DPI = 150


def table_of(readme: str) -> str:
  """The section of README.md with the results on MovieLens-1M."""
  section = readme.partition(_HEADING)[2].partition('\n### ')[0]
  rows = [line for line in section.splitlines() if line.startswith('|')]
  return '\n'.join(rows)


def lines_of(table: str) -> list[dict]:
  """Evaluations, as in `results.jsonl`, with the figures of the table.

  Of three seeds: the mean, and one standard deviation below and above it,
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
      found = re.fullmatch(r'([\d.]+) ± ([\d.]+)', cell)
      if not found:
        continue
      mean, std = map(float, found.groups())
      lines += [
        {
          'dataset': 'ml1m',
          'task': task,
          'objective': objective,
          'protocol': protocol or objective,
          'label_fraction': fraction,
          'seed': seed,
          'metrics': {metric: mean + (seed - 1) * std},
        }
        for seed in range(3)
      ]
  return lines


def digest_of(table: str) -> str:
  """By which a picture is known to be that of a table."""
  return hashlib.sha256(table.encode()).hexdigest()


def main() -> None:
  """Draws the picture."""
  table = table_of((_ROOT / 'README.md').read_text())
  figure = report_plots.accuracy_by_label_fraction(lines_of(table))
  figure.set_dpi(_DPI)
  path = pathlib.Path(__file__).with_suffix('.png')
  with open(path, 'wb') as f:
    FigureCanvasAgg(figure).print_png(
      f, metadata={'Source': f'README.md {digest_of(table)}'}
    )
  print(path)


if __name__ == '__main__':
  main()
