"""The Beam pipeline that prepares a log shard by shard.

The log is read twice: once to check it and to learn what its user ids are and
how they spread, once to cut it. Events travel in files that every worker can
reach; Beam groups what says where they lie. So no runner has to hold them, and
a worker holds about as many events as a shard has, and the vocabulary.
"""

import collections
import dataclasses
import json

import apache_beam as beam
import numpy as np
import pyarrow as pa
from absl import logging
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics
from apache_beam.pvalue import AsSingleton, TaggedOutput

from bt4rec.datasets import (
  beam_files,
  event_table,
  events,
  filters,
  log_cuts,
  log_vocabulary,
  logs,
  shards,
)
from bt4rec.errors import InputError

_MANIFEST = 'manifest.json'


@dataclasses.dataclass(frozen=True)
class Job:
  """What the workers are told.

  Attributes:
    form: What the log looks like.
    files: The files of the log, in the order of their rows.
    folder: Where shards lie; every worker can write to it.
    events_per_shard: Events of a shard, about.
    min_item_events: Items with fewer events are left out.
  """

  form: logs.Format
  files: tuple[str, ...]
  folder: str
  events_per_shard: int
  min_item_events: int

  @property
  def attributes(self) -> tuple[str, ...]:
    return tuple(self.form.layout.attributes)


def build(pipeline: beam.Pipeline, job: Job) -> None:
  """Adds the steps to a pipeline; `read_manifest` reads what they did.

  Args:
    pipeline: An empty pipeline.
    job: What to do.
  """
  # Without the reshuffle one worker would read all files.
  files = (
    pipeline
    | 'Files' >> beam.Create(list(enumerate(job.files)))
    | 'Spread' >> beam.Reshuffle()
  )
  survey = (
    files
    | 'Survey' >> beam.Map(_survey, job)
    | 'Surveys' >> beam.combiners.ToList()
    | 'Ranges' >> beam.Map(_join_surveys, job)
  )
  cut = files | 'Cut' >> beam.ParDo(
    _Cut(job), AsSingleton(survey)
  ).with_outputs('record', main='piece')
  sort = (
    cut.piece
    | 'Group' >> beam.GroupByKey()
    | 'Sort'
    >> beam.ParDo(_Sort(job), AsSingleton(survey)).with_outputs(
      'record', 'items', main='shard'
    )
  )
  vocabulary = (
    sort['items']
    | 'CountItems' >> beam.CombineGlobally(_MergeCounts())
    | 'Vocabulary' >> beam.Map(_save_vocabulary, job)
  )
  tokens = (
    sort.shard
    # The shards are sorted once, whatever becomes of the next step.
    | 'Checkpoint' >> beam.Reshuffle()
    | 'Tokens' >> beam.ParDo(_Tokens(job), AsSingleton(vocabulary))
  )
  records = (survey, cut.record, sort.record, vocabulary, tokens)
  _ = (
    records
    | 'Records' >> beam.Flatten()
    | 'AllRecords' >> beam.combiners.ToList()
    | 'Manifest' >> beam.Map(_write_manifest, job)
  )


def read_manifest(folder: str) -> dict:
  """Returns what a finished pipeline wrote down.

  Returns:
    `error` (None, or the sentence about the first bad row), `rows_read`,
    `dropped` and `notes` (reason -> number), `vocabulary` (a path and the
    numbers of rare items and events), and `shards` (path, num_users,
    num_events, the type of the user ids; in the order of the users).
  """
  with FileSystems.open(FileSystems.join(folder, _MANIFEST)) as file:
    return json.loads(file.read())


def load_shard(path: str) -> shards.Shard:
  """Reads a file of the manifest's `shards`."""
  with beam_files.open_file(path) as file:
    return shards.Shard.load(file)


def load_items(path: str) -> pa.Table:
  """Reads the file of the manifest's `vocabulary`: `Vocabulary.items`."""
  with beam_files.open_file(path) as file, pa.ipc.open_stream(file) as reader:
    return reader.read_all()


def _survey(file: tuple[int, str], job: Job) -> dict:
  """Checks every row of a file; draws user ids for the ranges."""
  number, path = file
  rng = np.random.default_rng(number)
  stride = log_cuts.sampling_stride(job.events_per_shard)
  sample: list[str] = []
  users_are_text = False
  try:
    with beam_files.local_copy(path) as copy:
      table = job.form.open(copy)
      for block in event_table.read_blocks(
        table, job.form.layout, collections.Counter()
      ):
        kept = pa.array(block.kept)
        for name in ('user', 'item'):
          ids = block.columns[name].filter(kept).unique()
          events.check_ids(ids, name)
          if name == 'user':
            users_are_text |= not events.are_integers(ids)
        rows = np.flatnonzero(block.kept)
        drawn = rows[rng.random(len(rows)) * stride < 1]
        sample += block.columns['user'].take(pa.array(drawn)).to_pylist()
  except InputError as error:
    return {'file': number, 'error': str(error)}
  logging.info('checked file %d of %d', number + 1, len(job.files))
  return {
    'file': number,
    'error': None,
    'sample': sample,
    'users_are_text': users_are_text,
  }


def _join_surveys(surveys: list[dict], job: Job) -> dict:
  """The ranges, or the error of the first file that has one."""
  surveys = sorted(surveys, key=lambda survey: survey['file'])
  for survey in surveys:
    if survey['error']:
      return {'error': survey['error']}
  ranges = log_cuts.make_ranges(
    [user for survey in surveys for user in survey['sample']],
    any(survey['users_are_text'] for survey in surveys),
    job.events_per_shard,
  )
  return {'error': None, 'ranges': ranges}


class _Cut(beam.DoFn):
  """File -> (shard, where rows of it lie), and what was left out."""

  def __init__(self, job: Job):
    self._job = job

  def process(self, file: tuple[int, str], survey: dict):
    if survey['error']:
      return
    number, path = file
    dropped: collections.Counter[str] = collections.Counter()
    rows_read = held = 0
    rows = collections.defaultdict(list)
    with beam_files.local_copy(path) as copy:
      table = self._job.form.open(copy)
      for block in event_table.read_blocks(
        table, self._job.form.layout, dropped
      ):
        rows_read += len(block.kept)
        Metrics.counter('bt4rec', 'rows read').inc(len(block.kept))
        for shard, batch in log_cuts.cut_block(block, number, survey['ranges']):
          rows[shard].append(batch)
          held += len(batch)
        if held >= self._job.events_per_shard:
          yield from self._write(rows)
          held = 0
    yield from self._write(rows)
    logging.info('cut file %d of %d', number + 1, len(self._job.files))
    for reason, count in dropped.items():
      Metrics.counter('bt4rec', reason).inc(count)
    yield TaggedOutput(
      'record',
      {'rows_read': rows_read + table.rows_skipped, 'dropped': dict(dropped)},
    )

  def _write(self, rows: dict[int, list[pa.RecordBatch]]):
    if rows:
      path, file = beam_files.create_file(self._job.folder, 'pieces')
      with file:
        yield from log_cuts.write_pieces(rows, path, file)
      rows.clear()


class _Sort(beam.DoFn):
  """(shard, where its rows lie) -> (shard, path of them sorted), its items."""

  def __init__(self, job: Job):
    self._job = job

  def process(self, rows, survey: dict):
    number, pieces = rows
    ranges = survey['ranges']
    batches = []
    for piece in pieces:
      with beam_files.open_file(piece.path) as file:
        batches += log_cuts.read_piece(piece, file)
    found, positions = log_cuts.gather(batches, self._job.attributes, ranges)
    del batches
    filters.handle_repeats(found, self._job.form.drop_duplicates)
    yield TaggedOutput('items', log_vocabulary.count_items(found, positions))
    yield TaggedOutput(
      'record', {'dropped': found.dropped, 'notes': found.notes}
    )
    path, file = beam_files.create_file(self._job.folder, f'sorted-{number}')
    with file:
      shards.sort_events(found).save(file)
    logging.info(
      'sorted shard %d of %d: %d events',
      number + 1,
      ranges.num_shards,
      len(found),
    )
    yield number, path


class _MergeCounts(beam.CombineFn):
  """Merges the counts of items; None where there are none."""

  def create_accumulator(self) -> list[pa.Table]:
    return []

  def add_input(self, tables: list[pa.Table], table: pa.Table):
    tables = [*tables, table]
    # Merging as often as the rows double costs a constant a row.
    if sum(map(len, tables[1:])) > len(tables[0]):
      return self.compact(tables)
    return tables

  def merge_accumulators(self, accumulators):
    merged: list[pa.Table] = []
    for tables in accumulators:
      for table in tables:
        merged = self.add_input(merged, table)
    return merged

  def compact(self, tables: list[pa.Table]) -> list[pa.Table]:
    return [log_vocabulary.merge_counts(tables)] if len(tables) > 1 else tables

  def extract_output(self, tables: list[pa.Table]) -> pa.Table | None:
    return log_vocabulary.merge_counts(tables) if tables else None


def _save_vocabulary(counts: pa.Table | None, job: Job) -> dict:
  if counts is None:
    return {}
  vocabulary = log_vocabulary.make_vocabulary(
    counts, job.attributes, job.min_item_events
  )
  path, file = beam_files.create_file(job.folder, 'vocabulary')
  with file, pa.ipc.new_stream(file, vocabulary.items.schema) as writer:
    writer.write_table(vocabulary.items)
  logging.info('%d items', len(vocabulary.items))
  dropped = {}
  if vocabulary.rare_events:
    reason = f'events of items with fewer than {job.min_item_events} events'
    dropped[reason] = vocabulary.rare_events
    Metrics.counter('bt4rec', reason).inc(vocabulary.rare_events)
  return {
    'vocabulary': path,
    'rare_items': vocabulary.rare_items,
    'dropped': dropped,
    'notes': vocabulary.notes,
  }


class _Tokens(beam.DoFn):
  """(shard, path of the rows sorted) -> a record of the finished shard."""

  def __init__(self, job: Job):
    self._job = job
    self._path = ''

  def process(self, shard: tuple[int, str], vocabulary: dict):
    number, path = shard
    if self._path != vocabulary['vocabulary']:
      self._path = vocabulary['vocabulary']
      self._item_ids = log_vocabulary.item_ids(load_items(self._path))
    before = load_shard(path)
    finished = shards.to_tokens(before, self._item_ids)
    path, file = beam_files.create_file(self._job.folder, f'shard-{number}')
    with file:
      finished.save(file)
    logging.info('finished shard %d', number + 1)
    lost = len(before.user_ids) - len(finished.user_ids)
    yield {
      'shard': number,
      'path': path,
      'num_users': len(finished.user_ids),
      'num_events': len(finished.items),
      'user_ids': finished.user_ids.dtype.str,
      'notes': {'users of rare items alone, left out': lost},
    }


def _write_manifest(records: list[dict], job: Job) -> None:
  dropped: collections.Counter[str] = collections.Counter()
  notes: collections.Counter[str] = collections.Counter()
  manifest: dict = {'error': None, 'rows_read': 0, 'shards': []}
  for record in records:
    manifest['error'] = record.get('error') or manifest['error']
    manifest['rows_read'] += record.get('rows_read', 0)
    dropped.update(record.get('dropped', {}))
    notes.update(record.get('notes', {}))
    if 'shard' in record:
      manifest['shards'].append(record)
    if 'vocabulary' in record:
      manifest['vocabulary'] = record
  manifest['shards'].sort(key=lambda record: record['shard'])
  # As in `logs`, what did not happen is not listed.
  manifest['dropped'] = {key: n for key, n in dropped.items() if n}
  manifest['notes'] = {key: n for key, n in notes.items() if n}
  with FileSystems.create(FileSystems.join(job.folder, _MANIFEST)) as file:
    file.write(json.dumps(manifest).encode())
