"""The plots of the report, from lines of `results.jsonl`."""

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from bt4rec import figures, result_lines
from bt4rec.result_lines import Row

# Rows that look the same in every plot, no more than there are colours; others
# take what is left.
_KNOWN = (
  'barlow_twins',
  'barlow_twins_contexts',
  'dual_encoder_contexts',
  'dual_encoder_tuned',
  'dual_encoder_plain',
  'dual_encoder_public_code',
  'random',
)
# Of one axes, in inches: three side by side stay legible on a printed page.
_WIDTH, _HEIGHT = 3.4, 3.0
_BAND = 'The band is ± 1 standard deviation over seeds.'

# Row -> place on the x axis -> values, one a seed.
Series = dict[Row, dict[float, list[float]]]


def accuracy_by_label_fraction(lines: list[dict]):
  """Accuracy against the share of labelled users, one axes a task.

  Args:
    lines: Lines of one dataset.

  Returns:
    A figure, or None where there are fewer than two label fractions.
  """
  rows = result_lines.main_rows(result_lines.by_row(lines))
  panels = {}
  for task, of_task in result_lines.by_task(lines).items():
    series = _collect(
      (row, 100 * line['label_fraction'], result_lines.headline(line))
      for row, found in rows.items()
      for line in found
      if line['task'] == task
    )
    if len({x for points in series.values() for x in points}) > 1:
      name = result_lines.task_name(of_task[0])
      panels[task] = _Panel(name, _metric(of_task), series)
  return _draw(list(panels.values()), 'labelled users (%)', log_base=10)


def accuracy_by_batch_size(lines: list[dict]):
  """Accuracy against the pre-training's batch size.

  Args:
    lines: Lines of one dataset.

  Returns:
    A figure, or None where no pre-training was run with several.
  """
  rows = result_lines.by_row(lines, 'batch_size')
  return _sweep(rows, 'batch_size', 'pre-training batch size (users)')


def accuracy_by_negatives(lines: list[dict]):
  """Accuracy against the number of negatives, where an objective has some.

  Args:
    lines: Lines of one dataset.

  Returns:
    A figure, or None where no pre-training was run with several.
  """
  rows = result_lines.by_row(lines, 'num_negatives')
  return _sweep(rows, 'num_negatives', 'negatives per prediction')


def accuracy_by_step(lines: list[dict]):
  """Accuracy against the step of the checkpoint that was evaluated.

  Args:
    lines: Lines of one dataset.

  Returns:
    A figure, or None where each pre-training was evaluated at one step.
  """
  # Not those of early stopping, which differ from seed to seed.
  rows = {
    row: found
    for row, found in result_lines.by_row(lines).items()
    if {key for key, value in row.setting if value is not None}
    & {'step', 'step='}
  }
  return _sweep(rows, 'step', 'pre-training step (updates)', log_base=None)


def cold_start(lines: list[dict], *, bars: bool = False):
  """Accuracy with inputs cut to their newest events, up to the whole input.

  Args:
    lines: Lines of one dataset, with the key `cold_start` where measured.
    bars: Whether to draw bars from zero, which are legible for a few rows.

  Returns:
    A figure, or None where it was not measured.
  """
  measured = [line for line in lines if line.get('cold_start')]
  cuts = sorted({int(k) for line in measured for k in line['cold_start']})

  def points_of(row: Row, line: dict):
    for k, numbers in line['cold_start'].items():
      yield row, cuts.index(int(k)), result_lines.headline(line, numbers)
    yield row, len(cuts), result_lines.headline(line)

  rows = result_lines.main_rows(result_lines.by_row(measured))
  return _draw(
    _panels(rows, points_of),
    'newest events of the input',
    [*map(str, cuts), 'all'],
    bars=bars,
  )


def accuracy_by_popularity(lines: list[dict]):
  """Accuracy on targets of different popularity.

  Args:
    lines: Lines of one dataset, with the key `by_popularity` where measured.

  Returns:
    A figure, or None where it was not measured.
  """
  measured = [line for line in lines if line.get('by_popularity')]
  # Most events of the items of a bin -> its test examples.
  bins = {
    part['max_events']: part['num_test']
    for line in reversed(measured)
    for part in line['by_popularity']
  }
  edges = sorted(bins)
  ticks = [f'≤ {most:,}\n({bins[most]:,})' for most in edges]

  def points_of(row: Row, line: dict):
    for part in line['by_popularity']:
      if part['num_test']:
        place = edges.index(part['max_events'])
        yield row, place, result_lines.headline(line, part['metrics'])

  rows = result_lines.main_rows(result_lines.by_row(measured))
  return _draw(
    _panels(rows, points_of),
    'pre-training events of the target\n(number of test users)',
    ticks,
  )


def learning_curves(runs: dict[str, list[list[dict]]]):
  """Loss in training and on validation, one axes a kind of run.

  Args:
    runs: Name -> for each seed the lines of its `metrics.jsonl`.

  Returns:
    A figure, or None where no run has a loss.
  """
  curves = {
    name: [
      (key, found)
      for lines in of_name
      for key in ('loss', 'validation_loss')
      if (found := [(li['step'], li[key]) for li in lines if key in li])
    ]
    for name, of_name in runs.items()
  }
  curves = {name: found for name, found in curves.items() if found}
  if not curves:
    return None
  columns = min(3, len(curves))
  figure, axes = figures.new_figure(
    columns, rows=-(-len(curves) // columns), width=_WIDTH, height=2.6
  )
  styles: dict[str, dict[str, Any]] = {
    'loss': {'color': figures.COLORS[0], 'label': 'training'},
    'validation_loss': {
      'color': figures.COLORS[1],
      'label': 'validation',
      'linestyle': '--',
      'marker': 'o',
      'markersize': 3,
    },
  }
  for one, (name, found) in zip(axes, curves.items(), strict=False):
    for key, points in found:
      one.plot(*zip(*points, strict=True), linewidth=1, **styles[key])
    one.set_title(name, fontsize='medium')
    one.set(xlabel='step (updates)', ylabel='loss')
  for one in axes[len(curves) :]:
    one.set_visible(False)
  figures.add_legend(figure)
  return figure


@dataclasses.dataclass(frozen=True)
class Plot:
  """A plot of one dataset.

  Attributes:
    title: What it shows.
    caption: How to read it.
    draw: Lines of one dataset -> a figure, or None where there is nothing to
      show.
  """

  title: str
  caption: str
  draw: Callable[[list[dict]], Any]


# Name of the file -> the plot.
PLOTS = {
  'label_fraction': Plot(
    'Accuracy against label fraction',
    f'Share of the labelled users whose labels are used, log axis. {_BAND}',
    accuracy_by_label_fraction,
  ),
  'batch_size': Plot(
    'Accuracy against pre-training batch size',
    f'Log axis. {_BAND}',
    accuracy_by_batch_size,
  ),
  'negatives': Plot(
    'Accuracy against number of negatives',
    f'Objectives that need negatives, log axis. Those of a batch are its '
    f'other users. {_BAND}',
    accuracy_by_negatives,
  ),
  'step': Plot(
    'Accuracy against pre-training step',
    f'Of the checkpoint that was evaluated. {_BAND}',
    accuracy_by_step,
  ),
  'cold_start': Plot(
    'Cold start: short inputs',
    f'Test inputs cut to their newest events; "all" is the whole input. '
    f'{_BAND}',
    cold_start,
  ),
  'popularity': Plot(
    'Cold start: rare items',
    f'By the number of events that the target has in pre-training. {_BAND}',
    accuracy_by_popularity,
  ),
}


@dataclasses.dataclass(frozen=True)
class _Panel:
  title: str
  metric: str
  series: Series


def _collect(points) -> Series:
  """Gathers (row, place, value)."""
  series: Series = defaultdict(lambda: defaultdict(list))
  for row, place, value in points:
    series[row][place].append(value)
  return {row: dict(found) for row, found in series.items()}


def _sweep(
  rows: dict[Row, list[dict]],
  key: str,
  xlabel: str,
  *,
  log_base: int | None = 2,
):
  """Accuracy against a fact of the pre-training, one axes a task.

  Args:
    rows: Lines of each row.
    key: Of `line['pretraining']`, the place on the x axis; an axis of a study
      that varies it has its name.
    xlabel: What it is, with its unit.
    log_base: As of `_draw`.
  """

  def points_of(row: Row, line: dict):
    place = (line.get('pretraining') or {}).get(key)
    if place is not None:
      series = row.without(key, f'{key}=')
      yield series, place, result_lines.headline(line)

  panels = []
  for panel in _panels(rows, points_of):
    series = {row: p for row, p in panel.series.items() if len(p) > 1}
    panels.append(dataclasses.replace(panel, series=series))
  return _draw(panels, xlabel, log_base=log_base)


def _panels(rows: dict[Row, list[dict]], points_of) -> list[_Panel]:
  """A panel for each task, at the label fraction with the most lines.

  Args:
    rows: Lines of each row.
    points_of: A row and a line of it -> (row, place, value) of its points.
  """
  lines = [line for found in rows.values() for line in found]
  panels = []
  for task, of_task in result_lines.by_task(lines).items():
    fraction = result_lines.usual_fraction(of_task)
    series = _collect(
      point
      for row, found in rows.items()
      for line in found
      if (line['task'], line['label_fraction']) == (task, fraction)
      for point in points_of(row, line)
    )
    name = result_lines.task_name(of_task[0])
    title = f'{name}, {100 * fraction:g}% labels'
    panels.append(_Panel(title, _metric(of_task), series))
  return panels


def _metric(lines: list[dict]) -> str:
  split = '' if lines[0]['metrics'] else 'validation '
  return split + result_lines.HEADLINES[lines[0]['task']]


def _draw(
  panels: list[_Panel],
  xlabel: str,
  ticks: list[str] | None = None,
  *,
  log_base: int | None = None,
  bars: bool = False,
):
  """One axes a panel, one style a row in all of them.

  Args:
    panels: What to draw.
    xlabel: What is on the x axis, with its unit.
    ticks: Names of the places 0, 1, ... of the x axis; None if they are
      numbers.
    log_base: Base of a logarithmic axis, with a tick at every place.
    bars: Whether to draw bars instead of lines with bands.
  """
  panels = [panel for panel in panels if panel.series]
  if not panels:
    return None
  width = _WIDTH if len(panels) > 1 else 1.6 * _WIDTH
  figure, axes = figures.new_figure(len(panels), width=width, height=_HEIGHT)
  numbers = _numbers(dict.fromkeys(row for p in panels for row in p.series))
  for one, panel in zip(axes, panels, strict=True):
    for place, (row, points) in enumerate(panel.series.items()):
      if bars:
        figures.draw_bars(
          one,
          points,
          place=place,
          of=len(panel.series),
          label=row.name,
          **figures.bar_style(numbers[row]),
        )
      else:
        figures.draw_band(
          one,
          points,
          label=row.name,
          linewidth=1.4,
          markersize=4.5,
          **figures.series_style(numbers[row]),
        )
    places = sorted({x for points in panel.series.values() for x in points})
    if ticks:
      one.set_xticks(range(len(ticks)), ticks)
    elif log_base:
      one.set_xscale('log', base=log_base)
      one.set_xticks(places, [f'{place:g}' for place in places])
      one.minorticks_off()
    one.set_title(panel.title, fontsize='medium')
    one.set(xlabel=xlabel, ylabel=panel.metric)
    one.tick_params(labelsize='small')
  figures.add_legend(figure)
  return figure


def _numbers(rows) -> dict[Row, int]:
  """Row -> number of its style: a colour of its own, as long as there are some.

  Beyond that a fine-tuning has the colour of its encoder, in another dash.
  """
  rows = list(rows)
  colors = range(len(figures.COLORS))
  taken: dict[Row, int] = {}
  for row in rows:
    if row.objective in _KNOWN and row.protocol != 'finetune':
      number = _KNOWN.index(row.objective)
      if number not in taken.values():
        taken[row] = number
  for row in rows:
    if row not in taken:
      own: tuple[int, ...] = ()
      # From scratch is fine-tuned from a random start.
      encoder = 'random' if row.objective == 'scratch' else row.objective
      if encoder in _KNOWN:
        own = (_KNOWN.index(encoder) + len(colors),)
      wanted = itertools.chain(colors, own, itertools.count(len(colors)))
      taken[row] = next(n for n in wanted if n not in taken.values())
  return taken
