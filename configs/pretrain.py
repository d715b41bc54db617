"""Pre-trains an encoder: configs/pretrain.py:DATASET[,OBJECTIVE].

DATASET: synthetic, ml1m, ml20m, yelp, logs. OBJECTIVE: barlow_twins (default),
dual_encoder (tuned), dual_encoder_plain, dual_encoder_public_code.
"""

from ml_collections import ConfigDict

from configs import base, presets


def get_config(arg: str = 'synthetic') -> ConfigDict:
  """Returns the config of a pre-training.

  Args:
    arg: 'DATASET' or 'DATASET,OBJECTIVE'.
  """
  dataset, _, objective = arg.partition(',')
  config = base.get_config()
  presets.set_dataset(config, dataset)
  rows = presets.pretrainings()
  config.update(
    rows[presets.pick('objective', objective or 'barlow_twins', rows)]
  )
  return config
