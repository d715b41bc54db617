"""Real jobs that are killed, or lose their disk, and the same command again."""

import contextlib
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

_ROOT = pathlib.Path(__file__).parents[1]
_TOTAL = 240
# Step by step, so that a test can see how far a job has come.
_COMMAND = (
  '--config=configs/pretrain.py:synthetic',
  '--config.dataset.synthetic.num_users=120',
  '--config.dataset.synthetic.num_items=40',
  '--config.dataset.synthetic.max_events=22',
  '--config.max_length=8',
  '--config.encoder.dim=8',
  '--config.encoder.num_layers=1',
  '--config.batch_size=16',
  f'--config.total_steps={_TOTAL}',
  '--config.log_every_steps=1',
  '--config.eval_every_steps=8',
  '--config.checkpoint_every_steps=5',
  '--config.health_every_steps=100',
  '--config.optimizer.warmup_steps=1',
  '--config.feed=device',
)
# They depend on the clock.
_TIMING = ('seconds', 'sequences_per_second', 'eta_seconds')


@pytest.fixture(name='start', scope='module')
def _start(tmp_path_factory):
  """Starts the job in a workdir; compiled once for all tests."""
  # One device, and code that is quick to compile.
  environment = {
    **{key: os.environ[key] for key in ('PATH', 'HOME') if key in os.environ},
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': '--xla_backend_optimization_level=0',
    'JAX_COMPILATION_CACHE_DIR': str(tmp_path_factory.mktemp('compiled')),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  }
  processes = []

  def start(workdir, *flags, program='bt4rec.main', variables=None, **options):
    process = subprocess.Popen(
      [
        *(sys.executable, '-m', program, *_COMMAND),
        *(f'--workdir={workdir}', *flags),
      ],
      cwd=_ROOT,
      env={**environment, **(variables or {})},
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
      text=True,
      **options,
    )
    processes.append(process)
    return process

  yield start
  for process in processes:
    process.kill()


@pytest.fixture(name='undisturbed', scope='module')
def _undisturbed(start, tmp_path_factory):
  """Workdir of a job that nobody killed."""
  workdir = tmp_path_factory.mktemp('undisturbed')
  assert _finish(start(workdir)) == (0, '')
  return workdir


def _finish(process) -> tuple[int, str]:
  """Exit status and the sentence, '' if there is none."""
  _, errors = process.communicate(timeout=600)
  assert 'Traceback' not in errors, errors
  said = [li for li in errors.splitlines() if li.startswith('bt4rec: ')]
  assert len(said) <= 1, errors
  return process.returncode, ''.join(said)


def _lines(workdir) -> list[dict]:
  """Whole lines of metrics.jsonl, without what depends on the clock."""
  path = workdir / 'metrics.jsonl'
  if not path.exists():
    return []
  *lines, _ = path.read_text().split('\n')
  return [
    {
      key: value
      for key, value in json.loads(line).items()
      if key not in _TIMING
    }
    for line in lines
  ]


def _is_saving(workdir) -> bool:
  """Whether a checkpoint is being written."""
  return any(workdir.glob('checkpoints/*.orbax-checkpoint-tmp'))


def _is_evaluating(workdir) -> bool:
  """Whether the last line is of a step whose evaluation has none yet."""
  last = (_lines(workdir) or [{'step': 1}])[-1]
  return last['step'] % 8 == 0 and 'loss' in last


# Kind of moment -> whether it is now.
_MOMENTS = {
  'checkpoint': _is_saving,
  'evaluation': _is_evaluating,
  'training': lambda workdir: True,
}


def _wait_for(process, workdir, kind, step) -> bool:
  """Waits for a moment at or after a step; False if the job was done."""
  while process.poll() is None:
    lines = _lines(workdir)
    if lines and lines[-1]['step'] >= step and _MOMENTS[kind](workdir):
      return True
    time.sleep(0.001)
  return False


def _kill(start, workdir, kind, step, end, delay) -> dict:
  """Starts the job and ends it at a moment.

  Args:
    start: Starts the job.
    workdir: Its workdir.
    kind: One of `_MOMENTS`, or 'start'.
    step: The first step to be killed at.
    end: The signal.
    delay: Seconds from then on.

  Returns:
    What happened, for the table.
  """
  process = start(workdir)
  if kind != 'start':
    assert _wait_for(process, workdir, kind, step), _finish(process)
  time.sleep(delay)
  process.send_signal(end)
  if end == signal.SIGKILL:
    process.wait()
    # As it was at the end of the process; nobody has tidied up.
    hit = kind not in _MOMENTS or _MOMENTS[kind](workdir)
  else:
    hit = True
  status, said = _finish(process)
  # Python sets no handler before the loop, where nothing is to be saved.
  expected = {-end} if end == signal.SIGKILL else {-end, 128 + end}
  assert status in expected and not said, (status, said)
  lines = _lines(workdir)
  return {
    'kind': kind,
    'signal': end.name,
    'step': lines[-1]['step'] if lines else 0,
    'hit': hit,
  }


def _checkpoints(workdir) -> dict[str, dict]:
  """Step -> what was saved: the latest, and the best by validation."""
  return {
    path.name: {
      'state': ocp.PyTreeCheckpointer().restore(path / 'state'),
      'meta': json.loads((path / 'meta' / 'metadata').read_text()),
    }
    for path in (workdir / 'checkpoints').iterdir()
  }


def _different_bits(a, b) -> int:
  """Number of bits in which the checkpoints of two workdirs differ."""
  one, other = _checkpoints(a), _checkpoints(b)
  assert one.keys() == other.keys()
  assert str(_TOTAL) in one
  different = 0
  for step in one:
    assert one[step]['meta'] == other[step]['meta']
    for x, y in zip(
      jax.tree.leaves(one[step]['state']),
      jax.tree.leaves(other[step]['state']),
      strict=True,
    ):
      x, y = np.asarray(x), np.asarray(y)
      assert (x.shape, x.dtype) == (y.shape, y.dtype)
      bytes_of = [np.frombuffer(array.tobytes(), np.uint8) for array in (x, y)]
      different += int(np.unpackbits(np.bitwise_xor(*bytes_of)).sum())
  return different


def _assert_survives(start, undisturbed, workdir, kills) -> None:
  """Kills the job again and again; it must end as if nobody had."""
  rng = np.random.default_rng(0)
  table = []
  for number, (kind, end) in enumerate(kills):
    step = round(_TOTAL * number / (len(kills) + 1))
    # A step takes some milliseconds, the imports some seconds.
    delay = rng.uniform(0, 3 if kind == 'start' else 0.004)
    table.append(_kill(start, workdir, kind, step, end, delay))
    print(json.dumps(table[-1]), flush=True)
  assert _finish(start(workdir)) == (0, ''), table
  assert _lines(workdir) == _lines(undisturbed), table
  different = _different_bits(undisturbed, workdir)
  print(f'{len(table)} kills, {different} bits differ')
  assert different == 0, table
  # Nor is anything left of them.
  assert sorted(os.listdir(workdir)) == sorted(os.listdir(undisturbed))
  for kind in {kind for kind, _ in kills}:
    # A moment may be over when the signal arrives.
    assert any(row['hit'] for row in table if row['kind'] == kind), table


class TestKilled:
  def test_ends_with_the_same_bits(self, start, undisturbed, tmp_path):
    kills = [('checkpoint', signal.SIGKILL), ('evaluation', signal.SIGTERM)]
    _assert_survives(start, undisturbed, tmp_path, kills)

  @pytest.mark.slow
  def test_ends_with_the_same_bits_after_twenty(
    self, start, undisturbed, tmp_path
  ):
    kinds = ('start', *_MOMENTS)
    ends = [signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]
    kills = [(kinds[i % 4], ends[i % 3]) for i in range(20)]
    _assert_survives(start, undisturbed, tmp_path, kills)


@contextlib.contextmanager
def _small_disk(folder: pathlib.Path, size: str):
  """A disk of its own, which only the administrator can mount."""
  mount = ['mount', '-t', 'tmpfs', '-o', f'size={size}', 'tmpfs', str(folder)]
  if subprocess.run(mount, capture_output=True, check=False).returncode:
    pytest.skip('no right to mount a disk')
  try:
    yield
  finally:
    subprocess.run(['umount', '-l', str(folder)], check=True)


def _remount(folder: pathlib.Path, option: str) -> None:
  command = ['mount', '-o', f'remount,{option}', str(folder)]
  subprocess.run(command, check=True)


class TestDisk:
  def test_full_disk_and_room_again(self, start, undisturbed, tmp_path):
    with _small_disk(tmp_path, '150k'):
      workdir = tmp_path / 'run'
      status, said = _finish(start(workdir))
      assert status == 1, said
      assert 'cannot write' in said and 'No space left on device' in said
      assert 'the same command continues' in said
      _remount(tmp_path, 'size=9m')
      assert _finish(start(workdir)) == (0, '')
      assert _lines(workdir) == _lines(undisturbed)
      assert _different_bits(undisturbed, workdir) == 0

  def test_a_limit_of_the_size_of_files(self, start, tmp_path):
    def limit():
      resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    status, said = _finish(start(tmp_path, preexec_fn=limit))
    assert status == 1 and 'File too large' in said, said

  def test_a_disk_that_turns_read_only(self, start, undisturbed, tmp_path):
    with _small_disk(tmp_path, '9m'):
      workdir = tmp_path / 'run'
      process = start(workdir)
      assert _wait_for(process, workdir, 'training', 20)
      # A disk with files open for writing is not remounted read-only.
      process.send_signal(signal.SIGTERM)
      _finish(process)
      _remount(tmp_path, 'ro')
      status, said = _finish(start(workdir))
      assert status == 2
      assert f'cannot write to the workdir {workdir} (Read-only' in said
      _remount(tmp_path, 'rw')
      assert _finish(start(workdir)) == (0, '')
      assert _different_bits(undisturbed, workdir) == 0

  def test_a_second_job_is_refused(self, start, tmp_path):
    first = start(tmp_path)
    assert _wait_for(first, tmp_path, 'training', 1)
    status, said = _finish(start(tmp_path))
    assert status == 2 and 'another job is running in the workdir' in said
    assert first.poll() is None or _finish(first) == (0, '')


class TestBucket:
  """A workdir in a bucket; `tests/bucket.py` stands for one."""

  def test_ends_with_the_same_bits(self, start, undisturbed, tmp_path):
    url, place = 'bucket://mine/run', tmp_path / 'buckets' / 'mine' / 'run'
    place.parent.mkdir(parents=True)
    cache = tmp_path / 'cache'

    def start_here(**variables):
      return start(
        url,
        program='tests.bucket',
        variables={
          'BUCKETS': str(tmp_path / 'buckets'),
          'XDG_CACHE_HOME': str(cache),
          **variables,
        },
      )

    # Killed in the midst of an upload, of some forty changes each, and the
    # disk is lost.
    assert _finish(start_here(BREAK_AT='130')) == (-signal.SIGKILL, '')
    assert (place / 'checkpoints').exists()
    shutil.rmtree(cache)
    # Killed in training; the disk stays, and is ahead of the bucket.
    job = start_here()
    (copy,) = _when(cache.glob, 'bt4rec/workdirs/*/workdir/run')
    assert _wait_for(job, copy, 'training', 90)
    job.kill()
    assert _finish(job) == (-signal.SIGKILL, '')
    # Warned, and then lost with the disk.
    job = start_here()
    assert _wait_for(job, copy, 'training', 160)
    job.terminate()
    assert _finish(job) == (128 + signal.SIGTERM, '')
    stopped_at = _lines(copy)[-1]['step']
    shutil.rmtree(cache)
    assert _lines(place)[-1]['step'] == stopped_at >= 160
    assert _finish(start_here()) == (0, '')
    _remove_empty_folders(place)
    assert _lines(place) == _lines(undisturbed)
    assert _different_bits(undisturbed, place) == 0
    assert {*os.listdir(place)} - {'.bt4rec'} == {*os.listdir(undisturbed)} - {
      'lock'
    }


def _remove_empty_folders(place: pathlib.Path) -> None:
  """Removes what a store has not: its stand-in may be killed at deleting."""
  for folder, _, _ in os.walk(place, topdown=False):
    with contextlib.suppress(OSError):
      os.rmdir(folder)


def _when(find, pattern) -> list[pathlib.Path]:
  """What is found, once it is there."""
  while not (found := list(find(pattern))):
    time.sleep(0.01)
  return found
