"""Checkpoints: what comes back, which are kept, which are passed over."""

import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bt4rec import checkpoint
from bt4rec.errors import InputError
from bt4rec.train_state import create_train_state


def _state(seed=0, dim=5):
  rng = np.random.default_rng(seed)
  variables = {
    'params': {
      'encoder': {'kernel': jnp.asarray(rng.normal(size=(3, dim)))},
      'objective': {'log_temperature': jnp.float32(rng.normal())},
    },
    'batch_stats': {'norm': {'mean': jnp.asarray(rng.normal(size=(7,)))}},
  }
  state = create_train_state(variables, optax.adam(1e-3), jax.random.key(seed))
  return state.replace(step=jnp.int32(seed))


def _bits(state):
  """Leaves as arrays, the key as its data."""
  return [
    np.asarray(
      jax.random.key_data(leaf)
      if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
      else leaf
    )
    for leaf in jax.tree.leaves(state)
  ]


def _assert_same_bits(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(_bits(a), _bits(b), strict=True):
    np.testing.assert_array_equal(x, y, strict=True)


def _save(workdir, metrics, keep=1):
  """Saves a state per item of step -> metric; it holds the step as seed."""
  checkpointer = checkpoint.Checkpointer(str(workdir), keep)
  for step, metric in metrics.items():
    checkpointer.save(step, _state(step), {'number': step}, metric)
  checkpointer.close()


def _restore_latest(workdir, like=None):
  checkpointer = checkpoint.Checkpointer(str(workdir))
  try:
    return checkpointer.restore_latest(_state() if like is None else like)
  finally:
    checkpointer.close()


def _steps(workdir):
  names = os.listdir(workdir / 'checkpoints')
  return sorted(int(name) for name in names if name.isdigit())


def _break(directory: pathlib.Path, how: str) -> None:
  """Breaks every file of a checkpoint."""
  for path in sorted(directory.rglob('*')):
    if not path.is_file():
      continue
    data = path.read_bytes()
    if how == 'truncated':
      path.write_bytes(data[: len(data) // 2])
    elif how == 'overwritten':
      path.write_bytes(b'\x17' * len(data))
    else:
      path.unlink()


class TestCheckpointer:
  def test_gives_back_every_bit(self, tmp_path):
    _save(tmp_path, {4: None})
    state, meta = _restore_latest(tmp_path)
    _assert_same_bits(state, _state(4))
    assert meta == {'number': 4}
    # The key is a key again, not its numbers.
    np.testing.assert_array_equal(
      jax.random.uniform(state.rng, (3,)),
      jax.random.uniform(jax.random.key(4), (3,)),
    )

  def test_gives_nothing_where_there_is_none(self, tmp_path):
    assert _restore_latest(tmp_path) is None

  @pytest.mark.parametrize(
    'metrics, keep, expected',
    [
      # The best is the second; the latest come besides.
      ({1: 0.5, 2: 0.2, 3: 0.4, 4: 0.3}, 1, [2, 4]),
      ({1: 0.5, 2: 0.2, 3: 0.4, 4: 0.3}, 2, [2, 3, 4]),
      ({1: 0.5, 2: 0.4, 3: 0.3, 4: 0.2}, 1, [4]),
      # Saved between two validations: without a metric, never the best.
      ({1: 0.5, 2: None, 3: 0.6, 4: None}, 1, [1, 4]),
      ({1: None, 2: None, 3: None, 4: None}, 2, [3, 4]),
    ],
  )
  def test_keeps_the_latest_and_the_best(
    self, metrics, keep, expected, tmp_path
  ):
    _save(tmp_path, metrics, keep)
    assert _steps(tmp_path) == expected

  def test_keeps_the_steps_that_are_named(self, tmp_path):
    checkpointer = checkpoint.Checkpointer(str(tmp_path), 1, (0, 2, 7))
    for step, metric in {0: 0.9, 1: 0.5, 2: None, 3: 0.1, 4: 0.3}.items():
      checkpointer.save(step, _state(step), {'number': step}, metric)
    checkpointer.close()
    # Those, the best and the latest.
    assert _steps(tmp_path) == [0, 2, 3, 4]
    model = checkpoint.restore_model(str(tmp_path), 2)
    _assert_same_bits(model.params, _state(2).params)
    assert (model.step, checkpoint.step_of(str(tmp_path), 2)) == (2, 2)
    assert checkpoint.step_of(str(tmp_path)) == 3
    with pytest.raises(InputError, match=r'of step 1.*0, 2, 3, 4'):
      checkpoint.restore_model(str(tmp_path), 1)

  def test_best_is_the_lowest_metric(self, tmp_path):
    _save(tmp_path, {1: 0.5, 2: 0.2, 3: 0.4, 4: None})
    checkpointer = checkpoint.Checkpointer(str(tmp_path))
    state, meta = checkpointer.restore_best(_state())
    checkpointer.close()
    _assert_same_bits(state, _state(2))
    assert meta == {'number': 2}
    assert int(_restore_latest(tmp_path)[0].step) == 4

  def test_best_without_a_metric_is_the_latest(self, tmp_path):
    _save(tmp_path, {1: None, 2: None})
    checkpointer = checkpoint.Checkpointer(str(tmp_path))
    state, _ = checkpointer.restore_best(_state())
    checkpointer.close()
    _assert_same_bits(state, _state(2))

  def test_leaves_a_step_that_is_saved_as_it_is(self, tmp_path):
    checkpointer = checkpoint.Checkpointer(str(tmp_path))
    checkpointer.save(3, _state(3), {'number': 3}, 0.1)
    checkpointer.save(3, _state(8), {'number': 8})
    checkpointer.close()
    state, meta = _restore_latest(tmp_path)
    _assert_same_bits(state, _state(3))
    assert meta == {'number': 3}

  @pytest.mark.parametrize('how', ['truncated', 'overwritten', 'removed'])
  def test_falls_back_from_a_broken_checkpoint(self, how, tmp_path):
    _save(tmp_path, {1: 0.1, 2: 0.2, 3: 0.3}, keep=2)
    assert _steps(tmp_path) == [1, 2, 3]
    _break(tmp_path / 'checkpoints' / '3', how)
    state, meta = _restore_latest(tmp_path)
    _assert_same_bits(state, _state(2))
    assert meta == {'number': 2}

  def test_broken_metric_costs_the_rank_alone(self, tmp_path):
    _save(tmp_path, {1: 0.2, 2: 0.1, 3: 0.3}, keep=3)
    _break(tmp_path / 'checkpoints' / '2' / 'metrics', 'truncated')
    assert checkpoint.restore_model(str(tmp_path)).meta == {'number': 1}
    assert _steps(tmp_path) == [1, 2, 3]

  @pytest.mark.parametrize('part', ['state', 'meta'])
  def test_falls_back_where_one_part_is_broken(self, part, tmp_path):
    _save(tmp_path, {1: None, 2: None}, keep=2)
    _break(tmp_path / 'checkpoints' / '2' / part, 'truncated')
    assert _restore_latest(tmp_path)[1] == {'number': 1}

  def test_broken_checkpoint_does_not_stand_in_the_way(self, tmp_path):
    _save(tmp_path, {10: None, 20: None}, keep=2)
    _break(tmp_path / 'checkpoints' / '20', 'truncated')
    checkpointer = checkpoint.Checkpointer(str(tmp_path), 1)
    _, meta = checkpointer.restore_latest(_state())
    assert meta == {'number': 10}
    # A step before the broken one must not be taken for an old one.
    checkpointer.save(15, _state(15), {'number': 15})
    checkpointer.wait()
    assert _steps(tmp_path) == [15]
    checkpointer.save(20, _state(20), {'number': 20})
    checkpointer.close()
    assert _steps(tmp_path) == [20]
    _assert_same_bits(_restore_latest(tmp_path)[0], _state(20))
    assert os.listdir(tmp_path / 'checkpoints_unreadable') == ['20']

  def test_refuses_to_start_afresh_over_broken_checkpoints(self, tmp_path):
    _save(tmp_path, {1: None, 2: None}, keep=2)
    for step in ('1', '2'):
      _break(tmp_path / 'checkpoints' / step, 'truncated')
    with pytest.raises(InputError, match=r'none of .*\[1, 2\]'):
      _restore_latest(tmp_path)
    assert _steps(tmp_path) == [1, 2]

  def test_state_of_another_shape_is_no_checkpoint_of_this_run(self, tmp_path):
    _save(tmp_path, {1: None})
    with pytest.raises(InputError, match='can be read'):
      _restore_latest(tmp_path, like=_state(dim=6))
    assert _steps(tmp_path) == [1]

  @pytest.mark.parametrize('saved, restored', [(8, 1), (1, 8), (8, 3)])
  def test_restores_on_another_number_of_devices(
    self, saved, restored, tmp_path
  ):
    def place(state, count):
      mesh = Mesh(np.array(jax.devices()[:count]), ('batch',))
      return jax.device_put(state, NamedSharding(mesh, PartitionSpec()))

    checkpointer = checkpoint.Checkpointer(str(tmp_path))
    checkpointer.save(4, place(_state(4), saved), {})
    checkpointer.close()
    state, _ = _restore_latest(tmp_path, like=place(_state(), restored))
    _assert_same_bits(state, _state(4))
    for leaf in jax.tree.leaves(state):
      assert leaf.sharding.device_set == set(jax.devices()[:restored])


class TestRestoreParams:
  def test_gives_the_best_parameters_on_one_device(self, tmp_path):
    _save(tmp_path, {1: 0.2, 2: 0.1, 3: 0.3})
    model = checkpoint.restore_model(str(tmp_path))
    _assert_same_bits(model.params, _state(2).params)
    _assert_same_bits(model.batch_stats, _state(2).batch_stats)
    assert model.meta == {'number': 2}
    assert model.step == 2
    for leaf in jax.tree.leaves((model.params, model.batch_stats)):
      assert leaf.sharding.device_set == {jax.devices()[0]}

  def test_refuses_a_directory_without_checkpoints(self, tmp_path):
    with pytest.raises(InputError, match='run the training first'):
      checkpoint.restore_model(str(tmp_path))
    assert os.listdir(tmp_path) == []
    (tmp_path / 'checkpoints').mkdir()
    with pytest.raises(InputError, match='run the training first'):
      checkpoint.restore_model(str(tmp_path))

  @pytest.mark.parametrize('how', ['truncated', 'removed'])
  def test_refuses_a_broken_checkpoint_in_a_sentence(self, how, tmp_path):
    _save(tmp_path, {1: 0.2})
    _break(tmp_path / 'checkpoints' / '1', how)
    with pytest.raises(InputError, match=r'checkpoints/1 cannot be read'):
      checkpoint.restore_model(str(tmp_path))
