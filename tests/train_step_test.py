"""The whole pre-training step, on one device and on eight."""

import functools
import itertools

import jax
import numpy as np
import optax
import pytest

from bt4rec import pretext, pretrain, train_step
from bt4rec.errors import InputError
from bt4rec.train_state import create_train_state
from tests import tiny

_STEPS = 3
_TX = optax.sgd(0.1)


# A new objective has to be that of the global batch too.
_OBJECTIVES = (*pretext.OBJECTIVES, 'barlow_twins+0.5*next_item')


def _config(objective, **overrides):
  config = tiny.config(objective=objective, **overrides)
  config.encoder.causal = 'next_item' in objective
  return config


# Sharing of compiled steps: they take longer than everything else here.
@functools.cache
def _start(objective):
  """State at step 0, tables and first batches."""
  job = pretrain.make_job(_config(objective), tiny.dataset())
  batches = job.feed(0)
  # Plain gradient descent: the parameters move by the gradient, whereas Adam
  # would turn the rounding of a gradient that is nearly 0 into a whole step.
  opt_state = _TX.init(job.state.params)
  state = job.state.replace(opt_state=opt_state)
  return state, job.tables, [next(batches) for _ in range(_STEPS)]


@functools.cache
def _step(objective, parallelism='jit', compute_dtype='float32', *split):
  """The pure step of a real pre-training, dropout off.

  `split` is how the item table is, and the number of micro batches.
  """
  # Masks of dropout are drawn by device; views and cuts by example.
  config = _config(
    objective,
    compute_dtype=compute_dtype,
    encoder={**tiny.config().encoder.to_dict(), 'dropout': 0.0},
  )
  axis_name = train_step.axis_name_of(parallelism)
  catalogue = tiny.dataset().catalogue
  model = pretext.make_model(config, catalogue, axis_name, None, *split)
  return train_step.make_train_step(
    pretrain.make_loss_fn(model, axis_name), _TX, lambda step: 0.1, axis_name
  )


@functools.cache
def _train(
  objective, parallelism, num_devices, compute_dtype='float32', model=1, micro=1
):
  """Final state, metrics of every step, and the compiled step."""
  state, tables, batches = _start(objective)
  devices = jax.devices()[:num_devices]
  num_rows = tiny.dataset().catalogue.vocabulary_size
  sharding = train_step.table_sharding(parallelism, model, num_rows, devices)
  compiled = train_step.CompiledStep(
    _step(objective, parallelism, compute_dtype, sharding, micro),
    parallelism,
    tiny.config().batch_size,
    devices,
    sharding,
  )
  state, tables = compiled.replicate((state, tables))
  placed = [leaf.sharding for leaf in jax.tree.leaves(state)]
  history = []
  for batch in batches:
    state, metrics = compiled(state, {**compiled.place_batch(batch), **tables})
    history.append(
      {name: np.ravel(value)[0] for name, value in metrics.items()}
    )
  if sharding:  # The next step would be compiled again otherwise.
    for leaf, before in zip(jax.tree.leaves(state), placed, strict=True):
      assert leaf.sharding.is_equivalent_to(before, leaf.ndim)
  return compiled.unreplicate(state), history, compiled


def _paths(tree):
  """Path -> leaf as an array."""
  return {
    jax.tree_util.keystr(path): np.asarray(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


@pytest.mark.parametrize('objective', _OBJECTIVES)
class TestCompiledStep:
  @pytest.mark.parametrize(
    'parallelism, split',
    [
      ('jit', {}),
      ('pmap', {}),
      # Four devices share a table; each has two windows, one at a time.
      ('jit', {'model': 4, 'micro': 2}),
    ],
    ids=['jit', 'pmap', 'jit-split'],
  )
  def test_eight_devices_equal_one(self, parallelism, split, objective):
    assert jax.device_count() == 8
    one, one_history, _ = _train(objective, 'jit', 1)
    eight, eight_history, compiled = _train(objective, parallelism, 8, **split)
    for a, b in zip(eight_history, one_history, strict=True):
      assert a.keys() == b.keys()
      for name in a:
        np.testing.assert_allclose(
          a[name], b[name], rtol=1e-4, atol=1e-6, err_msg=name
        )
    # How far the parameters moved is the sum of the gradients.
    before = _paths(_start(objective)[0].params)
    one_params, eight_params = _paths(one.params), _paths(eight.params)
    assert eight_params.keys() == before.keys()
    for name, start in before.items():
      moved = one_params[name] - start
      np.testing.assert_allclose(
        eight_params[name] - start,
        moved,
        rtol=1e-3,
        atol=1e-3 * np.abs(moved).max() + 1e-6,
        err_msg=name,
      )
    jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
      eight.batch_stats,
      one.batch_stats,
    )
    assert compiled.num_traces == 1
    assert int(eight.step) == _STEPS

  def test_training_moves_every_parameter(self, objective):
    # Otherwise the comparison above compares nothing.
    after = _paths(_train(objective, 'jit', 1)[0].params)
    for name, start in _paths(_start(objective)[0].params).items():
      # The loss does not see a constant in front of batch normalisation.
      if 'bias' not in name:
        assert np.abs(after[name] - start).max() > 1e-5, name


def test_steps_of_one_call_are_those_of_several():
  ends = []
  for steps_per_call in (1, 2):
    # A table split over devices, and the batch over all eight.
    config = _config(
      'dual_encoder',
      steps_per_call=steps_per_call,
      model_parallelism=2,
      log_every_steps=2,
    )
    job = pretrain.make_job(config, tiny.dataset())
    state, tables = job.step.replicate((job.state, job.tables))
    feed, metrics = job.feed(0), []
    for _ in range(4 // steps_per_call):
      rows = job.step.place_batch(*itertools.islice(feed, steps_per_call))
      state, found = job.step(state, {**rows, **tables})
      metrics.append(found)
    assert job.step.num_traces == 1
    history = {k: np.ravel([m[k] for m in metrics]) for k in metrics[0]}
    state = job.step.unreplicate(state)
    key = jax.random.key_data(state.rng)
    ends.append((state.replace(rng=key), history))
  assert int(ends[0][0].step) == 4
  jax.tree.map(np.testing.assert_array_equal, *ends)


@functools.cache
def _undonated_step():
  return jax.jit(_step('dual_encoder'))


class TestTrainStep:
  def test_is_pure(self):
    state, tables, batches = _start('dual_encoder')
    leaves = jax.tree.map(np.asarray, state.replace(rng=0))
    batch = {**batches[0], **tables}
    step = _undonated_step()
    first, metrics = step(state, batch)
    again, metrics_again = step(state, batch)
    # The same in, the same out; what went in stays.
    for a, b in (
      (first.replace(rng=0), again.replace(rng=0)),
      (metrics, metrics_again),
      (state.replace(rng=0), leaves),
    ):
      jax.tree.map(np.testing.assert_array_equal, a, b)
    assert (int(state.step), int(first.step)) == (0, 1)
    assert first.rng is not None and first.rng == state.rng

  def test_draws_anew_at_each_step(self):
    state, tables, batches = _start('dual_encoder')
    step = _undonated_step()
    batch = {**batches[0], **tables}
    losses = [
      float(step(state.replace(step=state.step + number), batch)[1]['loss'])
      for number in (0, 1)
    ]
    assert losses[0] != losses[1]

  @pytest.mark.parametrize('parallelism', ['jit', 'pmap'])
  def test_donates_only_what_it_was_given(self, parallelism):
    state, tables, batches = _start('barlow_twins')
    compiled = _train('barlow_twins', parallelism, 8)[2]
    placed, tables = compiled.replicate((state, tables))
    copy = compiled.unreplicate(placed)
    after, _ = compiled(placed, {**compiled.place_batch(batches[0]), **tables})
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(placed.params))
    # The state it was placed from, and the copy taken before, live on.
    jax.tree.map(np.testing.assert_array_equal, copy.params, state.params)
    assert int(compiled.unreplicate(after).step) == 1
    # An evaluation or a checkpoint outlives the next step too.
    copy = compiled.unreplicate(after)
    compiled(after, {**compiled.place_batch(batches[1]), **tables})
    assert int(copy.step) == 1

  @pytest.mark.parametrize('objective', ['barlow_twins', 'dual_encoder'])
  def test_bfloat16_keeps_state_and_loss_in_float32(self, objective):
    _, exact, _ = _train(objective, 'jit', 1)
    state, history, _ = _train(objective, 'jit', 1, 'bfloat16')
    for leaf in jax.tree.leaves((state.params, state.batch_stats)):
      assert leaf.dtype == np.float32
      assert np.isfinite(leaf).all()
    for metrics, expected in zip(history, exact, strict=True):
      assert metrics['loss'].dtype == np.float32
      assert metrics['loss'] != expected['loss']
      np.testing.assert_allclose(metrics['loss'], expected['loss'], rtol=0.1)

  def test_metrics_by_hand(self):
    def loss_fn(params, batch_stats, batch, rng):
      del rng
      loss = (params['w'] * batch['x'].sum(0)).sum()
      return loss, ({'extra': batch['x'].max()}, batch_stats)

    tx = optax.sgd(0.5)
    state = create_train_state(
      {'params': {'w': np.array([3.0, 4.0], np.float32)}},
      tx,
      jax.random.key(0),
    )
    step = train_step.make_train_step(loss_fn, tx, lambda step: 0.5 - step)
    x = np.array([[1, 0], [5, 8]], np.float32)
    state, metrics = jax.jit(step)(state, {'x': x})
    # The gradient is the sum of x, (6, 8), of norm 10.
    expected = {
      'loss': 3 * 6 + 4 * 8,
      'extra': 8,
      'gradient_norm': 10,
      'parameter_norm': 5,
      'update_norm': 5,
      'learning_rate': 0.5,
    }
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
      np.testing.assert_allclose(metrics[name], value, rtol=1e-6)
    np.testing.assert_allclose(state.params['w'], [0, 0], atol=1e-6)


class TestErrors:
  @pytest.mark.parametrize('parallelism', ['jit', 'pmap'])
  def test_refuses_a_batch_that_the_devices_do_not_divide(self, parallelism):
    with pytest.raises(
      InputError, match=r'batch_size=12 is not divisible by the 8 devices'
    ):
      train_step.CompiledStep(_step('barlow_twins'), parallelism, 12)

  @pytest.mark.parametrize(
    'arguments, sentence',
    [
      (('jit', 3, 9), 'model_parallelism=3 does not divide the 8 devices'),
      (('jit', 0, 9), 'model_parallelism=0 does not divide'),
      (('pmap', 2, 9), 'with parallelism=pmap each has all of it'),
    ],
  )
  def test_refuses_a_table_that_cannot_be_shared(self, arguments, sentence):
    with pytest.raises(InputError, match=sentence):
      train_step.table_sharding(*arguments)

  @pytest.mark.parametrize(
    'fields, sentence',
    [
      ({'num_micro_batches': 4}, '8 devices times num_micro_batches=4; choose'),
      ({'num_micro_batches': 0}, 'num_micro_batches=0 must be at least 1'),
      (
        {
          'num_micro_batches': 2,
          'packing': {'enabled': True, 'num_groups': 8},
        },
        'num_groups=8 is not divisible by the 8 devices times num_micro_b',
      ),
      (
        {'num_micro_batches': 2, 'encoder': {'name': 'bag_of_items'}},
        'bag_of_items keeps no activations',
      ),
    ],
  )
  def test_refuses_micro_batches_of_no_use(self, fields, sentence):
    with pytest.raises(InputError, match=sentence):
      pretrain.make_job(tiny.config(**fields), tiny.dataset())

  def test_refuses_an_unknown_parallelism(self):
    with pytest.raises(InputError, match=r"'vmap'.*jit, pmap"):
      train_step.axis_name_of('vmap')
