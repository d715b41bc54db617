"""One downstream run: configs/downstream.py:DATASET,TASK[,PROTOCOL].

DATASET: synthetic, ml1m, ml20m, yelp, logs. TASK: next_item, next_category,
favorite_category, user_attribute (with --config.user_attribute.label=COLUMN).
PROTOCOL: probe (default), finetune, scratch, direct, majority, oracle. The
encoder is given by --config.init_from=WORKDIR; without it a probe is of a
random one.

Command:  launch/run.sh --config=configs/downstream.py:ml1m,next_category
          --config.init_from=runs/ml1m --config.label_fraction=0.1
          --workdir=runs/ml1m-next_category
Hardware: 1 CPU core; about a minute, most of it the embedding.
Expect:   accuracy@1 .488 ± .009 over three seeds.
"""

from ml_collections import ConfigDict

from configs import base, presets


def get_config(arg: str = 'synthetic,next_item') -> ConfigDict:
  """Returns the config of a downstream run.

  Args:
    arg: 'DATASET,TASK' or 'DATASET,TASK,PROTOCOL'.
  """
  dataset, task, protocol, *_ = [*arg.split(','), '', '']
  config = base.get_config()
  presets.set_dataset(config, dataset)
  config.task = presets.pick('task', task, presets.TASKS)
  config.protocol = presets.pick(
    'protocol', protocol or 'probe', presets.PROTOCOLS
  )
  config.update(presets.protocols().get(config.protocol, {}))
  return config
