"""Pre-trains an encoder: configs/pretrain.py:DATASET[,OBJECTIVE[,BLOCK]].

DATASET: synthetic, ml1m, ml20m, yelp, logs. OBJECTIVE: barlow_twins (default)
or another of `presets.pretrainings`, which `--help` lists. BLOCK: plain
(default) or modern (RMSNorm, SwiGLU, rotary positions).

Command:  launch/run.sh --config=configs/pretrain.py:ml1m --workdir=runs/ml1m
Hardware: 1 CPU core; 4 to 6 minutes.
Expect:   `diagonal` about .86 at the end, verdict healthy.
"""

from ml_collections import ConfigDict

from bt4rec.overrides import override
from configs import base, presets


def get_config(arg: str = 'synthetic') -> ConfigDict:
  """Returns the config of a pre-training.

  Args:
    arg: 'DATASET', 'DATASET,OBJECTIVE' or 'DATASET,OBJECTIVE,BLOCK'.
  """
  dataset, _, rest = arg.partition(',')
  objective, _, block = rest.partition(',')
  config = base.get_config()
  presets.set_dataset(config, dataset)
  rows = presets.pretrainings(dataset)
  row = presets.pick('objective', objective or 'barlow_twins', rows)
  override(config, rows[row])
  blocks = presets.blocks()
  config.update(blocks[presets.pick('block', block or 'plain', blocks)])
  return config
