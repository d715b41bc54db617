"""What matters in Barlow Twins: configs/ablation.py:DATASET[,SET].

A study over variants of the pre-training, judged on validation: the test split
is not looked at. SET is `grid` (default), every view maker with every weight
of the off-diagonal term and every projector; `options`, every other option
alone, against `base`; `leads`, the hypotheses of configs/README.md; or
`encoders`, the parts of the modern block alone and together, against `plain`.
Probes with 10 % of the labels, on all of validation. Resumable;
--config.study.rows picks variants, --config.study.seeds seeds.

Command:  launch/run.sh --config=configs/ablation.py:ml1m
          --workdir=runs/ablation-ml1m --config.study.seeds="(0,)"
Hardware: CPU, one core; 4 minutes a pre-training and one for its probes, of
          which `options` has 25, `leads` 37 and `encoders` 7 (those of four
          times the steps take 8 to 32); the 32 of `grid` take half the steps
          and 3.6 minutes each, 1.9 hours a seed.
Expect:   a table on validation, a row for each variant.
"""

import itertools

from ml_collections import ConfigDict

from configs import presets, study


def _views() -> dict[str, dict]:
  """View maker -> group `augment`."""
  return {
    'masks': {'order': ('segment_mask', 'mask', 'permute')},
    'slices': {'order': ('slice', 'mask')},
    'crop': {'order': ('crop',)},
    'co_occurrence': {'order': ('substitute', 'insert')},
    'disjoint_halves': {'split': 'disjoint_halves', 'order': ('mask',)},
    'past_future': {'split': 'past_future', 'order': ()},
    'two_windows': {'split': 'two_windows', 'order': ('mask',)},
    'dropout': {'order': ()},
  }


def _grid(dataset: str) -> dict[str, dict]:
  """View makers x weights of the off-diagonal term x projectors.

  Half the steps of the other sets: seeds tell more of so many variants. Names
  have no dot and no slash: they are keys of the config and folders.
  """
  del dataset
  weights = {
    'plain': {'lambd': 0.05, 'scaling': 'none'},
    'scaled': {'lambd': 1.0, 'scaling': 'off_diagonal'},
  }
  projectors = {
    '256': {'projector': (256, 256, 256)},
    '1024': {'projector': (1024, 1024, 1024)},
  }
  return {
    '-'.join(names): {
      'augment': _views()[names[0]],
      'barlow_twins': {**weights[names[1]], **projectors[names[2]]},
      'total_steps': 600,
    }
    for names in itertools.product(_views(), weights, projectors)
  }


def _options(dataset: str) -> dict[str, dict]:
  """Each option alone."""
  del dataset
  loss = {
    'lambda_small': {'lambd': 0.005},
    'lambda_large': {'lambd': 0.2},
    'scaling_both': {'scaling': 'both'},
    'momentum': {'correlation_momentum': 0.9},
    'momentum_half': {'correlation_momentum': 0.5},
    'mixed': {'mixed_weight': 5.0},
    'next_item_half': {'next_item_weight': 0.5},
    'next_item': {'next_item_weight': 1.0},
    'projector_256x1': {'projector': (256,)},
    'projector_256x2': {'projector': (256, 256)},
    'projector_64x3': {'projector': (64, 64, 64)},
  }
  return {
    'base': {},
    **{name: {'barlow_twins': options} for name, options in loss.items()},
    **{
      f'item_table_rate_{rate}': {'optimizer': {'item_table_rate': float(rate)}}
      for rate in (3, 10)
    },
    **{
      f'pooling_{pooling}': {'encoder': {'pooling': pooling}}
      for pooling in ('last', 'class_token')
    },
    **{
      f'only_{name}': {'augment': {'order': (name,)}}
      for name in (
        'mask',
        'segment_mask',
        'permute',
        'slice',
        'substitute',
        'insert',
      )
    },
    'batch_32': {'batch_size': 32},
    'batch_32-momentum': {
      'batch_size': 32,
      'barlow_twins': {'correlation_momentum': 0.9},
    },
    'batch_32-momentum_half': {
      'batch_size': 32,
      'barlow_twins': {'correlation_momentum': 0.5},
    },
  }


def _encoders(dataset: str) -> dict[str, dict]:
  """Each part of the modern block, and all."""
  del dataset
  parts = {
    'rms_norm': {'norm': 'rms_norm'},
    'swiglu': {'mlp': 'swiglu'},
    'geglu': {'mlp': 'geglu'},
    'rotary': {'positions': 'rotary'},
    'relative': {'positions': 'relative'},
  }
  return {
    **presets.blocks(),
    **{name: {'encoder': part} for name, part in parts.items()},
  }


def _leads(dataset: str) -> dict[str, dict]:
  """What could make Barlow Twins better than the tuned dual encoder."""

  def lead(*, predicted: dict | None = None, **groups) -> dict:
    """With the second term, whose group `predicted` adds to."""
    term = {'next_item_weight': 1.0, **(predicted or {})}
    return {'barlow_twins': term, **groups}

  rows = presets.pretrainings(dataset)
  rival, contexts = rows['dual_encoder_tuned'], rows['dual_encoder_contexts']
  # What came of the leads before it, and is a row of its own by now.
  fourier_contexts = rows['barlow_twins_contexts']
  causal = {'causal': True, 'pooling': 'last'}
  longer = {'total_steps': 4_800}
  batch_32 = {**fourier_contexts, 'batch_size': 32}
  rate_third = {
    'optimizer': {**fourier_contexts['optimizer'], 'learning_rate': 1e-3}
  }
  momentum_half = {
    **fourier_contexts['barlow_twins'],
    'correlation_momentum': 0.5,
  }
  # Weighted near the ratio of the two losses.
  hybrid = {'objective': '0.01*barlow_twins+dual_encoder'}
  return {
    'base': {},
    'dual_encoder_tuned': rival,
    'next_item': lead(),
    'past_future': lead(augment=_views()['past_future']),
    'table_rate_10': lead(optimizer={'item_table_rate': 10.0}),
    'any_context': lead(predicted={'min_context': 0.0}),
    'weight_3': lead(predicted={'next_item_weight': 3.0}),
    'weight_third': lead(predicted={'next_item_weight': 0.3}),
    'last': lead(encoder={'pooling': 'last'}),
    'scaled': lead(predicted={'lambd': 1.0, 'scaling': 'off_diagonal'}),
    'projector_1024x3': lead(predicted={'projector': (1024, 1024, 1024)}),
    'dropout_30': lead(encoder={'dropout': 0.3}),
    'long': lead(total_steps=2_400),
    'wide': lead(encoder={'dim': 128}),
    'hybrid': {'objective': 'barlow_twins+dual_encoder'},
    'hybrid_100th': {**rival, **hybrid},
    'contexts_16': lead(predicted={'contexts': 16}, encoder=causal),
    'contexts_16-mean': lead(
      predicted={'contexts': 16}, encoder={**causal, 'pooling': 'mean'}
    ),
    'linear': lead(predicted={'projector': (256,)}),
    'linear-64': lead(predicted={'projector': (64,)}),
    'linear-1024': lead(predicted={'projector': (1024,)}),
    'linear-table_rate_10': lead(
      predicted={'projector': (256,)}, optimizer={'item_table_rate': 10.0}
    ),
    'linear-equal_length': lead(
      predicted={'projector': (256,), 'equal_length': True},
      optimizer={'item_table_rate': 10.0},
    ),
    'linear-horizon_10': lead(
      predicted={'projector': (256,), 'horizon': 10},
      optimizer={'item_table_rate': 10.0},
    ),
    'fourier': lead(
      predicted={'projector': (256,), 'fourier_features': 256},
      optimizer={'item_table_rate': 10.0},
    ),
    'fourier-contexts_16': fourier_contexts,
    'fourier-contexts_16-long': {**fourier_contexts, **longer},
    'fourier-contexts_16-momentum_half': {
      **fourier_contexts,
      'barlow_twins': momentum_half,
    },
    'fourier-contexts_16-batch_32': batch_32,
    'fourier-contexts_16-batch_32-momentum_half': {
      **batch_32,
      'barlow_twins': momentum_half,
    },
    'fourier-contexts_16-batch_32-lambda_quarter': {
      **batch_32,
      'barlow_twins': {**fourier_contexts['barlow_twins'], 'lambd': 0.0125},
    },
    'fourier-contexts_16-batch_32-rate_third': {**batch_32, **rate_third},
    'fourier-contexts_16-batch_32-rate_third-momentum_half': {
      **batch_32,
      **rate_third,
      'barlow_twins': momentum_half,
    },
    'linear-contexts_16': lead(
      predicted={'projector': (256,), 'contexts': 16},
      encoder=causal,
      optimizer={'item_table_rate': 10.0},
    ),
    'dual_encoder-contexts_16': contexts,
    'dual_encoder-contexts_16-long': {**contexts, **longer},
    'hybrid_100th-contexts_16': {**contexts, **hybrid},
  }


SETS = {
  'grid': _grid,
  'options': _options,
  'leads': _leads,
  'encoders': _encoders,
}


def get_config(arg: str = 'synthetic') -> ConfigDict:
  """Returns the config of an ablation.

  Args:
    arg: 'DATASET' or 'DATASET,SET'.
  """
  dataset, _, name = arg.partition(',')
  config = study.get_config(dataset)
  config.objective = 'barlow_twins'
  config.evaluate_test = False
  config.cold_start = ()
  variants = SETS[presets.pick('set', name or 'grid', SETS)](dataset)
  config.study.pretrainings = ConfigDict(variants)
  config.study.rows = ('random', *variants)
  config.study.finetune = ()
  # A tenth of validation, as of the labels, could tell nothing apart.
  config.validation_fraction = 1.0
  config.study.label_fractions = (0.1,)
  return config
