"""A dataset and a config so small that a training takes a moment."""

from ml_collections import ConfigDict

from bt4rec.datasets import SequenceDataset, synthetic
from configs import base

# Fields of the group `dataset.synthetic`.
WORLD = {
  'num_users': 40,
  'num_items': 30,
  'num_categories': 4,
  'min_events': 8,
  'max_events': 14,
}

# Fields of the group `head`, which fine-tuning reads.
HEAD = {
  'total_steps': 4,
  'batch_size': 8,
  'eval_every_steps': 2,
  'warmup_steps': 1,
}


def dataset() -> SequenceDataset:
  """40 users with 8 to 14 events of 30 items."""
  return synthetic.make_dataset(synthetic.World(**WORLD))


def config(**overrides) -> ConfigDict:
  """A pre-training that fits `dataset`; sizes are all different.

  Args:
    **overrides: Fields of the config; groups as dicts.
  """
  tiny = base.get_config()
  tiny.update(
    {
      'max_length': 9,
      'batch_size': 16,
      'total_steps': 8,
      'feed': 'device',
      'packing': {'enabled': False},
      'encoder': {'dim': 12, 'num_layers': 1, 'num_heads': 3, 'mlp_ratio': 2},
      'optimizer': {'warmup_steps': 2},
      'log_every_steps': 1,
      'eval_every_steps': 4,
      'health_every_steps': 4,
      'tensorboard': False,
    }
  )
  tiny.barlow_twins.projector = (10, 11)
  tiny.update(overrides)
  if tiny.protocol == 'finetune':
    tiny.head.update(HEAD)
  return tiny
