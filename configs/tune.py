"""Searches the settings of a pre-training: configs/tune.py:DATASET,OBJECTIVE.

OBJECTIVE: a pre-training that has a space below. As many trials of as many
steps for each, drawn at random from its space, each judged by linear probes of
the three tasks with 10 % of the labels on all of validation; the test split is
not looked at. What they start from is judged first.
Resumable; more --config.tune.num_trials go on. --config.study.processes=N runs
N at a time.

Command:  launch/run.sh --config=configs/tune.py:ml1m,barlow_twins
          --workdir=runs/tune-ml1m-barlow_twins
Hardware: CPU, one core; 5 minutes a trial of barlow_twins with the presets, 3
          of dual_encoder_tuned.
Expect:   the best trial as a row for configs/presets.py.
"""

from ml_collections import ConfigDict

from configs import presets, study

# Field -> ('uniform', low, high), ('log_uniform', low, high) or ('choice',
# value, ...). Where objectives share a field and its range, trial k of each
# has the same value.
_OPTIMIZER = {
  'learning_rate': ('log_uniform', 3e-4, 1e-2),
  'weight_decay': ('log_uniform', 1e-6, 1e-1),
  'item_table_rate': ('log_uniform', 1.0, 30.0),
}
_SHARED = {
  'optimizer': _OPTIMIZER,
  'encoder': {
    'dropout': ('uniform', 0.0, 0.4),
    'pooling': ('choice', 'mean', 'last', 'class_token'),
  },
}
_PROJECTORS = (
  'choice',
  (64,),
  (256,),
  (1024,),
  (256, 256),
  (256, 256, 256),
)
# Encoders that several contexts are read off are causal, and have no token of
# the class.
_CONTEXTS = {
  'optimizer': _OPTIMIZER,
  'encoder': {
    'dropout': ('uniform', 0.0, 0.4),
    'pooling': ('choice', 'mean', 'last'),
  },
}
_PREDICTING = {
  'optimizer': _OPTIMIZER,
  'encoder': {'dropout': ('uniform', 0.0, 0.4)},
}


def _ratios(config: ConfigDict) -> dict:
  """Of the augmentations that the dataset's preset has."""
  return {
    name: ('uniform', 0.0, 0.9 if name == 'slice' else 0.6)
    for name in config.augment.order
  }


def _views(config: ConfigDict) -> dict:
  return {
    'split': ('choice', 'none', 'disjoint_halves', 'two_windows'),
    'ratios': _ratios(config),
  }


def _spaces(config: ConfigDict) -> dict[str, dict]:
  """Pre-training -> its space, on the dataset of the config."""
  return {
    'barlow_twins': {
      **_SHARED,
      'augment': _views(config),
      'barlow_twins': {
        'lambd': ('log_uniform', 1e-3, 0.5),
        'projector': _PROJECTORS,
        'next_item_weight': ('log_uniform', 0.1, 10.0),
        'min_context': ('uniform', 0.0, 0.9),
      },
    },
    # Without what failed in the ablations of README.md, or in the six trials of
    # a wider space: a lambda far from 0.05, deep or wide projectors, small
    # learning rates, much of one of the two terms.
    'barlow_twins_contexts': {
      **_CONTEXTS,
      'optimizer': {
        **_OPTIMIZER,
        'learning_rate': ('log_uniform', 1e-3, 1e-2),
      },
      'augment': {'ratios': _ratios(config)},
      'barlow_twins': {
        'lambd': ('log_uniform', 0.02, 0.1),
        'projector': ('choice', (64,), (256,)),
        'equal_length': ('choice', False, True),
        'fourier_features': ('choice', 0, 256),
        'next_item_weight': ('log_uniform', 0.3, 3.0),
        'min_context': ('uniform', 0.0, 0.9),
      },
    },
    'dual_encoder_tuned': {
      **_SHARED,
      'dual_encoder': {'min_context': ('uniform', 0.0, 0.9)},
    },
    'dual_encoder_contexts': {
      **_CONTEXTS,
      'dual_encoder': {'min_context': ('uniform', 0.0, 0.9)},
    },
    'dual_encoder_plain': {
      **_SHARED,
      'dual_encoder': {'min_context': ('uniform', 0.0, 0.9)},
    },
    'info_nce': {
      **_SHARED,
      'augment': {
        'ratios': {
          'crop': ('uniform', 0.1, 0.7),
          'mask': ('uniform', 0.1, 0.7),
          'permute': ('uniform', 0.1, 0.7),
        },
      },
      'info_nce': {
        'temperature': ('log_uniform', 0.03, 1.0),
        'projector': ('choice', (), (256,), (256, 256)),
      },
    },
    'masked_item': {
      **_SHARED,
      'masked_item': {
        'mask_ratio': ('uniform', 0.1, 0.7),
        'last_only_ratio': ('uniform', 0.0, 0.5),
      },
    },
    'next_item': _PREDICTING,
    'vicreg': {
      **_SHARED,
      'augment': _views(config),
      'vicreg': {
        'invariance_weight': ('log_uniform', 3.0, 100.0),
        'variance_weight': ('log_uniform', 3.0, 100.0),
        'projector': _PROJECTORS,
      },
    },
  }


def get_config(arg: str = 'synthetic,barlow_twins') -> ConfigDict:
  """Returns the config of a search.

  Args:
    arg: 'DATASET,OBJECTIVE'.
  """
  dataset, _, objective = arg.partition(',')
  config = study.get_config(dataset)
  spaces = _spaces(config)
  row = presets.pick('objective', objective, spaces)
  config.task = 'tune'
  config.evaluate_test = False
  config.cold_start = ()
  # A tenth of validation, as of the labels, could tell nothing apart.
  config.validation_fraction = 1.0
  # The rows are the trials.
  config.study.pretrainings = ConfigDict()
  config.study.rows = ()
  config.study.finetune = ()
  config.study.label_fractions = (0.1,)
  config.study.seeds = (0,)
  config.tune = ConfigDict()
  # What is searched, what it overrides in every trial, and its space.
  config.tune.row = row
  config.tune.base = presets.pretrainings(dataset)[row]
  config.tune.space = spaces[row]
  # Besides the start; equal for all that are compared.
  config.tune.num_trials = 20
  # Of the draws; training has the seeds of the study.
  config.tune.seed = 0
  return config
