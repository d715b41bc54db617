"""Tests of a pre-training that starts from another one's encoder."""

import jax
import numpy as np
import pytest

from bt4rec import checkpoint, initial_encoder, jobs, pretrain, workdir
from bt4rec.datasets import synthetic
from bt4rec.errors import InputError
from tests import tiny

_CAUSAL = {
  'encoder': {
    **tiny.config().encoder.to_dict(),
    'causal': True,
    'pooling': 'last',
  }
}


@pytest.fixture(name='source', scope='module')
def _source(tmp_path_factory):
  """Workdir of a finished pre-training with Barlow Twins."""
  directory = str(tmp_path_factory.mktemp('source'))
  config = tiny.config(total_steps=4, **_CAUSAL)
  workdir.check_config(config, directory)
  pretrain.run(config, directory, tiny.dataset())
  return directory


def _leaves(tree):
  return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def test_only_the_encoder_comes_from_it(source):
  config = tiny.config(objective='barlow_twins', seed=1, **_CAUSAL)
  fresh = pretrain.make_job(config, tiny.dataset()).state
  config.init_from = source
  started = pretrain.make_job(config, tiny.dataset()).state
  trained = checkpoint.restore_model(source, None).params
  for mine, before in zip(
    _leaves(started.params['encoder']), _leaves(trained['encoder']), strict=True
  ):
    np.testing.assert_array_equal(mine, before)
  for mine, own in zip(
    _leaves(started.params['objective']),
    _leaves(fresh.params['objective']),
    strict=True,
  ):
    np.testing.assert_array_equal(mine, own)
  assert not all(
    np.array_equal(mine, own)
    for mine, own in zip(
      _leaves(started.params), _leaves(fresh.params), strict=True
    )
  )
  # Of the optimizer nothing: no step was made.
  assert int(started.step) == 0
  for mine, own in zip(
    _leaves(started.opt_state), _leaves(fresh.opt_state), strict=True
  ):
    np.testing.assert_array_equal(mine, own)


def test_the_encoder_and_not_the_objective_is_that_of_the_source(source):
  config = tiny.config(objective='next_item', init_from=source)
  config.encoder.dim = 16
  own = initial_encoder.with_own_encoder(config)
  assert own.encoder.dim == 12 and own.encoder.causal
  assert own.objective == 'next_item'
  # Whoever does not train one keeps what was given.
  config.task, config.protocol = 'next_item', 'probe'
  assert initial_encoder.with_own_encoder(config).encoder.dim == 16


def test_goes_on_with_another_objective(source, tmp_path):
  config = tiny.config(objective='next_item', init_from=source)
  config.dataset.synthetic.update(tiny.WORLD)
  jobs.run(config, str(tmp_path))
  found = checkpoint.restore_model(str(tmp_path), None).params['encoder']
  before = checkpoint.restore_model(source, None).params['encoder']
  shapes = [leaf.shape for leaf in _leaves(before)]
  assert [leaf.shape for leaf in _leaves(found)] == shapes
  # What the encoder was made as can be read from the workdir alone.
  assert workdir.read_config(str(tmp_path)).encoder.causal


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'inductive': True, 'batch_size': 8}, 'was pre-trained on all users'),
    ({'split_seed': 1}, 'was made with split_seed=0'),
  ],
)
def test_another_split_is_refused(source, changes, message):
  config = tiny.config(init_from=source, **_CAUSAL, **changes)
  with pytest.raises(InputError, match=message):
    pretrain.make_job(config, tiny.dataset())


def test_other_data_are_refused(source):
  other = synthetic.make_dataset(synthetic.World(**tiny.WORLD, seed=1))
  config = tiny.config(init_from=source, **_CAUSAL)
  with pytest.raises(InputError, match='fingerprint'):
    pretrain.make_job(config, other)


def test_what_this_one_may_not_see_must_not_have_been_seen(tmp_path):
  source = tiny.config(total_steps=3, pretrain_scope='leave_two_out', **_CAUSAL)
  workdir.check_config(source, str(tmp_path))
  pretrain.run(source, str(tmp_path), tiny.dataset())
  config = tiny.config(init_from=str(tmp_path), **_CAUSAL)
  with pytest.raises(
    InputError, match="held-out events of 'this pre-training'"
  ):
    pretrain.make_job(config, tiny.dataset())
