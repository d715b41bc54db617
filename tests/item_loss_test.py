"""Losses of items, against pencil and loops, on one device and on eight."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bt4rec import mesh
from bt4rec.errors import InputError
from bt4rec.objectives import item_loss
from tests.gradients import gradient_by_differences, on_devices

_NUM_ITEMS = 13
_DIM = 5
_LOSS = item_loss.ItemLoss(
  name='full',
  num_items=_NUM_ITEMS,
  num_negatives=3,
  negatives_per='position',
  log_q_correction=True,
  calibration=0.75,
)
_SAMPLED = [
  {'name': name, 'negatives_per': sharing}
  for name, sharing in itertools.product(
    ('sampled', 'bce', 'gbce'), ('position', 'sequence', 'batch')
  )
]
_CASES = [
  {'name': 'full'},
  {'name': 'sampled', 'log_q_correction': False},
  *_SAMPLED,
]


def _ids(case):
  return '-'.join(map(str, case.values()))


def _batch(num_rows=16, length=4):
  """Windows of 1 to `length` items, and what is predicted for each."""
  rng = np.random.default_rng(0)
  items = rng.integers(1, _NUM_ITEMS + 1, (num_rows, length))
  lengths = 1 + np.arange(num_rows) % length
  # Most of the targets lie in the first rows: devices hold different numbers.
  is_real = np.arange(length)[None] < lengths[:, None]
  is_real[num_rows // 2 :, 1:] = False
  items = np.where(np.arange(length)[None] < lengths[:, None], items, 0)
  return {
    'query': rng.normal(size=(num_rows, length, _DIM)).astype(np.float32),
    'target': np.where(is_real, items, 0).astype(np.int32),
    'is_real': is_real,
    'items': items.astype(np.int32),
    'index': np.arange(num_rows, dtype=np.int32),
  }


def _table():
  rng = np.random.default_rng(1)
  table = rng.normal(size=(_NUM_ITEMS, _DIM)).astype(np.float32)
  return table, rng.normal(size=_NUM_ITEMS).astype(np.float32)


def _apply(loss, batch, table, bias, axis_name=None, sharding=None):
  rng = jax.random.key(5)
  inputs = [batch[key] for key in ('query', 'target', 'is_real')]
  return loss(
    rng,
    *inputs,
    _by_token(table),
    bias,
    items=batch['items'],
    index=batch['index'],
    axis_name=axis_name,
    sharding=sharding,
  )


def _by_token(table):
  # The other rows are padding, mask and none; they would win if they counted.
  return jnp.pad(table, ((1, 2), (0, 0)), constant_values=9.0)


def _negatives(loss, batch):
  """[row][position] -> the tokens the loss draws, and the pool's size.

  That they are what they should be is for other tests.
  """
  rng = jax.random.key(5)
  num_rows, length = batch['items'].shape
  if loss.negatives_per == 'batch':
    drawn = np.asarray(
      jax.random.randint(rng, (loss.num_negatives,), 1, _NUM_ITEMS + 1)
    )
    valid = [[t for t in drawn if t not in row] for row in batch['items']]
    return [[row] * length for row in valid], [_NUM_ITEMS] * num_rows
  positions = length if loss.negatives_per == 'position' else 1
  drawn, _ = item_loss.draw_outside(
    rng,
    batch['items'],
    batch['index'],
    (positions, loss.num_negatives),
    _NUM_ITEMS,
  )
  rows = [list(row) * (length // positions) for row in np.asarray(drawn)]
  return rows, [_NUM_ITEMS - len(set(row) - {0}) for row in batch['items']]


def _reference(loss, batch, query, table, bias, negatives=None):
  """Loss and accuracy, target by target, in float64."""
  rows, pools = negatives or (None, None)
  losses, right = [], []
  for i, j in np.argwhere(batch['is_real']):
    q = query[i, j]

    def score(token, q=q):
      return (
        sum(q[d] * table[token - 1, d] for d in range(_DIM)) + bias[token - 1]
      )

    target = batch['target'][i, j]
    positive = score(target)
    if loss.name == 'full':
      others = [score(t) for t in range(1, _NUM_ITEMS + 1)]
      losses.append(math.log(sum(map(math.exp, others))) - positive)
      right.append(positive >= max(others))
      continue
    others = [score(token) for token in rows[i][j]]
    right.append(all(positive > other for other in others))
    number = loss.num_negatives
    if loss.name == 'sampled':
      weight = pools[i] / number if loss.log_q_correction else 1.0
      total = math.exp(positive) + weight * sum(map(math.exp, others))
      losses.append(math.log(total) - positive)
      continue
    beta = 1.0
    if loss.name == 'gbce':
      alpha = number / (_NUM_ITEMS - 1)
      beta = alpha * (0.75 * (1 - 1 / alpha) + 1 / alpha)
    probability = 1 / (1 + math.exp(-positive))
    total = math.log(probability**beta)
    total += sum(math.log(1 - 1 / (1 + math.exp(-other))) for other in others)
    losses.append(-total / (number + 1))
  return sum(losses) / len(losses), sum(right) / len(right)


@pytest.mark.parametrize('case', _CASES, ids=_ids)
class TestItemLoss:
  def test_equals_the_loop(self, case):
    loss, batch = dataclasses.replace(_LOSS, **case), _batch()
    value, metrics = _apply(loss, batch, *_table())
    expected, accuracy = _reference(
      loss, batch, batch['query'], *_table(), _negatives(loss, batch)
    )
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics['accuracy'], accuracy, rtol=1e-6)

  def test_gradient_equals_differences_of_the_loop(self, case):
    loss, batch = dataclasses.replace(_LOSS, **case), _batch(3)
    negatives = _negatives(loss, batch)
    arguments = (batch['query'], *_table())

    def value(query, table, bias):
      return _apply(loss, {**batch, 'query': query}, table, bias)[0]

    grads = jax.grad(value, (0, 1, 2))(*arguments)
    for number, argument in enumerate(arguments):

      def moved(x, number=number):
        changed = [a.astype(np.float64) for a in arguments]
        changed[number] = x
        return _reference(loss, batch, *changed, negatives)[0]

      np.testing.assert_allclose(
        grads[number],
        gradient_by_differences(moved, argument),
        rtol=1e-3,
        atol=1e-5,
      )


# Each loss and each way to share negatives.
@pytest.mark.parametrize(
  'case',
  [
    {'name': 'full'},
    {'name': 'sampled', 'negatives_per': 'batch'},
    {'name': 'bce', 'negatives_per': 'sequence'},
    {'name': 'gbce', 'negatives_per': 'position'},
  ],
  ids=_ids,
)
@pytest.mark.parametrize('parallelism', ['jit', 'pmap'])
def test_eight_devices_equal_one(parallelism, case):
  loss = dataclasses.replace(_LOSS, **case)

  def loss_fn(tables, batch, axis_name):
    value, metrics = _apply(loss, batch, *tables, axis_name)
    # The accuracy is compared too.
    return value + metrics['accuracy']

  split = on_devices(parallelism, loss_fn, _table(), _batch())
  whole = on_devices('one', loss_fn, _table(), _batch())
  np.testing.assert_allclose(split[0], whole[0], rtol=1e-5)
  for a, b in zip(split[1], whole[1], strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('case', _CASES, ids=_ids)
def test_a_table_split_over_devices_gives_the_same(case):
  loss, batch = dataclasses.replace(_LOSS, **case), _batch()
  sharding = mesh.RowSharding(
    mesh.make_mesh(jax.devices(), 4), len(_by_token(_table()[0]))
  )

  def value(query, table, bias, sharding=None):
    loss_value, metrics = _apply(
      loss, {**batch, 'query': query}, table, bias, sharding=sharding
    )
    return loss_value + metrics['accuracy']

  arguments = batch['query'], *_table()
  gradients = jax.value_and_grad(value, (0, 1, 2))
  split = jax.jit(lambda *x: gradients(*x, sharding=sharding))(*arguments)
  whole = gradients(*arguments)
  np.testing.assert_allclose(split[0], whole[0], rtol=1e-5)
  for a, b in zip(split[1], whole[1], strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_corrected_sample_estimates_the_softmax_over_the_pool():
  # exp of the loss is linear in the sampled sum: its mean is the full one.
  loss = dataclasses.replace(_LOSS, name='sampled', num_negatives=2)
  batch = _batch(1)
  outside = [t for t in range(1, _NUM_ITEMS + 1) if t not in batch['items']]
  table, bias = map(jnp.asarray, _table())
  score = batch['query'][0, 0] @ table.T + bias
  own = score[batch['target'][0, 0] - 1]
  expected = 1 + np.exp(score[np.array(outside) - 1] - own).sum()

  def estimate(key):
    value, _ = loss(
      key,
      batch['query'],
      batch['target'],
      batch['is_real'],
      _by_token(table),
      bias,
      items=batch['items'],
      index=batch['index'],
    )
    return jnp.exp(value)

  samples = jax.jit(jax.vmap(estimate))(
    jax.random.split(jax.random.key(0), 4000)
  )
  error = np.std(samples) / np.sqrt(len(samples))
  assert abs(samples.mean() - expected) < 5 * error
  assert error < 0.02 * expected


@pytest.mark.parametrize(
  'calibration, num_negatives, expected',
  # alpha = 2 / 10: .2 (.5 (1 - 5) + 5); t = 0 is plain, t = 1 is alpha.
  [
    (0.5, 2, 0.6),
    (0.0, 2, 1.0),
    (1.0, 2, 0.2),
    (0.75, 10, 1.0),
    # More than there are, drawn with replacement: as all of them.
    (0.75, 40, 1.0),
  ],
)
def test_beta_by_hand(calibration, num_negatives, expected):
  np.testing.assert_allclose(
    item_loss.gbce_beta(calibration, num_negatives, 11), expected, rtol=1e-12
  )


def test_binary_cross_entropy_by_hand():
  # sigma(log 3) = 3/4, sigma(0) = 1/2, sigma(-log 3) = 1/4.
  loss = item_loss.generalised_binary_cross_entropy(
    jnp.log(jnp.array([3.0])),
    jnp.array([[0.0, -jnp.log(3.0), 7.0]]),
    jnp.array([[True, True, False]]),
    0.5,
  )
  expected = -(0.5 * np.log(3 / 4) + np.log(1 / 2) + np.log(3 / 4)) / 4
  np.testing.assert_allclose(loss, [expected], rtol=1e-6)


class TestDrawOutside:
  # Repetitions, the mask token, a full window and an empty one.
  _ITEMS = np.array(
    [[2, 5, 2, 1], [14, 13, 0, 0], [3, 4, 5, 6], [0, 0, 0, 0]], np.int32
  )
  _INDEX = np.arange(4, dtype=np.int32)

  def _draw(self, items, index, shape=(4, 3000)):
    return item_loss.draw_outside(
      jax.random.key(2), items, index, shape, _NUM_ITEMS
    )

  def test_draws_each_item_outside_equally_often(self):
    drawn, pool = self._draw(self._ITEMS, self._INDEX)
    for row, items in enumerate(self._ITEMS):
      outside = sorted(set(range(1, _NUM_ITEMS + 1)) - set(items.tolist()))
      assert pool[row] == len(outside)
      counts = np.bincount(np.ravel(drawn[row]), minlength=_NUM_ITEMS + 2)
      assert counts[outside].sum() == counts.sum() == 12_000
      expected = 12_000 / len(outside)
      # Five standard deviations.
      assert np.abs(counts[outside] - expected).max() < 5 * expected**0.5

  def test_depends_on_the_number_of_the_row_not_on_its_place(self):
    order = np.array([2, 0, 3, 1])
    drawn, _ = self._draw(self._ITEMS, self._INDEX, (2, 5))
    moved, _ = self._draw(self._ITEMS[order], self._INDEX[order], (2, 5))
    np.testing.assert_array_equal(moved, drawn[order])


@pytest.mark.parametrize(
  'overrides, sentence',
  [
    ({'name': 'ful'}, "'ful'.*full, sampled, bce, gbce"),
    ({'negatives_per': 'row'}, "'row'.*position, sequence, batch"),
    ({'num_negatives': 0}, 'num_negatives=0 must be at least 1'),
    ({'calibration': 1.5}, 'calibration=1.5 must be between'),
    ({'num_items': 8}, 'max_length=8 may hold all 8 items'),
  ],
)
def test_bad_settings_get_a_sentence(overrides, sentence):
  loss = dataclasses.replace(_LOSS, **{'name': 'sampled', **overrides})
  with pytest.raises(InputError, match=sentence):
    loss.check(8)
