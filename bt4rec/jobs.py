"""The kinds of job a config can ask for."""

import contextlib
import os

import jax
from absl import logging
from ml_collections import ConfigDict

from bt4rec import (
  datasets,
  downstream,
  pretrain,
  processes,
  report,
  study,
  tune,
  workdir,
)
from bt4rec.datasets import SequenceDataset
from bt4rec.errors import InputError, choose
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


def _tune(config: ConfigDict, directory: str, dataset: SequenceDataset) -> str:
  text = tune.run(config, directory, dataset)
  return f'{text}\ntrials: {os.path.join(directory, "trials.jsonl")}'


_JOBS = {
  'pretrain': _pretrain,
  'study': _study,
  'tune': _tune,
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
  # Looked up now, so that a task added by the caller is one too.
  tasks = dict.fromkeys(TASKS, _downstream)
  job = choose('task', config.task, {**_JOBS, **tasks})
  if jax.process_count() > 1 and config.task != 'pretrain':
    raise InputError(
      f'task={config.task} runs in one process; start it without '
      f'--distributed. Pre-training alone runs in several.'
    )
  with contextlib.ExitStack() as stack:
    if processes.is_first():
      stack.enter_context(workdir.locked(directory))
      workdir.check_config(config, directory)
      dataset = datasets.load(config.dataset)
    # The others find the records made, where they share a disk.
    processes.wait_for_all()
    if not processes.is_first():
      dataset = datasets.load(config.dataset)
    logging.info(
      '%s: %d users, %d items, %d events',
      dataset.name,
      dataset.num_users,
      dataset.catalogue.num_items,
      dataset.num_events,
    )
    return job(config, directory, dataset)
