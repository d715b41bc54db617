"""The kinds of job a config can ask for."""

import os

from absl import logging
from ml_collections import ConfigDict

from bt4rec import datasets, downstream, pretrain, report, study, workdir
from bt4rec.datasets import SequenceDataset
from bt4rec.errors import choose
from bt4rec.tasks import TASKS


def _pretrain(
  config: ConfigDict, directory: str, dataset: SequenceDataset
) -> str:
  pretrain.run(config, directory, dataset)
  return (
    f'encoder: {os.path.join(directory, "checkpoints")}\n'
    f'next: {workdir.downstream_command(config, directory, "next_item")}'
  )


def _downstream(
  config: ConfigDict, directory: str, dataset: SequenceDataset
) -> str:
  results = os.path.join(directory, 'results.jsonl')
  if not workdir.read_lines(results):
    result = downstream.run(config, directory, dataset)
    downstream.write_result(directory, result)
  return f'{report.write_report(directory)}\nresult: {results}'


def _study(config: ConfigDict, directory: str, dataset: SequenceDataset) -> str:
  text = study.run(config, directory, dataset)
  return f'{text}\nreport: {os.path.join(directory, "report.html")}'


_JOBS = {
  'pretrain': _pretrain,
  'study': _study,
  **dict.fromkeys(TASKS, _downstream),
}


def run(config: ConfigDict, directory: str) -> str:
  """Runs a job, or continues it.

  Args:
    config: A whole config.
    directory: The output directory.

  Returns:
    What to tell the user: results, paths, the next command.

  Raises:
    InputError: If the config or the data are not valid.
  """
  job = choose('task', config.task, _JOBS)
  with workdir.locked(directory):
    workdir.check_config(config, directory)
    dataset = datasets.load(config.dataset)
    logging.info(
      '%s: %d users, %d items, %d events',
      dataset.name,
      dataset.num_users,
      dataset.catalogue.num_items,
      dataset.num_events,
    )
    return job(config, directory, dataset)
