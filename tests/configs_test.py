"""Tests of configs/: every file, every argument, nothing left to chance."""

import pathlib
import re

import pytest

from bt4rec import (
  cell_runner,
  datasets,
  grid,
  jobs,
  pretext,
  protocols,
  result_lines,
)
from bt4rec.augment import AUGMENTATIONS
from bt4rec.datasets import synthetic
from bt4rec.pretext import OBJECTIVES
from bt4rec.tasks import TASKS
from configs import (
  ablation,
  base,
  downstream,
  presets,
  pretrain,
  quickstart,
  reproduce,
  study,
  tune,
)
from tests import tiny


@pytest.mark.parametrize('dataset', presets.DATASETS)
def test_every_argument_gives_a_config_with_the_fields_of_base(dataset):
  fields = set(base.get_config().keys())
  configs = [
    pretrain.get_config(f'{dataset},{objective}')
    for objective in presets.pretrainings()
  ]
  configs += [
    pretrain.get_config(f'{dataset},next_item,{block}')
    for block in presets.blocks()
  ]
  configs += [downstream.get_config(f'{dataset},{task}') for task in TASKS]
  for config in configs:
    assert set(config.keys()) == fields
    assert config.dataset.name == dataset
  for config in (study.get_config(dataset), quickstart.get_config()):
    assert set(config.keys()) == fields | {'study'}


@pytest.mark.parametrize('model', reproduce.MODELS)
def test_a_reproduction_overrides_existing_fields_only(model):
  config = reproduce.get_config(model)
  fields = base.get_config()
  assert set(config.keys()) == set(fields.keys())
  for group in ('encoder', 'item_loss', 'masked_item', 'optimizer'):
    assert set(config[group].keys()) == set(fields[group].keys())
  assert config.label == model
  assert config.encoder.causal == (model != 'masked_item')
  assert (config.max_length, config.encoder.dropout) == (201, 0.1)


def test_names_in_configs_are_the_names_in_the_code():
  # Config files import nothing of the package, so the names stand twice.
  assert set(presets.TASKS) == set(TASKS) == set(result_lines.HEADLINES), (
    'each task needs a name in TASKS of configs/presets.py, and a metric in '
    'HEADLINES of bt4rec/result_lines.py'
  )
  assert set(presets.DATASETS) == set(datasets._SOURCES)
  assert set(presets.PROTOCOLS) == set(protocols.PROTOCOLS)
  named = {row['objective'] for row in presets.pretrainings().values()}
  assert named == set(OBJECTIVES), (
    'each objective needs a row in pretrainings() of configs/presets.py'
  )
  for config in (
    base.get_config(),
    study.get_config('synthetic'),
    tune.get_config(),
  ):
    assert config.task in jobs._JOBS


def test_every_augmentation_has_a_ratio():
  ratios = base.get_config().augment.ratios
  assert set(ratios.keys()) == set(AUGMENTATIONS), (
    'each augmentation needs a field of augment.ratios in configs/base.py'
  )


def test_the_synthetic_group_is_the_world():
  config = base.get_config().dataset
  assert datasets.synthetic_world(config) == synthetic.World()


def test_overrides_name_existing_fields_only():
  config = base.get_config().lock()
  of_datasets = [presets.pretrainings(name) for name in presets.DATASETS]
  for overrides in (
    *(row for rows in of_datasets for row in rows.values()),
    *presets.protocols().values(),
    *presets.blocks().values(),
  ):
    config.copy_and_resolve_references().lock().update(overrides)


def test_what_a_search_found_is_of_its_dataset_and_row_alone():
  rows, of_yelp = presets.pretrainings(), presets.pretrainings('yelp')
  assert list(of_yelp) == list(rows)
  changed = [name for name in rows if of_yelp[name] != rows[name]]
  assert changed == list(presets.SEARCHED['yelp'])
  row = of_yelp['dual_encoder_contexts']
  # Its other settings are still those of the row.
  assert row['dual_encoder']['min_context'] == 0.01
  assert row['dual_encoder']['contexts'] == 16
  assert row['encoder']['causal'] and row['encoder']['dropout'] == 0.083
  # Whoever asks for the row gets them.
  for config in (
    pretrain.get_config('yelp,dual_encoder_contexts'),
    study.get_config('yelp').study.pretrainings.dual_encoder_contexts,
    tune.get_config('yelp,dual_encoder_contexts').tune.base,
    ablation.get_config('yelp,leads').study.pretrainings[
      'dual_encoder-contexts_16'
    ],
  ):
    assert config.optimizer.item_table_rate == 15.0


def test_a_fine_tuning_fits_its_head_as_a_probe_is_fitted():
  probe, head = presets.protocols()['probe'], base.get_config().head.to_dict()
  for field, value in {**probe, **probe['optimizer']}.items():
    assert head.pop(field, value) == value, field
  assert not head


def test_every_field_of_base_has_a_comment():
  lines = pathlib.Path(base.__file__).read_text().splitlines()
  for number, line in enumerate(lines):
    field = re.match(r'  config\.([\w.]+) = (?!ConfigDict)', line)
    if field and field[1].rsplit('.', 1)[-1] not in _PLAIN:
      before = number - 1
      while re.match(r'  config\.', lines[before]):
        before -= 1
      assert lines[before].startswith('  #'), line


# Named by the group's comment.
_PLAIN = ('b1', 'b2', 'seed')


@pytest.mark.parametrize('name', ablation.SETS)
def test_an_ablation_never_sees_the_test_split(name):
  config = ablation.get_config(f'ml1m,{name}')
  fields = set(base.get_config().keys())
  assert set(config.keys()) == fields | {'study'}
  assert not config.evaluate_test
  plain = base.get_config().lock()
  for overrides in config.study.pretrainings.values():
    # Names fields that exist, and values that make a model.
    merged = plain.copy_and_resolve_references().lock()
    merged.update(overrides)
    pretext.make_model(merged, tiny.dataset().catalogue, None)


def test_the_grid_crosses_view_makers_weights_and_projectors():
  variants = ablation.get_config('ml1m').study.pretrainings
  assert len(variants) == 8 * 2 * 2
  kinds = {
    (
      str(options.augment),
      options.barlow_twins.scaling,
      options.barlow_twins.projector,
    )
    for options in variants.values()
  }
  assert len(kinds) == len(variants)


@pytest.mark.parametrize(
  'call, valid',
  [
    (lambda: pretrain.get_config('ml2m'), 'synthetic'),
    (lambda: pretrain.get_config('ml1m,barlow'), 'barlow_twins'),
    (lambda: pretrain.get_config('ml1m,next_item,new'), 'modern'),
    (lambda: downstream.get_config('ml1m,next'), 'next_category'),
    (lambda: downstream.get_config('ml1m,next_item,prob'), 'finetune'),
    (lambda: study.get_config('yep'), 'ml1m'),
    (lambda: study.get_config('ml1m,big'), 'small'),
    (lambda: tune.get_config('ml1m,barlow'), 'dual_encoder_tuned'),
    (lambda: ablation.get_config('ml1m,all'), 'options'),
    (lambda: reproduce.get_config('sasrec'), 'next_item_bce'),
  ],
)
def test_unknown_names_list_the_valid_ones(call, valid):
  with pytest.raises(ValueError, match=valid):
    call()


@pytest.mark.parametrize('dataset', ['synthetic', 'ml1m'])
def test_all_that_a_row_overrides_is_read(dataset):
  configs = [study.get_config(f'{dataset},{size}') for size in study.SIZES]
  # Every pre-training there is, not those of the table alone.
  configs[0].study.rows = tuple(configs[0].study.pretrainings)
  configs += [
    ablation.get_config(f'{dataset},{kind}') for kind in ablation.SETS
  ]
  for config in configs:
    pretrainings = [c for c in grid.cells(config) if c.kind == 'pretrain']
    assert pretrainings
    for cell in pretrainings:
      cell_runner._check_overrides(config, cell)
