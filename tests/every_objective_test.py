"""Each objective and a sum of two through the whole of a pre-training."""

import functools
import math
import os

import optax
import pytest
from jax import lax
from ml_collections import ConfigDict

from bt4rec import downstream, pretext, pretrain, workdir
from bt4rec.datasets import movielens
from bt4rec.objectives import TwoViews
from tests import tiny

_OBJECTIVES = (*pretext.OBJECTIVES, 'vicreg+0.5*next_item')


def _config(objective, **overrides):
  config = tiny.config(objective=objective, batch_size=8, **overrides)
  config.encoder.causal = 'next_item' in objective
  config.update({'total_steps': 2, 'eval_every_steps': 2, 'patience': 1})
  config.health_every_steps = 1
  config.optimizer.warmup_steps = 1
  for group in config.values():
    if isinstance(group, ConfigDict) and 'projector' in group:
      group.projector = (10, 11)
  return config


def _run(config, directory, dataset):
  """The lines of the log, all of whose numbers are finite."""
  os.makedirs(directory, exist_ok=True)
  workdir.check_config(config, directory)
  pretrain.run(config, directory, dataset)
  lines = workdir.read_lines(f'{directory}/metrics.jsonl')
  for line in lines:
    for name, value in line.items():
      assert isinstance(value, str) or math.isfinite(value), name
  return lines


def _check(objective, dataset, tmp_path):
  pretraining = str(tmp_path / 'pretrain')
  lines = _run(_config(objective), pretraining, dataset)
  training = [line for line in lines if 'loss' in line]
  assert [line['step'] for line in training] == [1, 2]
  for line in training:
    assert {'health', 'effective_rank', 'alignment', 'uniformity'} <= set(line)
    assert 0 <= line['alignment'] <= 4
    assert -4 <= line['uniformity'] <= 1e-6
  model = pretext.make_model(_config(objective), dataset.catalogue, None)
  if isinstance(model.objective, TwoViews):
    return  # It predicts no item.
  config = _config(objective, task='next_item', protocol='direct')
  config.init_from = pretraining
  result = downstream.run(config, str(tmp_path / 'direct'), dataset)
  assert result['num_test'] == dataset.num_users
  assert any('validation_ndcg@10' in line for line in lines)


@pytest.fixture(scope='module')
def dataset(shared_data):
  """MovieLens-1M where it is there, else a synthetic one."""
  if shared_data is None or not (shared_data / 'ml-1m').is_dir():
    return tiny.dataset()
  return movielens.read_ml1m(str(shared_data / 'ml-1m'), False)


@pytest.mark.parametrize('objective', _OBJECTIVES)
def test_trains_and_is_scored(objective, dataset, tmp_path):
  _check(objective, dataset, tmp_path)


class Cosine(TwoViews, kw_only=True):
  """The example of the README."""

  def pair_loss(self, z_a, z_b):
    loss = 1 - optax.cosine_similarity(z_a, z_b).mean()
    return (lax.pmean(loss, self.axis_name) if self.axis_name else loss), {}


def test_another_objective_is_a_loss_and_an_entry(tmp_path, monkeypatch):
  monkeypatch.setitem(
    pretext.OBJECTIVES,
    'cosine',
    functools.partial(pretext.two_views, 'cosine', Cosine),
  )
  config = _config('cosine', cosine=ConfigDict({'projector': (6,)}))
  lines = _run(config, str(tmp_path), tiny.dataset())
  losses = [line['loss'] for line in lines if 'loss' in line]
  assert len(losses) == 2 and all(0 < loss < 2 for loss in losses)
