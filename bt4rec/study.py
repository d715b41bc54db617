"""A grid of pre-trainings and downstream jobs; one line of results each."""

import os

from ml_collections import ConfigDict

from bt4rec import cell_runner, grid, report, workdir
from bt4rec.datasets import SequenceDataset


def run(config: ConfigDict, directory: str, dataset: SequenceDataset) -> str:
  """Runs what is missing of the grid and writes the report.

  Args:
    config: The whole config of a study.
    directory: The output directory, locked by the caller.
    dataset: The dataset.

  Returns:
    The report as Markdown.

  Raises:
    InputError: If a name in the config is unknown, or the grid empty.
    UnfinishedError: If jobs failed; the others are done and reported.
  """
  failed = cell_runner.run_cells(config, directory, dataset, grid.cells(config))
  # Where every cell failed there is nothing to report.
  has_results = workdir.read_lines(os.path.join(directory, 'results.jsonl'))
  text = report.write_report(directory) if has_results else ''
  others = f'the report of the others is in {directory}'
  cell_runner.require_all(failed, others if has_results else 'nothing is done')
  return text
