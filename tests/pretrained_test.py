"""A pre-training read back: before and after, and what its loss compares."""

import dataclasses
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

import bt4rec
from bt4rec import (
  downstream,
  objectives,
  pretext,
  pretrain,
  pretrained,
  workdir,
)
from bt4rec.datasets import sequences
from bt4rec.errors import InputError
from tests import tiny


def _config(**overrides) -> ConfigDict:
  # Another seed than everyone's default.
  config = tiny.config(total_steps=4, seed=2, **overrides)
  config.dataset.synthetic.update(tiny.WORLD)
  return config


def _pretrain(directory, **overrides) -> str:
  config = _config(**overrides)
  os.makedirs(directory, exist_ok=True)
  workdir.check_config(config, directory)
  pretrain.run(config, directory, tiny.dataset())
  return directory


@pytest.fixture(scope='module')
def twins(tmp_path_factory):
  """Barlow Twins with every term that has a projector."""
  settings = {
    'projector': (10, 11),
    'mixed_weight': 0.5,
    'next_item_weight': 1.0,
  }
  directory = str(tmp_path_factory.mktemp('twins'))
  return pretrained.load(_pretrain(directory, barlow_twins=settings))


@pytest.fixture(scope='module')
def predictor(tmp_path_factory):
  directory = str(tmp_path_factory.mktemp('predictor'))
  return pretrained.load(_pretrain(directory, objective='dual_encoder'))


# Odd, so that the halves differ.
_LENGTH = 7


def _some_users(pretraining):
  users = np.arange(13)
  return {
    'users': users,
    'start': pretraining.dataset.offsets[users],
    'length': np.full(len(users), _LENGTH, np.int32),
  }


class TestLoad:
  def test_untrained_is_what_the_training_started_from(self, twins):
    job = pretrain.make_job(twins.config, twins.dataset)
    jax.tree.map(
      np.testing.assert_array_equal,
      (job.state.params, job.state.batch_stats),
      (twins.untrained['params'], twins.untrained['batch_stats']),
    )

  def test_trained_is_what_load_encoder_loads(self, twins):
    encoder = bt4rec.load_encoder(twins.directory)
    assert twins.encoder(twins.trained).digest() == encoder.digest()
    assert twins.encoder(twins.untrained).digest() != encoder.digest()
    assert twins.meta == encoder.meta
    own = twins.encoder(twins.trained)
    for name in ('module', 'max_length', 'meta', 'directory'):
      assert getattr(own, name) == getattr(encoder, name), name
    np.testing.assert_array_equal(own.item_ids, encoder.item_ids)

  def test_other_data_are_refused(self, twins):
    overrides = {'dataset.synthetic.seed': 1}
    with pytest.raises(InputError, match=r'fingerprint .*, the data given'):
      pretrained.load(twins.directory, overrides)

  # A probe has no encoder of its own, and that of the pre-training is found.
  @pytest.mark.parametrize('protocol', ['finetune', 'probe'])
  def test_a_run_on_labels_is_no_pretraining(self, protocol, twins, tmp_path):
    config = _config(task='next_category', protocol=protocol)
    config.init_from = twins.directory
    workdir.check_config(config, str(tmp_path))
    downstream.run(config, str(tmp_path), twins.dataset)
    with pytest.raises(InputError, match='is a run on labels'):
      pretrained.load(str(tmp_path))


class TestViewPairs:
  def test_are_what_the_loss_of_a_step_compares(self, twins):
    rows = _some_users(twins)
    z_a, z_b = twins.view_pairs(twins.trained, rows)
    assert z_a.shape == z_b.shape == (13, 11)
    _, expected = objectives.barlow_twins_loss(z_a, z_b, lambd=1.0)
    # The step's own terms, by the same keys.
    position = np.arange(twins.config.max_length)
    items = twins.dataset.items[
      np.minimum(
        rows['start'][:, None] + position, len(twins.dataset.items) - 1
      )
    ]
    batch = {
      'items': np.where(position < _LENGTH, items, 0),
      'index': np.arange(13),
      **twins.tables,
    }
    dropout, objective = jax.random.split(jax.random.key(twins.config.seed))
    (_, terms), _ = twins.model.apply(
      twins.trained,
      batch,
      objective,
      train=True,
      rngs={'dropout': dropout},
      mutable=['batch_stats'],
    )
    for name in ('invariance', 'redundancy'):
      np.testing.assert_allclose(terms[name], expected[name], rtol=1e-4)

  def test_a_part_of_a_sum_makes_them(self, twins):
    config = _config(objective='next_item+0.1*vicreg')
    config.encoder.causal = True
    config.vicreg.projector = (7, 5)
    model = pretext.make_model(config, twins.dataset.catalogue, None)
    variables = pretrain.initial_variables(config, model, twins.tables)
    z = pretext.project_views(
      model,
      variables,
      {'items': jnp.ones((4, 9), jnp.int32), 'index': jnp.arange(4)}
      | twins.tables,
      jax.random.key(0),
    )
    assert z.shape == (4, 2, 5)

  def test_without_views_they_are_the_halves_of_a_window(self, predictor):
    older, newer = predictor.view_pairs(
      predictor.trained, _some_users(predictor)
    )
    ids = predictor.dataset.catalogue.item_ids
    events = predictor.dataset.items[predictor.dataset.offsets[3] :][:_LENGTH]
    encoder = predictor.encoder(predictor.trained)
    for h, half in ((older, events[:3]), (newer, events[3:])):
      np.testing.assert_allclose(
        h[3], encoder.embed([ids[half - 1]])[0], rtol=1e-5, atol=1e-6
      )


def test_windows_are_those_of_validation_users(twins):
  rows = twins.windows(3)
  assert len(rows['users']) == 3
  ends = rows['start'] + rows['length']
  # The last event of a user is the test of the next item.
  np.testing.assert_array_equal(
    ends, twins.dataset.offsets[rows['users'] + 1] - 1
  )


def test_too_few_users_are_said(twins):
  one = sequences.from_events(
    'one', np.zeros(12, int), np.arange(12), np.arange(12)
  )
  with pytest.raises(InputError, match='validation users, too few'):
    dataclasses.replace(twins, dataset=one).windows(9)
