"""Tests of bt4rec.unread: which settings a job refuses."""

import pytest

from bt4rec import jobs, unread, workdir
from bt4rec.errors import InputError
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


def _check(config, as_written=None, **changes):
  config.update_from_flattened_dict(changes)
  job = jobs._JOBS.get(config.task, jobs._JOBS['pretrain'])
  unread.check(config, job.parts, as_written)


def _shipped():
  # The other datasets have the settings of ml1m.
  for dataset in ('synthetic', 'ml1m'):
    for objective in presets.pretrainings():
      yield pretrain.get_config(f'{dataset},{objective}')
    for task in presets.TASKS:
      for protocol in presets.PROTOCOLS:
        yield downstream.get_config(f'{dataset},{task},{protocol}')
  yield pretrain.get_config('ml1m,barlow_twins,modern')
  for name in ablation.SETS:
    yield ablation.get_config(f'ml1m,{name}')
  yield study.get_config('ml1m,full')
  yield tune.get_config('ml1m,info_nce')
  yield quickstart.get_config()
  yield from map(reproduce.get_config, reproduce.MODELS)


def test_no_shipped_config_sets_what_is_ignored():
  for config in _shipped():
    _check(config)


def test_every_rule_is_of_fields_that_there_are():
  fields = {f'{field}.' for field in workdir.flat(base.get_config())}
  for rule in unread._RULES:
    for name in rule.fields:
      assert any(field.startswith(f'{name}.') for field in fields), name


@pytest.mark.parametrize(
  'argument, field, value, reader',
  [
    ('barlow_twins', 'init_step', 3, 'init_from=WORKDIR'),
    ('barlow_twins', 'label_fraction', 0.1, 'a downstream task'),
    ('barlow_twins', 'info_nce.temperature', 0.2, 'objective=info_nce'),
    ('barlow_twins', 'barlow_twins.min_context', 0.1, 'next_item_weight'),
    ('barlow_twins', 'augment.ratios.crop', 0.5, 'augment.order with crop'),
    ('barlow_twins', 'augment.num_correlated', 3, 'substitute or insert'),
    ('barlow_twins', 'optimizer.max_skipped_steps', 3, 'on_non_finite=skip'),
    ('dual_encoder', 'augment.split', 'past_future', 'objective=barlow_twins'),
    ('next_item', 'item_loss.num_negatives', 5, 'item_loss.name=sampled'),
    ('next_item_bce', 'item_loss.calibration', 0.5, 'item_loss.name=gbce'),
    ('dual_encoder_public_code', 'encoder.norm', 'rms_norm', 'transformer'),
    ('dual_encoder_public_code', 'packing.max_cut', 0.1, 'transformer'),
  ],
)
def test_a_pre_training_refuses(argument, field, value, reader):
  with pytest.raises(InputError, match='would be ignored by task=pre') as error:
    _check(pretrain.get_config(f'ml1m,{argument}'), **{field: value})
  assert f'{field}={value!r} (read by' in str(error.value)
  assert reader in str(error.value)


@pytest.mark.parametrize(
  'argument, field, value, reader',
  [
    ('next_item,probe', 'augment.ratios.mask', 0.5, 'task=pretrain'),
    ('next_item,probe', 'objective', 'vicreg', 'task=pretrain'),
    ('next_category,probe', 'exclude_seen', False, 'next_item'),
    ('next_item,scratch', 'max_probe_examples', 5, 'a probe or fine-tuning of'),
    ('next_item,scratch', 'head.total_steps', 5, 'protocol=finetune'),
    ('next_item,probe', 'head.batch_size', 5, 'protocol=finetune'),
    ('favorite_category,probe', 'max_probe_examples', 5, 'a probe'),
    ('next_item,probe', 'init_step', 3, 'init_from=WORKDIR'),
    ('next_item,majority', 'batch_size', 32, 'who trains'),
    ('next_item,majority', 'encoder.dim', 32, 'who makes an encoder'),
    ('next_item,direct', 'optimizer.learning_rate', 0.1, 'who trains'),
    ('next_item,probe', 'user_attribute.label', 'age', 'task=user_attribute'),
  ],
)
def test_a_downstream_job_refuses(argument, field, value, reader):
  with pytest.raises(InputError, match='with protocol=') as error:
    _check(downstream.get_config(f'ml1m,{argument}'), **{field: value})
  assert f'{field}={value!r} (read by' in str(error.value)
  assert reader in str(error.value)


def test_what_is_read_or_changes_no_result_may_be_given():
  _check(
    pretrain.get_config('ml1m,barlow_twins'),
    **{
      'objective': 'barlow_twins+0.5*dual_encoder',
      'dual_encoder.min_context': 0.1,
      'augment.ratios.mask': 0.1,
      'encoder.dim': 32,
    },
  )
  _check(
    downstream.get_config('ml1m,next_item,scratch'),
    **{'encoder.dim': 32, 'optimizer.learning_rate': 0.1},
    health_every_steps=7,
    feed='device',
  )
  _check(downstream.get_config('ml1m,next_item'), max_probe_examples=5)
  # By its head, where it has one.
  tuned = {'max_probe_examples': 5, 'head.batch_size': 5}
  _check(downstream.get_config('ml1m,next_item,finetune'), **tuned)
  with pytest.raises(InputError, match=r'head\.total_steps above 0') as error:
    _check(
      downstream.get_config('ml1m,next_item,finetune'),
      **tuned | {'head.total_steps': 0},
    )
  assert 'max_probe_examples=5 (read by' in str(error.value)


@pytest.mark.parametrize(
  'get_config, argument, changes',
  [
    (study.get_config, 'ml1m', {'evaluate_test': False}),
    (study.get_config, 'ml1m', {'study.rows': ('oracle', 'majority')}),
    (pretrain.get_config, 'ml1m,info_nce', {'augment.order': ('crop',)}),
    (reproduce.get_config, 'next_item', {'packing.enabled': False}),
    (downstream.get_config, 'ml1m,next_item', {'protocol': 'majority'}),
  ],
)
def test_what_the_file_has_for_a_job_that_is_left_out(
  get_config, argument, changes
):
  _check(get_config(argument), get_config(argument), **changes)
  # What it never had a reader for is refused there too, and what is given.
  for written in (True, False):
    config = get_config(argument)
    given = {'vicreg.projector': (8,)}
    config.update_from_flattened_dict(given if written else {})
    as_written = config.copy_and_resolve_references()
    with pytest.raises(InputError, match=r'vicreg\.projector'):
      _check(config, as_written, **changes, **given)


def test_who_reads_it_is_said_only_if_somebody_does():
  config = study.get_config('ml1m')
  config.study.rows, config.study.tasks = ('random',), ('next_item',)
  # Its one job, a probe, has a batch size of its own.
  with pytest.raises(InputError, match=r'batch_size=7 \(each job has its own'):
    _check(config, batch_size=7)


def test_the_quickstart_may_do_less():
  for tasks in (('favorite_category',), ('next_item',)):
    _check(
      quickstart.get_config(),
      quickstart.get_config(),
      **{'study.tasks': tasks, 'study.rows': ('oracle', 'majority')},
    )


def test_an_objective_of_the_users_own_may_read_any_group(monkeypatch):
  monkeypatch.setitem(jobs.pretrain.pretext.OBJECTIVES, 'cosine', None)
  changes = {'augment.split': 'past_future', 'vicreg.projector': (8, 8)}
  _check(pretrain.get_config('ml1m'), objective='cosine', **changes)


class TestInitFrom:
  @pytest.fixture(autouse=True)
  def pretrained(self, tmp_path):
    config = tiny.config(encoder={'dim': 24, 'num_layers': 3})
    (tmp_path / 'config.json').write_text(config.to_json_best_effort())
    self.directory = str(tmp_path)

  def _check(self, protocol='probe', **changes):
    config = downstream.get_config(f'synthetic,next_item,{protocol}')
    _check(config, init_from=self.directory, **changes)

  @pytest.mark.parametrize('protocol', ['probe', 'finetune', 'direct'])
  def test_has_an_encoder_of_its_own(self, protocol):
    with pytest.raises(InputError) as error:
      self._check(protocol, **{'encoder.dim': 48, 'max_length': 20})
    assert 'encoder.dim=48 (read by who makes an encoder; ' in str(error.value)
    assert f'{self.directory} has 24)' in str(error.value)
    assert 'max_length=20' in str(error.value)
    assert 'leave it out, or pre-train with it' in str(error.value)

  def test_is_not_replaced_unnoticed_where_the_file_describes_it(self):
    config = reproduce.get_config('next_item')
    with pytest.raises(InputError, match=r'max_length=201 .* has 9'):
      _check(
        config, config.copy_and_resolve_references(), init_from=self.directory
      )
    # The training of a probe is not the encoder's.
    _check(
      downstream.get_config('synthetic,next_item'),
      downstream.get_config('synthetic,next_item'),
      protocol='direct',
      init_from=self.directory,
    )

  def test_may_be_described_as_it_is(self):
    # The defaults, those of the dataset, and what it was made with.
    self._check()
    self._check(**{'encoder.dim': 64})
    self._check(
      **{
        'encoder.dim': 24,
        'encoder.num_layers': 3,
        'max_length': 9,
        'barlow_twins.projector': (10, 11),
        'packing.enabled': False,
      }
    )


class TestStudy:
  @pytest.mark.parametrize(
    'field, value',
    [
      ('seed', 3),
      ('label_fraction', 0.1),
      ('init_from', '/runs/x'),
      ('variant', 'a=1'),
      # No row has the objective.
      ('info_nce.temperature', 0.2),
      # Every row says its own.
      ('objective', 'vicreg'),
    ],
  )
  def test_refuses_what_no_cell_reads(self, field, value):
    with pytest.raises(InputError) as error:
      _check(study.get_config('ml1m'), **{field: value})
    sentence = str(error.value)
    assert f'{field}={value!r} (each job has its own, or none' in sentence
    assert 'would be ignored by task=study' in sentence

  def test_may_have_what_some_cell_reads(self):
    _check(
      study.get_config('ml1m'),
      **{
        'encoder.dim': 32,
        'encoder.num_layers': 1,
        'barlow_twins.lambd': 0.1,
        'packing.enabled': False,
        'max_probe_examples': 50,
        'split_seed': 4,
      },
    )

  def test_a_search_is_one_of_its_trials(self):
    _check(tune.get_config('ml1m,vicreg'), **{'encoder.dim': 32})
    with pytest.raises(InputError, match='ignored by task=tune'):
      _check(tune.get_config('ml1m,vicreg'), seed=3)
