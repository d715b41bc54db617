"""Two real processes train as one does, on the users of one."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests import tiny

# Two epochs of 40 users in batches of 16.
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


@pytest.fixture(scope='module')
def runs():
  """The lines of one process alone, and of each of two."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = str(free.getsockname()[1])
  # Not the eight devices of this process; and quick to compile.
  flags = '--xla_backend_optimization_level=0'
  environment = {**os.environ, 'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu'}
  processes = [
    subprocess.Popen(
      [sys.executable, '-c', _PROGRAM, rank, port, str(_STEPS)],
      env=environment,
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
def test_each_user_comes_once_per_epoch(runs, parallelism):
  first, second = (
    [line['users'] for line in lines if line['parallelism'] == parallelism]
    for lines in runs[1:]
  )
  stream = [user for pair in zip(first, second, strict=True) for user in pair]
  users = np.concatenate(stream)
  everybody = list(range(tiny.dataset().num_users))
  assert sorted(users[:40].tolist()) == everybody
  assert sorted(users[40:].tolist()) == everybody
