"""The quickstart: a small study on synthetic data, no download.

Command:  launch/run.sh
Hardware: 2 CPU cores; 2 min 38 s.
Expect:   recall@10 of next_item .193 for Barlow Twins against .042 for the
          random encoder and .338 for the oracle (seed 0); over three seeds at
          least a third of the gap is closed.
"""

from ml_collections import ConfigDict

from configs import study


def get_config() -> ConfigDict:
  """Returns the config of the quickstart."""
  config = study.get_config('synthetic')
  config.total_steps = 400
  config.eval_every_steps = 200
  config.log_every_steps = 100
  config.tensorboard = False
  config.max_probe_examples = 10_000
  config.study.rows = (
    'oracle',
    'majority',
    'random',
    'barlow_twins',
    'dual_encoder_tuned',
    'dual_encoder_public_code',
    'scratch',
  )
  config.study.finetune = ()
  config.cold_start = ()
  config.study.protocols.scratch.total_steps = 300
  config.study.label_fractions = (0.1,)
  config.study.seeds = (0,)
  return config
