"""The quickstart as a test of quality: does pre-training learn what it can?"""

import numpy as np

from bt4rec import jobs, result_lines, workdir
from configs import quickstart

_SEEDS = (0, 1, 2)


def test_barlow_twins_closes_a_third_of_the_gap_to_the_oracle(tmp_path):
  config = quickstart.get_config()
  config.study.rows = ('oracle', 'random', 'barlow_twins')
  config.study.seeds = _SEEDS
  jobs.run(config, str(tmp_path))
  scores = {
    (line['objective'], line['task'], line['seed']): line['metrics'][
      result_lines.HEADLINES[line['task']]
    ]
    for line in workdir.read_lines(str(tmp_path / 'results.jsonl'))
  }
  closed = {}
  for task in config.study.tasks:
    oracle, random, barlow_twins = (
      np.mean([scores[row, task, seed] for seed in _SEEDS])
      for row in config.study.rows
    )
    closed[task] = (barlow_twins - random) / (oracle - random)
  print('share of the gap closed:', closed)
  # The random encoder is far below the oracle, so there is a gap to close.
  assert min(closed.values()) >= 1 / 3, closed
