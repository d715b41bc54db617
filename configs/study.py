"""The whole grid on one dataset: configs/study.py:DATASET[,SIZE].

Pre-trains every row with every seed, and evaluates each on the three tasks at
each label fraction. SIZE is `small` (default, for a laptop) or `full` (for an
accelerator): every label fraction, and the axes; or `batches`: that axis alone,
at three of its places. Resumable; each finished cell is a line of
results.jsonl. --config.study.processes=N runs N at a time.

Command:  launch/run.sh --config=configs/study.py:ml1m
          --workdir=runs/study-ml1m --config.packing.enabled=False
Hardware: CPU; 3.2 core-hours, half of them fine-tunings and `scratch`.
Expect:   the tables of README.md.
"""

from ml_collections import ConfigDict

from configs import base, presets

_BATCH_SIZES = (16, 32, 64, 128, 256, 512, 1024, 2048)
_NUM_NEGATIVES = (1, 4, 16, 64, 256, 1024)


def get_config(arg: str = 'synthetic') -> ConfigDict:
  """Returns the config of a study.

  Args:
    arg: 'DATASET' or 'DATASET,SIZE'.
  """
  dataset, _, size = arg.partition(',')
  config = base.get_config()
  presets.set_dataset(config, dataset)
  config.task = 'study'
  config.cold_start = (1, 2, 3, 5, 10, 20)
  config.study = ConfigDict()
  # Pre-training -> what it overrides; rows of the table may name them.
  config.study.pretrainings = presets.pretrainings(dataset)
  # Row -> workdir of a pre-training that is there already, for every seed.
  config.study.encoders = ConfigDict()
  # Protocol -> what it overrides.
  config.study.protocols = presets.protocols()
  # Rows of the table, in the order they are run.
  config.study.rows = (
    'majority',
    'random',
    'barlow_twins',
    'barlow_twins_contexts',
    'dual_encoder_contexts',
    'dual_encoder_tuned',
    'dual_encoder_plain',
    'dual_encoder_public_code',
    'scratch',
  )
  # Pre-trainings that are also fine-tuned.
  config.study.finetune = (
    'barlow_twins_contexts',
    'dual_encoder_contexts',
    'dual_encoder_tuned',
  )
  config.study.tasks = presets.EVENT_TASKS
  # Shares of the labelled users.
  config.study.label_fractions = (0.01, 0.1, 1.0)
  # Seeds of pre-training, label subset and downstream training.
  config.study.seeds = (0, 1, 2)
  # How many run at a time, each on its share of the cores.
  config.study.processes = 1
  # Axis -> what is varied besides, each alone; see _batch_sizes().
  config.study.axes = ConfigDict()
  SIZES[presets.pick('size', size or 'small', SIZES)](config)
  return config


def _small(config: ConfigDict) -> None:
  """What two CPU cores do in a night on MovieLens-1M: the main grid alone."""
  del config


def _full(config: ConfigDict) -> None:
  """Every label fraction, and the axes."""
  config.study.label_fractions = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)
  steps = tuple(config.total_steps * k // 6 for k in range(7))
  # The checkpoints that the axis `step` looks at.
  config.keep_steps = steps
  config.study.axes = {
    'batch_size': _batch_sizes(),
    'num_negatives': _num_negatives(),
    'step': _steps(steps),
  }


def _batches(config: ConfigDict) -> None:
  """What small batches cost the strongest of either kind."""
  config.study.rows = ()
  config.study.finetune = ()
  config.study.label_fractions = (0.1,)
  config.study.axes = {
    'batch_size': {
      **_batch_sizes(),
      'rows': ('barlow_twins_contexts', 'dual_encoder_contexts'),
      'places': ('32', '128', '1024'),
    }
  }


SIZES = {'small': _small, 'full': _full, 'batches': _batches}


def _axis(stage: str, rows: tuple[str, ...], settings: dict) -> dict:
  return {
    # Of which jobs fields are overridden: 'pretrain' or 'downstream'.
    'stage': stage,
    # Pre-trainings it is done for; () turns the axis off.
    'rows': rows,
    'protocols': ('probe',),
    'label_fractions': (0.1,),
    # Place on the axis -> what is overridden there.
    'settings': settings,
    # Places that are run; () is all.
    'places': (),
  }


def _batch_sizes() -> dict:
  """As many users seen in all, so that large batches have no more of them."""
  settings = {
    str(batch_size): {'batch_size': batch_size} for batch_size in _BATCH_SIZES
  }
  rows = (
    'barlow_twins',
    'barlow_twins_contexts',
    'dual_encoder_contexts',
    'dual_encoder_tuned',
    'dual_encoder_plain',
  )
  return _axis('pretrain', rows, settings)


def _num_negatives() -> dict:
  """Sampled negatives; those of the dual encoder are the rest of its batch."""
  settings = {
    str(count): {'item_loss': {'num_negatives': count}}
    for count in _NUM_NEGATIVES
  }
  return _axis('pretrain', ('next_item_sampled',), settings)


def _steps(steps: tuple[int, ...]) -> dict:
  """How good the encoder is while it is trained."""
  settings = {str(step): {'init_step': step} for step in steps}
  rows = ('barlow_twins', 'dual_encoder_tuned')
  return _axis('downstream', rows, settings)
