"""The quickstart as a test of quality: does pre-training learn what it can?"""

import os
import subprocess
import sys

import numpy as np
import pytest

from bt4rec import result_lines, workdir

_ROWS = ('oracle', 'random', 'barlow_twins')
_SEEDS = (0, 1, 2)


@pytest.mark.slow
def test_barlow_twins_closes_a_third_of_the_gap_to_the_oracle(tmp_path):
  # As a user runs it: on one device, compiled with optimisation, and as
  # launch/run.sh does, with huge pages.
  environment = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
  environment['GLIBC_TUNABLES'] = 'glibc.malloc.hugetlb=1'
  subprocess.run(
    [
      *(sys.executable, '-m', 'bt4rec.main', f'--workdir={tmp_path}'),
      *(f'--config.study.rows={_ROWS}', f'--config.study.seeds={_SEEDS}'),
    ],
    env=environment,
    check=True,
  )
  lines = workdir.read_lines(str(tmp_path / 'results.jsonl'))
  scores = {
    (line['objective'], line['task'], line['seed']): line['metrics'][
      result_lines.HEADLINES[line['task']]
    ]
    for line in lines
  }
  closed = {}
  for task in sorted({line['task'] for line in lines}):
    oracle, random, barlow_twins = (
      np.mean([scores[row, task, seed] for seed in _SEEDS]) for row in _ROWS
    )
    closed[task] = (barlow_twins - random) / (oracle - random)
  print('share of the gap closed:', closed)
  assert len(closed) == 3
  # The random encoder is far below the oracle, so there is a gap to close.
  assert min(closed.values()) >= 1 / 3, closed
