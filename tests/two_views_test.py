"""InfoNCE and VICReg, against pencil and loops, on one device and on eight."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bt4rec import augment, objectives, pretext
from bt4rec.errors import InputError
from tests import tiny
from tests.gradients import gradient_by_differences, on_devices

_BATCH = 16
_DIM = 5
_WEIGHTS = {
  'invariance_weight': 2.0,
  'variance_weight': 3.0,
  'covariance_weight': 0.5,
}


def _views(batch=_BATCH):
  rng = np.random.default_rng(0)
  z_a = rng.normal(0.2, 0.8, (batch, _DIM)).astype(np.float32)
  z_b = z_a + rng.normal(0.0, 0.5, z_a.shape).astype(np.float32)
  return z_a, z_b


def _info_nce(z_a, z_b, axis_name=None):
  return objectives.info_nce_loss(
    z_a, z_b, temperature=0.3, axis_name=axis_name
  )


def _info_nce_by_loops(z_a, z_b):
  """Loss, accuracy, and the mean cosines of positives and negatives."""
  batch = len(z_a)
  unit = [z / np.linalg.norm(z) for z in (*z_a, *z_b)]
  loss, right, positives, negatives = 0.0, 0, [], []
  for i in range(2 * batch):
    partner = (i + batch) % (2 * batch)
    cosine = {j: unit[i] @ unit[j] for j in range(2 * batch) if j != i}
    total = sum(np.exp(c / 0.3) for c in cosine.values())
    loss -= np.log(np.exp(cosine[partner] / 0.3) / total)
    right += max(cosine, key=cosine.get) == partner
    positives.append(cosine.pop(partner))
    negatives.extend(cosine.values())
    assert len(cosine) == 2 * (batch - 1)
  means = np.mean(positives), np.mean(negatives)
  return loss / (2 * batch), right / (2 * batch), *means


def _vicreg(z_a, z_b, axis_name=None):
  return objectives.vicreg_loss(z_a, z_b, **_WEIGHTS, axis_name=axis_name)


def _vicreg_by_loops(z_a, z_b):
  """Loss, invariance, variance, covariance."""
  batch, dim = z_a.shape
  invariance = sum(
    (z_a[n, d] - z_b[n, d]) ** 2 for n in range(batch) for d in range(dim)
  ) / (batch * dim)
  variance = covariance = 0.0
  for z in (z_a, z_b):
    mean = [sum(z[:, d]) / batch for d in range(dim)]
    for i in range(dim):
      for j in range(dim):
        c = sum((z[n, i] - mean[i]) * (z[n, j] - mean[j]) for n in range(batch))
        c /= batch - 1
        if i == j:
          variance += max(0.0, 1 - np.sqrt(c + 1e-4)) / dim / 2
        else:
          covariance += c**2 / dim
  loss = 2.0 * invariance + 3.0 * variance + 0.5 * covariance
  return loss, invariance, variance, covariance


_LOSSES = pytest.mark.parametrize(
  'loss_fn, reference, names',
  [
    (
      _info_nce,
      _info_nce_by_loops,
      ('accuracy', 'positive_cosine', 'negative_cosine'),
    ),
    (_vicreg, _vicreg_by_loops, ('invariance', 'variance', 'covariance')),
  ],
  ids=['info_nce', 'vicreg'],
)


@_LOSSES
class TestPairLosses:
  def test_equals_the_loop(self, loss_fn, reference, names):
    loss, terms = loss_fn(*_views())
    expected, *expected_terms = reference(*_views())
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    for name, value in zip(names, expected_terms, strict=True):
      np.testing.assert_allclose(terms[name], value, rtol=1e-4, atol=1e-6)

  def test_gradient_equals_differences_of_the_loop(
    self, loss_fn, reference, names
  ):
    views = _views(4)
    grads = jax.grad(lambda *views: loss_fn(*views)[0], (0, 1))(*views)
    for number in (0, 1):

      def moved(z, number=number):
        changed = [v.astype(np.float64) for v in views]
        changed[number] = z
        return reference(*changed)[0]

      np.testing.assert_allclose(
        grads[number],
        gradient_by_differences(moved, views[number]),
        rtol=1e-3,
        atol=1e-5,
      )

  @pytest.mark.parametrize('parallelism', ['jit', 'pmap'])
  def test_eight_devices_equal_one(
    self, parallelism, loss_fn, reference, names
  ):
    weight = np.random.default_rng(1).normal(size=(_DIM, 6)).astype(np.float32)

    def of_batch(weight, batch, axis_name):
      loss, terms = loss_fn(*(z @ weight for z in batch), axis_name)
      # The terms are compared too.
      return loss + sum(jnp.sin(terms[name]) for name in names)

    split = on_devices(parallelism, of_batch, weight, _views())
    whole = on_devices('one', of_batch, weight, _views())
    np.testing.assert_allclose(split[0], whole[0], rtol=1e-5)
    np.testing.assert_allclose(split[1], whole[1], rtol=1e-4, atol=1e-5)

  def test_bfloat16_views_are_computed_in_float32(
    self, loss_fn, reference, names
  ):
    views = [z.astype(jnp.bfloat16) for z in _views()]
    loss, _ = loss_fn(*views)
    exact, _ = loss_fn(*[z.astype(jnp.float32) for z in views])
    assert loss.dtype == jnp.float32
    np.testing.assert_array_equal(loss, exact)

  def test_constant_views_are_finite(self, loss_fn, reference, names):
    z = np.zeros((_BATCH, _DIM), np.float32)
    loss, grad = jax.value_and_grad(lambda z: loss_fn(z, z)[0])(z)
    assert np.isfinite(loss)
    assert np.isfinite(grad).all()

  def test_refuses_views_of_another_shape(self, loss_fn, reference, names):
    with pytest.raises(ValueError, match=r'\(4, 3\) and \(4, 2\)'):
      loss_fn(np.ones((4, 3)), np.ones((4, 2)))


def test_info_nce_by_hand():
  # Two users at right angles: cosines 1 (own) and 0, 0 (the other's views).
  z = np.array([[2, 0], [0, 3]], np.float32)
  loss, terms = objectives.info_nce_loss(z, 5 * z, temperature=0.5)
  np.testing.assert_allclose(loss, np.log(1 + 2 * np.exp(-2)), rtol=1e-6)
  assert terms['accuracy'] == 1


def test_vicreg_by_hand():
  # Means 0; variances 4 / 3 and 1 / 3, covariance 2 / 3 in both views.
  z = np.array([[1, 0.5], [1, 0.5], [-1, -0.5], [-1, -0.5]], np.float32)
  _, terms = objectives.vicreg_loss(z, z + 3, **_WEIGHTS)
  np.testing.assert_allclose(terms['invariance'], 9, rtol=1e-6)
  variance = (1 - np.sqrt(1 / 3 + 1e-4)) / 2
  np.testing.assert_allclose(terms['variance'], variance, rtol=1e-5)
  # Two entries of two views, over two dimensions.
  np.testing.assert_allclose(
    terms['covariance'], 2 * 2 * (2 / 3) ** 2 / 2, rtol=1e-5
  )


@pytest.mark.parametrize('objective', ['info_nce', 'vicreg'])
@pytest.mark.parametrize('mask_ratio', [0.0, 0.5])
def test_the_two_views_of_a_user_are_compared(objective, mask_ratio):
  # Without augmentation both views are the window itself; no dropout.
  config = tiny.config(objective=objective)
  config.augment.order = ('mask',)
  config.augment.ratios.mask = mask_ratio
  config[objective].projector = ()
  model = pretext.make_model(config, tiny.dataset().catalogue, None)
  items = np.random.default_rng(0).integers(1, 31, (4, 9)).astype(np.int32)
  batch = {'items': items, 'index': np.arange(4, dtype=np.int32)}
  variables = model.init(jax.random.key(0), batch, jax.random.key(0), False)
  _, terms = model.apply(variables, batch, jax.random.key(0), False)
  if objective == 'vicreg':
    assert (terms['invariance'] == 0) == (mask_ratio == 0)
    assert terms['variance'] > 0
  else:
    assert (terms['positive_cosine'] > 0.9999) == (mask_ratio == 0)
    assert terms['negative_cosine'] < 0.99


def test_refuses_a_temperature_of_zero():
  config = tiny.config(objective='info_nce', info_nce={'temperature': 0.0})
  with pytest.raises(InputError, match=r'info_nce\.temperature=0.0'):
    pretext.make_model(config, tiny.dataset().catalogue, None)


def test_an_objective_without_settings_says_where_they_go(monkeypatch):
  made = functools.partial(pretext.two_views, 'mine', objectives.VICReg)
  monkeypatch.setitem(pretext.OBJECTIVES, 'mine', made)
  config = tiny.config(objective='mine')
  for group in ({}, {'mine': {'invariance_weight': 1.0}}):
    config.update(group)
    with pytest.raises(
      InputError, match=r"no group 'mine' .*VICReg in configs"
    ):
      pretext.make_model(config, tiny.dataset().catalogue, None)


def test_an_augmentation_without_a_ratio_says_where_it_goes(monkeypatch):
  monkeypatch.setitem(augment.AUGMENTATIONS, 'mine', augment.mask)
  config = tiny.config(augment={'order': ('mine',)})
  with pytest.raises(InputError, match=r'augment\.ratios\.mine in configs'):
    pretext.make_model(config, tiny.dataset().catalogue, None)


def test_refuses_to_draw_from_no_augmentation():
  config = tiny.config(augment={'order': (), 'draw_one': True})
  with pytest.raises(InputError, match=r'augment\.order, which is empty'):
    pretext.make_model(config, tiny.dataset().catalogue, None)
