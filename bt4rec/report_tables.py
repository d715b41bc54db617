"""The tables of the report: means, spreads, gains with their intervals."""

import dataclasses

import numpy as np

from bt4rec import bootstrap, result_lines
from bt4rec.errors import InputError
from bt4rec.result_lines import Row

# Rows the gain of Barlow Twins is given over, where they are there; the name
# of several is that of the best of them.
_REFERENCES = {
  'dual_encoder': ('dual_encoder',),
  'dual_encoder_public_code': ('dual_encoder_public_code',),
  'dual_encoder_plain': ('dual_encoder_plain',),
  'dual_encoder_tuned': ('dual_encoder_tuned',),
  'dual_encoder_contexts': ('dual_encoder_contexts',),
  'the better of plain and tuned': ('dual_encoder_plain', 'dual_encoder_tuned'),
}
_OWN = 'barlow_twins'


@dataclasses.dataclass(frozen=True)
class Table:
  """A table as text.

  Attributes:
    header: Names of the columns; the first says what the table is of.
    rows: Cells, as many a row as columns.
  """

  header: list[str]
  rows: list[list[str]]


def main_tables(lines: list[dict]) -> list[Table]:
  """The main table of each task.

  Args:
    lines: Lines of one dataset.

  Returns:
    Tables with a row per encoder, a column per label fraction, and rows with
    the gain of Barlow Twins.
  """
  rows = result_lines.main_rows(result_lines.by_row(lines))
  tables = []
  for task, of_task in result_lines.by_task(lines).items():
    table = _task_table(title_of(of_task), _of_task(rows, task))
    gains = _gains(_of_task(rows, task))
    tables.append(Table(table.header, table.rows + gains))
  return tables


def variant_tables(lines: list[dict]) -> list[Table]:
  """What a study varied, each task's in a table: with the rows it varied.

  Args:
    lines: Lines of one dataset.

  Returns:
    A table for each task that has variants.
  """
  rows = result_lines.by_row(lines)
  main = result_lines.main_rows(rows)
  varied = {(row.objective, row.protocol) for row in rows if row not in main}
  tables = []
  for task, of_task in result_lines.by_task(lines).items():
    cells = _of_task(rows, task)
    fractions = {f for row in cells if row not in main for f in cells[row]}
    compared = {
      row: {f: found for f, found in of_row.items() if f in fractions}
      for row, of_row in cells.items()
      if (row.objective, row.protocol) in varied
    }
    compared = {row: of_row for row, of_row in compared.items() if of_row}
    if compared:
      tables.append(_task_table(f'{title_of(of_task)}, variants', compared))
  return tables


def cold_start_tables(lines: list[dict]) -> list[Table]:
  """Accuracy with inputs cut to their newest events, and with the whole input.

  Args:
    lines: Lines of one dataset, with the key `cold_start` where measured.

  Returns:
    A table for each task where it was measured, at the label fraction with the
    most lines.
  """
  measured = [line for line in lines if line.get('cold_start')]
  rows = result_lines.main_rows(result_lines.by_row(measured))
  tables = []
  for task, of_task in result_lines.by_task(measured).items():
    fraction = result_lines.usual_fraction(of_task)
    cuts = sorted({int(k) for line in of_task for k in line['cold_start']})
    body = []
    for row, cells in _of_task(rows, task).items():
      found = cells.get(fraction, [])
      of_cuts = [
        [
          result_lines.headline(line, line['cold_start'][str(k)])
          for line in found
          if str(k) in line['cold_start']
        ]
        for k in cuts
      ]
      whole = [result_lines.headline(line) for line in found]
      values = [_mean_std(numbers) for numbers in (*of_cuts, whole)]
      body.append([row.name, str(len(found)), *values])
    title = f'{title_of(of_task)}, {format_share(fraction)} labels'
    columns = [f'newest {k}' for k in cuts]
    tables.append(Table([title, 'seeds', *columns, 'whole input'], body))
  return tables


def title_of(lines: list[dict]) -> str:
  """What is measured: 'next_item: recall@10', of one task's lines."""
  task = result_lines.task_name(lines[0])
  split = '' if lines[0]['metrics'] else ' on validation'
  return f'{task}: {result_lines.HEADLINES[lines[0]["task"]]}{split}'


def format_share(share: float) -> str:
  """0.01 -> '1%', 0.005 -> '0.5%'."""
  return f'{100 * share:g}%'


def _of_task(
  rows: dict[Row, list[dict]], task: str
) -> dict[Row, dict[float, list[dict]]]:
  """Row -> label fraction -> lines of a task."""
  found: dict[Row, dict[float, list[dict]]] = {}
  for row, lines in rows.items():
    for line in sorted(lines, key=lambda line: line['seed']):
      if line['task'] == task:
        cells = found.setdefault(row, {})
        cells.setdefault(line['label_fraction'], []).append(line)
  return found


def _task_table(title: str, rows: dict[Row, dict[float, list[dict]]]) -> Table:
  fractions = _fractions(rows)
  body = []
  for row, cells in rows.items():
    counts = sorted({len(lines) for lines in cells.values()})
    body.append(
      [
        row.name,
        ' to '.join(map(str, dict.fromkeys([counts[0], counts[-1]]))),
        *(
          _mean_std([result_lines.headline(line) for line in cells.get(f, [])])
          for f in fractions
        ),
      ]
    )
  labels = [f'{format_share(f)} labels' for f in fractions]
  return Table([title, 'seeds', *labels], body)


def _fractions(rows: dict[Row, dict[float, list[dict]]]) -> list[float]:
  return sorted({fraction for cells in rows.values() for fraction in cells})


def _gains(rows: dict[Row, dict[float, list[dict]]]) -> list[list[str]]:
  """Rows with the relative gain of Barlow Twins over each dual encoder."""
  gains = []
  fractions = _fractions(rows)
  owners = [row for row in rows if row.objective.startswith(_OWN)]
  are_several = len({(row.objective, row.setting) for row in owners}) > 1
  for protocol in ('probe', 'finetune'):
    for own in (row for row in owners if row.protocol == protocol):
      of_whom = f' of {own.name}' if are_several else ''
      for name, objectives in _REFERENCES.items():
        found = [_match(own, objective, rows) for objective in objectives]
        references = [row for row in found if row is not None]
        if len(references) < len(objectives):
          continue
        setting = [part for row in references[:1] for part in row.setting_names]
        over = ', '.join([name, protocol, *setting])
        cells = [
          _gain(
            rows[own].get(f, []),
            [rows[row].get(f, []) for row in references],
          )
          for f in fractions
        ]
        gains.append([f'gain{of_whom} over {over}', '', *cells])
  return gains


def _match(own: Row, objective: str, rows) -> Row | None:
  """The row of an objective to compare with: the only one, or the like one."""
  found = [
    row
    for row in rows
    if (row.objective, row.protocol) == (objective, own.protocol)
  ]
  if len(found) > 1:
    found = [row for row in found if row.setting == own.setting]
  return found[0] if found else None


def _mean_std(values: list[float]) -> str:
  if not values:
    return ''
  if len(values) == 1:
    return f'{values[0]:.3f}'
  return f'{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}'


def _gain(own: list[dict], references: list[list[dict]]) -> str:
  """Relative gain over the best reference, with its interval if there is one.

  Of the seeds that all have: means over other seeds are not paired.

  Args:
    own: Lines of the row that may have gained.
    references: Lines of each row it is compared with.
  """
  compared = [own, *references]
  shared = set.intersection(
    *({line['seed'] for line in lines} for lines in compared)
  )
  compared = [[x for x in lines if x['seed'] in shared] for lines in compared]
  if not shared:
    return ''
  means = [
    np.mean([result_lines.headline(line) for line in lines])
    for lines in compared
  ]
  if not max(means[1:]):
    return ''
  text = f'{means[0] / max(means[1:]) - 1:+.1%}'
  outcomes = [result_lines.user_outcomes(lines) for lines in compared]
  known = [users for users in outcomes if users is not None]
  if len(known) < len(outcomes):
    return text
  if len({len(users) for users in known}) > 1:
    sizes = ' and '.join(str(len(users)) for users in known)
    raise InputError(
      f'the rows of {own[0]["task"]} on {own[0]["dataset"]} have {sizes} test '
      f'examples; the users differ (split_seed?): report them separately.'
    )
  interval = bootstrap.relative_gain_interval(known[0], known[1:])
  if interval is None:
    return text
  return f'{text} [{100 * interval[0]:+.1f}, {100 * interval[1]:+.1f}]'
