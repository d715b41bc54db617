"""The model card: of a workdir's own records, and the same again."""

import json
import os

import pytest
import yaml

from bt4rec import model_card, splits, workdir
from tests import tiny

_VERSIONS = {'python': '3.11.2', 'jax': '0.10.2'}


def _session(step, commit):
  return {
    'step': step,
    'commit': commit,
    'versions': _VERSIONS,
    'device': '1 x cpu',
  }


def _write_lines(path, lines):
  path.write_text(''.join(json.dumps(line) + '\n' for line in lines))


def _pretraining(path, health='healthy', **overrides):
  """A finished pre-training, stopped once; its best step is 8."""
  workdir.check_config(tiny.config(**overrides), str(path))
  _write_lines(
    path / 'metrics.jsonl',
    [
      {'step': 4, 'seconds': 30.0, 'validation_loss': 0.5},
      {'step': 4, 'seconds': 30.0, 'loss': 3, 'health': 'dimensional collapse'},
      {'step': 8, 'seconds': 61.0, 'validation_loss': 0.25},
      {'step': 8, 'seconds': 62.0, 'health': health, 'effective_rank': 7.123},
      {'step': 12, 'seconds': 90.6, 'validation_loss': 0.375},
    ],
  )
  _write_lines(
    path / 'sessions.jsonl', [_session(0, 'aaaa'), _session(4, 'bbbb')]
  )
  return _card(path)


def _downstream(path, has_head=True, **overrides):
  config = tiny.config(init_from='runs/mine', label_fraction=0.1, **overrides)
  workdir.check_config(config, str(path))
  if has_head:
    os.makedirs(path / 'checkpoints', exist_ok=True)
  _write_lines(
    path / 'results.jsonl',
    [
      {
        **_session(0, 'cccc'),
        'objective': 'barlow_twins',
        'seed': 3,
        'num_train': 1234,
        'num_test': 56,
        'metrics': {'recall@10': 0.123456, 'mrr': 0.5},
        'validation': {'recall@10': 0.25, 'mrr': 0.75},
        'wall_seconds': 17.4,
      }
    ],
  )
  return _card(path, model_card.write_downstream)


def _card(path, write=model_card.write_pretraining):
  """The front matter, and the text."""
  write(str(path), tiny.dataset())
  _, front, text = (path / 'README.md').read_text().split('---\n', 2)
  return yaml.safe_load(front), text


class TestPretraining:
  def test_front_matter_is_that_of_the_hub(self, tmp_path):
    front, _ = _pretraining(tmp_path)
    assert front['library_name'] == 'bt4rec'
    assert front['datasets'] == ['synthetic']
    assert front['metrics'] == ['loss']
    assert front['license'] == 'apache-2.0'
    assert front['tags'][-1] == 'barlow_twins'

  def test_figures_are_those_of_the_step_that_is_kept(self, tmp_path):
    _, text = _pretraining(tmp_path)
    assert 'On validation, at step 8:' in text
    assert '| validation_loss | 0.25 |' in text
    assert '| effective_rank | 7.123 |' in text
    assert '0.375' not in text and 'collapse' not in text

  def test_what_is_no_loss_is_best_at_its_largest(self, tmp_path):
    lines = [
      {'step': step, 'validation_ndcg@10': value}
      for step, value in ((0, 0.1), (4, 0.3), (8, 0.3), (12, 0.2))
    ]
    workdir.check_config(tiny.config(select_by='ndcg@10'), str(tmp_path))
    _write_lines(tmp_path / 'metrics.jsonl', lines)
    front, text = _card(tmp_path)
    # Of equal ones the later, as the training keeps.
    assert 'at step 8:' in text and '| validation_ndcg@10 | 0.3 |' in text
    assert front['metrics'] == ['ndcg@10']
    # It has no sessions, as workdirs of before.
    assert '| commit | unknown |' in text and '| seconds | unknown |' in text

  def test_says_where_it_comes_from(self, tmp_path):
    _, text = _pretraining(tmp_path)
    assert '| commit | aaaa; bbbb |' in text
    assert '| device | 1 x cpu |' in text
    assert '| versions | python 3.11.2, jax 0.10.2 |' in text
    assert '| seconds | 91 |' in text
    fingerprint = splits.fingerprint(tiny.dataset())
    assert f'| split fingerprint | {fingerprint} |' in text
    dataset = tiny.dataset()
    assert f'40 users, 30 items, {dataset.num_events} events' in text

  def test_of_a_study_has_another_task(self, tmp_path):
    _, text = _pretraining(tmp_path, task='study')
    assert '# barlow_twins on synthetic' in text

  def test_limits_are_those_of_the_config(self, tmp_path):
    _, text = _pretraining(tmp_path)
    assert 'the newest 9 events' in text and 'not healthy' not in text
    assert 'used the past of the users that are tested' in text
    (tmp_path / 'other').mkdir()
    _, text = _pretraining(
      tmp_path / 'other',
      health='constant',
      inductive=True,
      pretrain_scope='leave_two_out',
    )
    assert 'not healthy: constant.' in text
    assert 'used the past of the users that are tested' not in text
    assert 'of favorite_category were seen' in text

  def test_the_data_decide_on_the_licence_of_the_weights(self, tmp_path):
    workdir.check_config(tiny.config(), str(tmp_path))
    dataset = tiny.dataset()
    dataset.origin['source'] = 'ml1m'
    model_card.write_pretraining(str(tmp_path), dataset)
    text = (tmp_path / 'README.md').read_text()
    assert 'license: other\nlicense_name: terms-of-ml1m\n' in text
    assert 'grouplens.org' in text


class TestDownstream:
  def test_figures_are_those_of_the_result(self, tmp_path):
    front, text = _downstream(tmp_path, task='next_item')
    assert '|  | test | validation |' in text
    assert '| recall@10 | 0.1235 | 0.25 |' in text
    assert '| commit | cccc |' in text and '| seconds | 17 |' in text
    assert '1,234 labelled examples, 56 of the test, seed 3' in text
    (model,) = front['model-index']
    assert model['results'][0]['metrics'] == [
      {'type': 'recall@10', 'value': 0.1235},
      {'type': 'mrr', 'value': 0.5},
    ]

  @pytest.mark.parametrize(
    'task, protocol, has_head, has, has_not',
    [
      (
        'next_item',
        'probe',
        True,
        ['.recommend(', 'in the workdir `mine`, which must lie beside'],
        [],
      ),
      ('next_item', 'finetune', True, ['.recommend('], ['head alone']),
      ('next_category', 'finetune', True, ['.embed('], ['.recommend(']),
      ('next_item', 'direct', False, ['Nothing to load'], ['.embed(']),
    ],
  )
  def test_says_how_to_load_what_is_there(
    self, task, protocol, has_head, has, has_not, tmp_path
  ):
    _, text = _downstream(
      tmp_path, task=task, protocol=protocol, has_head=has_head
    )
    for words in has:
      assert words in text
    for words in has_not:
      assert words not in text


def test_writing_again_gives_the_same_and_leaves_nothing_else(tmp_path):
  _pretraining(tmp_path)
  before, names = (tmp_path / 'README.md').read_bytes(), os.listdir(tmp_path)
  _card(tmp_path)
  assert (tmp_path / 'README.md').read_bytes() == before
  assert sorted(os.listdir(tmp_path)) == sorted(names)


def test_every_dataset_has_terms():
  from bt4rec import datasets

  assert set(model_card._TERMS) == set(datasets._SOURCES)
