"""The kinds of job a config can ask for."""

import contextlib
import dataclasses
import os
from collections.abc import Callable

import jax
from absl import logging
from ml_collections import ConfigDict

from bt4rec import (
  datasets,
  downstream,
  encoders,
  grid,
  initial_encoder,
  model_card,
  pretrain,
  processes,
  provenance,
  report,
  study,
  summary,
  tune,
  unread,
  workdir,
)
from bt4rec.datasets import SequenceDataset
from bt4rec.errors import InputError, choose
from bt4rec.tasks import TASKS


@dataclasses.dataclass(frozen=True)
class _Job:
  """A kind of job.

  Attributes:
    run: Config, workdir, dataset -> the text to show.
    following: The same -> what for -> the next command.
    parts: Config -> what gives the config of each job it asks for.
  """

  run: Callable[[ConfigDict, str, SequenceDataset], str]
  following: Callable[[ConfigDict, str, SequenceDataset], dict[str, str]]
  parts: Callable[[ConfigDict], list[Callable[[ConfigDict], ConfigDict]]] = (
    lambda config: [lambda config: config]
  )


def _pretrain(
  config: ConfigDict, directory: str, dataset: SequenceDataset
) -> str:
  pretrain.run(config, directory, dataset)
  return ''


def _after_pretrain(
  config: ConfigDict, directory: str, dataset: SequenceDataset
) -> dict[str, str]:
  del dataset
  following = {
    'what it is worth with labels: a probe on it': workdir.downstream_command(
      config, directory, 'next_item'
    ),
    'embeddings of all users and items': workdir.program(
      'bt4rec.export',
      f'--workdir={directory}',
      f'--output={os.path.join(directory, "users.parquet")}',
      f'--items={os.path.join(directory, "items.parquet")}',
    ),
  }
  events = os.path.join(directory, 'tensorboard')
  if os.path.isdir(events):
    following['curves and points (pip install tensorboard)'] = workdir.program(
      'tensorboard.main', f'--logdir={events}'
    )
  return following


def _downstream(
  config: ConfigDict, directory: str, dataset: SequenceDataset
) -> str:
  results = os.path.join(directory, 'results.jsonl')
  if not workdir.read_lines(results):
    result = downstream.run(config, directory, dataset)
    downstream.write_result(directory, result)
  model_card.write_downstream(directory, dataset)
  return report.write_report(directory)


def _after_downstream(
  config: ConfigDict, directory: str, dataset: SequenceDataset
) -> dict[str, str]:
  following = {
    'this result in a table; add the workdirs of others': workdir.program(
      'bt4rec.report', directory
    )
  }
  holds_scorer = os.path.isdir(os.path.join(directory, 'checkpoints'))
  if config.task == 'next_item' and holds_scorer and config.init_from:
    items = dataset.catalogue.item_ids[:2].tolist()
    following['recommendations for a user with these items'] = workdir.python(
      f'import bt4rec; e = bt4rec.load_encoder({directory!r}); '
      f'print(e.recommend([{items!r}], k=10))'
    )
  return following


def _after_study(
  config: ConfigDict, directory: str, dataset: SequenceDataset
) -> dict[str, str]:
  del dataset
  following = {
    'the table; add the workdirs of other studies': workdir.program(
      'bt4rec.report', directory
    )
  }
  folder = os.path.join(directory, 'pretrain')
  # The first of the grid.
  for row in config.study.rows:
    encoder = os.path.join(folder, f'{row}-{config.study.seeds[0]}')
    if os.path.isdir(encoder):
      following[f'embeddings of all users by {row}'] = workdir.program(
        'bt4rec.export',
        f'--workdir={encoder}',
        f'--output={os.path.join(directory, "users.parquet")}',
      )
      break
  return following


def _after_tune(
  config: ConfigDict, directory: str, dataset: SequenceDataset
) -> dict[str, str]:
  del config, directory, dataset
  return {}


_JOBS = {
  'pretrain': _Job(_pretrain, _after_pretrain),
  'study': _Job(study.run, _after_study, grid.parts),
  'tune': _Job(tune.run, _after_tune, tune.parts),
}


def run(
  config: ConfigDict, directory: str, as_written: ConfigDict | None = None
) -> str:
  """Runs a job, or continues it.

  Args:
    config: A whole config.
    directory: The output directory.
    as_written: The config of a file, before the user changed it; see
      `unread.check`.

  Returns:
    What to tell the user: results, paths, the next commands.

  Raises:
    InputError: If the config or the data are not valid.
  """
  # Of the code that was loaded, before the checkout can change.
  provenance.commit()
  # Looked up now, so that a task added by the caller is one too.
  tasks = dict.fromkeys(TASKS, _Job(_downstream, _after_downstream))
  job = choose('task', config.task, {**_JOBS, **tasks})
  encoders.check_device(config)
  unread.check(config, job.parts, as_written)
  config = initial_encoder.with_own_encoder(config)
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
    text = job.run(config, directory, dataset)
    following = job.following(config, directory, dataset)
    closing = summary.closing(summary.of_workdir(directory), following)
    return f'{text}\n{closing}' if text else closing
