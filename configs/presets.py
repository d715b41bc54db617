"""What several config files share: pre-trainings, protocols, datasets."""

from ml_collections import ConfigDict

DATASETS = ('synthetic', 'ml1m', 'ml20m', 'yelp', 'logs')
# Made of the events alone; the last task needs a file of labels.
EVENT_TASKS = ('next_item', 'next_category', 'favorite_category')
TASKS = (*EVENT_TASKS, 'user_attribute')
PROTOCOLS = (
  'probe',
  'finetune',
  'scratch',
  'direct',
  'majority',
  'oracle',
)

# Dataset -> row -> what a search of configs/tune.py found for it that is better
# than the row as it is elsewhere; the trials are in configs/trials/.
SEARCHED: dict[str, dict[str, dict]] = {
  'yelp': {
    'dual_encoder_contexts': {
      'dual_encoder': {'min_context': 0.01},
      'encoder': {'dropout': 0.083},
      'optimizer': {
        'learning_rate': 3.65e-4,
        'item_table_rate': 15.0,
        'weight_decay': 1.5e-6,
      },
    },
  },
}


def pick(kind: str, name: str, valid) -> str:
  """Returns `name` if it is valid, else raises an error that lists all."""
  if name not in valid:
    raise ValueError(
      f'unknown {kind} {name!r}; the valid names are: {", ".join(valid)}.'
    )
  return name


def pretrainings(dataset: str = '') -> dict[str, dict]:
  """Row of the table -> what it overrides.

  Args:
    dataset: With what a search found for it; '' is without.
  """
  corrected = {
    'learned_temperature': True,
    'log_q_correction': True,
    'mask_accidental_hits': True,
  }
  tuned = {'objective': 'dual_encoder', 'dual_encoder': corrected}
  # The strongest by configs/README.md: several contexts of a window in a pass.
  contexts = {
    'objective': 'dual_encoder',
    'dual_encoder': {**corrected, 'contexts': 16},
    'encoder': {'causal': True, 'pooling': 'last'},
  }
  plain = {
    'objective': 'dual_encoder',
    'dual_encoder': {
      'learned_temperature': False,
      'log_q_correction': False,
      'mask_accidental_hits': False,
    },
  }
  public_code = {
    **plain,
    # As published: bag of 10 items, 16 dimensions, batch 16, plain Adam.
    'encoder': {'name': 'bag_of_items', 'dim': 16},
    'max_length': 11,
    'batch_size': 16,
    'optimizer': {'weight_decay': 0.0},
  }
  next_item = {
    'objective': 'next_item',
    'encoder': {'causal': True, 'pooling': 'last'},
  }
  # By configs/README.md, too: with the second term, which compares by sines.
  twins_contexts = {
    'objective': 'barlow_twins',
    'barlow_twins': {
      'projector': (256,),
      'next_item_weight': 1.0,
      'contexts': 16,
      'fourier_features': 256,
    },
    'encoder': {'causal': True, 'pooling': 'last'},
    'optimizer': {'item_table_rate': 10.0},
  }
  rows: dict[str, dict] = {
    'barlow_twins': {'objective': 'barlow_twins'},
    'barlow_twins_contexts': twins_contexts,
    'dual_encoder': tuned,
    'dual_encoder_tuned': tuned,
    'dual_encoder_contexts': contexts,
    'dual_encoder_plain': plain,
    'dual_encoder_public_code': public_code,
    # The views of CL4SRec.
    'info_nce': {
      'objective': 'info_nce',
      'augment': {
        'order': ('crop', 'mask', 'permute'),
        'draw_one': True,
        'ratios': {'crop': 0.4, 'mask': 0.3, 'permute': 0.6},
      },
    },
    'masked_item': {'objective': 'masked_item'},
    'next_item': next_item,
    # As published: one negative of its own a position.
    'next_item_bce': {
      **next_item,
      'item_loss': {'name': 'bce', 'num_negatives': 1},
    },
    'next_item_gbce': {
      **next_item,
      'item_loss': {'name': 'gbce', 'num_negatives': 256, 'calibration': 0.75},
    },
    'next_item_sampled': {
      **next_item,
      'item_loss': {'name': 'sampled', 'negatives_per': 'sequence'},
    },
    'vicreg': {'objective': 'vicreg'},
  }
  for name, found in SEARCHED.get(dataset, {}).items():
    row = ConfigDict(rows[name])
    row.update(found)
    rows[name] = row.to_dict()
  return rows


def blocks() -> dict[str, dict]:
  """Transformer block -> what it overrides."""
  modern = {'norm': 'rms_norm', 'mlp': 'swiglu', 'positions': 'rotary'}
  return {'plain': {}, 'modern': {'encoder': modern}}


def protocols() -> dict[str, dict]:
  """Downstream protocol -> what it overrides."""
  training = {
    'log_every_steps': 100,
    'batch_size': 512,
    'total_steps': 1_000,
    'eval_every_steps': 50,
    'patience': 4,
    # The long warm-up lets early stopping choose among small changes too,
    # which is what some dozens of labels can bear.
    'optimizer': {'learning_rate': 3e-3, 'warmup_steps': 200},
  }
  together = {
    **training,
    'batch_size': 128,
    'total_steps': 400,
    'eval_every_steps': 100,
    'optimizer': {'learning_rate': 1e-3, 'warmup_steps': 50},
  }
  return {'probe': training, 'finetune': together, 'scratch': together}


def set_dataset(config: ConfigDict, name: str) -> None:
  """Chooses the dataset with the sizes that go with it."""
  config.dataset.name = pick('dataset', name, DATASETS)
  if name == 'synthetic':
    config.max_length = 32
    config.encoder.dim = 32
    config.barlow_twins.projector = (128, 128, 128)
    # Two random slices: better than masks where interests drift slowly.
    config.augment.order = ('slice', 'mask')
  else:
    config.total_steps = 1_200
