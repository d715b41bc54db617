"""Tests of the command line: exit status and the one sentence."""

import os
import pathlib
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).parents[1]
_SMALL = (
  '--config.dataset.synthetic.num_users=120',
  '--config.dataset.synthetic.num_items=40',
  '--config.dataset.synthetic.max_events=22',
  '--config.max_length=8',
  '--config.encoder.dim=8',
  '--config.encoder.num_layers=1',
  '--config.batch_size=16',
  '--config.total_steps=4',
  '--config.eval_every_steps=2',
  '--config.log_every_steps=2',
  '--config.optimizer.warmup_steps=1',
  '--config.feed=device',
)


def _run(*arguments, devices=1, **environment):
  flags = f'--xla_force_host_platform_device_count={devices}'
  return subprocess.run(
    [sys.executable, '-m', 'bt4rec.main', *arguments],
    cwd=_ROOT,
    env={**os.environ, 'XLA_FLAGS': flags, **environment},
    capture_output=True,
    text=True,
    timeout=300,
  )


def _sentence(done):
  """The sentence on standard error of a command that must have failed."""
  assert done.returncode == 2, done.stderr
  assert 'Traceback' not in done.stderr
  lines = [li for li in done.stderr.splitlines() if li.startswith('bt4rec: ')]
  assert len(lines) == 1, done.stderr
  return lines[0]


@pytest.mark.parametrize(
  'arguments, words',
  [
    (
      ['--config=configs/pretrain.py:synthetic', '--config.total_step=3'],
      ["unknown config key 'total_step'", 'total_steps', 'batch_size'],
    ),
    (
      [
        '--config=configs/pretrain.py:synthetic',
        '--config.barlow_twins.lamdb=1',
      ],
      ["did you mean 'lambd'", "of 'barlow_twins'", 'projector'],
    ),
    (
      ['--config=configs/pretrain.py:ml2m'],
      ["unknown dataset 'ml2m'", 'synthetic, ml1m'],
    ),
    (
      ['--config=configs/downstream.py:ml1m,next_song'],
      ["unknown task 'next_song'", 'next_item'],
    ),
    (['--config=configs/nothing.py'], ['configs/nothing.py', 'quickstart']),
    (['--config=configs/pretrain.py:synthetic'], ['--workdir is missing']),
    (['--confg=x'], ['confg']),
    (
      [
        '--config=configs/pretrain.py:synthetic',
        '--config.total_steps=many',
      ],
      ['total_steps'],
    ),
  ],
)
def test_bad_flags_get_one_sentence(arguments, words):
  sentence = _sentence(_run(*arguments))
  for word in words:
    assert word in sentence


class TestJobs:
  def test_missing_files_are_named(self, tmp_path):
    sentence = _sentence(
      _run(
        '--config=configs/pretrain.py:ml1m',
        f'--workdir={tmp_path / "w"}',
        f'--config.dataset.path={tmp_path / "data"}',
      )
    )
    assert str(tmp_path / 'data' / 'ratings.dat') in sentence

  def test_corrupted_files_are_named_with_the_line(self, tmp_path):
    (tmp_path / 'ratings.dat').write_text('1::2::5::978300760\n1::x::5::9\n')
    (tmp_path / 'movies.dat').write_text('2::Film (1999)::Drama\n')
    sentence = _sentence(
      _run(
        '--config=configs/pretrain.py:ml1m',
        f'--workdir={tmp_path / "w"}',
        f'--config.dataset.path={tmp_path}',
        f'--config.dataset.data_dir={tmp_path / "cache"}',
      )
    )
    assert 'ratings.dat, line 2' in sentence

  def test_no_user_left_is_said(self, tmp_path):
    # Two events each: nothing is visible when the last two are held out.
    (tmp_path / 'ratings.dat').write_text(
      '1::2::5::978300760\n1::3::5::978300761\n'
    )
    (tmp_path / 'movies.dat').write_text('2::A::Drama\n3::B::Drama\n')
    sentence = _sentence(
      _run(
        '--config=configs/pretrain.py:ml1m',
        f'--workdir={tmp_path / "w"}',
        f'--config.dataset.path={tmp_path}',
        f'--config.dataset.data_dir={tmp_path / "cache"}',
        '--config.dataset.expect_official=False',
      )
    )
    assert 'no user has two events' in sentence

  def test_batch_size_must_divide_over_the_devices(self, tmp_path):
    done = _run(
      '--config=configs/pretrain.py:synthetic',
      f'--workdir={tmp_path}',
      *_SMALL,
      '--config.batch_size=20',
      devices=8,
    )
    sentence = _sentence(done)
    assert 'batch_size=20' in sentence and '8 devices' in sentence

  def test_a_workdir_of_another_config_is_refused(self, tmp_path):
    arguments = (
      '--config=configs/pretrain.py:synthetic',
      f'--workdir={tmp_path}',
      *_SMALL,
    )
    done = _run(*arguments)
    assert done.returncode == 0, done.stderr
    assert f'  {tmp_path}/checkpoints  (' in done.stdout
    assert '\n  launch/run.sh --config=configs/downstream.py' in done.stdout
    sentence = _sentence(_run(*arguments, '--config.seed=7'))
    assert 'seed was 0, is 7' in sentence
    again = _run(*arguments)
    assert again.returncode == 0 and 'resumed at step 4' in again.stderr
