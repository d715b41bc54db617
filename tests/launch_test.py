"""The scripts that start jobs elsewhere, against stand-ins for the clouds."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests import cloud as stand_ins

_ROOT = pathlib.Path(__file__).parents[1]
_BUCKET = 'gs://mine/ml20m'
_TPU = ('--name=bt', '--zone=here')
_SPOT = (*_TPU, '--type=v4-8', '--spot', f'--bucket={_BUCKET}', '--poll=0')
_JOB = ('--', '--config=configs/quickstart.py', '--workdir=runs/x')


@pytest.fixture(name='cloud')
def _cloud(tmp_path):
  folder = tmp_path / 'cloud'
  folder.mkdir()
  return stand_ins.Cloud(folder)


def _run(script, *arguments, environment=None):
  return subprocess.run(
    ['bash', f'launch/{script}.sh', *arguments],
    cwd=_ROOT,
    env=environment,
    capture_output=True,
    text=True,
    timeout=300,
  )


@pytest.mark.parametrize('script', ['tpu_vm', 'slurm', 'mirror'])
def test_help_is_the_comment_at_the_top(script):
  done = _run(script, '--help')
  assert done.returncode == 0
  assert f'  launch/{script}.sh ' in done.stdout
  assert 'dry_run' in done.stdout and 'set -e' not in done.stdout


@pytest.mark.parametrize(
  'script, arguments, sentence',
  [
    ('tpu_vm', (*_TPU,), 'say what to do once: run, create, install'),
    ('tpu_vm', ('begin', *_TPU), "'begin' is not known; use run, create"),
    ('tpu_vm', ('run', *_TPU, *_JOB), 'needs --type=…'),
    ('tpu_vm', ('delete', '--name=bt'), 'needs --zone=…'),
    ('tpu_vm', ('run', '--zoen=a'), 'does not know --zoen=; its flags are'),
    ('tpu_vm', ('run', '--spott'), 'does not know --spott; its flags are'),
    ('tpu_vm', ('run', '--name'), 'write --name=VALUE.'),
    ('tpu_vm', ('run', '--name='), '--name is empty'),
    ('tpu_vm', ('follow', '--name=a b', '--zone=z'), "'a b' is no name"),
    ('tpu_vm', ('follow', *_TPU, '--poll=soon'), "'soon' is not a whole"),
    ('tpu_vm', ('run', *_TPU, '--type=v4-8'), 'there is no job to run'),
    ('tpu_vm', ('run', *_TPU, '--type=v4-8', '--', '-v'), 'no --workdir=…'),
    ('tpu_vm', ('run', *_TPU, '--type=v4-8', '--spot', *_JOB), '--spot needs'),
    ('tpu_vm', ('run', *_TPU, '--type=v99-8', *_JOB), '--runtime=…'),
    ('tpu_vm', ('run', *_SPOT, '--bucket=mine', *_JOB), "'mine' is no folder"),
    ('tpu_vm', ('delete', *_TPU, *_JOB), 'takes no flags of the job'),
    ('slurm', _JOB, 'needs --gpus=…'),
    ('slurm', ('--gpus=all', *_JOB), "--gpus='all' is not a whole number"),
    ('slurm', ('--gpus=1', 'now', *_JOB), "'now' is no flag"),
    ('slurm', ('--gpus=1',), 'there is no job to run'),
    ('slurm', ('--gpus=1', '--', '--config=a'), 'no --workdir=…'),
    ('slurm', ('--gpus=1', '--name=a b', *_JOB), "'a b' is no name"),
    ('mirror', ('--', 'launch/run.sh', *_JOB), 'needs --bucket=…'),
    ('mirror', ('--bucket=runs/y', *_JOB), 'is no folder of a bucket'),
    ('mirror', (f'--bucket={_BUCKET}',), 'there is no job to run'),
    ('mirror', (f'--bucket={_BUCKET}', '--', 'true'), 'no --workdir=…'),
  ],
)
def test_bad_flags_are_one_sentence(script, arguments, sentence):
  done = _run(script, *arguments)
  assert done.returncode == 2 and done.stdout == ''
  assert done.stderr.startswith('bt4rec: ') and done.stderr.endswith('.\n')
  assert sentence in done.stderr and done.stderr.count('\n') == 1


class TestDryRun:
  def test_of_a_tpu(self):
    job = ('--', '--config.objective=a + b', '--workdir=runs/x')
    done = _run('tpu_vm', '--dry_run', 'run', *_SPOT, *job)
    assert done.returncode == 0, done.stderr
    gcloud = 'gcloud compute tpus'
    lines = [line for line in done.stdout.splitlines() if line[0] != '#']
    list_, create, scp, install, start, follow, ask, delete = lines
    assert list_ == (
      f"{gcloud} queued-resources list --zone=here '--filter=name~/bt$' "
      f"'--format=value(state.state)'"
    )
    assert create == (
      f'{gcloud} queued-resources create bt --node-id=bt --zone=here '
      f'--accelerator-type=v4-8 --runtime-version=tpu-ubuntu2204-base --spot '
      f'--quiet'
    )
    assert scp.endswith(
      'bt4rec-bt.tar.gz bt:bt4rec.tar.gz --zone=here --worker=all --quiet'
    )
    assert "source launch/env.sh; make_env' --quiet" in install
    for line in (install, start, follow, ask):
      assert line.startswith(
        f"{gcloud} tpu-vm ssh bt --zone=here --worker=all '--command="
      )
    assert delete == (
      f'{gcloud} queued-resources delete bt --zone=here --force --quiet'
    )
    # Read back by three shells: the user's, the worker's, the job's.
    line = _words(start)[-2].removeprefix('--command=')
    body = re.search(r'bash -c (.*) >job.log', line)[1]
    assert _words(_words(body)[0].partition(';')[0]) == [
      'launch/mirror.sh',
      f'--bucket={_BUCKET}',
      '--',
      *('launch/run.sh', '--distributed', *job[1:]),
    ]

  def test_of_a_step_of_it(self):
    done = _run('tpu_vm', '--dry_run', 'delete', *_TPU, '--project=p')
    assert done.stdout == (
      'gcloud compute tpus queued-resources delete bt --zone=here --project=p '
      '--force --quiet\n'
    )

  def test_of_a_cluster(self):
    done = _run(
      *('slurm', '--dry_run', '--gpus=4', '--nodes=2', '--time=1:00:00'),
      *('--cpus=3', '--sbatch=--qos=long --mem=0', '--'),
      *('--config.objective=a + b', '--workdir=runs/x'),
    )
    assert done.returncode == 0, done.stderr
    options = re.findall(r'(?m)^#SBATCH (.*)$', done.stdout)
    assert options == [
      '--job-name=bt4rec',
      '--nodes=2',
      '--ntasks-per-node=4',
      '--gpus-per-node=4',
      '--cpus-per-task=3',
      '--time=1:00:00',
      '--requeue',
      '--signal=B:USR1@120',
      '--open-mode=append',
      '--output=runs/slurm/%x-%j.log',
      '--qos=long',
      '--mem=0',
    ]
    assert (
      'command=(.venv/bin/python -m bt4rec.main --distributed '
      "'--config.objective=a + b' --workdir=runs/x)\n" in done.stdout
    )
    assert 'srun --kill-on-bad-exit=0 --cpus-per-task=3 "' in done.stdout
    assert done.stdout.endswith(
      '\nsbatch --parsable runs/slurm/bt4rec.sbatch\n'
    )

  def test_of_one_node(self):
    done = _run('slurm', '--dry_run', '--gpus=4', *_JOB)
    assert '#SBATCH --ntasks-per-node=1\n' in done.stdout
    assert '--distributed' not in done.stdout

  def test_of_a_mirror(self):
    done = _run(
      *('mirror', '--dry_run', f'--bucket={_BUCKET}/', '--'),
      *('launch/run.sh', '--workdir=my runs/x'),
    )
    lines = [line for line in done.stdout.splitlines() if line[0] != '#']
    storage, there = 'gcloud storage', "'my runs/x.snapshot' gs://mine/ml20m"
    assert lines == [
      f'{storage} ls gs://mine/ml20m/',
      f'{storage} cat gs://mine/ml20m/mirror_id',
      f"{storage} rsync gs://mine/ml20m 'my runs/x' --recursive",
      "launch/run.sh '--workdir=my runs/x'",
      f"{storage} cp 'my runs/x/mirror_id' gs://mine/ml20m/mirror_id",
      f'{storage} rsync {there} --recursive',
      f'{storage} rsync {there} --recursive '
      f'--delete-unmatched-destination-objects',
    ]


def _words(line: str) -> list[str]:
  """What bash makes of a line, without running what is in it."""
  done = subprocess.run(
    ['bash', '-c', f'for word in {line}; do printf "%s\\0" "$word"; done'],
    capture_output=True,
    text=True,
    check=True,
  )
  return done.stdout.split('\0')[:-1]


# A job that holds its workdir as a real one does, and counts how often it has
# been started in it.
_COUNTS = """
import os, pathlib, signal, sys, time
words = dict(word.partition('=')[::2] for word in sys.argv)
workdir = pathlib.Path(words['--workdir'])
workdir.mkdir(parents=True, exist_ok=True)
(workdir / 'lock').touch()
count = workdir / 'count'
starts = int(count.read_text()) + 1 if count.exists() else 1
count.write_text(str(starts))
cloud = pathlib.Path(os.environ['CLOUD'])
with open(cloud / 'starts', 'a') as f:
  f.write(f'{starts} ')
print('start', starts, flush=True)


def wait_for(path):
  while not path.exists():
    time.sleep(0.02)

"""


def _wait_for(path):
  for _ in range(10_000):
    if path.exists():
      return
    time.sleep(0.02)
  raise AssertionError(f'{path} does not appear')


class TestTpuVm:
  def _start(self, cloud, code, *arguments):
    job = cloud.add('job', _COUNTS + code)
    return subprocess.Popen(
      ['bash', 'launch/tpu_vm.sh', *arguments],
      cwd=_ROOT,
      env={**cloud.environment, 'JOB': job},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
      start_new_session=True,
    )

  def _verbs(self, cloud):
    """What was done with queued resources, but for looks at them."""
    verbs = [call.split()[3] for call in cloud.calls if 'queued-' in call]
    return [verb for verb in verbs if verb != 'list']

  def test_a_preempted_job_goes_on_from_the_bucket(self, cloud):
    run = self._start(
      cloud,
      """
if starts == 1:
  sys.exit(143)  # Warned, but the TPU stays.
if not (cloud / 'preempted').exists():
  # Taken away with its disk, and nothing is copied any more.
  (cloud / 'preempted').touch()
  (cloud / 'state').write_text('SUSPENDED')
  os.killpg(0, signal.SIGKILL)
""",
      *('run', *_SPOT, *_JOB),
    )
    output, errors = run.communicate(timeout=300)
    assert run.returncode == 0, errors
    # The second time was lost with the disk.
    assert (cloud.folder / 'starts').read_text() == '1 2 2 '
    assert (cloud.bucket(_BUCKET) / 'count').read_text() == '2'
    assert output.rstrip().endswith('start 2')
    assert self._verbs(cloud) == ['create', 'delete'] * 2
    assert 'TPU bt: SUSPENDED' in errors

  def test_a_job_that_fails_as_its_tpu_goes_is_not_over(self, cloud):
    run = self._start(
      cloud,
      """
if not (cloud / 'failed').exists():
  (cloud / 'failed').touch()
  (cloud / 'going').touch()
  sys.exit(1)
""",
      *('run', *_SPOT, *_JOB),
    )
    assert run.wait(timeout=300) == 0, run.stderr.read()
    assert (cloud.folder / 'starts').read_text() == '1 2 '
    assert self._verbs(cloud) == ['create', 'delete'] * 2

  def test_the_status_of_the_job_is_passed_on(self, cloud):
    flags = (*_TPU, '--type=v4-8', '--poll=0', '--keep')
    run = self._start(cloud, 'sys.exit(5)', 'run', *flags, *_JOB)
    assert run.wait(timeout=300) == 5
    # Left alone with --keep.
    assert self._verbs(cloud) == ['create']
    follow = self._start(cloud, '', 'follow', *_TPU)
    assert follow.communicate(timeout=300)[0].endswith('start 1\n')
    assert follow.returncode == 5
    delete = self._start(cloud, '', 'delete', *_TPU)
    assert delete.wait(timeout=300) == 0
    assert self._verbs(cloud) == ['create', 'delete']

  def test_the_job_needs_nobody_who_watches(self, cloud):
    code = "wait_for(cloud / 'enough')"
    run = self._start(cloud, code, 'run', *_SPOT, *_JOB)
    _wait_for(cloud.folder / 'starts')
    while not any('tail' in call for call in cloud.calls):
      time.sleep(0.02)
    os.killpg(run.pid, signal.SIGINT)  # Ctrl-C.
    assert 'the TPU and its job go on' in run.communicate(timeout=300)[1]
    assert run.returncode == 130
    again = self._start(cloud, code, 'run', *_SPOT, *_JOB)
    while sum('tail' in call for call in cloud.calls) < 2:
      time.sleep(0.02)
    (cloud.folder / 'enough').touch()
    assert again.wait(timeout=300) == 0
    assert (cloud.folder / 'starts').read_text() == '1 '
    assert self._verbs(cloud) == ['create', 'delete']

  def test_a_tpu_that_cannot_be_had_ends_it(self, cloud):
    cloud.add('gcloud', 'import sys\nsys.exit("no quota")')
    run = self._start(cloud, '', 'run', *_SPOT, *_JOB)
    errors = run.communicate(timeout=300)[1]
    assert run.returncode == 1
    assert 'no quota' in errors and 'TPU bt cannot be used' in errors


class TestMirror:
  def _start(self, cloud, workdir, code, *flags, name='job', **variables):
    job = cloud.add(name, _COUNTS + code)
    return subprocess.Popen(
      [
        *('bash', 'launch/mirror.sh', f'--bucket={_BUCKET}', *flags),
        *('--', job, f'--workdir={workdir}'),
      ],
      cwd=_ROOT,
      env={**cloud.environment, **variables},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  def test_copies_while_the_job_runs_and_after(self, cloud, tmp_path):
    bucket = cloud.bucket(_BUCKET)
    there = str(bucket / 'count')
    mirror = self._start(
      cloud,
      tmp_path / 'my runs',
      f"""
(workdir / 'old').touch()
for name in ('half.tmp', 'checkpoints/5.orbax-checkpoint-tmp/array'):
  (workdir / name).parent.mkdir(parents=True, exist_ok=True)
  (workdir / name).touch()
wait_for(pathlib.Path({there!r}))
(workdir / 'old').unlink()
(workdir / 'late').write_text('late')
sys.exit(7)
""",
      '--every=0',
    )
    assert mirror.wait(timeout=300) == 7, mirror.stderr.read()
    # No lock, and nothing half written or deleted.
    assert sorted(p.name for p in bucket.rglob('*') if p.is_file()) == [
      *('count', 'late', 'mirror_id'),
    ]
    assert not (tmp_path / 'my runs.snapshot').exists()

  def test_a_lost_workdir_is_fetched(self, cloud, tmp_path):
    workdir = tmp_path / 'x'
    for starts in ('1', '2', '3'):
      mirror = self._start(cloud, workdir, '')
      assert mirror.wait(timeout=300) == 0
      assert (workdir / 'count').read_text() == starts
      if starts == '1':
        shutil.rmtree(workdir)

  def test_what_went_on_elsewhere_is_not_overwritten(self, cloud, tmp_path):
    first, second = tmp_path / 'first', tmp_path / 'second'
    for workdir in (first, second):
      assert self._start(cloud, workdir, '').wait(timeout=300) == 0
    mirror = self._start(cloud, first, '')
    errors = mirror.communicate(timeout=300)[1]
    assert mirror.returncode == 2 and 'has gone on elsewhere' in errors
    assert (first / 'count').read_text() == '1'
    assert (cloud.bucket(_BUCKET) / 'count').read_text() == '2'
    # One that was killed before its first copy is not elsewhere.
    third = tmp_path / 'third'
    mirror = self._start(cloud, third, 'os.kill(os.getppid(), signal.SIGKILL)')
    mirror.wait(timeout=300)
    assert self._start(cloud, third, '').wait(timeout=300) == 0
    assert (cloud.bucket(_BUCKET) / 'count').read_text() == '4'

  def test_other_things_are_not_deleted(self, cloud, tmp_path):
    bucket = cloud.bucket(_BUCKET)
    bucket.mkdir(parents=True)
    (bucket / 'thesis').write_text('all of it')
    mirror = self._start(cloud, tmp_path / 'x', '')
    errors = mirror.communicate(timeout=300)[1]
    assert mirror.returncode == 2 and 'holds other things' in errors
    assert (bucket / 'thesis').exists() and not (tmp_path / 'x').exists()

  def test_a_bucket_that_does_not_answer_is_not_an_empty_one(
    self, cloud, tmp_path
  ):
    cloud.add('gcloud', 'import sys\nsys.exit("403 Forbidden")')
    mirror = self._start(cloud, tmp_path / 'x', '')
    errors = mirror.communicate(timeout=300)[1]
    assert mirror.returncode == 1 and '(403 Forbidden)' in errors
    assert not (tmp_path / 'x').exists()

  def test_sigterm_is_handed_on(self, cloud, tmp_path):
    mirror = self._start(
      cloud,
      tmp_path / 'x',
      """
def save(*_):
  time.sleep(0.3)
  (workdir / 'saved').touch()
  sys.exit(143)

signal.signal(signal.SIGTERM, save)
(workdir / 'ready').touch()
time.sleep(60)
""",
    )
    _wait_for(tmp_path / 'x' / 'ready')
    mirror.terminate()
    mirror.terminate()
    assert mirror.wait(timeout=300) == 143
    assert (cloud.bucket(_BUCKET) / 'saved').exists()

  # Saves as Orbax does: under another name, of which there may be parts, and
  # what was before goes after.
  _SAVES = """
import itertools, shutil
checkpoints = workdir / 'checkpoints'
checkpoints.mkdir(exist_ok=True)


def save(step):
  part = checkpoints / f'{step}.orbax-checkpoint-tmp'
  part.mkdir()
  for name in 'abcde':
    (part / name).write_text(str(step))
  part.rename(checkpoints / str(step))


def delete_before(step, names='abcde'):
  for old in checkpoints.iterdir():
    if old.name != str(step):
      for name in names:
        (old / name).unlink(missing_ok=True)
      if names == 'abcde':
        old.rmdir()

"""

  def _check_moments(self, cloud, workdir):
    """From when the first one has arrived, a whole checkpoint is there."""
    has_one = [
      any(
        all(files.get(f'checkpoints/{step}/{name}') == step for name in 'abcde')
        for step in {path.split('/')[1] for path in files if '/' in path}
      )
      for files in cloud.moments(_BUCKET)
    ]
    assert all(has_one[has_one.index(True) :])
    *_, last = cloud.moments(_BUCKET)
    (step,) = os.listdir(workdir / 'checkpoints')
    kept = {path for path in last if path.startswith('checkpoints/')}
    assert kept == {f'checkpoints/{step}/{name}' for name in 'abcde'}

  def test_a_whole_checkpoint_is_there_at_any_moment(self, cloud, tmp_path):
    mirror = self._start(
      cloud,
      tmp_path / 'x',
      self._SAVES
      + """
journal = cloud / 'journal'
for step in itertools.count(1):
  save(step)
  delete_before(step)
  with open(workdir / 'metrics.jsonl', 'a') as f:
    f.write(f'{step}\\n')
  if journal.exists() and journal.read_text().count('/a"') > 5:
    break
  time.sleep(0.2)
""",
      '--every=0',
    )
    assert mirror.wait(timeout=300) == 0, mirror.stderr.read()
    self._check_moments(cloud, tmp_path / 'x')
    lines = (tmp_path / 'x' / 'metrics.jsonl').read_text()
    assert (cloud.bucket(_BUCKET) / 'metrics.jsonl').read_text() == lines

  def test_a_checkpoint_that_goes_meanwhile_is_no_harm(self, cloud, tmp_path):
    """A new one comes, and the old one goes, while files are linked."""
    cp = shutil.which('cp')
    cloud.add(
      'cp',
      f"""
import os, pathlib, subprocess, sys
cloud = pathlib.Path(os.environ['CLOUD'])
is_race = '-al' in sys.argv and (cloud / 'race').exists()
if is_race:
  (cloud / 'race').rename(cloud / 'half')
  while not (cloud / 'half_done').exists():
    pass
status = subprocess.run([{cp!r}, *sys.argv[1:]]).returncode
if is_race:
  (cloud / 'rest').touch()
  while not (cloud / 'rest_done').exists():
    pass
sys.exit(status)
""",
    )
    mirror = self._start(
      cloud,
      tmp_path / 'x',
      self._SAVES
      + f"""
save(1)
wait_for(pathlib.Path({str(cloud.bucket(_BUCKET))!r}, 'checkpoints', '1', 'e'))
(cloud / 'race').touch()
wait_for(cloud / 'half')
delete_before(2, 'ab')
(cloud / 'half_done').touch()
wait_for(cloud / 'rest')
save(2)
delete_before(2)
(cloud / 'rest_done').touch()
wait_for(pathlib.Path({str(cloud.bucket(_BUCKET))!r}, 'checkpoints', '2', 'e'))
""",
      '--every=0',
    )
    assert mirror.wait(timeout=300) == 0, mirror.stderr.read()
    self._check_moments(cloud, tmp_path / 'x')

  def test_a_copy_that_fails_is_told_and_made_again(self, cloud, tmp_path):
    code = "wait_for(cloud / 'enough')"
    mirror = self._start(
      cloud, tmp_path / 'x', code, '--every=0', BREAKS='count'
    )
    assert mirror.stderr.readline().endswith('(ERROR: the connection broke).\n')
    (cloud.folder / 'enough').touch()
    mirror.kill()

  def test_a_real_job_goes_on_from_what_the_bucket_has(self, cloud, tmp_path):
    """A bucket has no empty folders, and Orbax does not miss them."""
    workdir = tmp_path / 'x'
    command = [
      *('bash', 'launch/mirror.sh', f'--bucket={_BUCKET}', '--every=1', '--'),
      *(sys.executable, '-m', 'bt4rec.main', f'--workdir={workdir}'),
      '--config=configs/pretrain.py:synthetic',
      '--config.dataset.synthetic.num_users=120',
      '--config.dataset.synthetic.num_items=40',
      '--config.dataset.synthetic.max_events=22',
      '--config.max_length=8',
      '--config.encoder.dim=8',
      '--config.encoder.num_layers=1',
      '--config.batch_size=16',
      '--config.total_steps=200000',
      '--config.eval_every_steps=200000',
      '--config.checkpoint_every_steps=20',
      '--config.log_every_steps=5',
      '--config.optimizer.warmup_steps=1',
      '--config.feed=device',
      '--config.tensorboard=False',
    ]
    for resumes in (False, True):
      job = subprocess.Popen(
        command,
        cwd=_ROOT,
        # One device, not the eight of this process; compiled once.
        env={
          **cloud.environment,
          'XLA_FLAGS': '--xla_backend_optimization_level=0',
          'JAX_COMPILATION_CACHE_DIR': str(tmp_path / 'compiled'),
          'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
        },
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
      )
      lines = iter(job.stderr.readline, '')
      if resumes:
        resumed = next(line for line in lines if 'resumed at step' in line)
        assert int(re.search(r'resumed at step (\d+)', resumed)[1]) >= 20
      else:
        # They are copied after the checkpoints.
        metrics = cloud.bucket(_BUCKET) / 'metrics.jsonl'
        while not metrics.exists() or '"step": 45,' not in metrics.read_text():
          assert job.poll() is None, job.stderr.read()
          time.sleep(0.1)
      os.killpg(job.pid, signal.SIGKILL)
      # Its copier notices, and goes too.
      job.communicate(timeout=300)
      shutil.rmtree(workdir)


class TestSlurm:
  """The script itself, run by bash as SLURM would."""

  _SRUN = """
import os, signal, subprocess, sys
job = subprocess.Popen([sys.executable, '-c', os.environ['JOB']])
with open(os.path.join(os.environ['CLOUD'], 'job'), 'w') as f:
  f.write(str(job.pid))
sys.exit(job.wait())
"""
  # Those that are noted; scancel signals the job and not the script.
  _NOTES = """
import os, signal, sys
with open(os.path.join(os.environ['CLOUD'], 'notes'), 'a') as f:
  f.write(' '.join([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + '\\n')
if sys.argv[1] == '--signal=TERM':
  with open(os.path.join(os.environ['CLOUD'], 'job')) as f:
    os.kill(int(f.read()), signal.SIGTERM)
"""
  _SAVES = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.3), sys.exit(143)))
pathlib.Path(os.environ['CLOUD'], 'ready').touch()
time.sleep(60)
"""

  def _start(self, cloud, job):
    printed = _run('slurm', '--dry_run', '--gpus=1', *_JOB).stdout
    script = cloud.folder / 'script'
    script.write_text(printed.partition('\n# runs/slurm')[0])
    cloud.add('srun', self._SRUN)
    for name in ('scancel', 'scontrol'):
      cloud.add(name, self._NOTES)
    return subprocess.Popen(
      ['bash', script],
      cwd=_ROOT,
      env={**cloud.environment, 'JOB': job, 'SLURM_JOB_ID': '17'},
    )

  def _notes(self, cloud):
    path = cloud.folder / 'notes'
    return path.read_text().splitlines() if path.exists() else []

  def test_it_is_queued_again_at_its_limit(self, cloud):
    script = self._start(cloud, self._SAVES)
    _wait_for(cloud.folder / 'ready')
    script.send_signal(signal.SIGUSR1)
    assert script.wait(timeout=300) == 143
    assert self._notes(cloud) == [
      'scancel --signal=TERM 17',
      'scontrol requeue 17',
    ]

  def test_it_is_not_when_the_user_ends_it(self, cloud):
    script = self._start(cloud, self._SAVES)
    _wait_for(cloud.folder / 'ready')
    os.kill(int((cloud.folder / 'job').read_text()), signal.SIGTERM)
    assert script.wait(timeout=300) == 143
    assert self._notes(cloud) == []

  def test_it_is_not_when_it_ends_before_the_limit(self, cloud):
    script = self._start(cloud, self._SAVES.replace('exit(143)', 'exit(0)'))
    _wait_for(cloud.folder / 'ready')
    script.send_signal(signal.SIGUSR1)
    assert script.wait(timeout=300) == 0
    assert self._notes(cloud) == ['scancel --signal=TERM 17']

  def test_it_is_submitted(self, cloud, tmp_path):
    # A checkout of its own, since the script is left in it.
    shutil.copytree(_ROOT / 'launch', tmp_path / 'launch')
    for name in ('setup.cfg', 'pyproject.toml'):
      shutil.copy(_ROOT / name, tmp_path)
    cloud.add('sbatch', self._NOTES + "print('17;cluster')")
    done = subprocess.run(
      ['bash', 'launch/slurm.sh', '--gpus=2', '--name=a', *_JOB],
      cwd=tmp_path,
      env={**cloud.environment, 'JOB': 'true'},
      capture_output=True,
      text=True,
    )
    assert done.returncode == 0, done.stderr
    assert self._notes(cloud) == ['sbatch --parsable runs/slurm/a.sbatch']
    assert 'job 17 is submitted' in done.stderr
    assert 'runs/slurm/a-17.log' in done.stderr
    text = (tmp_path / 'runs' / 'slurm' / 'a.sbatch').read_text()
    assert text.startswith('#!/usr/bin/env bash\n#SBATCH --job-name=a\n')
    assert 'sbatch --parsable' not in text
