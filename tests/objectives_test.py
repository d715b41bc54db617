"""The losses, against pencil and loops, on one device and on eight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bt4rec import objectives
from tests.gradients import gradient_by_differences, on_devices

_BATCH = 16
_DIM = 6
_LAMBD = 0.3

# Orthogonal features of mean 0 and variance 1: their correlation is I.
_ORTHOGONAL = np.array(
  [[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], np.float32
)


class TestBarlowTwinsLoss:
  @staticmethod
  def _views():
    rng = np.random.default_rng(0)
    z_a = rng.normal(2.0, 3.0, (_BATCH, _DIM)).astype(np.float32)
    z_b = z_a + rng.normal(0.0, 2.0, z_a.shape).astype(np.float32)
    return z_a, z_b

  @staticmethod
  def _reference(z_a, z_b):
    """Eq. (1) entry by entry."""
    batch, dim = z_a.shape
    invariance = redundancy = 0.0
    for i in range(dim):
      for j in range(dim):
        a = [float(z_a[row, i]) for row in range(batch)]
        b = [float(z_b[row, j]) for row in range(batch)]
        mean_a, mean_b = sum(a) / batch, sum(b) / batch
        covariance = variance_a = variance_b = 0.0
        for x, y in zip(a, b, strict=True):
          covariance += (x - mean_a) * (y - mean_b) / batch
          variance_a += (x - mean_a) ** 2 / batch
          variance_b += (y - mean_b) ** 2 / batch
        c = covariance / np.sqrt((variance_a + 1e-5) * (variance_b + 1e-5))
        if i == j:
          invariance += (1 - c) ** 2
        else:
          redundancy += c**2
    return invariance, redundancy

  @pytest.mark.parametrize(
    'z_b, invariance, redundancy, diagonal',
    [
      # c = I, -I, a permutation, and all ones in one row.
      (_ORTHOGONAL, 0, 0, 1),
      (-_ORTHOGONAL, 3 * 4, 0, -1),
      (_ORTHOGONAL[:, [1, 2, 0]], 3, 3, 0),
      (_ORTHOGONAL[:, [0, 0, 0]], 2, 2, 1 / 3),
    ],
    ids=['same', 'negated', 'permuted', 'repeated'],
  )
  def test_terms_by_hand(self, z_b, invariance, redundancy, diagonal):
    loss, terms = objectives.barlow_twins_loss(_ORTHOGONAL, z_b, lambd=0.1)
    expected = {
      'invariance': invariance,
      'redundancy': redundancy,
      'invariance_per_dim': invariance / 3,
      'redundancy_per_dim': redundancy / 6,
      'diagonal': diagonal,
      'off_diagonal_rms': np.sqrt(redundancy / 6),
    }
    assert loss.shape == ()
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
      np.testing.assert_allclose(terms[name], value, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
      loss, invariance + 0.1 * redundancy, rtol=1e-4, atol=1e-4
    )

  def test_equals_the_loop(self):
    z_a, z_b = self._views()
    invariance, redundancy = self._reference(z_a, z_b)
    loss, terms = objectives.barlow_twins_loss(z_a, z_b, lambd=_LAMBD)
    np.testing.assert_allclose(terms['invariance'], invariance, rtol=1e-5)
    np.testing.assert_allclose(terms['redundancy'], redundancy, rtol=1e-5)
    np.testing.assert_allclose(
      loss, invariance + _LAMBD * redundancy, rtol=1e-5
    )

  def test_gradient_equals_differences_of_the_loop(self):
    z_a, z_b = self._views()

    def loss_of(z_a, z_b):
      return objectives.barlow_twins_loss(z_a, z_b, lambd=_LAMBD)[0]

    def reference(z_a, z_b):
      invariance, redundancy = self._reference(z_a, z_b)
      return invariance + _LAMBD * redundancy

    z_a, z_b = z_a[:5], z_b[:5]
    grads = jax.grad(loss_of, (0, 1))(z_a, z_b)
    np.testing.assert_allclose(
      grads[0],
      gradient_by_differences(lambda z: reference(z, z_b), z_a),
      rtol=1e-3,
      atol=1e-5,
    )
    np.testing.assert_allclose(
      grads[1],
      gradient_by_differences(lambda z: reference(z_a, z), z_b),
      rtol=1e-3,
      atol=1e-5,
    )

  def test_ignores_scale_and_shift_of_a_feature(self):
    z_a, z_b = self._views()
    scale = np.array([[0.5, 2, 3, 1, 7, 20]], np.float32)
    shift = np.array([[0, -3, 5, 10, 1, 2]], np.float32)
    loss, _ = objectives.barlow_twins_loss(z_a, z_b, lambd=_LAMBD)
    moved, _ = objectives.barlow_twins_loss(
      z_a, z_b * scale + shift, lambd=_LAMBD
    )
    np.testing.assert_allclose(moved, loss, rtol=1e-4)

  def test_constant_feature_is_finite(self):
    z_a, z_b = self._views()
    z_a[:, 2] = z_b[:, 2] = 7.0
    loss, grads = jax.value_and_grad(
      lambda z: objectives.barlow_twins_loss(z, z_b, lambd=_LAMBD)[0]
    )(z_a)
    assert np.isfinite(loss)
    assert np.isfinite(grads).all()

  def test_large_mean_does_not_cancel(self):
    z_a, z_b = self._views()
    # A power of two, so that little is lost in the sum itself.
    loss, _ = objectives.barlow_twins_loss(z_a + 4096, z_b + 4096, lambd=_LAMBD)
    expected, _ = objectives.barlow_twins_loss(z_a, z_b, lambd=_LAMBD)
    np.testing.assert_allclose(loss, expected, rtol=1e-2)

  def test_redundancy_of_independent_features_is_not_negative(self):
    for seed in range(20):
      z = np.random.default_rng(seed).normal(size=(256, 64))
      z = 16 * np.linalg.qr(z - z.mean(0))[0].astype(np.float32)
      _, terms = objectives.barlow_twins_loss(z, z, lambd=_LAMBD)
      assert terms['redundancy'] >= 0
      assert terms['off_diagonal_rms'] < 1e-5

  def test_bfloat16_views_are_computed_in_float32(self):
    views = [z.astype(jnp.bfloat16) for z in self._views()]
    loss, _ = objectives.barlow_twins_loss(*views, lambd=_LAMBD)
    exact, _ = objectives.barlow_twins_loss(
      *[z.astype(jnp.float32) for z in views], lambd=_LAMBD
    )
    assert loss.dtype == jnp.float32
    np.testing.assert_array_equal(loss, exact)

  @pytest.mark.parametrize(
    'shapes', [((4, 3), (4, 2)), ((4, 3), (5, 3)), ((4,), (4,))]
  )
  def test_refuses_views_of_another_shape(self, shapes):
    with pytest.raises(ValueError, match=r'\(4,.*and \('):
      objectives.barlow_twins_loss(*map(np.ones, shapes), lambd=_LAMBD)

  @pytest.mark.parametrize('parallelism', ['jit', 'pmap'])
  def test_eight_devices_equal_one(self, parallelism):
    weight = np.random.default_rng(1).normal(size=(_DIM, 5)).astype(np.float32)

    def loss_fn(weight, batch, axis_name):
      z_a, z_b = (z @ weight for z in batch)
      return objectives.barlow_twins_loss(
        z_a, z_b, lambd=_LAMBD, axis_name=axis_name
      )[0]

    split = on_devices(parallelism, loss_fn, weight, self._views())
    whole = on_devices('one', loss_fn, weight, self._views())
    np.testing.assert_allclose(split[0], whole[0], rtol=1e-5)
    np.testing.assert_allclose(split[1], whole[1], rtol=1e-4, atol=1e-6)


# log_q, temperature and the masking of accidental hits, alone and together.
_SOFTMAX_CASES = pytest.mark.parametrize(
  'temperature, with_log_q, mask_accidental_hits',
  [
    (1.0, False, False),
    (0.2, False, False),
    (1.0, True, False),
    (1.0, False, True),
    (0.2, True, True),
  ],
  ids=['published', 'temperature', 'log_q', 'accidental_hits', 'all'],
)


class TestInBatchSoftmaxLoss:
  @staticmethod
  def _batch():
    rng = np.random.default_rng(0)
    context, item = rng.normal(size=(2, _BATCH, _DIM)).astype(np.float32)
    # Items 3 and 5 stand in several rows, on different devices of eight.
    target = np.array([3, 1, 5, 9, 3, 2, 5, 4, 8, 3, 6, 7, 10, 11, 12, 5])
    log_q = np.log(0.1 + rng.random(14)).astype(np.float32)[target]
    return context, item, target.astype(np.int32), log_q

  @staticmethod
  def _reference(context, item, target, log_q, temperature, mask):
    batch = len(target)
    loss = hits = 0.0
    for i in range(batch):
      logits = {}
      for j in range(batch):
        if mask and i != j and target[i] == target[j]:
          continue
        cosine = sum(
          float(a) * float(b) for a, b in zip(context[i], item[j], strict=True)
        )
        logits[j] = cosine / float(temperature)
        if log_q is not None:
          logits[j] -= float(log_q[j])
      total = sum(np.exp(value) for value in logits.values())
      loss -= (logits[i] - np.log(total)) / batch
      hits += (max(logits, key=logits.get) == i) / batch
    return loss, hits

  def test_by_hand(self):
    # Logits [[2, 1], [0, 3]].
    loss, metrics = objectives.in_batch_softmax_loss(
      np.array([[1, 1], [0, 3]], np.float32),
      np.array([[1, 1], [0, 1]], np.float32),
      np.array([4, 7]),
    )
    # The second row's logits are 3 and 3: a tie.
    expected = (np.log(1 + np.exp(-1)) + np.log(2)) / 2
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert metrics.keys() == {'accuracy'}

  @_SOFTMAX_CASES
  def test_equals_the_loop(self, temperature, with_log_q, mask_accidental_hits):
    context, item, target, log_q = self._batch()
    log_q = log_q if with_log_q else None
    loss, metrics = objectives.in_batch_softmax_loss(
      context,
      item,
      target,
      temperature=temperature,
      log_q=log_q,
      mask_accidental_hits=mask_accidental_hits,
    )
    expected, accuracy = self._reference(
      context, item, target, log_q, temperature, mask_accidental_hits
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics['accuracy'], accuracy, rtol=1e-6)

  def test_gradient_equals_differences_of_the_loop(self):
    context, item, target, log_q = self._batch()
    context, item = context[:5], item[:5]
    target, log_q = target[:5], log_q[:5]

    def loss_of(context, item, temperature):
      return objectives.in_batch_softmax_loss(
        context,
        item,
        target,
        temperature=temperature,
        log_q=log_q,
        mask_accidental_hits=True,
      )[0]

    def reference(context, item, temperature):
      return self._reference(context, item, target, log_q, temperature, True)[0]

    arguments = (context, item, np.float32(0.5))
    grads = jax.grad(loss_of, (0, 1, 2))(*arguments)
    for number, argument in enumerate(arguments):

      def moved(x, number=number):
        return reference(*arguments[:number], x, *arguments[number + 1 :])

      np.testing.assert_allclose(
        grads[number],
        gradient_by_differences(moved, np.asarray(argument)),
        rtol=1e-3,
        atol=1e-5,
      )

  @pytest.mark.parametrize('parallelism', ['jit', 'pmap'])
  @pytest.mark.parametrize('tuned', [False, True])
  def test_eight_devices_equal_one(self, parallelism, tuned):
    weight = np.random.default_rng(1).normal(size=(_DIM, 5)).astype(np.float32)

    def loss_fn(weight, batch, axis_name):
      context, item, target, log_q = batch
      loss, metrics = objectives.in_batch_softmax_loss(
        context @ weight,
        item @ weight,
        target,
        temperature=0.5 if tuned else 1.0,
        log_q=log_q if tuned else None,
        mask_accidental_hits=tuned,
        axis_name=axis_name,
      )
      # The accuracy is compared too.
      return loss + metrics['accuracy']

    split = on_devices(parallelism, loss_fn, weight, self._batch())
    whole = on_devices('one', loss_fn, weight, self._batch())
    np.testing.assert_allclose(split[0], whole[0], rtol=1e-5)
    np.testing.assert_allclose(split[1], whole[1], rtol=1e-4, atol=1e-6)
