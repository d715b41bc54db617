"""Item tables split over devices give what a whole one gives."""

import functools

import jax
import numpy as np
import optax
import pytest

from bt4rec import mesh, pretext, pretrain, train, train_step
from bt4rec.checkpoint import Checkpointer
from bt4rec.errors import InputError
from tests import tiny

_STEPS = 2
_TX = optax.sgd(0.1, momentum=0.9)
_TABLE = "['encoder']['item_table']['embedding']"


def _config(objective, loss='full', negatives_per='position'):
  config = tiny.config(objective=objective)
  config.encoder.dropout = 0.0
  config.encoder.causal = 'next_item' in objective
  config.item_loss.name = loss
  config.item_loss.num_negatives = 3
  config.item_loss.negatives_per = negatives_per
  return config


def _train(config, model_parallelism, num_devices=8, packed=False):
  """State before and after some steps, metrics of each, the compiled step."""
  if packed:
    config.packing.enabled = True
    config.packing.num_groups = 8
  job = pretrain.make_job(config, tiny.dataset())
  catalogue = tiny.dataset().catalogue
  devices = jax.devices()[:num_devices]
  sharding = train_step.table_sharding(
    'jit', model_parallelism, catalogue.vocabulary_size, devices
  )
  shape = None
  if packed:
    from bt4rec import pretrain_data
    shape = pretrain_data.choose_shape(config, pretrain_data.visible_events(tiny.dataset(), config))
  model = pretext.make_model(config, catalogue, None, shape, sharding)
  compiled = train_step.CompiledStep(
    train_step.make_train_step(
      pretrain.make_loss_fn(model, None), _TX, lambda step: 0.1
    ),
    'jit',
    config.batch_size,
    devices,
    sharding,
  )
  start = job.state.replace(opt_state=_TX.init(job.state.params))
  state, tables = compiled.replicate((start, job.tables))
  history = []
  for _, batch in zip(range(_STEPS), job.feed(0), strict=False):
    state, metrics = compiled(state, {**compiled.place_batch(batch), **tables})
    history.append({k: float(v) for k, v in metrics.items()})
  return start, state, history, compiled


def _paths(tree):
  return {
    jax.tree_util.keystr(path): np.asarray(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }

@pytest.mark.parametrize('case', [('barlow_twins',), ('dual_encoder',), ('next_item',), ('masked_item',), ('next_item','sampled'), ('next_item','sampled','batch'), ('masked_item','gbce','sequence')], ids='-'.join)
@pytest.mark.parametrize('packed', [False, True])
def test_equal(case, packed):
  config = _config(*case)
  before, one, expected, _ = _train(config, 1, 1, packed)
  for m in (2, 4, 8):
    _, state, history, compiled = _train(config, m, packed=packed)
    for a, b in zip(history, expected, strict=True):
      for name in b:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-4, atol=1e-6, err_msg=name)
    table = state.params['encoder']['item_table']['embedding']
    assert {s.data.shape for s in table.addressable_shards} == {(32//m, 12)}
    whole = compiled.unreplicate(state)
    x, y = _paths(whole.params), _paths(one.params)
    for name, start in _paths(before.params).items():
      moved = y[name] - start
      np.testing.assert_allclose(x[name]-start, moved, rtol=1e-3, atol=1e-3*abs(moved).max()+1e-6, err_msg=name)
    assert compiled.num_traces == 1
