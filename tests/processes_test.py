"""Two real processes train as one does, on the users of one."""

import json
import os
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from bt4rec import workdir

# Not the eight devices of this process; and quick to compile.
_ENVIRONMENT = {
  **os.environ,
  'XLA_FLAGS': '--xla_backend_optimization_level=0',
  'JAX_PLATFORMS': 'cpu',
}
# Two epochs of 40 users in batches of 16, and a half.
_STEPS = 5

_PROGRAM = """
import json, sys
import jax
rank, port = int(sys.argv[1]), sys.argv[2]
if rank >= 0:
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  jax.distributed.initialize(f'localhost:{port}', 2, rank)
import numpy as np
from bt4rec import pretrain
from tests import tiny

dataset = tiny.dataset()
config = tiny.config()
config.encoder.dropout = 0.0  # Its masks are drawn by device.
config.packing.enabled, config.packing.num_groups = True, 2
for parallelism in ('jit', 'pmap'):
  config.parallelism = parallelism
  job = pretrain.make_job(config, dataset)
  state, tables = job.step.replicate((job.state, job.tables))
  feed = job.feed(0)
  for step in range(int(sys.argv[3])):
    rows = next(feed)
    user = np.searchsorted(dataset.offsets, rows['start'], 'right') - 1
    state, metrics = job.step(state, {**job.step.place_batch(rows), **tables})
    print(json.dumps({
      'parallelism': parallelism,
      'step': step,
      'users': user.tolist(),
      **{
        name: float(np.ravel(metrics[name].addressable_data(0))[0])
        for name in ('loss', 'gradient_norm', 'parameter_norm')
      },
    }))
"""


def _lines(process) -> list[dict]:
  output, errors = process.communicate(timeout=600)
  assert process.returncode == 0, errors[-3_000:]
  # The runtime writes a line of its own.
  return [json.loads(line) for line in output.splitlines() if line[0] == '{']


def _free_port() -> str:
  with socket.socket() as free:
    free.bind(('localhost', 0))
    return str(free.getsockname()[1])


@pytest.fixture(scope='module')
def runs():
  """The lines of one process alone, and of each of two."""
  port = _free_port()
  processes = [
    subprocess.Popen(
      [sys.executable, '-c', _PROGRAM, rank, port, str(_STEPS)],
      env=_ENVIRONMENT,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for rank in ('-1', '0', '1')
  ]
  return [_lines(process) for process in processes]


def test_loss_and_gradient_are_those_of_one_process(runs):
  one, *both = runs
  assert len(one) == 2 * _STEPS
  for lines in both:
    for line, expected in zip(lines, one, strict=True):
      for name in ('loss', 'gradient_norm', 'parameter_norm'):
        # Adam turns the rounding of a small gradient into a whole step.
        tolerance = 1e-5 if line['step'] == 0 else 2e-3
        np.testing.assert_allclose(
          line[name], expected[name], rtol=tolerance, err_msg=str(line)
        )


@pytest.mark.parametrize('parallelism', ['jit', 'pmap'])
def test_each_user_comes_once_per_epoch_at_most(runs, parallelism):
  first, second = (
    [line['users'] for line in lines if line['parallelism'] == parallelism]
    for lines in runs[1:]
  )
  stream = [user for pair in zip(first, second, strict=True) for user in pair]
  users = np.concatenate(stream)
  # Two batches of 16 of the 40 users make an epoch.
  for epoch in users[:64].reshape(2, 32).tolist():
    assert len(set(epoch)) == 32


# Both processes are given the workdir of the same command; the second one's
# folder is elsewhere, as on another machine.
def _start_job(rank, port, workdir, *flags, num_processes=2):
  distributed = (
    '--distributed',
    f'--coordinator_address=localhost:{port}',
    f'--num_processes={num_processes}',
    f'--process_id={rank}',
  )
  return subprocess.Popen(
    [
      *(sys.executable, '-m', 'bt4rec.main'),
      '--config=configs/pretrain.py:synthetic',
      f'--workdir={workdir}',
      '--config.dataset.synthetic.num_users=120',
      '--config.dataset.synthetic.num_items=40',
      '--config.dataset.synthetic.max_events=22',
      '--config.max_length=8',
      '--config.encoder.dim=8',
      '--config.encoder.num_layers=1',
      '--config.batch_size=16',
      '--config.optimizer.warmup_steps=1',
      '--config.feed=device',
      '--config.tensorboard=False',
      *flags,
      *(distributed if num_processes > 1 else ()),
    ],
    env=_ENVIRONMENT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def _ends(processes):
  outputs = [process.communicate(timeout=600) for process in processes]
  return [
    (process.returncode, *output)
    for process, output in zip(processes, outputs, strict=True)
  ]


def test_the_first_process_alone_has_the_workdir(tmp_path):
  flags = ('--config.total_steps=6', '--config.eval_every_steps=3')
  port, workdirs = _free_port(), (tmp_path / 'first', tmp_path / 'second')
  first, second = _ends(
    [_start_job(rank, port, workdirs[rank], *flags) for rank in (0, 1)]
  )
  assert first[0] == second[0] == 0, (first, second)
  assert 'written:' in first[1] and 'written:' not in second[1]
  assert ' 6/6, ' in first[2] and ' 6/6, ' not in second[2]
  assert not workdirs[1].exists()
  steps = [
    line['step']
    for line in workdir.read_lines(str(workdirs[0] / 'metrics.jsonl'))
  ]
  assert steps == [0, 3, 6, 6]
  # A process alone takes up what both have left.
  alone = _start_job(0, 0, workdirs[0], *flags, num_processes=1)
  assert 'resumed at step 6' in _ends([alone])[0][2]


def test_sigterm_to_one_stops_both_at_one_step(tmp_path):
  flags = ('--config.total_steps=100000', '--config.eval_every_steps=100000')
  # Between two calls, which have two steps each.
  flags += ('--config.log_every_steps=2', '--config.steps_per_call=2')
  port, folders = _free_port(), (tmp_path / 'first', tmp_path / 'second')

  def start():
    return [_start_job(rank, port, folders[rank], *flags) for rank in (0, 1)]

  for resumed in (False, True):
    processes = start()
    log = folders[0] / 'metrics.jsonl'
    before = len(workdir.read_lines(str(log)))
    while len(workdir.read_lines(str(log))) < before + 5:
      assert all(process.poll() is None for process in processes), _ends(
        processes
      )
      time.sleep(0.1)
    processes[1].terminate()
    first, second = _ends(processes)
    assert first[0] == second[0] == 143, (first, second)
    assert ('resumed at step' in first[2]) == resumed
    port = _free_port()


def test_what_the_first_refuses_ends_both(tmp_path):
  port, folders = _free_port(), (tmp_path / 'first', tmp_path / 'second')
  with workdir.locked(str(folders[0])):
    first, second = _ends(
      [_start_job(rank, port, folders[rank]) for rank in (0, 1)]
    )
  assert first[0] == 2 and 'another job is running' in first[2]
  assert second[0] != 0
