"""The kinds of job a config can ask for."""

import os

from absl import logging
from ml_collections import ConfigDict

from bt4rec import (
  datasets,
  downstream,
  pretrain,
  report,
  study,
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
  return f'{report.make_report([directory])}\nresult: {results}'


def _study(config: ConfigDict, directory: str, dataset: SequenceDataset) -> str:
  text = study.run(config, directory, dataset)
  return f'{text}\nreport: {os.path.join(directory, "report.md")}'


_JOBS = {
  'pretrain': _pretrain,
  'study': _study,
  **dict.fromkeys(TASKS, _downstream),
}


# The fields of the config group `encoder` that the bag of items reads.
_BAG_READS = ('name', 'dim', 'features')


def _check_encoder(config: ConfigDict) -> None:
  """Refuses settings that the bag of items would ignore.

  Of a study they may be meant for other rows.
  """
  # Not above: whoever only loads an encoder may have another package `configs`.
  from configs import base

  if config.encoder.name != 'bag_of_items':
    return
  defaults = base.get_config().encoder
  unread = [
    f'encoder.{key}={value!r}'
    for key, value in config.encoder.items()
    if key not in _BAG_READS and value != defaults[key]
  ]
  if unread:
    raise InputError(
      f'{" and ".join(unread)} would be ignored by encoder.name=bag_of_items, '
      f'a plain mean; leave it out, or use encoder.name=transformer.'
    )


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
  if job is not _study:
    _check_encoder(config)
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
