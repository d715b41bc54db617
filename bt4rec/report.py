"""Table, plots and HTML page of finished evaluations.

python -m bt4rec.report DIR... [--output=FOLDER]

It prints the tables of the workdirs of studies and downstream jobs, and writes
report.md, report.html (one file, for the browser) and plots/*.png. It reads
files only.
"""

import os
import shlex

from absl import flags

from bt4rec import (
  command,
  remote,
  report_content,
  report_html,
  report_tables,
  result_lines,
  workdir,
)
from bt4rec.errors import InputError
from bt4rec.report_content import Section


def make_report(directories: list[str]) -> str:
  """Returns the tables of the results in workdirs as Markdown.

  They show the test metrics, or those of validation where no test was made.

  Raises:
    InputError: See `result_lines.read_results`.
  """
  lines = result_lines.read_results(directories)
  return to_markdown(report_content.make_sections(lines, with_plots=False))


def write_report(directory: str) -> str:
  """Writes the report of one workdir into it.

  Returns:
    The tables as Markdown.

  Raises:
    InputError: See `result_lines.read_results`.
  """
  lines = result_lines.read_results([directory])
  sections = report_content.make_sections(lines, with_plots=True)
  save(sections, directory, [remote.shown(directory)])
  return to_markdown(sections)


def to_markdown(sections: list[Section], with_plots: bool = False) -> str:
  """The report as Markdown; plots are links to their files."""
  parts = []
  for section in sections:
    parts += [f'# {section.dataset}', *section.notes]
    parts += map(_table, section.tables)
    for picture in section.pictures if with_plots else []:
      parts.append(f'![{picture.title}](plots/{picture.name}.png)')
      parts.append(f'*{picture.title}.* {picture.caption}')
    parts += map(_table, section.details)
    facts = section.provenance.items()
    parts.append('\n'.join(f'- {name}: {fact}' for name, fact in facts))
  return '\n\n'.join(parts) + '\n'


def _table(table: report_tables.Table) -> str:
  rows = [table.header, ['---'] * len(table.header), *table.rows]
  return '\n'.join('| ' + ' | '.join(row) + ' |' for row in rows)


def save(
  sections: list[Section], output: str, directories: list[str]
) -> list[str]:
  """Writes report.md, report.html and plots/*.png.

  Args:
    sections: The content.
    output: Folder to write to; it is made.
    directories: The workdirs it is of.

  Returns:
    The files.

  Raises:
    InputError: If the folder cannot be written to.
  """
  made_by = shlex.join(['python', '-m', 'bt4rec.report', *directories])
  pages = {
    'report.md': to_markdown(sections, with_plots=True),
    'report.html': report_html.to_html(sections, made_by),
  }
  pictures = [picture for section in sections for picture in section.pictures]
  written = []
  try:
    os.makedirs(os.path.join(output, 'plots'), exist_ok=True)
    for picture in pictures:
      written.append(os.path.join(output, 'plots', f'{picture.name}.png'))
      with open(written[-1], 'wb') as f:
        f.write(picture.png)
    for name, text in pages.items():
      written.append(os.path.join(output, name))
      workdir.write_atomically(written[-1], text)
  except OSError as error:
    raise InputError(
      f'cannot write the report to {output} ({error.strerror}); choose '
      f'another folder with --output.'
    ) from error
  return written


def main(argv: list[str]) -> None:
  """Runs the command of the flags."""
  directories = argv[1:]
  if not directories:
    raise InputError(
      'name the workdirs of studies or downstream jobs: python -m '
      'bt4rec.report DIR... [--output=FOLDER].'
    )
  output = flags.FLAGS.output
  if output is None:
    is_own = len(directories) == 1 and not remote.is_url(directories[0])
    output = directories[0] if is_own else os.path.join('runs', 'report')
  lines = result_lines.read_results(directories)
  sections = report_content.make_sections(lines, with_plots=True)
  # First: it is seen even where the folder cannot be written to.
  print(to_markdown(sections))
  with remote.output(output) as folder:
    written = '\n'.join(save(sections, folder, directories))
  print(written.replace(folder, output))


if __name__ == '__main__':
  # Here, so that importing the module defines no flags.
  flags.DEFINE_string(
    'output',
    None,
    'Output folder; default: the workdir if there is one on this machine, else '
    'runs/report.',
  )
  command.run(main)
