"""Tests of the command line: exit status and the one sentence."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from bt4rec import command
from configs import base

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
  # Quick to compile.
  '--config.packing.enabled=False',
  "--config.augment.order=('mask',)",
)


def _environment(devices=1):
  flags = (
    f'--xla_force_host_platform_device_count={devices} '
    f'--xla_backend_optimization_level=0'
  )
  return {**os.environ, 'XLA_FLAGS': flags}


def _run(*arguments, devices=1, module='bt4rec.main', folder=_ROOT):
  return subprocess.run(
    [sys.executable, '-m', module, *arguments],
    cwd=folder,
    env={**_environment(devices), 'PYTHONPATH': str(_ROOT)},
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
  'key, hint',
  [
    ('total_step', "'total_steps'"),
    ('barlow_twins.lamdb', "'lambd'"),
    # Another word for it, a field of a group, of several groups.
    ('num_steps', "'keep_steps' or 'total_steps'"),
    ('learning_rate', "'head.learning_rate' or 'optimizer.learning_rate'"),
    (
      'encoder.learning_rate',
      "'head.learning_rate' or 'optimizer.learning_rate'",
    ),
    ('encoder.weight_decay', "'optimizer.weight_decay'"),
    (
      'projector',
      "'barlow_twins.projector' or 'info_nce.projector' or 'vicreg.projector'",
    ),
    ('xyzzy', ''),
  ],
)
def test_an_unknown_key_gets_what_may_have_been_meant(key, hint):
  sentence = command._explain_key(base.get_config(), key)
  shown = f'unknown config key {key!r} (did you mean {hint}?); the valid'
  assert (shown if hint else f'key {key!r}; the valid') in sentence


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
    (['--confg=x'], ['unknown flag --confg (did you mean --config?)']),
    (
      [
        '--config=configs/pretrain.py:synthetic',
        '--config.total_steps=many',
      ],
      ['total_steps', "'many'."],
    ),
  ],
)
def test_bad_flags_get_one_sentence(arguments, words):
  sentence = _sentence(_run(*arguments))
  for word in words:
    assert word in sentence


def test_what_is_idle_by_a_flag_is_not_refused_with_what_a_flag_gives(tmp_path):
  done = _run(
    '--config=configs/pretrain.py:ml1m,info_nce',
    "--config.augment.order=('crop',)",
    '--config.vicreg.projector=(8,)',
    f'--workdir={tmp_path}',
  )
  sentence = _sentence(done)
  assert 'vicreg.projector=[8] (read by' in sentence
  # The file has ratios for an order that is not the user's.
  assert 'augment.ratios' not in sentence


class TestHelp:
  @pytest.mark.parametrize('flag', ['--help', '--helpshort', '-h'])
  def test_lists_configs_names_flags_and_statuses(self, flag):
    done = _run(flag)
    assert done.returncode == 0
    for words in (
      'configs/pretrain.py:DATASET',
      'TASK: next_item',
      'barlow_twins',
      'exit status:',
      '--workdir: ',
    ):
      assert words in done.stdout, words

  @pytest.mark.parametrize('name', ['export', 'describe', 'prepare'])
  def test_of_other_commands_has_their_flags(self, name):
    done = _run('--help', module=f'bt4rec.{name}')
    assert done.returncode == 0
    assert '--output: ' in done.stdout and 'exit status:' in done.stdout


class TestElsewhere:
  def test_configs_are_found_beside_the_package(self, tmp_path):
    # Another package of that name, as projects have them.
    (tmp_path / 'configs').mkdir()
    (tmp_path / 'configs' / '__init__.py').write_text('raise ValueError')
    for flags in (
      ['--config=configs/pretrain.py:ml2m'],
      ['--config', 'configs/pretrain.py:ml2m'],
    ):
      sentence = _sentence(_run(*flags, folder=tmp_path))
      assert "unknown dataset 'ml2m'" in sentence

  def test_a_config_of_the_user_is_taken_first(self, tmp_path):
    (tmp_path / 'configs').mkdir()
    (tmp_path / 'configs' / 'pretrain.py').write_text(
      'from configs import presets\n'
      'def get_config(arg):\n'
      "  raise ValueError(f'mine, {presets.TASKS[0]}, {arg}')\n"
    )
    done = _run('--config=configs/pretrain.py:x', folder=tmp_path)
    assert 'mine, next_item, x' in _sentence(done)


@pytest.fixture(name='start')
def _start(tmp_path):
  """Starts a pre-training without end; none outlives the test."""
  processes = []

  def start():
    process = subprocess.Popen(
      [
        *(sys.executable, '-m', 'bt4rec.main', f'--workdir={tmp_path}'),
        *('--config=configs/pretrain.py:synthetic', *_SMALL),
        '--config.total_steps=1000000',
      ],
      cwd=_ROOT,
      env=_environment(),
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    processes.append(process)
    for line in process.stderr:
      if 'ETA' in line:
        return process
    raise AssertionError(process.stderr)

  yield start
  for process in processes:
    process.kill()


class TestStatus:
  @pytest.mark.parametrize(
    'sent, status, words',
    [
      (signal.SIGINT, 130, 'interrupted; the same command continues.'),
      (signal.SIGTERM, 143, 'the state is saved, the same command continues.'),
    ],
  )
  def test_of_a_stopped_job(self, start, sent, status, words):
    process = start()
    process.send_signal(sent)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == status, errors
    assert words in errors and 'Traceback' not in errors

  def test_of_a_job_that_is_interrupted_while_it_compiles(self):
    # The end of the interpreter crashes then; here it always does.
    job = (
      'import atexit, os, signal\n'
      'from bt4rec import command\n'
      'def main(argv):\n'
      '  atexit.register(os.abort)\n'
      '  signal.raise_signal(signal.SIGINT)\n'
      'command.run(main)\n'
    )
    done = subprocess.run(
      [sys.executable, '-c', job],
      cwd=_ROOT,
      env=_environment(),
      capture_output=True,
      text=True,
      timeout=100,
    )
    assert done.returncode == 130, done.stderr
    assert 'interrupted; the same command continues.' in done.stderr

  def test_of_a_failed_training(self, tmp_path):
    done = _run(
      '--config=configs/pretrain.py:synthetic',
      f'--workdir={tmp_path}',
      *_SMALL,
      '--config.optimizer.learning_rate=1e38',
      '--config.optimizer.clip_norm=0.0',
    )
    assert done.returncode == 1, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith('bt4rec: ') and 'lower optimizer' in last
    assert 'Traceback' not in done.stderr


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
    for name in ('README.md', 'checkpoints', 'metrics.jsonl', 'tensorboard'):
      assert f'  {tmp_path}/{name}  (' in done.stdout
    card = (tmp_path / 'README.md').read_bytes()
    assert '\n  launch/run.sh --config=configs/downstream.py' in done.stdout
    sentence = _sentence(_run(*arguments, '--config.seed=7'))
    assert 'seed was 0, is 7' in sentence
    again = _run(*arguments)
    assert again.returncode == 0 and 'resumed at step 4' in again.stderr
    assert again.stdout == done.stdout
    assert (tmp_path / 'README.md').read_bytes() == card
