"""Tests of a study: its cells, what is run again, what fails, processes."""

import functools
import json
import multiprocessing
import os
import shutil

import numpy as np
import pytest
from ml_collections import ConfigDict

from bt4rec import (
  cell_processes,
  cell_runner,
  datasets,
  downstream,
  errors,
  grid,
  pretrain,
  report,
  study,
  workdir,
)
from configs import study as study_config
from tests import tiny

_WORLD = {
  'num_users': 120,
  'num_items': 30,
  'num_categories': 4,
  'min_events': 12,
  'max_events': 16,
}


def _axis(stage, settings, **overrides):
  return {
    'stage': stage,
    'rows': ('barlow_twins',),
    'protocols': ('probe',),
    'label_fractions': (0.5,),
    'settings': settings,
    'places': (),
    **overrides,
  }


def _config(axes=None, **overrides) -> ConfigDict:
  """Two rows, a task, two label fractions, two seeds."""
  config = tiny.config(
    total_steps=3, eval_every_steps=1, dataset={'synthetic': _WORLD}
  )
  config.task = 'study'
  config.study = {
    'pretrainings': {
      'barlow_twins': {'objective': 'barlow_twins'},
      'other': {'objective': 'vicreg', 'batch_size': 8},
    },
    'protocols': {'probe': {'total_steps': 4}},
    'rows': ('majority', 'barlow_twins'),
    'finetune': (),
    'tasks': ('next_category',),
    'label_fractions': (0.5, 1.0),
    'seeds': (3, 4),
    'processes': 1,
    'axes': axes or {},
    'encoders': {},
    **overrides,
  }
  return config


class TestCells:
  def test_are_the_grid_seed_by_seed(self):
    cells = grid.cells(_config(finetune=('barlow_twins',)))
    # Of each seed: 2 of majority, a pre-training, 2 probes, 2 fine-tunings.
    assert [(c.kind, c.label_fraction, c.seed) for c in cells] == [
      (kind, fraction, seed)
      for seed in (3, 4)
      for kind, fraction in (
        ('majority', 0.5),
        ('majority', 1.0),
        ('pretrain', 0.0),
        ('probe', 0.5),
        ('probe', 1.0),
        ('finetune', 0.5),
        ('finetune', 1.0),
      )
    ]
    assert len({c.name for c in cells if c.task}) == 12
    assert [len(unit) for unit in grid.units(cells).values()] == [2, 5, 2, 5]

  def test_an_axis_pre_trains_for_each_of_its_settings(self):
    settings = {'8': {'batch_size': 8}, '16': {'batch_size': 16}}
    config = _config({'batch_size': _axis('pretrain', settings)}, seeds=(3,))
    cells = grid.cells(config)
    # 16 is the batch size of the main grid, so its cells are there already.
    assert [c.directory for c in cells if c.kind == 'pretrain'] == [
      'pretrain/barlow_twins-3',
      'pretrain/barlow_twins-3-batch_size=8',
    ]
    assert [c.variant for c in cells if c.kind == 'probe'] == [
      '',
      '',
      'batch_size=8',
    ]
    small = cells[-1]
    assert small.name == 'next_category-probe-barlow_twins-0.5-3-batch_size=8'
    derived = grid.cell_config(config, small, '/study')
    assert derived.init_from == '/study/pretrain/barlow_twins-3-batch_size=8'
    assert derived.variant == 'batch_size=8'
    # The probe has its own.
    assert derived.batch_size == 16 and derived.total_steps == 4
    source = grid.cell_config(config, small.source, '/study')
    assert (source.task, source.batch_size, source.seed) == ('pretrain', 8, 3)
    # As many users.
    assert source.total_steps == 6
    # Of several places those that are asked for.
    config.study.axes.batch_size.settings = {
      **settings,
      '2': {'batch_size': 2},
    }
    config.study.axes.batch_size.places = ('2',)
    assert [c.variant for c in grid.cells(config) if c.kind == 'probe'] == [
      '',
      '',
      'batch_size=2',
    ]
    # A row that is at 8 anyway is pre-trained once.
    config.study.axes.batch_size.places = ('8', '16')
    config.study.rows = ()
    config.study.axes.batch_size.rows = ('other',)
    assert {c.directory for c in grid.cells(config) if not c.task} == {
      'pretrain/other-3',
      'pretrain/other-3-batch_size=16',
    }

  def test_an_axis_of_steps_shares_the_pre_training(self):
    settings = {str(step): {'init_step': step} for step in (0, 1)}
    config = _config({'step': _axis('downstream', settings)}, seeds=(3,))
    config.keep_steps = (0, 1)
    cells = grid.cells(config)
    assert sum(c.kind == 'pretrain' for c in cells) == 1
    derived = [grid.cell_config(config, c, '/study') for c in cells[-3:]]
    assert [c.init_step for c in derived] == [-1, 0, 1]
    assert {c.init_from for c in derived} == {'/study/pretrain/barlow_twins-3'}
    assert [c.variant for c in derived] == ['', 'step=0', 'step=1']
    # Downstream training keeps no such steps; the pre-training does.
    assert {c.keep_steps for c in derived} == {()}
    source = grid.cell_config(config, cells[-1].source, '/study')
    assert source.keep_steps == (0, 1)

  def test_a_cell_is_a_job_of_its_own(self):
    config = _config()
    for cell in grid.cells(config):
      derived = grid.cell_config(config, cell, '/study')
      assert set(derived) == set(tiny.config())

  @pytest.mark.parametrize(
    'overrides, sentence',
    [
      ({'rows': ('barlow',)}, "row of the study 'barlow'.*barlow_twins"),
      ({'finetune': ('random',)}, 'fine-tuned row'),
      ({'tasks': ('next',)}, 'next_category'),
      ({'seeds': ()}, 'no cell'),
      ({'processes': 0}, 'study.processes=0'),
      ({'axes': {'a': _axis('train', {})}}, 'stage of the axis a'),
      ({'axes': {'a': _axis('pretrain', {}, rows=('x',))}}, 'row of the axis'),
      (
        {'axes': {'a': _axis('pretrain', {'8': {}}, places=('9',))}},
        "place of the axis a '9'.*8",
      ),
      # What is there already cannot be varied.
      (
        {
          'encoders': {'mine': '/elsewhere'},
          'axes': {'a': _axis('pretrain', {}, rows=('mine',))},
        },
        "row of the axis a 'mine'",
      ),
    ],
  )
  def test_mistakes_get_a_sentence(self, overrides, sentence, tmp_path):
    config = _config(**overrides)
    with pytest.raises(errors.InputError, match=sentence):
      study.run(config, str(tmp_path), datasets.load(config.dataset))


class TestEncoders:
  """Rows that were pre-trained before, elsewhere."""

  def test_serve_every_seed_and_protocol_without_a_pre_training(self):
    config = _config(
      encoders={'mine': '/elsewhere'}, rows=('mine',), finetune=('mine',)
    )
    cells = grid.cells(config)
    assert [c.name for c in cells] == [
      f'next_category-{protocol}-mine-{fraction}-{seed}'
      for seed in (3, 4)
      for protocol in ('probe', 'finetune')
      for fraction in (0.5, 1.0)
    ]
    for cell in cells:
      derived = grid.cell_config(config, cell, '/study')
      assert derived.init_from == '/elsewhere'
      assert (derived.label, derived.seed) == ('mine', cell.seed)

  def test_take_the_place_of_a_pre_training_of_their_name(self):
    config = _config(encoders={'barlow_twins': '/elsewhere'})
    config.study.rows = ('barlow_twins', 'other')
    sources = {
      (cell.objective, grid.cell_config(config, cell, '/study').init_from)
      for cell in grid.cells(config)
      if cell.task
    }
    assert sources == {
      ('barlow_twins', '/elsewhere'),
      ('other', '/study/pretrain/other-3'),
      ('other', '/study/pretrain/other-4'),
    }
    assert {c.objective for c in grid.cells(config) if not c.task} == {'other'}

  def test_give_what_a_downstream_job_on_them_gives(self, tmp_path):
    before, directory = str(tmp_path / 'before'), str(tmp_path / 'study')
    dataset = datasets.load(_config().dataset)
    pretraining = tiny.config(total_steps=3, dataset={'synthetic': _WORLD})
    with workdir.locked(before):
      workdir.check_config(pretraining, before)
      pretrain.run(pretraining, before, dataset)
    config = _config(
      encoders={'mine': before},
      rows=('random', 'mine'),
      seeds=(3,),
      label_fractions=(1.0,),
    )
    os.makedirs(directory)
    text = study.run(config, directory, dataset)
    assert '| mine, probe |' in text
    assert not os.path.exists(os.path.join(directory, 'pretrain'))
    random, mine = workdir.read_lines(os.path.join(directory, 'results.jsonl'))
    alone = tiny.config(
      task='next_category',
      init_from=before,
      seed=3,
      total_steps=4,
      eval_every_steps=1,
      dataset={'synthetic': _WORLD},
    )
    expected = downstream.run(alone, str(tmp_path / 'alone'), dataset)
    assert mine['metrics'] == expected['metrics'] != random['metrics']
    assert mine['pretraining'] == expected['pretraining']
    assert mine['pretraining']['total_steps'] == 3 and not random['pretraining']

  def test_one_that_is_not_there_is_named(self, tmp_path):
    config = _config(encoders={'mine': '/nowhere'}, rows=('mine',), seeds=(3,))
    with pytest.raises(errors.UnfinishedError, match='/nowhere'):
      study.run(config, str(tmp_path), datasets.load(config.dataset))


@pytest.fixture
def fake_jobs(monkeypatch):
  """Jobs that only note that they ran; those in the set fail."""
  ran, failing = [], {}

  def start(name):
    ran.append(name)
    if name in failing:
      raise failing[name]

  def pretraining(config, path, dataset):
    start(os.path.basename(path))

  def evaluation(config, path, dataset, cache):
    line = {
      'dataset': 'synthetic',
      'task': config.task,
      'objective': config.label,
      'variant': config.variant,
      'protocol': config.protocol,
      'label_fraction': config.label_fraction,
      'seed': config.seed,
      'metrics': {'accuracy@1': 0.5},
      'split_fingerprint': 'f',
      'inductive': False,
      'commit': 'abc',
      'device': '1 x cpu',
      'wall_seconds': 2.0,
    }
    start(downstream.cell_name(line))
    return {**line, 'outcomes': np.ones(3)}

  monkeypatch.setattr(pretrain, 'run', pretraining)
  monkeypatch.setattr(downstream, 'run', evaluation)
  monkeypatch.setattr(report, 'write_report', lambda _: 'the report')
  return ran, failing


class TestRun:
  def test_a_failing_cell_stops_nobody_and_is_tried_again(
    self, fake_jobs, tmp_path
  ):
    ran, failing = fake_jobs
    config, directory = _config(rows=('barlow_twins', 'other')), str(tmp_path)
    failing['next_category-probe-barlow_twins-0.5-3'] = errors.InputError('No.')
    failing['other-4'] = errors.NonFiniteLossError('Too far.')
    with pytest.raises(errors.UnfinishedError) as raised:
      study.run(config, directory, None)
    # The failing probe, the failing pre-training and its two probes.
    assert '4 jobs failed' in str(raised.value)
    assert 'barlow_twins-0.5-3: No; ' in str(raised.value)
    # 4 pre-trainings and 8 probes, but for those of the one that failed.
    assert len(ran) == 4 + 8 - 2
    assert len(workdir.read_lines(f'{directory}/results.jsonl')) == 8 - 3
    ran.clear(), failing.clear()
    assert study.run(config, directory, None) == 'the report'
    assert sorted(ran) == [
      'next_category-probe-barlow_twins-0.5-3',
      'next_category-probe-other-0.5-4',
      'next_category-probe-other-1.0-4',
      'other-4',
    ]
    ran.clear()
    study.run(config, directory, None)
    assert not ran

  def test_a_fine_tuning_has_the_encoder_of_its_row(self, fake_jobs, tmp_path):
    config = _config(rows=('other',), finetune=('other',), seeds=(3,))
    config.study.pretrainings.other.encoder = {'dim': 24}
    study.run(config, str(tmp_path), None)
    cell = tmp_path / 'cells' / 'next_category-finetune-other-1.0-3'
    assert workdir.read_config(str(cell)).encoder.dim == 24
    # One of a version without heads of probes is not taken for one with.
    path = tmp_path / 'results.jsonl'
    lines = workdir.read_lines(str(path))
    for line in lines:
      line['settings'].pop('head.total_steps', None)
    path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    with pytest.raises(errors.InputError, match=r'head\.total_steps was 0, is'):
      study.run(config, str(tmp_path), None)

  def test_a_line_cut_by_a_kill_is_run_again(self, fake_jobs, tmp_path):
    ran, _ = fake_jobs
    study.run(_config(), str(tmp_path), None)
    path = tmp_path / 'results.jsonl'
    path.write_text(path.read_text()[:-20])
    ran.clear()
    study.run(_config(), str(tmp_path), None)
    assert ran == ['next_category-probe-barlow_twins-1.0-4']
    assert len(workdir.read_lines(str(path))) == 8

  def test_a_whole_fraction_is_finished_too(self, fake_jobs, tmp_path):
    ran, _ = fake_jobs
    config = _config(label_fractions=(0.5, 1))
    study.run(config, str(tmp_path), None)
    ran.clear()
    study.run(config, str(tmp_path), None)
    assert not ran

  def test_a_pre_training_may_go_when_all_that_asks_for_it_is_done(
    self, fake_jobs, tmp_path
  ):
    ran, _ = fake_jobs
    study.run(_config(), str(tmp_path), None)
    shutil.rmtree(tmp_path / 'pretrain')
    ran.clear()
    study.run(_config(), str(tmp_path), None)
    assert not ran
    config = _config(seeds=(3,), label_fractions=(0.25, 0.5, 1.0))
    study.run(config, str(tmp_path), None)
    assert ran == [
      'next_category-majority-majority-0.25-3',
      'barlow_twins-3',
      'next_category-probe-barlow_twins-0.25-3',
    ]

  def test_the_encoder_of_a_finished_line_cannot_change(
    self, fake_jobs, tmp_path
  ):
    study.run(_config(), str(tmp_path), None)
    shutil.rmtree(tmp_path / 'pretrain')
    path = tmp_path / 'results.jsonl'
    made = {'settings': {'encoder.dim': 99}}
    lines = [
      {**line, 'pretraining': made} for line in workdir.read_lines(str(path))
    ]
    path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    with pytest.raises(
      errors.InputError, match=r'the encoder of .* was 99, is'
    ):
      study.run(_config(), str(tmp_path), None)

  @pytest.mark.parametrize(
    'field, value, words',
    [
      (
        'pretrainings.barlow_twins.dual_encoder',
        {'contexts': 3},
        r'barlow_twins\.dual_encoder\.contexts=3 .read by objective=dual_enc',
      ),
      (
        'axes.size.settings.a',
        {'barlow_twins': {'min_context': 0.1}},
        r'axes\.size\.settings\.a\.barlow_twins\.min_context=0\.1 .read by',
      ),
    ],
  )
  def test_what_a_row_overrides_must_be_read(
    self, field, value, words, fake_jobs, tmp_path
  ):
    ran, _ = fake_jobs
    config = _config({'size': _axis('pretrain', {'a': {'max_length': 8}})})
    *groups, name = field.split('.')
    with config.unlocked():
      functools.reduce(ConfigDict.get, groups, config.study)[name] = value
    with pytest.raises(errors.InputError, match=words):
      study.run(config, str(tmp_path), None)
    assert not ran

  def test_nothing_is_kept_of_a_study_that_failed(self, fake_jobs, tmp_path):
    _, failing = fake_jobs
    config = _config(rows=('barlow_twins',), seeds=(3,))
    failing['barlow_twins-3'] = errors.InputError('No.')
    workdir.check_config(config, str(tmp_path))
    with pytest.raises(errors.UnfinishedError, match='nothing is done'):
      study.run(config, str(tmp_path), None)
    config.batch_size = 8
    workdir.check_config(config, str(tmp_path))

  def test_settings_of_a_finished_pre_training_cannot_change(
    self, fake_jobs, tmp_path
  ):
    study.run(_config(), str(tmp_path), None)
    config = _config()
    config.study.pretrainings.barlow_twins.batch_size = 32
    with pytest.raises(errors.InputError, match='batch_size was 16, is 32'):
      study.run(config, str(tmp_path), None)

  @pytest.mark.parametrize(
    'field, value, words',
    [
      ('protocols.probe.total_steps', 5, 'total_steps was 4, is 5'),
      ('axes.step.settings.first.init_step', 2, 'init_step was 0, is 2'),
      ('encoders.mine', '/b', "init_from was '/a', is '/b'"),
    ],
  )
  def test_settings_of_a_finished_evaluation_cannot_change(
    self, field, value, words, fake_jobs, tmp_path
  ):
    ran, _ = fake_jobs
    config = _config(
      {'step': _axis('downstream', {'first': {'init_step': 0}})},
      encoders={'mine': '/a'},
      rows=('barlow_twins', 'mine'),
    )
    study.run(config, str(tmp_path), None)
    before = (tmp_path / 'results.jsonl').read_bytes()
    config.study.update_from_flattened_dict({field: value})
    ran.clear()
    with pytest.raises(errors.InputError, match=words) as error:
      study.run(config, str(tmp_path), None)
    assert 'another --workdir' in str(error.value) and not ran
    assert (tmp_path / 'results.jsonl').read_bytes() == before

  def test_what_a_finished_evaluation_does_not_read_may_change(
    self, fake_jobs, tmp_path
  ):
    ran, _ = fake_jobs
    directory = tmp_path / 'a'
    directory.mkdir()
    study.run(_config(), str(directory), None)
    # Elsewhere, with other rows besides, and a protocol that none had.
    moved = directory.rename(tmp_path / 'b')
    config = _config(rows=('majority', 'barlow_twins', 'other'))
    config.study.protocols = {'probe': {'total_steps': 4}, 'finetune': {}}
    config.log_every_steps = 3
    ran.clear()
    study.run(config, str(moved), None)
    assert ran and all('other' in name for name in ran)

  def test_a_finished_pre_training_has_the_encoder_it_started_from(
    self, fake_jobs, tmp_path
  ):
    ran, _ = fake_jobs
    source = tmp_path / 'source'
    source.mkdir()
    (source / 'config.json').write_text(
      tiny.config(encoder={'dim': 24}).to_json_best_effort()
    )
    config = _config()
    config.study.pretrainings.barlow_twins.init_from = str(source)
    study.run(config, str(tmp_path), None)
    ran.clear()
    study.run(config, str(tmp_path), None)
    assert not ran

  def test_a_line_of_an_older_version_is_taken_as_it_is(
    self, fake_jobs, tmp_path
  ):
    ran, _ = fake_jobs
    study.run(_config(), str(tmp_path), None)
    path = tmp_path / 'results.jsonl'
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(line.pop('settings') for line in lines)
    path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    config = _config()
    config.study.protocols.probe.total_steps = 5
    ran.clear()
    study.run(config, str(tmp_path), None)
    assert not ran

  def test_time_left_grows_with_the_work(self):
    settings = {'64': {'batch_size': 64, 'total_steps': 3}}
    config = _config(
      {'batch_size': _axis('pretrain', settings)}, rows=('barlow_twins',)
    )
    config.study.seeds = (3,)
    cells = grid.cells(config)
    progress = cell_runner._Progress(config, cells, 1)
    assert progress._time_left() == ''
    progress.skip(cells[0], 100.0)
    progress.skip(cells[1], 8.0)
    # A probe, the pre-training with four times the batch, and its probe.
    assert progress._time_left() == ' ETA 0:06:56'
    # The units that are left can run at the same time.
    progress._processes = 2
    assert progress._time_left() == ' ETA 0:03:28'


class TestProcesses:
  def test_give_the_results_of_one_process(self, tmp_path):
    config = _config(seeds=(3,), label_fractions=(1.0,), processes=2)
    dataset = datasets.load(config.dataset)
    for name in ('one', 'two'):
      (tmp_path / name).mkdir()
    # So that a cell fails in a process of its own.
    config.study.rows = ('majority', 'barlow_twins', 'other')
    config.study.pretrainings.other.batch_size = 7
    with pytest.raises(errors.UnfinishedError, match='batch_size=7'):
      study.run(config, str(tmp_path / 'two'), dataset)
    config.study.processes = 1
    config.study.rows = ('majority', 'barlow_twins')
    study.run(config, str(tmp_path / 'one'), dataset)
    two, one = (
      {
        line['objective']: (line['metrics'], line['validation'])
        for line in workdir.read_lines(str(tmp_path / name / 'results.jsonl'))
      }
      for name in ('two', 'one')
    )
    assert two == one and set(one) == {'majority', 'barlow_twins'}
    log = (tmp_path / 'two' / 'logs' / 'barlow_twins-3.log').read_text()
    assert 'pre-training on' in log

  def test_one_that_is_killed_is_reported(self, tmp_path, monkeypatch):
    monkeypatch.setattr(cell_processes, '_SILENCE', 0.1)
    config = _config()
    cells = grid.cells(config)
    units = {'a': cells[:1], 'b': cells[2:4]}
    seen = []

    def kill(running):
      seen.append(list(running))
      for process in multiprocessing.active_children():
        if process.name in units:
          process.kill()

    events = list(
      cell_processes.run_units(config, str(tmp_path), units, 2, kill)
    )
    assert seen[0] == ['a', 'b']
    assert {event.cell for event in events} == {cells[0], *cells[2:4]}
    for event in events:
      assert event.failed and 'status -9' in event.text
      assert '.log' in event.text


@pytest.mark.parametrize('size', ['small', 'full'])
def test_every_cell_of_the_shipped_studies_has_a_config(size):
  config = study_config.get_config(f'ml1m,{size}')
  config.study.seeds = (0,)
  cells = grid.cells(config)
  for cell in cells:
    json.loads(grid.cell_config(config, cell, '/study').to_json_best_effort())
  sizes = {
    grid.cell_config(config, cell, '').batch_size
    for cell in cells
    if cell.directory.startswith('pretrain/barlow_twins')
  }
  every = {16, 32, 64, 128, 256, 512, 1024, 2048}
  assert sizes == (every if size == 'full' else {128})
