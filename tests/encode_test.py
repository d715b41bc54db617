"""Tests of bt4rec.encode: a trained encoder used on original ids."""

import os
import shlex
import shutil
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags

import bt4rec
from bt4rec import downstream, grid, pretrain, tasks, workdir
from bt4rec.datasets import sequences
from bt4rec.errors import InputError
from configs import study as study_config
from tests import tiny


@pytest.fixture(scope='module')
def dataset():
  """Items 100 to 129, so ids are no tokens; a few are far more popular."""
  rng = np.random.default_rng(0)
  share = 1.0 / np.arange(1, 31) ** 2
  users, length = np.arange(48), 12
  items = rng.choice(30, (len(users), length), p=share / share.sum())
  items[0], items[1], items[2, :6] = np.split(np.arange(30), [12, 24])
  return sequences.from_events(
    'synthetic',
    np.repeat(users, length),
    100 + items.ravel(),
    np.arange(items.size),
  )


def _pretrain(directory, dataset, **overrides):
  config = tiny.config(total_steps=4, **overrides)
  os.makedirs(directory, exist_ok=True)
  workdir.check_config(config, directory)
  pretrain.run(config, directory, dataset)
  return directory


def _downstream(directory, dataset, **overrides):
  config = tiny.config(**{'total_steps': 24, **overrides})
  os.makedirs(directory, exist_ok=True)
  workdir.check_config(config, directory)
  return downstream.run(config, directory, dataset)


@pytest.fixture(scope='module')
def runs(dataset, tmp_path_factory):
  """A pre-training, and downstream runs on it beside."""
  folder = tmp_path_factory.mktemp('runs')
  source = _pretrain(str(folder / 'pretrained'), dataset)
  results = {}
  for protocol in ('probe', 'finetune', 'scratch'):
    results[protocol] = _downstream(
      str(folder / protocol),
      dataset,
      task='next_item',
      protocol=protocol,
      exclude_seen=protocol == 'probe',
      init_from='' if protocol == 'scratch' else source,
    )
  return folder, results


@pytest.fixture(
  scope='module', params=['next_item', 'masked_item', 'dual_encoder']
)
def predicting(request, dataset, tmp_path_factory):
  """A pre-training that predicts items, and `direct` on it."""
  folder = tmp_path_factory.mktemp(request.param)
  settings = {'exclude_seen': request.param != 'masked_item'}
  encoder = tiny.config().encoder.to_dict()
  encoder['causal'] = request.param == 'next_item'
  directory = _pretrain(
    str(folder / 'pretrained'),
    dataset,
    objective=request.param,
    encoder=encoder,
    **settings,
  )
  result = _downstream(
    str(folder / 'direct'),
    dataset,
    task='next_item',
    protocol='direct',
    init_from=directory,
    **settings,
  )
  return directory, result


def _test_inputs(dataset):
  """Histories before the test events of `next_item`, and these events."""
  test = tasks.NextItem(dataset, 0).test()
  ids = dataset.catalogue.item_ids
  histories = [
    ids[dataset.items[dataset.offsets[user] : end] - 1]
    for user, end in zip(test.users, test.ends, strict=True)
  ]
  return histories, ids[test.labels]


def _assert_places_are_ranks(directory, result, dataset):
  """What `recommend` lists, against what the evaluation counted."""
  histories, targets = _test_inputs(dataset)
  encoder = bt4rec.load_encoder(directory)
  items, scores = encoder.recommend(histories, len(encoder.item_ids))
  for row in scores:  # No ties, so ranks are whole.
    real = row[np.isfinite(row)]
    assert len(set(real.tolist())) == len(real) >= 18
  place = (items == targets[:, None]).argmax(axis=1) + 1
  ranks = result['outcomes']
  if encoder.exclude_seen:
    # The evaluation never leaves out the target itself.
    is_new = [
      target not in history
      for target, history in zip(targets, histories, strict=True)
    ]
    place, ranks = place[is_new], ranks[is_new]
  np.testing.assert_array_equal(place, ranks)
  assert len(set(place.tolist())) > 5


class TestRecommend:
  @pytest.mark.parametrize('protocol', ['probe', 'finetune', 'scratch'])
  def test_the_place_of_an_item_is_its_rank_by_the_head(
    self, protocol, runs, dataset
  ):
    folder, results = runs
    _assert_places_are_ranks(str(folder / protocol), results[protocol], dataset)

  def test_the_place_of_an_item_is_its_rank_by_direct(
    self, predicting, dataset
  ):
    directory, result = predicting
    _assert_places_are_ranks(directory, result, dataset)

  def test_leaves_out_what_was_seen_also_before_the_window(self, runs, dataset):
    encoder = bt4rec.load_encoder(str(runs[0] / 'probe'))
    history = dataset.catalogue.item_ids[:20]
    assert len(history) > encoder.max_length
    items, scores = encoder.recommend([history], 30, exclude_seen=True)
    np.testing.assert_array_equal(
      np.sort(items[0, :10]), dataset.catalogue.item_ids[20:]
    )
    # Ten are left of thirty.
    assert (items[0, 10:] == -1).all()
    assert np.isneginf(scores[0, 10:]).all()
    assert np.isfinite(scores[0, :10]).all()

  def test_seen_items_are_treated_as_the_workdir_evaluates(self, runs, dataset):
    history = dataset.catalogue.item_ids[:5]
    for protocol, is_left_out in (('probe', True), ('finetune', False)):
      encoder = bt4rec.load_encoder(str(runs[0] / protocol))
      items = set(encoder.recommend([history], 30).item_ids[0].tolist())
      assert items.isdisjoint(history.tolist()) == is_left_out

  def test_without_scores_it_names_the_command(self, runs):
    directory = runs[0] / 'pretrained'
    encoder = bt4rec.load_encoder(str(directory))
    with pytest.raises(InputError) as error:
      encoder.recommend([[100]], 3)
    assert (
      'launch/run.sh --config=configs/downstream.py:synthetic,next_item '
      f'--config.init_from={directory} --workdir={directory}-next_item'
    ) in str(error.value)

  def test_the_command_has_what_names_the_data(self):
    config = tiny.config()
    config.dataset.update({'name': 'logs', 'path': 'my events.csv'})
    config.dataset.columns.user = 'who'
    assert workdir.downstream_command(config, 'runs/a', 'next_item') == (
      'launch/run.sh --config=configs/downstream.py:logs,next_item '
      '--config.dataset.columns.user=who '
      "'--config.dataset.path=my events.csv' "
      '--config.init_from=runs/a --workdir=runs/a-next_item'
    )

  def test_the_command_can_be_pasted(self, monkeypatch):
    config = tiny.config()
    config.dataset.update({'name': 'logs', 'path': 'my "events".csv'})
    config.dataset.update({'k_core': 5, 'min_rating': 3.5, 'delimiter': '\t'})
    config.dataset.columns.update({'user': "o'clock", 'timestamp': ''})
    program, *words = shlex.split(
      workdir.downstream_command(config, 'my runs/a', 'next_item')
    )
    assert program == 'launch/run.sh'
    values = flags.FlagValues()
    config_flags.DEFINE_config_file('config', flag_values=values)
    flags.DEFINE_string('workdir', None, '', flag_values=values)
    monkeypatch.setattr(sys, 'argv', ['main', *words])
    values(['main', *words])
    assert values.config.dataset.to_dict() == config.dataset.to_dict()
    assert values.config.task == 'next_item'
    assert values.config.init_from == 'my runs/a'
    assert values.workdir == 'my runs/a-next_item'

  @pytest.mark.parametrize('k', [0, 31])
  def test_k_must_lie_within_the_catalogue(self, k, runs):
    encoder = bt4rec.load_encoder(str(runs[0] / 'probe'))
    with pytest.raises(InputError, match=f'k={k} .* at most 30'):
      encoder.recommend([[100]], k)

  def test_text_ids_come_back_as_text(self, runs):
    encoder = bt4rec.load_encoder(str(runs[0] / 'probe'))
    ids = np.array([f'i{number:02}' for number in range(30)])
    object.__setattr__(encoder, 'item_ids', ids)
    items, _ = encoder.recommend([ids[:28]], 5, exclude_seen=True)
    assert sorted(items[0].tolist()) == ['', '', '', 'i28', 'i29']


class TestLoad:
  def test_a_probe_and_its_encoder_may_move_together(self, runs, tmp_path):
    for name in ('pretrained', 'probe'):
      shutil.copytree(runs[0] / name, tmp_path / 'moved' / name)
    config = workdir.read_config(str(runs[0] / 'probe'))
    there = bt4rec.load_encoder(str(runs[0] / 'probe'))
    hidden = runs[0] / 'hidden'
    os.rename(config.init_from, hidden)
    try:
      moved = bt4rec.load_encoder(str(tmp_path / 'moved' / 'probe'))
      with pytest.raises(InputError, match='put that workdir back'):
        shutil.rmtree(tmp_path / 'moved' / 'pretrained')
        bt4rec.load_encoder(str(tmp_path / 'moved' / 'probe'))
    finally:
      os.rename(hidden, config.init_from)
    for one, other in zip(
      there.recommend([[100]], 3), moved.recommend([[100]], 3), strict=True
    ):
      np.testing.assert_array_equal(one, other)

  def test_refuses_an_encoder_that_was_trained_again(
    self, runs, dataset, tmp_path
  ):
    source = _pretrain(str(tmp_path / 'pretrained'), dataset)
    _downstream(
      str(tmp_path / 'probe'), dataset, task='next_item', init_from=source
    )
    bt4rec.load_encoder(str(tmp_path / 'probe'))
    shutil.rmtree(source)
    _pretrain(source, dataset, seed=1)
    with pytest.raises(InputError, match='trained again since'):
      bt4rec.load_encoder(str(tmp_path / 'probe'))

  def test_the_probe_of_a_random_encoder_has_none(self, dataset, tmp_path):
    _downstream(str(tmp_path), dataset, task='next_item', total_steps=3)
    with pytest.raises(InputError, match='random encoder'):
      bt4rec.load_encoder(str(tmp_path))

  def test_a_probe_cannot_be_probed(self, runs, dataset, tmp_path):
    with pytest.raises(InputError, match=r'init_from=.*pretrained'):
      _downstream(
        str(tmp_path),
        dataset,
        task='next_item',
        init_from=str(runs[0] / 'probe'),
      )

  def test_direct_takes_no_run_on_labels(self, runs, dataset, tmp_path):
    with pytest.raises(InputError, match='is a run of task=next_item'):
      _downstream(
        str(tmp_path),
        dataset,
        task='next_item',
        protocol='direct',
        init_from=str(runs[0] / 'finetune'),
      )

  def test_a_study_has_many(self, runs, tmp_path):
    config = study_config.get_config('synthetic')
    workdir.check_config(config, str(tmp_path))
    with pytest.raises(InputError, match='pretrain/barlow_twins-0'):
      bt4rec.load_encoder(str(tmp_path))
    # One of them is loaded, as the study made it.
    directory = tmp_path / 'pretrain' / 'barlow_twins-0'
    shutil.copytree(runs[0] / 'pretrained', directory)
    config = tiny.config(task='study', study=config.study)
    cell = next(c for c in grid.cells(config) if c.kind == 'pretrain')
    config = grid.cell_config(config, cell, str(tmp_path))
    os.remove(directory / 'config.json')
    workdir.check_config(config, str(directory))
    assert bt4rec.load_encoder(str(directory)).embed([[100]]).shape == (1, 12)

  def test_refuses_a_folder_without_a_run(self, tmp_path):
    with pytest.raises(InputError, match='in which a job has run'):
      bt4rec.load_encoder(str(tmp_path / 'nothing'))


class TestEmbed:
  def test_is_what_the_evaluation_embeds(self, runs, dataset):
    encoder = bt4rec.load_encoder(str(runs[0] / 'pretrained'))
    histories, _ = _test_inputs(dataset)
    test = tasks.NextItem(dataset, 0).test()
    windows = test.windows(dataset.offsets, encoder.max_length)
    np.testing.assert_array_equal(
      encoder.embed(histories),
      encoder.embed_windows({'items': dataset.items}, **windows),
    )

  def test_only_the_newest_events_count(self, runs):
    encoder = bt4rec.load_encoder(str(runs[0] / 'pretrained'))
    newest = np.arange(100, 100 + encoder.max_length)
    long = np.concatenate([[129, 128], newest])
    h = encoder.embed([long, newest, newest[::-1]])
    np.testing.assert_array_equal(h[0], h[1])
    assert np.abs(h[0] - h[2]).max() > 1e-4

  def test_an_unknown_item_counts_as_a_masked_one(self, runs):
    encoder = bt4rec.load_encoder(str(runs[0] / 'pretrained'))
    mask = len(encoder.item_ids) + 1
    h = encoder.embed([[100, 999]])
    items = jnp.array([[1, mask] + [0] * (encoder.max_length - 2)])
    expected = encoder.module.apply(
      {'params': encoder.params}, items, train=False
    )
    np.testing.assert_allclose(h, expected, rtol=1e-5, atol=1e-6)
