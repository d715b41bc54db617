"""Tests of bt4rec.downstream: the protocols, and what they refuse."""

import dataclasses
import itertools
import json
import types

import jax.numpy as jnp
import numpy as np
import pytest

from bt4rec import (
  datasets,
  downstream,
  encode,
  encoders,
  evaluate,
  jobs,
  pretrain,
  protocols,
  report,
  splits,
  supervised,
  tasks,
  train,
  workdir,
)
from bt4rec.errors import InputError
from configs import base, presets
from tests import tiny


def small_config(task='pretrain', **overrides):
  """A world of 240 users and an encoder that trains in a second."""
  config = base.get_config()
  config.dataset.synthetic.num_users = 240
  config.dataset.synthetic.num_items = 48
  config.dataset.synthetic.num_categories = 4
  config.dataset.synthetic.max_events = 24
  config.task = task
  config.feed = 'device'
  config.tensorboard = False
  config.max_length = 12
  config.encoder.dim = 8
  config.encoder.num_layers = 1
  config.barlow_twins.projector = (16, 16)
  config.batch_size = 32
  config.total_steps = 4
  config.eval_every_steps = 2
  config.log_every_steps = 2
  config.optimizer.warmup_steps = 1
  config.update_from_flattened_dict(overrides)
  if config.protocol == 'finetune':
    config.head.update(tiny.HEAD)
  return config


@pytest.fixture(scope='module')
def dataset():
  return datasets.load(small_config().dataset)


@pytest.fixture(scope='module')
def pretrained(dataset, tmp_path_factory):
  """Scope -> workdir of a short pre-training."""
  directories = {}
  for scope in ('shared', 'leave_two_out'):
    config = small_config(pretrain_scope=scope, keep_steps=(0, 3))
    directory = str(tmp_path_factory.mktemp(scope))
    workdir.check_config(config, directory)
    pretrain.run(config, directory, dataset)
    directories[scope] = directory
  return directories


@pytest.fixture(scope='module')
def labels(dataset, tmp_path_factory):
  """File with a label of half of the users: where their first item lies."""
  path = tmp_path_factory.mktemp('labels') / 'users.csv'
  first = dataset.items[dataset.offsets[:-1]]
  rows = zip(dataset.user_ids.tolist(), first.tolist(), strict=True)
  lines = [f'{user},{"front" if item < 24 else "back"}' for user, item in rows]
  path.write_text('\n'.join(['user,shelf', *lines[::2]]) + '\n')
  return str(path)


@pytest.mark.parametrize('task', presets.TASKS)
@pytest.mark.parametrize('protocol', ['probe', 'finetune', 'scratch'])
def test_every_protocol_runs_on_every_task(
  task, protocol, dataset, pretrained, labels, tmp_path
):
  config = small_config(task, protocol=protocol)
  if task == 'user_attribute':
    config.user_attribute.update(path=labels, label='shelf')
  if protocol != 'scratch':
    config.init_from = pretrained['shared']
  result = downstream.run(config, str(tmp_path), dataset)
  assert result['objective'] == (
    'scratch' if protocol == 'scratch' else 'barlow_twins'
  )
  assert result['num_test'] == len(result['outcomes'])
  assert np.isfinite(list(result['metrics'].values())).all()
  assert set(result['validation']) == set(result['metrics'])
  assert result['split_fingerprint'] == splits.fingerprint(dataset)
  assert (result['split_seed'], result['exclude_seen']) == (0, True)
  assert result['category_fingerprint'] == splits.category_fingerprint(
    dataset.catalogue
  )


def test_a_result_says_which_labels_it_is_of(dataset, labels, tmp_path):
  config = small_config('user_attribute', protocol='majority')
  config.user_attribute.update(path=labels, label='shelf')
  line = downstream.run(config, str(tmp_path), dataset)
  downstream.write_result(str(tmp_path), line)
  text = report.write_report(str(tmp_path))
  assert 'user_attribute shelf: accuracy@1' in text
  assert line['attribute'] == 'shelf' and len(line['label_fingerprint']) == 16
  assert line['metrics']['auroc'] == 0.5
  # Of the users with a label, half of all, a tenth by their hash.
  assert 0 < line['num_test'] < dataset.num_users / 4


def test_the_oracle_knows_no_labels_of_users(labels, tmp_path, dataset):
  config = small_config('user_attribute', protocol='oracle')
  config.user_attribute.update(path=labels, label='shelf')
  with pytest.raises(InputError, match='knows the truth about events alone'):
    downstream.run(config, str(tmp_path), dataset)


@pytest.fixture(scope='module')
def predicting(dataset, tmp_path_factory):
  """Workdir of a short pre-training of `next_item`."""
  config = small_config(
    objective='next_item', pretrain_scope='leave_two_out', label='sasrec'
  )
  config.encoder.causal = True
  directory = str(tmp_path_factory.mktemp('next_item'))
  workdir.check_config(config, directory)
  pretrain.run(config, directory, dataset)
  return directory


def test_direct_ranks_by_the_states_of_the_encoder(
  dataset, predicting, tmp_path
):
  config = small_config('next_item', protocol='direct', init_from=predicting)
  result = downstream.run(config, str(tmp_path), dataset)
  assert result['objective'] == 'sasrec'
  assert result['num_train'] == 0
  # One user at a time, the states against the item table, seen items left out.
  encoder = encode.load_encoder(predicting)
  table = np.asarray(encoder.item_table)
  ranks = []
  for user in range(dataset.num_users):
    events = dataset.items[dataset.offsets[user] : dataset.offsets[user + 1]]
    history, target = events[:-1], events[-1]
    items = np.zeros((1, 12), np.int32)
    # A place of the window is the target's.
    newest = history[-11:]
    items[0, : len(newest)] = newest
    states = encoder.module.apply(
      {'params': encoder.params}, items, False, method='states'
    )
    scores = table @ np.asarray(states)[0, len(newest) - 1]
    own = scores[target - 1]
    scores[history - 1] = -np.inf
    scores[target - 1] = -np.inf
    ranks.append(1 + (scores > own).sum() + 0.5 * (scores == own).sum())
  np.testing.assert_allclose(result['outcomes'], ranks)


def test_a_pre_training_is_validated_on_the_last_event_it_may_not_see(
  dataset, predicting, tmp_path
):
  config = small_config('next_item', protocol='direct', init_from=predicting)
  result = downstream.run(config, str(tmp_path), dataset)
  lines = workdir.read_lines(f'{predicting}/metrics.jsonl')
  best = min(
    (line for line in lines if 'validation_loss' in line),
    key=lambda line: line['validation_loss'],
  )
  for name in ('recall@10', 'ndcg@10', 'mrr'):
    np.testing.assert_allclose(
      best[f'validation_{name}'], result['validation'][name], rtol=1e-6
    )


def test_the_same_job_gives_the_same_result(dataset, pretrained, tmp_path):
  config = small_config('next_category', init_from=pretrained['shared'])
  first, second = (
    downstream.run(config, str(tmp_path / name), dataset) for name in 'ab'
  )
  assert first['metrics'] == second['metrics']
  np.testing.assert_array_equal(first['outcomes'], second['outcomes'])


def test_a_probe_leaves_the_encoder_as_it_is(dataset, pretrained, tmp_path):
  config = small_config('next_item', init_from=pretrained['shared'])
  cache = supervised.FeatureCache()
  downstream.run(config, str(tmp_path), dataset, cache)
  before = dict(cache._features)
  downstream.run(config, str(tmp_path / 'again'), dataset, cache)
  assert all(cache._features[key] is before[key] for key in before)


def test_a_probe_learns_what_the_embedding_shows(
  dataset, tmp_path, monkeypatch
):
  # The embedding is the share of each category in the window.
  weights = dataset.catalogue.category_weights()
  encoder = encode.Encoder(
    encoders.BagOfItems(len(weights), 12, weights.shape[1]),
    {'item_table': {'embedding': jnp.asarray(weights)}},
    dataset.catalogue.item_ids,
    12,
    {},
  )
  monkeypatch.setattr(protocols, 'load_init', lambda *_: encoder)
  config = small_config('next_category')
  config.update(presets.protocols()['probe'])
  config.total_steps = 400
  probe = downstream.run(config, str(tmp_path / 'probe'), dataset)
  config.protocol = 'majority'
  majority = downstream.run(config, str(tmp_path / 'majority'), dataset)
  assert (
    probe['metrics']['accuracy@1'] > majority['metrics']['accuracy@1'] + 0.05
  )


def test_a_fine_tuned_encoder_is_loaded_as_what_it_was_trained_as(
  dataset, predicting, tmp_path
):
  # Causal, as no field of its own config says.
  config = small_config('next_item', protocol='finetune', init_from=predicting)
  jobs.run(config, str(tmp_path))
  before, after = map(encode.load_encoder, (predicting, str(tmp_path)))
  assert after.module == before.module and after.module.causal
  line = workdir.read_lines(f'{tmp_path}/results.jsonl')[0]
  task = tasks.NextItem(dataset, 0)
  numbers, _ = evaluate.evaluate_scorer(
    after.require_scorer(), task, task.test(), True
  )
  assert numbers['ndcg@10'] == pytest.approx(line['metrics']['ndcg@10'])


def test_test_examples_are_not_made_before_the_selection(
  dataset, pretrained, tmp_path, monkeypatch
):
  events = []
  task_type = tasks.TASKS['next_item']
  monkeypatch.setattr(
    task_type, 'test', lambda self: events.append('test') or _STOP()
  )
  fit = train.fit
  monkeypatch.setattr(
    train,
    'fit',
    lambda *args: (fit(*args), events.append('fitted'))[0],
  )
  config = small_config('next_item', init_from=pretrained['shared'])
  with pytest.raises(_Stopped):
    downstream.run(config, str(tmp_path), dataset)
  assert events == ['fitted', 'test']


@pytest.mark.parametrize('protocol', ['probe', 'majority'])
def test_without_a_test_there_is_validation_alone(
  protocol, dataset, pretrained, tmp_path, monkeypatch
):
  config = small_config('next_category', protocol=protocol)
  if protocol == 'probe':
    config.init_from = pretrained['shared']
  tested = downstream.run(config, str(tmp_path / 'tested'), dataset)
  config.evaluate_test = False
  monkeypatch.setattr(tasks.TASKS['next_category'], 'test', lambda _: _STOP())
  result = downstream.run(config, str(tmp_path / 'untested'), dataset)
  assert result['metrics'] == {} and result['num_test'] == 0
  assert result['validation'] == tested['validation']
  assert set(tested['validation']) == set(tested['metrics'])
  downstream.write_result(str(tmp_path), result)


class _Stopped(Exception):
  pass


def _STOP():
  raise _Stopped


def test_refuses_a_scope_that_contains_held_out_events(
  dataset, pretrained, tmp_path
):
  config = small_config(
    'favorite_category', init_from=pretrained['leave_two_out']
  )
  with pytest.raises(InputError, match='contains held-out events'):
    downstream.run(config, str(tmp_path), dataset)
  config.task = 'next_item'
  downstream.run(config, str(tmp_path), dataset)


def test_the_steps_of_a_fine_tuning_are_not_those_of_its_head(
  dataset, pretrained, tmp_path
):
  config = small_config(
    'next_category', protocol='finetune', init_from=pretrained['shared']
  )
  # More and other steps than the four of the head.
  config.update(total_steps=6, eval_every_steps=3, steps_per_call=3)
  config.update(log_every_steps=3, health_every_steps=3)
  config.update(keep_steps=(6,), checkpoint_every_steps=3)
  downstream.run(config, str(tmp_path), dataset)
  # What is wrong is said before anything is trained, by its own name.
  for fields, words in (
    ({'head.warmup_steps': 4}, r'change --config\.head\.warmup_steps'),
    ({'head.total_steps': -1}, r'head\.total_steps=-1'),
    ({'head.eval_every_steps': 0}, r'head\.eval_every_steps=0'),
    ({'optimizer.warmup_steps': 6}, r'lower --config\.optimizer\.warmup_steps'),
    ({'keep_steps': (7,)}, r'keep_steps=\(7,\)'),
  ):
    wrong = config.copy_and_resolve_references()
    wrong.update_from_flattened_dict(fields)
    (tmp_path / 'other').mkdir(exist_ok=True)
    with pytest.raises(InputError, match=words):
      downstream.run(wrong, str(tmp_path / 'other'), dataset)
    assert not (tmp_path / 'other' / 'head').exists()


@pytest.mark.parametrize('where, evaluation', [('head', 3), ('encoder', 5)])
def test_a_fine_tuning_killed_in_either_training_ends_alike(
  where, evaluation, dataset, pretrained, tmp_path, monkeypatch
):
  config = small_config(
    'next_category', protocol='finetune', init_from=pretrained['shared']
  )
  for name in ('whole', 'parts'):
    (tmp_path / name).mkdir()
  whole = downstream.run(config, str(tmp_path / 'whole'), dataset)
  count = itertools.count(1)

  def killed(*args):
    if next(count) == evaluation:
      raise _Stopped
    return evaluate.evaluate(*args)

  # Three evaluations of the head, then those of both.
  with monkeypatch.context() as patched:
    patched.setattr(
      supervised, 'evaluate', types.SimpleNamespace(evaluate=killed)
    )
    with pytest.raises(_Stopped):
      downstream.run(config, str(tmp_path / 'parts'), dataset)
  begun = (tmp_path / 'parts' / 'checkpoints').exists()
  assert begun == (where == 'encoder')
  parts = downstream.run(config, str(tmp_path / 'parts'), dataset)
  assert parts['metrics'] == whole['metrics']
  np.testing.assert_array_equal(parts['outcomes'], whole['outcomes'])


def test_direct_needs_item_scores(dataset, pretrained, tmp_path):
  config = small_config(
    'next_item', protocol='direct', init_from=pretrained['shared']
  )
  with pytest.raises(InputError, match=r'barlow_twins.*protocol=probe'):
    downstream.run(config, str(tmp_path), dataset)


def test_direct_refuses_what_the_checkpoint_has_seen(
  dataset, predicting, tmp_path
):
  config = small_config('next_item', protocol='direct', init_from=predicting)
  config.inductive = True
  with pytest.raises(InputError, match='pre-trained on all users'):
    downstream.run(config, str(tmp_path), dataset)


@pytest.mark.parametrize(
  'task, metric', [('next_item', 'recall@10'), ('next_category', 'accuracy@1')]
)
def test_a_fine_tuning_starts_from_the_head_of_a_probe(
  task, metric, dataset, pretrained, tmp_path
):
  for name in ('probe', 'tuned', 'zeros'):
    (tmp_path / name).mkdir()
  fitted = {'total_steps': 40, 'batch_size': 64, 'eval_every_steps': 10}
  rates = {'learning_rate': 0.01, 'warmup_steps': 2}
  source = pretrained['shared']
  # The loss of so small an encoder is best at step 0.
  common = {'init_from': source, 'select_by': metric}
  config = small_config(task, **common, **fitted, patience=4)
  config.optimizer.update(rates)
  probe = downstream.run(config, str(tmp_path / 'probe'), dataset)
  config = small_config(task, **common, protocol='finetune')
  config.head.update(fitted | rates)
  # Of what follows nothing is left.
  config.update(total_steps=2, eval_every_steps=1)
  config.optimizer.learning_rate = 1e-9
  tuned = downstream.run(config, str(tmp_path / 'tuned'), dataset)
  np.testing.assert_allclose(
    tuned['metrics']['loss'], probe['metrics']['loss'], rtol=1e-4
  )
  same = np.mean(np.equal(tuned['outcomes'], probe['outcomes']))
  assert same > 0.95  # But for ranks that rounding decides.
  # Without it: as an untrained head.
  config.head.total_steps = 0
  zeros = downstream.run(config, str(tmp_path / 'zeros'), dataset)
  same = np.mean(np.equal(zeros['outcomes'], probe['outcomes']))
  assert same < 0.9


@pytest.mark.parametrize('of_the_encoder', [True, False])
def test_a_result_says_whom_its_encoder_has_seen(
  of_the_encoder, dataset, tmp_path
):
  source = small_config(inductive=of_the_encoder, total_steps=2)
  directory = tmp_path / 'pretrain'
  directory.mkdir()
  workdir.check_config(source, str(directory))
  pretrain.run(source, str(directory), dataset)
  # Of the job alone: an encoder has seen whom it has seen.
  config = small_config('next_item', init_from=str(directory))
  assert not config.inductive
  result = downstream.run(config, str(tmp_path), dataset)
  assert result['inductive'] == of_the_encoder


def test_refuses_a_checkpoint_of_another_split(pretrained, tmp_path):
  config = small_config('next_item', init_from=pretrained['shared'])
  config.dataset.synthetic.seed = 1
  with pytest.raises(InputError, match='fingerprint'):
    downstream.run(config, str(tmp_path), datasets.load(config.dataset))


def test_refuses_a_checkpoint_of_another_split_of_the_users(
  dataset, pretrained, tmp_path
):
  config = small_config('next_item', init_from=pretrained['shared'])
  config.split_seed = 1
  with pytest.raises(InputError, match='split_seed=0, or pre-train'):
    downstream.run(config, str(tmp_path), dataset)


@pytest.mark.parametrize(
  'overrides, sentence',
  [
    ({'protocol': 'finetune'}, 'needs a pre-training'),
    ({'protocol': 'scratch', 'init_from': 'x'}, 'without pre-training'),
    ({'protocol': 'prob'}, 'unknown protocol'),
    ({'protocol': 'direct'}, 'needs a pre-training'),
    ({'protocol': 'direct', 'task': 'next_category'}, 'task=next_item'),
    (
      {'protocol': 'direct', 'init_from': 'x', 'label_fraction': 0.5},
      'uses no labels',
    ),
    ({'label_fraction': 0.0}, 'label_fraction=0.0'),
    ({'init_from': 'nowhere'}, 'nowhere'),
  ],
)
def test_bad_settings_get_a_sentence(overrides, sentence, dataset, tmp_path):
  config = small_config(**{'task': 'next_item', **overrides})
  with pytest.raises(InputError, match=sentence):
    downstream.run(config, str(tmp_path), dataset)


def test_oracle_needs_the_known_world(tmp_path):
  config = small_config('next_item', protocol='oracle')
  dataset = datasets.load(config.dataset)
  object.__setattr__(dataset, 'name', 'ml1m')
  with pytest.raises(InputError, match='synthetic'):
    downstream.run(config, str(tmp_path), dataset)


class TestResult:
  """What a line says besides the metrics."""

  def test_names_the_pre_training(self, dataset, pretrained, tmp_path):
    config = small_config('next_category', init_from=pretrained['shared'])
    result = downstream.run(config, str(tmp_path / 'best'), dataset)
    lines = workdir.read_lines(f'{pretrained["shared"]}/metrics.jsonl')
    best = min(
      (line for line in lines if 'validation_loss' in line),
      key=lambda line: line['validation_loss'],
    )
    settings = result['pretraining'].pop('settings')
    assert settings['encoder.dim'] == config.encoder.dim
    assert result['pretraining'] == {
      'batch_size': 32,
      'total_steps': 4,
      'step': best['step'],
      'num_negatives': None,
      'pretrain_scope': 'shared',
    }
    config = small_config('next_category', protocol='majority')
    result = downstream.run(config, str(tmp_path / 'none'), dataset)
    assert result['pretraining'] == {}
    config.init_from = pretrained['shared']
    with pytest.raises(InputError, match='majority works without'):
      downstream.run(config, str(tmp_path / 'none'), dataset)

  def test_takes_the_checkpoint_of_a_step(self, dataset, pretrained, tmp_path):
    directory = pretrained['shared']
    config = small_config('next_category', init_from=directory, init_step=0)
    (tmp_path / 'probe').mkdir()
    workdir.check_config(config, str(tmp_path / 'probe'))
    result = downstream.run(config, str(tmp_path / 'probe'), dataset)
    assert result['pretraining']['step'] == 0
    # The untrained encoder; the first update has the learning rate 0.
    digests = {
      step: encode.load_encoder(directory, step).digest() for step in (0, 3)
    }
    assert digests[0] != digests[3]
    probed = encode.load_encoder(str(tmp_path / 'probe'))
    assert probed.digest() == digests[0]
    config.init_step = 1
    with pytest.raises(InputError, match=r'no checkpoint of step 1.*0, 3'):
      downstream.run(config, str(tmp_path / 'other'), dataset)

  def test_counts_what_a_probe_trains_on(self, dataset, tmp_path):
    config = small_config('next_category', max_probe_examples=70)
    probe = downstream.run(config, str(tmp_path / 'probe'), dataset)
    assert probe['num_train'] == 70
    # All but the last two events of a user, and the first, are targets; each
    # item of this world has a category.
    config.protocol = 'scratch'
    scratch = downstream.run(config, str(tmp_path), dataset)
    assert scratch['num_train'] == (dataset.lengths - 3).sum()

  def test_cold_start_is_of_users_with_few_events(
    self, dataset, predicting, tmp_path
  ):
    config = small_config(
      'next_item', protocol='direct', init_from=predicting, cold_start=(3, 99)
    )
    result = downstream.run(config, str(tmp_path), dataset)
    assert list(result['cold_start']) == ['3', '99']
    assert result['cold_start']['99'] == result['metrics']
    # As users whose whole history is three events and the target.
    newest = np.concatenate(
      [np.arange(end - 4, end) for end in dataset.offsets[1:]]
    )
    users = np.arange(dataset.num_users)
    few = dataclasses.replace(
      dataset,
      items=dataset.items[newest],
      offsets=4 * np.arange(dataset.num_users + 1),
    )
    task = tasks.NextItem(few, 0)
    scorer = encode.load_encoder(predicting).require_scorer()
    examples = tasks.Examples(users, 4 * users + 3, few.items[3::4] - 1)
    expected, _ = evaluate.evaluate_scorer(scorer, task, examples, True)
    for name, value in expected.items():
      np.testing.assert_allclose(result['cold_start']['3'][name], value, 1e-5)
    assert result['cold_start']['3'] != result['metrics']

  def test_popularity_groups_are_the_whole(self, dataset, predicting, tmp_path):
    config = small_config('next_item', protocol='direct', init_from=predicting)
    result = downstream.run(config, str(tmp_path), dataset)
    groups = result['by_popularity']
    assert sum(group['num_test'] for group in groups) == result['num_test']
    mean = sum(group['num_test'] * group['metrics']['mrr'] for group in groups)
    np.testing.assert_allclose(
      mean / result['num_test'], result['metrics']['mrr'], rtol=1e-6
    )
    json.dumps(groups)

  def test_cold_start_takes_numbers_of_events(self, dataset, tmp_path):
    config = small_config('next_item', protocol='majority', cold_start=(0,))
    with pytest.raises(InputError, match='cold_start'):
      downstream.run(config, str(tmp_path), dataset)


def test_names_of_cells_tell_variants_apart():
  line = {
    'task': 'next_item',
    'protocol': 'probe',
    'objective': 'vicreg',
    'label_fraction': 0.1,
    'seed': 2,
  }
  assert downstream.cell_name(line) == 'next_item-probe-vicreg-0.1-2'
  names = {
    downstream.cell_name({**line, 'variant': variant})
    for variant in ('', 'batch_size=16', 'step=16')
  }
  assert len(names) == 3 and downstream.cell_name(line) in names


def test_an_unfinished_pretraining_is_said_to_be_one(tmp_path, caplog):
  config = small_config('next_category', init_from=str(tmp_path))
  downstream._warn_of_unfinished(config)
  assert f'{tmp_path} is not finished' in caplog.text
  caplog.clear()
  (tmp_path / 'README.md').write_text('card')
  downstream._warn_of_unfinished(config)
  (tmp_path / 'README.md').unlink()
  config.init_step = 3
  downstream._warn_of_unfinished(config)
  config.init_from = ''
  config.init_step = -1
  downstream._warn_of_unfinished(config)
  assert not caplog.records
