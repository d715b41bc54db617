"""The terms of Barlow Twins for sequences, against loops, on eight devices."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bt4rec import pretext, pretrain, pretrain_data, train_step
from bt4rec.encoders import BagOfItems
from bt4rec.errors import InputError
from bt4rec.objectives import (
  barlow_twins,
  contexts,
  correlation,
  next_item_twins,
)
from tests import tiny

_LAMBD = 0.3
_DIM = 4


def standardized(z):
  """Features of mean 0 and variance 1, in float64."""
  z = np.asarray(z, np.float64)
  return (z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5)


def correlation_of(z_a, z_b):
  """Entry by entry."""
  z_a, z_b = standardized(z_a), standardized(z_b)
  dim = z_a.shape[1]
  return np.array(
    [[np.mean(z_a[:, i] * z_b[:, j]) for j in range(dim)] for i in range(dim)]
  )


def loss_of(c, lambd=_LAMBD):
  """Eq. (1) of Zbontar et al., entry by entry."""
  total = 0.0
  for i in range(len(c)):
    for j in range(len(c)):
      total += (1 - c[i, j]) ** 2 if i == j else lambd * c[i, j] ** 2
  return total


def differences(function, x, step=1e-5):
  """Central differences in float64."""
  gradient = np.empty(x.shape)
  for index in np.ndindex(x.shape):
    moved = np.array(x, np.float64)
    moved[index] += step
    above = function(moved)
    moved[index] -= 2 * step
    gradient[index] = (above - function(moved)) / (2 * step)
  return gradient


class _Model(nn.Module):
  """A bag of items under an objective."""

  objective: nn.Module

  @nn.compact
  def __call__(self, batch, rng):
    encoder = BagOfItems(vocabulary_size=9, max_length=5, dim=3)
    return self.objective(encoder, batch, rng, True)


class TestNextItemTwins:
  # Windows of 5, 2, 3, 4, 5 and 3 items.
  _ITEMS = np.array(
    [
      [1, 2, 3, 4, 5],
      [7, 6, 0, 0, 0],
      [8, 1, 2, 0, 0],
      [3, 3, 7, 1, 0],
      [5, 4, 6, 2, 8],
      [2, 8, 4, 0, 0],
    ],
    np.int32,
  )

  @pytest.mark.parametrize(
    'options',
    [
      {},
      {'equal_length': True},
      {'fourier_features': 2 * _DIM},
      {'horizon': 2},
    ],
  )
  def test_value_and_gradient_equal_the_loop(self, options, monkeypatch):
    # The context is always all but the last item, or the last of the horizon.
    horizon = options.get('horizon', 1)
    lengths = (self._ITEMS > 0).sum(1)
    cuts = np.maximum(lengths - horizon, 1)
    monkeypatch.setattr(contexts, 'draw_cuts', lambda *_: cuts[:, None])
    model = _Model(
      next_item_twins.NextItemTwins(
        correlation.CorrelationLoss(_LAMBD),
        (_DIM,),
        min_context=1.0,
        **options,
      )
    )
    batch = {
      'items': self._ITEMS,
      'index': np.arange(len(self._ITEMS)),
      'layout': None,
    }
    key = jax.random.key(0)
    params = model.init(key, batch, key)['params']
    # Larger than the initial table, so that no variance is near epsilon.
    params = jax.tree.map(
      lambda x: jax.random.normal(jax.random.key(x.size), x.shape), params
    )
    objective = params['objective']
    if 'fourier_features' in options:
      waves = objective['fourier_features']['frequencies']
      frequencies, phases = (
        np.asarray(waves[name], np.float64) for name in ('kernel', 'bias')
      )
    else:
      kernels = [
        np.asarray(objective[name]['dense_0']['kernel'], np.float64)
        for name in ('context_projector', 'item_projector')
      ]

    def reference(table):
      before, after = [], []
      for window in self._ITEMS:
        items = [item for item in window if item]
        cut = max(len(items) - horizon, 1)
        for values, part in ((before, items[:cut]), (after, items[cut:])):
          values.append(sum(table[item] for item in part) / len(part))
      z = [np.array(before), np.array(after)]
      if 'fourier_features' in options:
        z = [[row / np.sqrt(sum(row**2)) for row in rows] for rows in z]
        z = [np.cos(np.array(rows) @ frequencies + phases) for rows in z]
      else:
        z = [rows @ kernel for rows, kernel in zip(z, kernels, strict=True)]
      if 'equal_length' in options:
        z = [[row / np.sqrt(sum(row**2)) for row in rows] for rows in z]
      return loss_of(correlation_of(*map(np.array, z)))

    (loss, _), grads = jax.value_and_grad(
      lambda params: model.apply({'params': params}, batch, key), has_aux=True
    )(params)
    table = params['BagOfItems_0']['item_table']['embedding']
    # Of equal length variances are below 1, where epsilon shows.
    tolerance = 5e-4 if 'equal_length' in options else 1e-4
    expected = reference(np.asarray(table))
    np.testing.assert_allclose(loss, expected, rtol=tolerance)
    np.testing.assert_allclose(
      grads['BagOfItems_0']['item_table']['embedding'],
      differences(reference, np.asarray(table)),
      rtol=1e-2,
      atol=1e-3,
    )


class TestScaling:
  # Of a projector of width 4.
  _FACTORS = pytest.mark.parametrize(
    'scaling, on, off',
    [('none', 1, 1), ('off_diagonal', 1, 1 / 4), ('both', 1 / 4, 1 / 4)],
  )

  @_FACTORS
  def test_value_and_gradient_equal_the_loop(self, scaling, on, off):
    z_a, z_b = _normal(2, 6, _DIM)

    def reference(z):
      c = correlation_of(z, z_b)
      return on * loss_of(c, 0.0) + off * (loss_of(c) - loss_of(c, 0.0))

    loss, grad = jax.value_and_grad(
      lambda z: barlow_twins.barlow_twins_loss(
        z, z_b, lambd=_LAMBD, scaling=scaling
      )[0]
    )(z_a)
    np.testing.assert_allclose(loss, reference(z_a), rtol=1e-5)
    np.testing.assert_allclose(
      grad, differences(reference, z_a), rtol=1e-3, atol=1e-4
    )

  @_FACTORS
  def test_terms_are_logged_unscaled(self, scaling, on, off):
    del on, off
    views = _normal(2, 6, _DIM)
    _, terms = barlow_twins.barlow_twins_loss(
      *views, lambd=_LAMBD, scaling=scaling
    )
    _, plain = barlow_twins.barlow_twins_loss(*views, lambd=_LAMBD)
    jax.tree.map(np.testing.assert_array_equal, terms, plain)


class TestMovingAverage:
  _MOMENTUM = 0.7
  _LOSS = correlation.CorrelationLoss(_LAMBD, momentum=_MOMENTUM)

  def test_value_and_gradient_equal_the_loop(self):
    batches = _normal(3, 2, 6, _DIM)
    variables = self._LOSS.init(jax.random.key(0), *batches[0], False)
    total, weights = np.zeros((_DIM, _DIM)), 0.0
    for z_a, z_b in batches:

      def value(z, z_b=z_b, variables=variables):
        (loss, _), updates = self._LOSS.apply(
          variables, z, z_b, True, mutable=['batch_stats']
        )
        return loss, updates

      (loss, updates), grad = jax.value_and_grad(value, has_aux=True)(z_a)
      total = self._MOMENTUM * total + 0.3 * correlation_of(z_a, z_b)
      weights = self._MOMENTUM * weights + 0.3
      smooth = total / weights
      np.testing.assert_allclose(loss, loss_of(smooth), rtol=1e-4)
      # The average says how each entry is pushed, the batch is pushed.
      push = differences(loss_of, smooth)
      expected = differences(
        lambda z, push=push, z_b=z_b: np.sum(push * correlation_of(z, z_b)), z_a
      )
      np.testing.assert_allclose(grad, expected, rtol=1e-3, atol=1e-4)
      variables = updates

  def test_the_first_average_is_the_batch(self):
    z_a, z_b = _normal(2, 6, _DIM)
    variables = self._LOSS.init(jax.random.key(0), z_a, z_b, False)
    (loss, _), _ = self._LOSS.apply(
      variables, z_a, z_b, True, mutable=['batch_stats']
    )
    plain, _ = barlow_twins.barlow_twins_loss(z_a, z_b, lambd=_LAMBD)
    np.testing.assert_allclose(loss, plain, rtol=1e-5)

  def test_evaluation_uses_the_batch_and_keeps_the_average(self):
    z_a, z_b = _normal(2, 6, _DIM)
    variables = {'batch_stats': {'average': np.eye(_DIM), 'weight': 1.0}}
    # Nothing may change: no collection is mutable.
    loss, _ = self._LOSS.apply(variables, z_a, z_b, False)
    plain, _ = barlow_twins.barlow_twins_loss(z_a, z_b, lambd=_LAMBD)
    np.testing.assert_array_equal(loss, plain)


class TestMixed:
  def test_value_and_gradient_equal_the_loop(self):
    z_a, z_b, z_mixed = _normal(3, 6, _DIM)
    order, share = np.array([3, 5, 0, 1, 4, 2]), 0.3

    def reference(z_a, z_b, z_mixed):
      total = 0.0
      for z in (z_a, z_b):
        target = share * correlation_of(z_a, z)
        target += (1 - share) * correlation_of(z_b[order], z)
        total += np.sum((correlation_of(z_mixed, z) - target) ** 2)
      return total

    def value(z_a, z_b, z_mixed):
      mixed = correlation.Mixed(None, np.float32(share), z_b[order])
      return correlation.mixed_loss(z_a, z_b, z_mixed, mixed)

    views = (jnp.asarray(z_a), jnp.asarray(z_b), jnp.asarray(z_mixed))
    loss, grads = jax.value_and_grad(value, (0, 1, 2))(*views)
    np.testing.assert_allclose(loss, reference(z_a, z_b, z_mixed), rtol=1e-4)
    for number, grad in enumerate(grads):

      def moved(z, number=number):
        arrays = [z_a, z_b, z_mixed]
        arrays[number] = z
        return reference(*arrays)

      np.testing.assert_allclose(
        grad,
        differences(moved, (z_a, z_b, z_mixed)[number]),
        rtol=1e-3,
        atol=1e-4,
      )

  def test_mixes_each_user_with_one_other(self):
    h_a, h_b = _normal(2, 8, 3)
    z_b = np.arange(8.0)[:, None]
    shares = []
    for seed in range(40):
      mixed = correlation.mix(jax.random.key(seed), h_a, h_b, z_b)
      order = np.asarray(mixed.other[:, 0]).astype(int)
      assert sorted(order) == list(range(8))
      share = float(mixed.share)
      np.testing.assert_allclose(
        mixed.h, share * h_a + (1 - share) * h_b[order], rtol=1e-5, atol=1e-6
      )
      shares.append(share)
    # Uniform: five standard errors of 1 / sqrt(12 * 40).
    assert abs(np.mean(shares) - 0.5) < 5 / np.sqrt(12 * 40)
    assert min(shares) < 0.2 and max(shares) > 0.8

  def test_a_linear_projection_costs_nothing(self):
    # Without standardisation: of equal variances, as orthogonal columns have.
    h = np.linalg.qr(_normal(8, 8))[0][:, :3]
    mixed = correlation.Mixed(None, np.float32(1.0), h)
    loss = correlation.mixed_loss(h, h, h, mixed)
    np.testing.assert_allclose(loss, 0, atol=1e-8)


def _normal(*shape):
  return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


# Options of Barlow Twins -> overrides of the config.
_VARIANTS = {
  'everything': {
    'barlow_twins': {
      'scaling': 'off_diagonal',
      'correlation_momentum': 0.6,
      'mixed_weight': 2.0,
      'next_item_weight': 0.7,
    },
    'augment': {
      'split': 'disjoint_halves',
      'order': ('substitute', 'insert', 'mask'),
    },
  },
}


# The other choices of pooling and projector, and packed rows.
_VARIANTS['packed'] = {
  **_VARIANTS['everything'],
  'encoder': {'pooling': 'class_token'},
  'packing': {'enabled': True, 'max_cut': 0.05},
  'augment': {**_VARIANTS['everything']['augment'], 'split': 'two_windows'},
  'barlow_twins': {
    **_VARIANTS['everything']['barlow_twins'],
    'projector': (7,),
    'equal_length': True,
    'scaling': 'both',
  },
}


_VARIANTS['horizon'] = {
  'barlow_twins': {'next_item_weight': 0.7, 'horizon': 4},
}
_VARIANTS['fourier_features'] = {
  'barlow_twins': {'next_item_weight': 0.7, 'fourier_features': 9},
}


# Several contexts of a window, of a causal encoder.
_VARIANTS['contexts'] = {
  'encoder': {'causal': True, 'pooling': 'last'},
  'barlow_twins': {'next_item_weight': 0.7, 'contexts': 3},
}


def _config(variant):
  # Masks of dropout are drawn by device; views and cuts by example.
  config = tiny.config(encoder={'dropout': 0.0})
  config.update(_VARIANTS[variant])
  return config


@functools.cache
def _job(variant):
  return pretrain.make_job(_config(variant), tiny.dataset())


@functools.cache
def _train(variant, parallelism, num_devices, steps=2):
  """Start, end and metrics of some steps of plain gradient descent.

  The parameters move by the gradient, whereas Adam would turn the rounding of
  a gradient that is nearly 0 into a whole step.
  """
  config, job, dataset = _config(variant), _job(variant), tiny.dataset()
  tx = optax.sgd(0.1)
  axis_name = train_step.axis_name_of(parallelism)
  visible = pretrain_data.visible_events(dataset, config)
  shape = pretrain_data.choose_shape(config, visible)
  model = pretext.make_model(config, dataset.catalogue, axis_name, shape)
  compiled = train_step.CompiledStep(
    train_step.make_train_step(
      pretrain.make_loss_fn(model, axis_name), tx, lambda step: 0.1, axis_name
    ),
    parallelism,
    config.batch_size,
    jax.devices()[:num_devices],
  )
  start = job.state.replace(opt_state=tx.init(job.state.params))
  state, tables = compiled.replicate((start, job.tables))
  batches, history = job.feed(0), []
  for _ in range(steps):
    batch = {**compiled.place_batch(next(batches)), **tables}
    state, metrics = compiled(state, batch)
    history.append({key: np.ravel(x)[0] for key, x in metrics.items()})
  assert compiled.num_traces == 1
  if parallelism == 'pmap':
    for leaf in jax.tree.leaves(state.batch_stats):
      np.testing.assert_array_equal(leaf, np.stack([leaf[0]] * num_devices))
  return start, compiled.unreplicate(state), history


class TestVariants:
  @pytest.mark.parametrize('parallelism', ['jit', 'pmap'])
  def test_eight_devices_equal_one(self, parallelism):
    assert jax.device_count() == 8
    variant = 'packed'
    start, one, one_history = _train(variant, 'jit', 1)
    _, eight, eight_history = _train(variant, parallelism, 8)
    for a, b in zip(eight_history, one_history, strict=True):
      assert a.keys() == b.keys()
      for name in a:
        np.testing.assert_allclose(
          a[name], b[name], rtol=1e-4, atol=1e-6, err_msg=name
        )

    def assert_moved_alike(before, one, eight):
      # How far the parameters moved is the sum of the gradients.
      moved = one - before
      atol = 1e-3 * np.abs(moved).max() + 1e-6
      np.testing.assert_allclose(eight - before, moved, rtol=1e-3, atol=atol)

    jax.tree.map(assert_moved_alike, start.params, one.params, eight.params)
    jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
      eight.batch_stats,
      one.batch_stats,
    )

  @pytest.mark.parametrize('variant', _VARIANTS)
  def test_training_moves_every_parameter(self, variant):
    # Otherwise the comparison above compares nothing.
    start, end, _ = _train(variant, 'jit', 1)
    before = jax.tree_util.tree_leaves_with_path(start.params)
    for (path, a), b in zip(before, jax.tree.leaves(end.params), strict=True):
      name = jax.tree_util.keystr(path)
      # The loss does not see a constant in front of batch normalisation.
      if 'bias' not in name:
        assert np.abs(a - b).max() > 1e-6, name


def test_the_loss_is_the_weighted_sum_of_its_terms():
  _, _, history = _train('everything', 'jit', 1)
  lambd = 0.05 / 11  # Divided by the width of the tiny projector.
  for metrics in history:
    views, next_item = (
      metrics[f'{term}invariance'] + lambd * metrics[f'{term}redundancy']
      for term in ('', 'next_item_')
    )
    expected = views + 2.0 * lambd * metrics['mixed'] + 0.7 * next_item
    np.testing.assert_allclose(metrics['loss'], expected, rtol=1e-5)
    assert metrics['mixed'] > 0.1


def test_identical_views_are_refused():
  for encoder in ({'dropout': 0.0}, {'name': 'bag_of_items'}):
    config = tiny.config(encoder=encoder, augment={'order': ()})
    with pytest.raises(InputError, match=r'two views are the same.*dropout'):
      pretext.make_model(config, tiny.dataset().catalogue, None)
  pretext.make_model(
    tiny.config(augment={'order': ()}), tiny.dataset().catalogue, None
  )


def test_two_windows_are_refused_where_no_views_are_made():
  config = tiny.config(
    objective='dual_encoder', augment={'split': 'two_windows'}
  )
  with pytest.raises(InputError, match=r"split=two_windows .*'dual_encoder'"):
    pretext.make_model(config, tiny.dataset().catalogue, None)
  # A sum with views makes them.
  config.objective = 'dual_encoder+barlow_twins'
  pretext.make_model(config, tiny.dataset().catalogue, None)


def test_dropout_alone_is_validated_with_dropout():
  config = tiny.config(
    augment={'order': ()},
    encoder={'dropout': 0.5},
    # The invariance alone, which is 0 between two views that are the same.
    barlow_twins={'lambd': 0.0},
  )
  job = pretrain.make_job(config, tiny.dataset())
  loss = job.evaluate(job.state)['validation_loss']
  assert loss > 0.1
  assert loss == job.evaluate(job.state)['validation_loss']


def test_each_term_keeps_an_average_of_its_own():
  _, end, _ = _train('everything', 'jit', 1)
  stats = end.batch_stats['objective']
  for name in ('loss', 'next_item_loss'):
    # After two steps .4 * .6 + .4.
    np.testing.assert_allclose(stats[name]['weight'], 0.64, rtol=1e-6)
    assert stats[name]['average'].shape == (11, 11)
  assert (stats['loss']['average'] != stats['next_item_loss']['average']).any()


@pytest.mark.parametrize(
  'name, value, message',
  [
    ('scaling', 'dim', r"'dim'.*none, off_diagonal, both"),
    ('correlation_momentum', 1.0, r'momentum=1\.0 must be .*below 1'),
    ('mixed_weight', -1.0, r'barlow_twins\.mixed_weight=-1\.0 must be'),
    ('next_item_weight', -0.5, r'next_item_weight=-0\.5 must be'),
    ('horizon', 0, r'horizon=0 must be at least 1'),
    ('fourier_features', -1, r'fourier_features=-1 must be at least 0'),
  ],
)
def test_refuses_options_that_are_none(name, value, message):
  config = tiny.config(barlow_twins={name: value})
  with pytest.raises(InputError, match=message):
    pretext.make_model(config, tiny.dataset().catalogue, None)
