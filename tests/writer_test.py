"""metrics.jsonl and the TensorBoard events, read back."""

import json
import os
import resource
import struct
import threading

import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from bt4rec import encode, pretrain, train, workdir
from bt4rec.embedding_projector import Points
from bt4rec.writer import MetricsWriter
from tests import tiny


def _events(directory):
  """The summary values of all event files, in order: (step, value)."""
  found = []
  for name in sorted(os.listdir(directory)):
    if 'tfevents' not in name:
      continue
    data = (directory / name).read_bytes()
    while data:
      # TFRecord: length, its checksum, the record, its checksum.
      (length,) = struct.unpack('<Q', data[:8])
      event = event_pb2.Event.FromString(data[12 : 12 + length])
      data = data[16 + length :]
      found += [(event.step, value) for value in event.summary.value]
  return found


def _points(vectors):
  ids = [f'u{i}' for i in range(len(vectors))]
  return {'users': Points(vectors, {'user_id': ids, 'events': ids})}


class TestMetricsWriter:
  def test_lines_and_scalars_carry_the_step(self, tmp_path):
    writer = MetricsWriter(str(tmp_path), -1)
    writer.write(5, {'loss': 0.25, 'health': 'healthy'})
    writer.write(10, {'loss': 0.125})
    writer.close()
    lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
    lines = list(map(json.loads, lines))
    assert 0 <= lines[0].pop('seconds') <= lines[1].pop('seconds') < 60
    assert lines == [
      {'step': 5, 'loss': 0.25, 'health': 'healthy'},
      {'step': 10, 'loss': 0.125},
    ]
    scalars = [
      (step, value.simple_value)
      for step, value in _events(tmp_path / 'tensorboard')
      if value.tag == 'loss'
    ]
    assert scalars == [(5, 0.25), (10, 0.125)]

  def test_a_full_disk_shows_in_the_call_that_meets_it(self, tmp_path):
    threads = threading.active_count()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = MetricsWriter(str(tmp_path), -1)
    # The line fits; the events meet the limit.
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
      with pytest.raises(OSError, match='File too large'):
        writer.write(0, {'health': 'x' * 9_900})
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    # Nothing is left that would meet it again at exit.
    assert threading.active_count() == threads
    writer.close()

  def test_histograms_count_every_number(self, tmp_path):
    vectors = np.array([[-1.0, 2.0], [3.0, 4.0], [5.0, -6.0]], np.float32)
    writer = MetricsWriter(str(tmp_path), -1)
    writer.write_points(7, _points(vectors))
    writer.close()
    ((step, value),) = _events(tmp_path / 'tensorboard')
    assert (step, value.tag) == (7, 'embeddings/users')
    assert value.histo.num == 6
    assert value.histo.sum == 7.0
    assert (value.histo.min, value.histo.max) == (-6.0, 5.0)

  def test_without_tensorboard_writes_none(self, tmp_path):
    writer = MetricsWriter(str(tmp_path), -1, tensorboard=False)
    writer.write(1, {'loss': 1.0})
    writer.write_points(1, _points(np.ones((2, 3), np.float32)))
    writer.close()
    assert os.listdir(tmp_path) == ['metrics.jsonl']

  def test_lines_of_later_steps_are_cut(self, tmp_path):
    for step, value in ((-1, 1.0), (3, 2.0)):
      writer = MetricsWriter(str(tmp_path), step, tensorboard=False)
      for number in (2, 4):
        if number > step:
          writer.write(number, {'loss': value})
      writer.close()
    lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
    assert [json.loads(line)['loss'] for line in lines] == [1.0, 2.0]

  def test_seconds_go_on_where_the_kept_lines_end(self, tmp_path):
    lines = [{'step': 2, 'seconds': 700.0}, {'step': 4, 'seconds': 900.0}]
    text = ''.join(json.dumps(line) + '\n' for line in lines)
    (tmp_path / 'metrics.jsonl').write_text(text)
    writer = MetricsWriter(str(tmp_path), 3, tensorboard=False)
    writer.write(4, {})
    writer.close()
    lines = (tmp_path / 'metrics.jsonl').read_text().splitlines()
    assert [json.loads(line)['step'] for line in lines] == [2, 4]
    assert 700 <= json.loads(lines[1])['seconds'] < 760


@pytest.fixture(name='run', scope='module')
def _run(tmp_path_factory):
  """A pre-training whose periods do not divide each other."""
  path = tmp_path_factory.mktemp('run')
  config = tiny.config(
    tensorboard=True,
    log_every_steps=5,
    health_every_steps=3,
    augment={'order': ('mask',)},
  )
  workdir.check_config(config, str(path))
  pretrain.run(config, str(path), tiny.dataset())
  return path, encode.load_encoder(str(path))


class TestPretraining:
  def test_histograms_come_with_the_health(self, run):
    path, _ = run
    shown = [
      (step, value.tag)
      for step, value in _events(path / 'tensorboard')
      if value.HasField('histo')
    ]
    assert shown == [
      (step, f'embeddings/{name}')
      for step in (3, 6)
      for name in ('users', 'items')
    ]

  def test_the_health_has_its_own_period(self, run):
    path, _ = run
    lines = map(json.loads, (path / 'metrics.jsonl').read_text().splitlines())
    lines = [line for line in lines if 'loss' in line]
    assert [line['step'] for line in lines] == [3, 5, 6, 8]
    assert [line['step'] for line in lines if 'health' in line] == [3, 6]

  def test_the_projector_ends_with_the_best_encoder(self, run):
    path, encoder = run
    table = np.loadtxt(path / 'tensorboard' / 'items.tsv', delimiter='\t')
    text = (path / 'tensorboard' / 'items_metadata.tsv').read_text()
    header, *rows = [line.split('\t') for line in text.splitlines()]
    assert header == ['item_id', 'popularity_rank', 'title', 'categories']
    ids = np.array([int(row[0]) for row in rows])
    assert len(ids) == len(encoder.item_ids) == 30
    order = np.searchsorted(encoder.item_ids, ids)
    np.testing.assert_allclose(
      table, np.asarray(encoder.item_table)[order], rtol=1e-5, atol=1e-6
    )

  def test_the_users_are_embedded_as_a_user_would(self, run):
    path, encoder = run
    table = np.loadtxt(path / 'tensorboard' / 'users.tsv', delimiter='\t')
    text = (path / 'tensorboard' / 'users_metadata.tsv').read_text()
    header, *rows = [line.split('\t') for line in text.splitlines()]
    assert header == ['user_id', 'events', 'newest_item', 'favorite_category']
    # Of the 40 users those of an epoch, which is two batches of 16.
    assert len(table) == len(rows) == 32
    dataset = tiny.dataset()
    # A window is some run of the user's events; its metadata tell which.
    for vector, row in list(zip(table, rows, strict=True))[:3]:
      user = dataset.user_ids.tolist().index(int(row[0]))
      items = dataset.items[dataset.offsets[user] : dataset.offsets[user + 1]]
      length = int(row[1])
      windows = [
        dataset.catalogue.item_ids[items[first : first + length] - 1].tolist()
        for first in range(len(items) - length + 1)
      ]
      near = np.abs(encoder.embed(windows) - vector).max(axis=1)
      assert near.min() < 1e-4

  def test_a_job_may_do_without(self, tmp_path):
    job = pretrain.make_job(
      tiny.config(total_steps=4, augment={'order': ('mask',)}), tiny.dataset()
    )
    assert not job.tensorboard
    train.fit(job, str(tmp_path))
    assert 'tensorboard' not in os.listdir(tmp_path)
