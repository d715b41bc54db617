"""The lock, the recorded config and the line-by-line files."""

import json
import os
import signal
import subprocess
import sys

import pytest
from ml_collections import ConfigDict

from bt4rec import workdir
from bt4rec.errors import InputError
from configs import base


def _config(**overrides) -> ConfigDict:
  config = ConfigDict(
    {
      'seed': 3,
      'order': ('mask', 'crop'),
      'log_every_steps': 50,
      'steps_per_call': 1,
      'init_from': '',
      'dataset': {'name': 'ml1m', 'path': '/a', 'expect_official': True},
    }
  )
  config.update_from_flattened_dict(overrides)
  return config


class TestLocked:
  def test_refuses_a_second_holder(self, tmp_path):
    path = str(tmp_path / 'new' / 'run')
    with workdir.locked(path):
      with pytest.raises(InputError, match=f'another job .* {path};'):
        with workdir.locked(path):
          pass

  def test_is_free_again_when_the_holder_is_done_or_fails(self, tmp_path):
    with workdir.locked(str(tmp_path)):
      pass
    with pytest.raises(KeyError):
      with workdir.locked(str(tmp_path)):
        raise KeyError
    with workdir.locked(str(tmp_path)):
      pass

  def test_is_free_again_when_the_holding_process_is_killed(self, tmp_path):
    program = (
      'import sys, time\n'
      'from bt4rec import workdir\n'
      'with workdir.locked(sys.argv[1]):\n'
      '  print("held", flush=True)\n'
      '  time.sleep(60)\n'
    )
    with subprocess.Popen(
      [sys.executable, '-c', program, str(tmp_path)], stdout=subprocess.PIPE
    ) as holder:
      assert holder.stdout.readline() == b'held\n'
      with pytest.raises(InputError, match='another job'):
        with workdir.locked(str(tmp_path)):
          pass
      holder.send_signal(signal.SIGKILL)
    with workdir.locked(str(tmp_path)):
      pass

  def test_a_workdir_that_cannot_be_made_is_named(self, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(InputError, match=r'cannot write to the workdir .*file'):
      with workdir.locked(str(tmp_path / 'file')):
        pass


class TestCheckConfig:
  def test_records_and_accepts_the_same(self, tmp_path):
    workdir.check_config(_config(), str(tmp_path))
    workdir.check_config(_config(), str(tmp_path))
    assert workdir.read_config(str(tmp_path)).dataset.name == 'ml1m'

  def test_another_value_names_its_key_and_both_values(self, tmp_path):
    workdir.check_config(_config(), str(tmp_path))
    (tmp_path / 'checkpoints').mkdir()
    before = (tmp_path / 'config.json').read_text()
    changed = _config(seed=4, **{'dataset.expect_official': False})
    with pytest.raises(InputError) as error:
      workdir.check_config(changed, str(tmp_path))
    assert 'seed was 3, is 4' in str(error.value)
    assert 'dataset.expect_official was True, is False' in str(error.value)
    assert 'dataset.name' not in str(error.value)
    assert (tmp_path / 'config.json').read_text() == before

  def test_another_order_of_a_tuple_is_another_config(self, tmp_path):
    workdir.check_config(_config(), str(tmp_path))
    (tmp_path / 'results.jsonl').write_text('{}\n')
    with pytest.raises(InputError, match='order was'):
      workdir.check_config(_config(order=('crop', 'mask')), str(tmp_path))

  def test_an_encoder_may_move_with_its_study(self, tmp_path):
    cell = tmp_path / 'study' / 'cells' / 'x'
    (cell / 'checkpoints').mkdir(parents=True)
    before = _config(init_from='/old/study/pretrain/barlow_twins-0')
    (cell / 'config.json').write_text(before.to_json_best_effort())
    moved = str(tmp_path / 'study' / 'pretrain' / 'barlow_twins-{}')
    workdir.check_config(_config(init_from=moved.format(0)), str(cell))
    # Another one of it, or one of another study.
    for other in (moved.format(1), '/old/pretrain/barlow_twins-0'):
      with pytest.raises(InputError, match='init_from was'):
        workdir.check_config(_config(init_from=other), str(cell))

  def test_an_encoder_of_the_same_name_is_another(self, tmp_path):
    probe = tmp_path / 'runs' / 'probe'
    (probe / 'checkpoints').mkdir(parents=True)
    before = _config(init_from='/data/runs/ml1m')
    (probe / 'config.json').write_text(before.to_json_best_effort())
    now = _config(init_from=str(tmp_path / 'runs' / 'ml1m'))
    with pytest.raises(InputError, match='init_from was'):
      workdir.check_config(now, str(probe))

  def test_before_there_is_a_result_any_value_may_change(self, tmp_path):
    # As the sentence of a job that was refused tells the user to do.
    workdir.check_config(_config(), str(tmp_path))
    workdir.check_config(_config(seed=4), str(tmp_path))
    assert workdir.read_config(str(tmp_path)).seed == 4
    (tmp_path / 'pretrain' / 'barlow_twins-0' / 'checkpoints').mkdir(
      parents=True
    )
    with pytest.raises(InputError, match='seed was 4, is 3'):
      workdir.check_config(_config(), str(tmp_path))

  def test_what_does_not_change_the_result_may_change(self, tmp_path):
    workdir.check_config(_config(), str(tmp_path))
    (tmp_path / 'checkpoints').mkdir()
    changed = _config(
      log_every_steps=7, steps_per_call=7, **{'dataset.path': '/b'}
    )
    workdir.check_config(changed, str(tmp_path))
    assert workdir.read_config(str(tmp_path)).log_every_steps == 7

  def test_fields_younger_than_the_workdir_have_their_defaults(self, tmp_path):
    recorded = {'seed': 3, 'augment': {'order': ['mask'], 'ratios': {}}}
    (tmp_path / 'config.json').write_text(json.dumps(recorded))
    config = workdir.read_config(str(tmp_path))
    defaults = base.get_config()
    assert config.seed == 3
    assert config.augment.order == ['mask']
    assert config.augment.ratios == defaults.augment.ratios
    assert config.augment.split == defaults.augment.split == 'none'
    assert config.optimizer == ConfigDict(
      json.loads(defaults.optimizer.to_json_best_effort())
    )
    # So a job of today goes on in it.
    now = base.get_config()
    now.seed, now.augment.order = 3, ('mask',)
    workdir.check_config(now, str(tmp_path))

  def test_what_a_version_before_did_not_have_is_the_default(self, tmp_path):
    config = base.get_config()
    config.encoder.dim = 48
    before = json.loads(config.to_json_best_effort())
    del before['encoder']['norm'], before['augment']['split']
    del before['item_loss']
    path = tmp_path / 'config.json'
    path.write_text(json.dumps(before))
    found = workdir.read_config(str(tmp_path))
    assert found.to_json() == config.to_json_best_effort()
    workdir.check_config(config, str(tmp_path))
    path.write_text(json.dumps(before))
    (tmp_path / 'checkpoints').mkdir()
    config.encoder.norm = 'rms_norm'
    with pytest.raises(InputError, match="norm was 'layer_norm', is 'rms_n"):
      workdir.check_config(config, str(tmp_path))

  @pytest.mark.parametrize('text', [None, '', '{"seed": '])
  def test_unreadable_record_is_named(self, tmp_path, text):
    if text is not None:
      (tmp_path / 'config.json').write_text(text)
    with pytest.raises(InputError, match=r'cannot read .*config.json'):
      workdir.read_config(str(tmp_path))


class TestLines:
  def test_reads_back_what_was_appended(self, tmp_path):
    path = str(tmp_path / 'results.jsonl')
    lines = [{'step': 1}, {'step': 2, 'task': 'é'}]
    for line in lines:
      workdir.append_line(path, line)
    assert workdir.read_lines(path) == lines

  def test_no_file_has_no_lines(self, tmp_path):
    assert workdir.read_lines(str(tmp_path / 'none.jsonl')) == []

  def test_a_line_cut_by_a_kill_is_skipped(self, tmp_path):
    path = tmp_path / 'metrics.jsonl'
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3, "lo')
    assert workdir.read_lines(str(path)) == [{'step': 1}, {'step': 2}]

  def test_appending_to_a_cut_line_loses_neither_neighbour(self, tmp_path):
    path = tmp_path / 'results.jsonl'
    path.write_text('{"seed": 1}\n{"seed": 2, "met')
    workdir.append_line(str(path), {'seed': 3})
    assert workdir.read_lines(str(path)) == [{'seed': 1}, {'seed': 3}]

  def test_keep_lines_keeps_those_and_their_order(self, tmp_path):
    path = tmp_path / 'metrics.jsonl'
    path.write_text('{"step": 5}\n{"step": 9}\n{"step": 2}\n{"st')
    workdir.keep_lines(str(path), lambda line: line['step'] <= 5)
    assert path.read_text() == '{"step": 5}\n{"step": 2}\n'

  def test_a_failed_write_leaves_the_old_file(self, tmp_path, monkeypatch):
    path = tmp_path / 'config.json'
    workdir.write_atomically(str(path), 'old')

    def fails(descriptor):
      raise OSError('disk full')

    monkeypatch.setattr(os, 'fsync', fails)
    with pytest.raises(OSError, match='disk full'):
      workdir.write_atomically(str(path), 'new')
    assert path.read_text() == 'old'

  def test_config_is_json_with_sorted_keys(self, tmp_path):
    workdir.check_config(_config(), str(tmp_path))
    text = (tmp_path / 'config.json').read_text()
    assert list(json.loads(text)) == sorted(json.loads(text))
