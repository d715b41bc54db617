"""Tests of bt4rec.tune: what is drawn, how trials are judged, what is kept."""

import ast
import math

import numpy as np
import pytest

from bt4rec import datasets, pretrain, tasks, tune, unread, workdir
from bt4rec.errors import InputError, NonFiniteLossError
from configs import base, presets
from configs import tune as tune_config
from tests import tiny

_SPACE = {
  'optimizer': {'learning_rate': ('log_uniform', 1e-4, 1e-1)},
  'encoder': {'dropout': ('uniform', 0.2, 0.6)},
  'batch_size': ('choice', 8, 16, 24),
}


class TestDraw:
  def test_is_a_function_of_seed_trial_and_field(self):
    first = tune.draw(_SPACE, 3, 5)
    assert tune.draw(_SPACE, 3, 5) == first
    assert tune.draw(_SPACE, 3, 6) != first
    assert tune.draw(_SPACE, 4, 5) != first
    # Other fields change nothing, so that objectives are paired.
    other = {'optimizer': _SPACE['optimizer'], 'seed': ('choice', 1, 2)}
    assert tune.draw(other, 3, 5)['optimizer'] == first['optimizer']

  def test_fills_its_ranges(self):
    drawn = [tune.draw(_SPACE, 0, trial) for trial in range(400)]
    exponents = [math.log10(d['optimizer']['learning_rate']) for d in drawn]
    rates = [d['encoder']['dropout'] for d in drawn]
    sizes = [d['batch_size'] for d in drawn]
    # Of uniform numbers: mean and standard deviation of width w are at the
    # middle and w / sqrt(12); five standard errors of the mean.
    for values, low, high in ((exponents, -4, -1), (rates, 0.2, 0.6)):
      assert low <= min(values) and max(values) <= high
      spread = (high - low) / math.sqrt(12)
      error = 5 * spread / math.sqrt(len(values))
      assert abs(np.mean(values) - (low + high) / 2) < error
      assert abs(np.std(values) / spread - 1) < 0.1
    assert all(90 < sizes.count(size) < 180 for size in (8, 16, 24))
    # Unlike each other.
    assert abs(np.corrcoef(exponents, rates)[0, 1]) < 0.25

  def test_is_what_is_printed(self):
    for trial in range(50):
      rate = tune.draw(_SPACE, 0, trial)['optimizer']['learning_rate']
      assert rate == float(f'{rate:.3g}')

  @pytest.mark.parametrize(
    'entry, sentence',
    [
      (('normal', 0, 1), 'log_uniform'),
      (('uniform', 1), 'a low and a high'),
      (('log_uniform', 0.0, 1.0), 'above 0'),
      (('choice',), 'values to choose from'),
    ],
  )
  def test_mistakes_in_a_space_name_the_field(self, entry, sentence):
    with pytest.raises(InputError, match=f'encoder.dropout.*{sentence}'):
      tune.draw({'encoder': {'dropout': entry}}, 0, 0)


def test_score_is_the_geometric_mean_of_the_gains():
  # Twice and half the majority cancel out; 8 = 2 * 4, over two tasks.
  majority = {'a': 0.1, 'b': 0.4}
  assert tune.score({'a': 0.2, 'b': 0.2}, majority) == pytest.approx(1.0)
  assert tune.score({'a': 0.2, 'b': 1.6}, majority) == pytest.approx(8**0.5)
  assert tune.score({'a': 0.0, 'b': 0.4}, majority) == 0.0


def _config(num_trials=2):
  config = tune_config.get_config('synthetic,barlow_twins')
  config.update(
    {
      key: value
      for key, value in tiny.config(total_steps=3, eval_every_steps=1).items()
      if key not in ('task', 'evaluate_test', 'dataset', 'validation_fraction')
    }
  )
  config.dataset.synthetic.update(
    {'num_users': 120, 'num_items': 30, 'num_categories': 4, 'max_events': 24}
  )
  config.study.protocols.probe.total_steps = 2
  config.study.protocols.probe.optimizer.warmup_steps = 1
  config.tune.num_trials = num_trials
  config.tune.space = {
    'optimizer': {'learning_rate': ('log_uniform', 1e-4, 1e-2)},
    'barlow_twins': {'projector': ('choice', (8,), (9, 10))},
  }
  return config


@pytest.fixture(scope='module')
def searched(tmp_path_factory):
  """Config and workdir of a finished search, and what it printed."""
  directory = str(tmp_path_factory.mktemp('tune'))
  config = _config()
  text = tune.run(config, directory, datasets.load(config.dataset))
  return config, directory, text


class TestRun:
  def test_every_trial_has_a_line(self, searched):
    config, directory, _ = searched
    trials = workdir.read_lines(f'{directory}/trials.jsonl')
    assert [trial['trial'] for trial in trials] == ['start', '0', '1']
    results = workdir.read_lines(f'{directory}/results.jsonl')
    majority = {
      line['task']: line['validation']
      for line in results
      if line['objective'] == 'majority'
    }
    for number, trial in enumerate(trials, -1):
      drawn = {
        'optimizer': {'learning_rate': config.optimizer.learning_rate},
        'barlow_twins': {'projector': tuple(config.barlow_twins.projector)},
      }
      if number >= 0:
        drawn = tune.draw(config.tune.space.to_dict(), 0, number)
      expected = drawn['optimizer'] if number >= 0 else None
      assert trial['values'].get('optimizer') == expected
      assert set(trial['validation']) == set(presets.EVENT_TASKS)
      ratios = [
        trial['validation'][task][name] / majority[task][name]
        for task, name in (
          ('next_item', 'recall@10'),
          ('next_category', 'accuracy@1'),
          ('favorite_category', 'accuracy@1'),
        )
      ]
      assert trial['score'] == pytest.approx(np.prod(ratios) ** (1 / 3))
      name = f'barlow_twins-{trial["trial"]}-0'
      ran = workdir.read_config(f'{directory}/pretrain/{name}')
      assert ran.optimizer.learning_rate == drawn['optimizer']['learning_rate']
      assert (
        tuple(ran.barlow_twins.projector)
        == (drawn['barlow_twins']['projector'])
      )

  def test_the_test_split_is_not_looked_at(self, searched):
    _, directory, _ = searched
    for line in workdir.read_lines(f'{directory}/results.jsonl'):
      assert line['metrics'] == {} and line['num_test'] == 0

  def test_the_best_is_a_row_of_the_presets(self, searched):
    config, directory, text = searched
    trials = workdir.read_lines(f'{directory}/trials.jsonl')
    best = max(trials, key=lambda trial: trial['score'])
    _, _, fragment = text.partition('```python\n')
    row = ast.literal_eval('{' + fragment.partition('```')[0].strip() + '}')
    values = {}
    if best['trial'] != 'start':
      values = tune.draw(config.tune.space.to_dict(), 0, int(best['trial']))
    assert row == {'barlow_twins': {'objective': 'barlow_twins', **values}}

  def test_more_trials_go_on(self, searched, monkeypatch):
    _, directory, _ = searched
    before = workdir.read_lines(f'{directory}/trials.jsonl')
    started = []

    def run(config, path, dataset):
      started.append(path)
      raise NonFiniteLossError('The loss is nan.')

    monkeypatch.setattr(pretrain, 'run', run)
    config = _config(num_trials=3)
    text = tune.run(config, directory, datasets.load(config.dataset))
    # A loss that is not finite is what came of the settings, and no failure.
    assert [path.rpartition('/')[2] for path in started] == ['barlow_twins-2-0']
    trials = workdir.read_lines(f'{directory}/trials.jsonl')
    assert trials[:3] == before
    assert trials[3]['score'] is None and 'nan' in trials[3]['error']
    assert '| 2 | The loss is nan.' in text

  def test_refuses_the_test_split(self, tmp_path):
    config = _config()
    config.evaluate_test = True
    with pytest.raises(InputError, match='evaluate_test=False'):
      tune.run(config, str(tmp_path), None)


@pytest.mark.parametrize('row', tune_config._spaces(base.get_config()))
@pytest.mark.parametrize('dataset', ['ml1m', 'synthetic'])
def test_every_space_names_fields_that_are_read(dataset, row):
  config = tune_config.get_config(f'{dataset},{row}')
  assert set(config) == set(base.get_config()) | {'study', 'tune'}
  assert config.tune.num_trials == 20 and not config.evaluate_test
  for trial in range(30):
    plain = base.get_config().lock()
    presets.set_dataset(plain, dataset)
    plain.update(config.tune.base)
    values = tune.draw(config.tune.space.to_dict(), 0, trial)
    plain.update(values)
    unread.check_overrides(plain, values, 'tune.space')


@pytest.mark.parametrize(
  'field, values',
  [('seeds', (0, 1)), ('seeds', ()), ('label_fractions', (0.1, 1.0))],
)
def test_a_trial_is_judged_by_one_number(field, values, tmp_path):
  config = _config()
  config.study[field] = values
  with pytest.raises(InputError, match=f'study.{field}=.*one of the'):
    tune.run(config, str(tmp_path), None)


def test_shared_fields_are_paired_between_the_rivals():
  spaces = [
    tune_config.get_config(f'ml1m,{row}').tune.space.to_dict()
    for row in ('barlow_twins', 'dual_encoder_tuned')
  ]
  own, rival = (tune.draw(space, 0, 7) for space in spaces)
  assert own['optimizer'] == rival['optimizer']
  assert own['encoder'] == rival['encoder']


def test_validation_does_not_shrink_with_the_labels():
  dataset = tiny.dataset()
  task = tasks.NextItem(dataset, 0)
  train, validation = task.train_and_validation(0.1, 0, 1.0)
  few, fewer = task.train_and_validation(0.1, 0)
  np.testing.assert_array_equal(train.ends, few.ends)
  assert len(fewer) == 4 and len(validation) == 40
