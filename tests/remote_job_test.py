"""Jobs whose workdir, encoder and data a URL names."""

import json
import os
import pathlib
import shutil
import sys

import numpy as np
import pytest

import bt4rec
from bt4rec import (
  cell_runner,
  datasets,
  jobs,
  lease,
  remote_workdir,
  report,
)
from bt4rec.datasets import sequences
from tests import bucket, tiny

_ITEMS = 'bucket://mine'


@pytest.fixture(name='machine')
def _machine(tmp_path, monkeypatch):
  """Name -> from now on it is this machine that works."""
  bucket.register()
  monkeypatch.setattr(bucket.BucketFileSystem, 'break_at', 0)
  monkeypatch.setattr(lease, '_LOOK', 0.01)
  monkeypatch.setenv('BUCKETS', str(tmp_path / 'buckets'))
  (tmp_path / 'buckets').mkdir()

  def become(name):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / name))

  become('first')
  return become


def _config(**overrides):
  return tiny.config(
    total_steps=4,
    eval_every_steps=2,
    dataset={'synthetic': tiny.WORLD},
    **overrides,
  )


def _run(name, config) -> str:
  with remote_workdir.held(f'{_ITEMS}/{name}') as directory:
    return jobs.run(config, directory)


def test_a_probe_finds_its_encoder_from_anywhere(machine, tmp_path):
  prepared = tmp_path / 'buckets' / 'mine' / 'data'
  config = _config()
  sequences.save(datasets.load(config.dataset), str(prepared))
  config.dataset.prepared = f'{_ITEMS}/data'
  _run('encoder', config)
  probe = config.copy_and_resolve_references()
  probe.task, probe.protocol = 'next_item', 'probe'
  probe.init_from = f'{_ITEMS}/encoder'
  machine('second')
  _run('probe', probe)
  # With no copy of anything.
  machine('third')
  encoder = bt4rec.load_encoder(f'{_ITEMS}/probe')
  assert encoder.directory == f'{_ITEMS}/encoder'
  items = encoder.item_ids[:3].tolist()
  assert encoder.recommend([items], k=4).item_ids.shape == (1, 4)
  local = bt4rec.load_encoder(str(tmp_path / 'buckets' / 'mine' / 'encoder'))
  np.testing.assert_array_equal(encoder.embed([items]), local.embed([items]))
  table = report.make_report([f'{_ITEMS}/probe'])
  assert f'- Results: {_ITEMS}/probe (1)' in table
  written = (tmp_path / 'buckets' / 'mine' / 'probe' / 'report.md').read_text()
  assert f'- Results: {_ITEMS}/probe (1)' in written
  # The config names the encoder as it was given: the same everywhere.
  recorded = json.loads(
    (tmp_path / 'buckets' / 'mine' / 'probe' / 'config.json').read_text()
  )
  assert recorded['init_from'] == f'{_ITEMS}/encoder'
  machine('fourth')
  assert f'{_ITEMS}/probe (1)' in _run('probe', probe)


def test_a_study_goes_on_elsewhere(machine, tmp_path, monkeypatch):
  config = _config()
  config.task = 'study'
  config.study = {
    'pretrainings': {'barlow_twins': {'objective': 'barlow_twins'}},
    'protocols': {'probe': {}, 'finetune': {}},
    'rows': ('majority', 'barlow_twins'),
    'finetune': ('barlow_twins',),
    'tasks': ('next_category',),
    'label_fractions': (1.0,),
    'seeds': (3,),
    'processes': 1,
    'axes': {},
    'encoders': {},
  }
  run_cell = cell_runner._run_cell
  # Ends as SIGTERM does, with the fine-tuning begun and not done.
  write_result = cell_runner.downstream.write_result

  def write_and_end(directory, result):
    if result['protocol'] == 'finetune':
      sys.exit(143)
    write_result(directory, result)

  monkeypatch.setattr(cell_runner.downstream, 'write_result', write_and_end)
  with pytest.raises(SystemExit):
    _run('study', config)
  monkeypatch.setattr(cell_runner.downstream, 'write_result', write_result)
  done = []

  def note(config, cell, *others):
    done.append(cell.kind)
    return run_cell(config, cell, *others)

  monkeypatch.setattr(cell_runner, '_run_cell', note)
  shutil.rmtree(tmp_path / 'first')
  machine('second')
  text = _run('study', config)
  assert done == ['finetune']
  assert 'barlow_twins, probe' in text and 'majority' in text
  place = tmp_path / 'buckets' / 'mine' / 'study'
  lines = pathlib.Path(place, 'results.jsonl').read_text().splitlines()
  assert len(lines) == 3
  assert os.path.exists(place / 'report.html')
