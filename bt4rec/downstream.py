"""A downstream job: labels in, test metrics out, selected on validation."""

import os
import time

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from bt4rec import (
  checkpoint,
  initial_encoder,
  pretext,
  protocols,
  provenance,
  remote,
  splits,
  supervised,
  tasks,
  unread,
  workdir,
)
from bt4rec.datasets import SequenceDataset
from bt4rec.errors import InputError, choose


def run(
  config: ConfigDict,
  directory: str,
  dataset: SequenceDataset,
  cache: supervised.FeatureCache | None = None,
) -> dict:
  """Trains on the labels, selects on validation, tests once if wanted.

  Args:
    config: A whole config with a downstream `task`.
    directory: The output directory, locked by the caller.
    dataset: The dataset.
    cache: Embeddings shared with other jobs.

  Returns:
    The line of `results.jsonl`, with the key `outcomes` besides: the outcome
    of every test example.

  Raises:
    InputError: If the config, the checkpoint or the data do not fit.
  """
  start = time.monotonic()
  if not 0 < config.label_fraction <= 1:
    raise InputError(
      f'label_fraction={config.label_fraction} must be above 0 and at most 1.'
    )
  if not 0 <= config.validation_fraction <= 1:
    raise InputError(
      f'validation_fraction={config.validation_fraction} must be between 0 '
      f'and 1.'
    )
  if any(k < 1 for k in config.cold_start):
    raise InputError(
      f'cold_start={tuple(config.cold_start)} must be numbers of events, at '
      f'least 1.'
    )
  _warn_of_unfinished(config)
  task = tasks.make_task(config.task, dataset, config)
  protocol = choose('protocol', config.protocol, protocols.PROTOCOLS)
  labelled, validation = task.train_and_validation(
    config.label_fraction, config.seed, config.validation_fraction
  )
  logging.info(
    '%s, %s at %g %% labels: %d training, %d validation examples',
    task.name,
    config.protocol,
    100 * config.label_fraction,
    len(labelled),
    len(validation),
  )
  setting = supervised.Setting(
    config,
    directory,
    task,
    labelled,
    validation,
    cache or supervised.FeatureCache(),
  )
  outcome = protocol(setting)
  return {
    'dataset': dataset.name,
    'task': task.name,
    **task.facts(),
    'objective': config.label or _objective_of(config, setting.source),
    'variant': config.variant,
    'protocol': config.protocol,
    'label_fraction': config.label_fraction,
    'seed': config.seed,
    'pretraining': _describe(setting),
    'metrics': outcome.metrics,
    'validation': outcome.validation,
    'cold_start': outcome.cold_start,
    'by_popularity': outcome.by_popularity,
    # Item scores of a pre-training use no label.
    'num_train': 0 if config.protocol == 'direct' else outcome.num_train,
    'num_test': len(outcome.outcomes),
    'split_fingerprint': splits.fingerprint(dataset),
    'split_seed': config.split_seed,
    'category_fingerprint': splits.category_fingerprint(dataset.catalogue),
    'exclude_seen': config.exclude_seen,
    'inductive': (setting.source or config).inductive,
    **provenance.describe(),
    'wall_seconds': round(time.monotonic() - start, 2),
    'outcomes': outcome.outcomes,
  }


def _warn_of_unfinished(config: ConfigDict) -> None:
  """Says that a pre-training goes on, or broke off, unless a step is named."""
  # The card is what a pre-training writes last.
  source = remote.fetched(config.init_from)
  card = os.path.join(source, 'README.md')
  is_there = os.path.isdir(source)
  if is_there and config.init_step < 0 and not os.path.exists(card):
    logging.warning(
      'the pre-training in %s is not finished; its best checkpoint so far is '
      'taken.',
      config.init_from,
    )


def _describe(setting: supervised.Setting) -> dict:
  """What of the pre-training its results may depend on, {} without."""
  config, source = setting.config, setting.source
  if source is None:
    return {}
  num_items = setting.task.dataset.catalogue.num_items
  return {
    'batch_size': source.batch_size,
    'total_steps': source.total_steps,
    'step': checkpoint.step_of(
      remote.fetched(config.init_from), initial_encoder.step_of(config)
    ),
    'num_negatives': pretext.num_negatives(source, num_items),
    'pretrain_scope': source.pretrain_scope,
    'settings': unread.settings(source),
  }


def _objective_of(config: ConfigDict, source: ConfigDict | None) -> str:
  """What the row of the table is called by default."""
  if config.protocol in ('majority', 'oracle', 'scratch'):
    return config.protocol
  return (source.label or source.objective) if source else 'random'


def write_result(directory: str, result: dict) -> None:
  """Appends the result to `results.jsonl`, its outcomes beside it."""
  line = {key: value for key, value in result.items() if key != 'outcomes'}
  folder = os.path.join(directory, 'outcomes')
  os.makedirs(folder, exist_ok=True)
  np.save(os.path.join(folder, f'{cell_name(line)}.npy'), result['outcomes'])
  workdir.append_line(os.path.join(directory, 'results.jsonl'), line)


def cell_name(line: dict) -> str:
  """Name of a finished evaluation, unique within a study.

  Args:
    line: A line of `results.jsonl`; one without `variant` is of none.
  """
  keys = ('task', 'protocol', 'objective', 'label_fraction', 'seed')
  parts = [str(line[key]) for key in keys]
  if line.get('variant'):
    parts.append(line['variant'])
  return '-'.join(parts)
