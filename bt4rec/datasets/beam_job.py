"""Runs the Beam pipeline of a log, and puts its shards together."""

import os
from collections.abc import Iterator, Sequence

import apache_beam as beam
import numpy as np
from absl import logging
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineState
from ml_collections import ConfigDict

from bt4rec import datasets, workdir
from bt4rec.datasets import (
  beam_files,
  beam_logs,
  event_table,
  events,
  log_vocabulary,
  logs,
  sequences,
  shards,
  tables,
)
from bt4rec.errors import InputError

_FOLDER = 'prepare-shards'
# Beam's own runner for this machine, without a look for another first.
_DIRECT = '--runner=FnApiRunner'
_DIRECT_RUNNERS = ('directrunner', 'fnapirunner')


def prepare(
  config: ConfigDict,
  directory: str,
  *,
  min_item_events: int = 1,
  events_per_shard: int = 2_000_000,
  shards_folder: str = '',
  beam_flags: Sequence[str] = (),
) -> None:
  """Writes the prepared arrays of a log, as `sequences.save` would.

  They equal those of what `logs` reads in memory. Items with fewer than
  `min_item_events` events are left out with their events, and counted; what
  is encoded later treats them as unknown items, that is as masked ones.

  Args:
    config: The group `dataset` of a config; `path` may be a pattern such as
      'logs/*.csv.gz', whose files are one log, in the order of their names.
    directory: The output directory, on this machine; it is made.
    min_item_events: Smallest number of events of an item, counted once, after
      every other rule.
    events_per_shard: Events that a worker holds at once, about; a user with
      more is held whole.
    shards_folder: Where shards lie until the end, for workers on other
      machines a folder that all can reach; '' is the output directory.
    beam_flags: Flags of Beam.

  Raises:
    InputError: If an option or a row is not valid.
  """
  form = _make_format(config)
  for name, value in (
    ('min_item_events', min_item_events),
    ('events_per_shard', events_per_shard),
  ):
    if value < 1:
      raise InputError(f'--{name}={value} is less than 1.')
  pipeline = _make_pipeline(beam_flags)
  with workdir.locked(directory):
    job = beam_logs.Job(
      form=form,
      files=tuple(beam_files.list_files(os.path.expanduser(config.path))),
      folder=FileSystems.join(shards_folder or directory, _FOLDER),
      events_per_shard=events_per_shard,
      min_item_events=min_item_events,
    )
    logging.info('%d files match %s', len(job.files), config.path)
    _check_headers(job, config)
    # A run that was killed has left its shards; they are not taken up.
    beam_files.remove_files(job.folder)
    if not FileSystems.exists(job.folder):
      FileSystems.mkdirs(job.folder)
    try:
      _run(job, pipeline)
      _put_together(job, config, directory)
    finally:
      beam_files.remove_files(job.folder)


def _make_format(config: ConfigDict) -> logs.Format:
  """Refuses what the pipeline cannot honour."""
  if config.name != 'logs':
    raise InputError(
      f'dataset {config.name!r} is prepared by bt4rec.describe; this command '
      f'prepares logs alone (--config=configs/pretrain.py:logs).'
    )
  if not config.path:
    raise InputError(
      'dataset.path is missing; name your files with --config.dataset.path.'
    )
  if config.prepared:
    raise InputError(
      'dataset.prepared is set, but this command writes prepared arrays; clear '
      'it.'
    )
  datasets.check_options(config)
  if config.k_core > 1:
    raise InputError(
      f'dataset.k_core={config.k_core} needs all events at once; leave out '
      f'rare items with --min_item_events, or read the log with '
      f'bt4rec.describe.'
    )
  return logs.make_format(
    columns=config.columns.to_dict(),
    timestamp_unit=config.timestamp_unit,
    category_separator=config.category_separator,
    item_table=config.item_table,
    min_rating=config.min_rating,
    encoding=config.encoding,
    delimiter=config.delimiter,
    bad_rows=config.bad_rows,
    duplicates=config.duplicates,
  )


def _check_headers(job: beam_logs.Job, config: ConfigDict) -> None:
  """Refuses early what would else be found after hours, or nowhere."""

  def opened(paths: Sequence[str]) -> Iterator[tables.Table]:
    for path in paths:
      with beam_files.local_copy(path) as copy:
        yield job.form.open(copy)

  item_tables = [_item_table(config)] if config.item_table else []
  columns = {'item': job.form.layout.item, **job.form.described}
  for table in opened(item_tables):
    event_table.check_columns(table, columns)
  job.form.check_csv_options(job.files[0], opened([*item_tables, *job.files]))


def _item_table(config: ConfigDict) -> str:
  return os.path.expanduser(config.item_table)


def _make_pipeline(beam_flags: Sequence[str]) -> beam.Pipeline:
  """An empty pipeline; where all flags are known, another one is refused."""
  named = PipelineOptions(list(beam_flags)).get_all_options()['runner']
  options = PipelineOptions([*([] if named else [_DIRECT]), *beam_flags])
  known = options.get_all_options()
  every = options.get_all_options(retain_unknown_options=True)
  unknown = sorted(set(every) - set(known))
  if unknown:
    # The job server of another runner may know more than Beam for Python.
    sentence = f'Beam for Python does not know --{", --".join(unknown)}'
    if known['runner'].lower() in _DIRECT_RUNNERS:
      raise InputError(f'{sentence}; correct the flags after --.')
    logging.warning('%s; the runner is to know it.', sentence)
  try:
    return beam.Pipeline(options=options)
  except (ValueError, ImportError) as error:
    raise InputError(f'{error}; correct the flags after --.') from error


def _run(job: beam_logs.Job, pipeline: beam.Pipeline) -> None:
  beam_logs.build(pipeline, job)
  state = pipeline.run().wait_until_finish()
  if state != PipelineState.DONE:
    raise RuntimeError(f'the Beam pipeline ended as {state}; see its log.')


def _put_together(
  job: beam_logs.Job, config: ConfigDict, directory: str
) -> None:
  """Writes the prepared arrays from the shards, one shard at a time."""
  manifest = beam_logs.read_manifest(job.folder)
  if manifest['error']:
    raise InputError(manifest['error'])
  records = manifest['shards']
  num_events = sum(record['num_events'] for record in records)
  if not num_events:
    raise events.no_events('logs', manifest['rows_read'], manifest['dropped'])
  catalogue = _make_catalogue(job, config, manifest)
  sequences.remove_header(directory)
  sequences.save_catalogue(catalogue, directory)
  shards.concatenate(
    (beam_logs.load_shard(record['path']) for record in records),
    directory,
    num_users=sum(record['num_users'] for record in records),
    num_events=num_events,
    user_ids=np.result_type(*(record['user_ids'] for record in records)),
  )
  origin = {
    'source': 'logs',
    'rows_read': manifest['rows_read'],
    'events_kept': num_events,
    'dropped': manifest['dropped'],
    'notes': manifest['notes'],
    'vocabulary': {
      'min_item_events': job.min_item_events,
      'rare_items': manifest['vocabulary']['rare_items'],
      'rare_item_rule': 'left out with their events; unknown when encoded',
    },
  }
  sequences.save_header(directory, 'logs', catalogue.category_names, origin)


def _make_catalogue(
  job: beam_logs.Job, config: ConfigDict, manifest: dict
) -> sequences.Catalogue:
  items = beam_logs.load_items(manifest['vocabulary']['vocabulary'])
  item_ids = log_vocabulary.item_ids(items)
  keys = item_ids.tolist()
  if config.item_table:
    with beam_files.local_copy(_item_table(config)) as copy:
      by_text = logs.read_items(
        job.form.open(copy), job.form, item_ids, manifest['notes']
      )
    texts = {
      name: {key: values[str(key)] for key in keys if str(key) in values}
      for name, values in by_text.items()
    }
  else:
    texts = {
      name: {
        key: text
        for key, text in zip(keys, items[name].to_pylist(), strict=True)
        if text is not None
      }
      for name in job.attributes
    }
  return sequences.make_catalogue(
    item_ids,
    texts.get('title', {}),
    {
      key: logs.split_categories(text, config.category_separator)
      for key, text in texts.get('category', {}).items()
    },
  )
