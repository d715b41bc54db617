"""launch/gpu.sh: what it runs, and what is made of the lines."""

import importlib.util
import pathlib
import subprocess

_ROOT = pathlib.Path(__file__).parents[1]
_PATH = _ROOT / 'launch' / 'gpu_table.py'


def test_all_is_measured_by_one_command():
  done = subprocess.run(
    ['bash', 'launch/gpu.sh', '--dry_run', '--batch=64'],
    cwd=_ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  sizes = (
    '--batch=1024 --length=200 --dim=512 --heads=8 --dtype=bfloat16 --batch=64'
  )
  ours = f'.venv/bin/python -m bt4rec.benchmark {sizes} --lengths=full'
  assert done.stdout.splitlines() == [
    *(
      f'{ours} --only=pretrain_step --attention={attention} '
      f'--steps_per_call={steps}'
      for attention in ('xla', 'cudnn')
      for steps in (1, 10)
    ),
    f'{ours} --only=pipeline',
    f'launch/compare_torch.sh {sizes} --device=cuda --attention=cudnn '
    f'--steps_per_call=10 --lengths=full,uniform',
  ]
  # Its own flags are flags of what it runs.
  done = subprocess.run(
    ['bash', *done.stdout.splitlines()[-1].split(), '--dry_run', '--cores='],
    cwd=_ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert '--attention=cudnn --steps_per_call=10' in done.stdout


def test_a_step_stands_against_the_longer_of_its_floors():
  spec = importlib.util.spec_from_file_location('gpu_table', _PATH)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  step = {'name': 'pretrain_step', 'packed': False, 'batch': 100}
  lines = [
    {'name': 'matmul', 'flops_per_second': 1e9},
    {'name': 'copy', 'bytes_per_second': 1e8},
    # 20 ms, of which 5 are operations and 10 are memory.
    {
      **step,
      'attention': 'xla',
      'steps_per_call': 1,
      'sequences_per_second': 5_000,
      'flops': 5e6,
      'bytes': 1e6,
    },
    # 10 ms, of which 8 are operations and 4 are memory; two a call.
    {
      **step,
      'attention': 'cudnn',
      'steps_per_call': 2,
      'sequences_per_second': 10_000,
      'flops': 16e6,
      'bytes': 8e5,
    },
    {**step, 'packed': True, 'sequences_per_second': 1e9},
    {
      'name': 'pipeline',
      'packed': False,
      'feed': 'device',
      'batch': 100,
      'sequences_per_second': 250_000,  # 0.4 ms a batch, against 10.
    },
  ]
  assert module.table(lines).splitlines()[2:] == [
    '| xla | 1 | 20.00 | 5.00 | 10.00 | 2.00 |',
    '| cudnn | 2 | 10.00 | 8.00 | 4.00 | 1.25 |',
    '',
    'The device feed takes 4.0% of the quickest step.',
  ]
