"""The scripts that start jobs elsewhere, against stand-ins for the clouds."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

import pytest

from tests import cloud as stand_ins

_ROOT = pathlib.Path(__file__).parents[1]
_BUCKET = 'gs://mine/ml20m'
_TPU = ('--name=bt', '--zone=here')
_SPOT = (*_TPU, '--type=v4-8', '--spot', '--poll=0')
_JOB = ('--', '--config=configs/quickstart.py', '--workdir=runs/x')
_IN_BUCKET = ('--', '--config=configs/quickstart.py', f'--workdir={_BUCKET}')


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


@pytest.mark.parametrize(
  'flags, extras',
  [
    (['--workdir=gs://mine/run'], 'gcs'),
    (['--workdir', 'gs://mine/run'], 'gcs'),
    (['--seed=0', '--config.init_from=gcs://mine/run'], 'gcs'),
    (['--workdir=s3://mine/run'], ''),
    (['--workdir=runs/gs'], ''),
  ],
)
def test_the_extras_that_a_job_needs(flags, extras):
  command = ['bash', '-c', 'source launch/env.sh; extras_of "$@"', '-', *flags]
  done = subprocess.run(
    command, cwd=_ROOT, capture_output=True, text=True, check=True
  )
  assert done.stdout.strip() == extras


@pytest.mark.parametrize('script', ['tpu_vm', 'slurm'])
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
    ('tpu_vm', ('delete', *_TPU, *_JOB), 'takes no flags of the job'),
    ('slurm', _JOB, 'needs --gpus=…'),
    ('slurm', ('--gpus=all', *_JOB), "--gpus='all' is not a whole number"),
    ('slurm', ('--gpus=1', 'now', *_JOB), "'now' is no flag"),
    ('slurm', ('--gpus=1',), 'there is no job to run'),
    ('slurm', ('--gpus=1', '--', '--config=a'), 'no --workdir=…'),
    ('slurm', ('--gpus=1', '--name=a b', *_JOB), "'a b' is no name"),
  ],
)
def test_bad_flags_are_one_sentence(script, arguments, sentence):
  done = _run(script, *arguments)
  assert done.returncode == 2 and done.stdout == ''
  assert done.stderr.startswith('bt4rec: ') and done.stderr.endswith('.\n')
  assert sentence in done.stderr and done.stderr.count('\n') == 1


class TestDryRun:
  def test_of_a_tpu(self):
    job = ('--', '--config.objective=a + b', f'--workdir={_BUCKET}')
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
    assert "source launch/env.sh; make_env gcs' --quiet" in install
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
      *('launch/run.sh', '--distributed', *job[1:]),
    ]
    # A disk of its own needs no bucket.
    flags = ('--dry_run', 'run', *_TPU, '--type=v4-8', *_JOB)
    assert "launch/env.sh; make_env' --quiet" in _run('tpu_vm', *flags).stdout

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


def _words(line: str) -> list[str]:
  """What bash makes of a line, without running what is in it."""
  done = subprocess.run(
    ['bash', '-c', f'for word in {line}; do printf "%s\\0" "$word"; done'],
    capture_output=True,
    text=True,
    check=True,
  )
  return done.stdout.split('\0')[:-1]


# A job that counts how often it has been started in its workdir.
_COUNTS = """
import os, pathlib, signal, sys, time
words = dict(word.partition('=')[::2] for word in sys.argv)
cloud = pathlib.Path(os.environ['CLOUD'])
# The job reads and writes a bucket itself.
workdir = cloud / words['--workdir'].replace('gs://', 'buckets/')
workdir.mkdir(parents=True, exist_ok=True)
count = workdir / 'count'
starts = int(count.read_text()) + 1 if count.exists() else 1
count.write_text(str(starts))
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
  # Taken away with its disk.
  (cloud / 'preempted').touch()
  (cloud / 'state').write_text('SUSPENDED')
  os.killpg(0, signal.SIGKILL)
""",
      *('run', *_SPOT, *_IN_BUCKET),
    )
    output, errors = run.communicate(timeout=300)
    assert run.returncode == 0, errors
    # The bucket has what the lost disk had not.
    assert (cloud.folder / 'starts').read_text() == '1 2 3 '
    assert output.rstrip().endswith('start 3')
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
      *('run', *_SPOT, *_IN_BUCKET),
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
    run = self._start(cloud, code, 'run', *_SPOT, *_IN_BUCKET)
    _wait_for(cloud.folder / 'starts')
    while not any('tail' in call for call in cloud.calls):
      time.sleep(0.02)
    os.killpg(run.pid, signal.SIGINT)  # Ctrl-C.
    assert 'the TPU and its job go on' in run.communicate(timeout=300)[1]
    assert run.returncode == 130
    again = self._start(cloud, code, 'run', *_SPOT, *_IN_BUCKET)
    while sum('tail' in call for call in cloud.calls) < 2:
      time.sleep(0.02)
    (cloud.folder / 'enough').touch()
    assert again.wait(timeout=300) == 0
    assert (cloud.folder / 'starts').read_text() == '1 '
    assert self._verbs(cloud) == ['create', 'delete']

  def test_a_tpu_that_cannot_be_had_ends_it(self, cloud):
    cloud.add('gcloud', 'import sys\nsys.exit("no quota")')
    run = self._start(cloud, '', 'run', *_SPOT, *_IN_BUCKET)
    errors = run.communicate(timeout=300)[1]
    assert run.returncode == 1
    assert 'no quota' in errors and 'TPU bt cannot be used' in errors


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
