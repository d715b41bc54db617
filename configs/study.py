"""The whole grid on one dataset: configs/study.py:DATASET.

Pre-trains every row with every seed, and evaluates each on the three tasks at
each label fraction. Resumable; each finished cell is a line of results.jsonl.

Command:  launch/run.sh --config=configs/study.py:ml1m
          --workdir=runs/study-ml1m --config.study.finetune="()"
Hardware: CPU; about 90 core-minutes without the row `scratch`.
Expect:   the tables of README.md.
"""

from ml_collections import ConfigDict

from configs import base, presets


def get_config(arg: str = 'synthetic') -> ConfigDict:
  """Returns the config of a study.

  Args:
    arg: 'DATASET'.
  """
  config = base.get_config()
  presets.set_dataset(config, arg)
  config.task = 'study'
  config.study = ConfigDict()
  # Pre-training -> what it overrides; rows of the table may name them.
  config.study.pretrainings = presets.pretrainings()
  # Row -> workdir of a pre-training that is there already, for every seed.
  config.study.encoders = ConfigDict()
  # Protocol -> what it overrides.
  config.study.protocols = presets.protocols()
  # Rows of the table, in the order they are run.
  config.study.rows = (
    'majority',
    'random',
    'barlow_twins',
    'dual_encoder_tuned',
    'dual_encoder_plain',
    'dual_encoder_public_code',
    'scratch',
  )
  # Pre-trainings that are also fine-tuned.
  config.study.finetune = ('barlow_twins', 'dual_encoder_tuned')
  config.study.tasks = presets.TASKS
  # Shares of the labelled users.
  config.study.label_fractions = (0.01, 0.1, 1.0)
  # Seeds of pre-training, label subset and downstream training.
  config.study.seeds = (0, 1, 2)
  return config
