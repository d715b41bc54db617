"""The objectives that predict items, against NumPy on a see-through encoder."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bt4rec import packing, pretext, ranking, scoring
from bt4rec.encoders import ItemTable
from bt4rec.errors import InputError
from bt4rec.objectives import masked_item, next_item
from bt4rec.objectives.item_loss import ItemLoss
from tests import tiny
from tests.gradients import gradient_by_differences, on_devices

_NUM_ITEMS = 11
_MASK = _NUM_ITEMS + 1
_DIM = 4
_LOSS = ItemLoss('full', _NUM_ITEMS, 3, 'position', True, 0.75)

# Windows of 2, 6, 3 and 5 items of at most 6.
_WINDOWS = [[3, 1], [4, 11, 5, 9, 2, 6], [5, 3, 5], [8, 9, 7, 9, 3]]
_LENGTH = 6
_ITEMS = np.array([w + [0] * (_LENGTH - len(w)) for w in _WINDOWS], np.int32)


class SeeThrough(nn.Module):
  """A state is the sum of the items up to it, times a weight of its age.

  The age is counted back from the newest item, as in the real encoder; with
  `causal=False` the sum is over all items.
  """

  causal: bool

  def setup(self):
    self.item_table = ItemTable(_NUM_ITEMS + 2, _DIM)
    self.age_weight = self.param(
      'age_weight', nn.initializers.normal(), (_LENGTH,)
    )

  def states(self, items, train, layout=None, codes=None):
    assert layout is None and not codes
    real = items > 0
    x = self.item_table(items) * real[..., None]
    length = real.sum(-1, keepdims=True)
    age = jnp.clip(length - 1 - jnp.arange(_LENGTH)[None], 0)
    if self.causal:
      x = jnp.cumsum(x, axis=1)
    else:
      x = x + x.sum(1, keepdims=True)
    return x * self.age_weight[age][..., None]


def _see_through_states(window, table, age_weight, causal):
  """[len(window)][dim] by loops."""
  states = []
  for position, token in enumerate(window):
    seen = window[: position + 1] if causal else [*window, token]
    total = sum(table[t] for t in seen)
    states.append(total * age_weight[len(window) - 1 - position])
  return states


def _cross_entropy(query, table, bias, target):
  scores = [float(query @ table[t] + bias[t - 1]) for t in range(1, _MASK)]
  return np.log(sum(np.exp(scores))) - scores[target - 1]


def _model(objective):
  causal = isinstance(objective, next_item.NextItem)
  return pretext.Pretraining(SeeThrough(causal), objective)


def _params(model):
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(
    lambda: model.init(jax.random.key(0), _batch(), jax.random.key(0), False)
  )
  return jax.tree.map(
    lambda leaf: rng.normal(0.1, 0.6, leaf.shape).astype(leaf.dtype),
    shapes['params'],
  )


def _batch(items=_ITEMS):
  return {'items': items, 'index': np.arange(len(items), dtype=np.int32)}


def _loss(model, params, batch, train):
  return model.apply({'params': params}, batch, jax.random.key(7), train)[0]


def _check_gradient(model, params, reference):
  """Differences of a loop that takes the same tree of parameters."""
  grads = jax.grad(lambda p: _loss(model, p, _batch(), True))(params)
  leaves, tree = jax.tree.flatten(params)
  for number, grad in enumerate(jax.tree.leaves(grads)):

    def moved(x, number=number):
      changed = [leaf.astype(np.float64) for leaf in leaves]
      changed[number] = x
      return reference(jax.tree.unflatten(tree, changed))

    expected = gradient_by_differences(moved, leaves[number])
    np.testing.assert_allclose(grad, expected, rtol=2e-3, atol=2e-5)


def _check_devices(make, parallelism):
  items = np.tile(_ITEMS, (4, 1))
  items[:9, 2:] = 0  # Devices hold different numbers of targets.
  params = _params(_model(make(None)))

  def loss_fn(params, batch, axis_name):
    return _loss(_model(make(axis_name)), params, batch, True)

  split = on_devices(parallelism, loss_fn, params, _batch(items))
  whole = on_devices('one', loss_fn, params, _batch(items))
  np.testing.assert_allclose(split[0], whole[0], rtol=1e-5)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
    split[1],
    whole[1],
  )


class TestNextItem:
  def _reference(self, params, only_last=False):
    table = params['encoder']['item_table']['embedding']
    losses = []
    for window in _WINDOWS:
      context = window[:-1]
      states = _see_through_states(
        context, table, params['encoder']['age_weight'], causal=True
      )
      for position in range(len(context)):
        if only_last and position < len(context) - 1:
          continue
        target = window[position + 1]
        losses.append(
          _cross_entropy(states[position], table, [0] * _NUM_ITEMS, target)
        )
    return np.mean(losses)

  @pytest.mark.parametrize('train', [True, False])
  def test_every_position_predicts_the_next_item(self, train):
    model = _model(next_item.NextItem(_LOSS))
    params = _params(model)
    np.testing.assert_allclose(
      _loss(model, params, _batch(), train),
      # Outside of training the last item alone.
      self._reference(params, only_last=not train),
      rtol=1e-5,
    )

  def test_gradient_equals_differences_of_the_loop(self):
    model = _model(next_item.NextItem(_LOSS))
    _check_gradient(model, _params(model), self._reference)

  @pytest.mark.parametrize('parallelism', ['jit', 'pmap'])
  def test_eight_devices_equal_one(self, parallelism):
    _check_devices(functools.partial(next_item.NextItem, _LOSS), parallelism)


class TestChooseMasked:
  def _choose(self, ratio, last_only=0.0, index=None, items=_ITEMS, draws=300):
    index = np.arange(len(items), dtype=np.int32) if index is None else index

    def choose(key):
      return masked_item.choose_masked(key, items, index, ratio, last_only)

    position, is_masked = jax.jit(jax.vmap(choose))(
      jax.random.split(jax.random.key(0), draws)
    )
    return [
      [set(p[m].tolist()) for p, m in zip(*rows, strict=True)]
      for rows in zip(np.asarray(position), np.asarray(is_masked), strict=True)
    ]

  @pytest.mark.parametrize(
    'ratio, counts',
    [
      # Shares of 2, 6, 3 and 5 items rounded: at least one, never all.
      (0.01, (1, 1, 1, 1)),
      (0.4, (1, 2, 1, 2)),
      (0.5, (1, 3, 2, 2)),
      (0.9, (1, 5, 2, 4)),
    ],
  )
  def test_masks_the_share_of_real_items(self, ratio, counts):
    times = np.zeros(_ITEMS.shape)
    for draw in self._choose(ratio):
      assert tuple(map(len, draw)) == counts
      for row, chosen in enumerate(draw):
        assert max(chosen) < len(_WINDOWS[row])
        times[row, sorted(chosen)] += 1
    # Each real item equally often, within five standard deviations.
    for row, window in enumerate(_WINDOWS):
      share = counts[row] / len(window)
      spread = (300 * share * (1 - share)) ** 0.5
      assert np.abs(times[row, : len(window)] - 300 * share).max() < 5 * spread

  def test_last_only(self):
    last = [{len(window) - 1} for window in _WINDOWS]
    assert all(draw == last for draw in self._choose(0.5, 1.0, draws=20))
    draws = self._choose(0.5, 0.25, draws=800)
    # By chance the long window's three never are its last alone.
    share = np.mean([draw[1] == last[1] for draw in draws])
    assert abs(share - 0.25) < 5 * (0.25 * 0.75 / 800) ** 0.5

  def test_depends_on_the_number_of_the_row_not_on_its_place(self):
    order = np.array([2, 0, 3, 1], np.int32)
    chosen = self._choose(0.5, 0.3)
    moved = self._choose(0.5, 0.3, index=order, items=_ITEMS[order])
    for a, b in zip(chosen, moved, strict=True):
      assert [a[i] for i in order] == b


class TestMaskedItem:
  @staticmethod
  def _make(axis_name=None):
    return masked_item.MaskedItem(
      dim=_DIM,
      num_items=_NUM_ITEMS,
      mask_item=_MASK,
      mask_ratio=0.4,
      last_only_ratio=0.2,
      loss=_LOSS,
      axis_name=axis_name,
    )

  def _reference(self, params, train=True):
    rng, _ = jax.random.split(jax.random.key(7))
    index = np.arange(len(_ITEMS), dtype=np.int32)
    ratios = (0.4, 0.2) if train else (0.0, 1.0)
    position, is_masked = masked_item.choose_masked(rng, _ITEMS, index, *ratios)
    table = params['encoder']['item_table']['embedding']
    layer = params['objective']
    losses = []
    for row, window in enumerate(_WINDOWS):
      chosen = np.asarray(position)[row][np.asarray(is_masked)[row]]
      hidden = [_MASK if p in chosen else t for p, t in enumerate(window)]
      states = _see_through_states(
        hidden, table, params['encoder']['age_weight'], causal=False
      )
      for p in chosen:
        x = states[p] @ layer['projection']['kernel']
        x = x + layer['projection']['bias']
        # GELU by its tanh approximation, as in BERT's code.
        inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
        x = x * (1 + np.tanh(inner)) / 2
        x = (x - x.mean()) / np.sqrt(x.var() + 1e-6)
        x = x * layer['norm']['scale'] + layer['norm']['bias']
        losses.append(_cross_entropy(x, table, layer['bias'], window[p]))
    return np.mean(losses)

  @pytest.mark.parametrize('train', [True, False])
  def test_equals_the_loop(self, train):
    model = _model(self._make())
    params = _params(model)
    np.testing.assert_allclose(
      _loss(model, params, _batch(), train),
      self._reference(params, train),
      rtol=1e-4,
    )

  def test_gradient_equals_differences_of_the_loop(self):
    model = _model(self._make())
    _check_gradient(model, _params(model), self._reference)

  @pytest.mark.parametrize('parallelism', ['jit', 'pmap'])
  def test_eight_devices_equal_one(self, parallelism):
    _check_devices(self._make, parallelism)


def _real(objective, **overrides):
  """A real encoder under an objective, with random parameters."""
  config = tiny.config(objective=objective, **overrides)
  config.encoder.causal = objective == 'next_item'
  shape = packing.Shape(9, 3, 4)
  model = pretext.make_model(config, tiny.dataset().catalogue, None, shape)
  items = np.zeros((4, 9), np.int32)
  for row, length in enumerate((9, 4, 6, 2)):
    items[row, :length] = 1 + np.arange(length) * (row + 3) % 30
  batch = {
    'items': items,
    'index': np.arange(4, dtype=np.int32),
    'log_q': np.log(np.linspace(0.1, 1, 32)).astype(np.float32),
  }
  params = model.init(jax.random.key(0), batch, jax.random.key(1), False)
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda leaf: rng.normal(0.1, 0.4, leaf.shape).astype(leaf.dtype),
    params['params'],
  )
  return model, params, batch


@pytest.mark.parametrize(
  'objective', ['next_item', 'masked_item', 'dual_encoder']
)
def test_a_query_does_not_depend_on_the_histories_beside(objective):
  # Which say how wide the block is; 16 fill a narrow one.
  model, params, _ = _real(objective, max_length=40)
  length = np.array([1, 15, 16, 17, 31, 32, 39], np.int32)
  start = np.cumsum(length) - length
  events = {'items': 1 + np.arange(length.sum()) * 7 % 30}
  scorer = scoring.ObjectiveScorer(model, params)
  together = scorer.queries(events, start, length)
  for row in range(len(length)):
    alone = scorer.queries(events, start[[row]], length[[row]])
    np.testing.assert_allclose(alone[0], together[row], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('objective', ['next_item', 'masked_item'])
def test_validation_predicts_what_the_scores_rank(objective):
  # The loss outside of training is the cross-entropy of the scores that a
  # user gets who has seen all but the last item.
  model, params, batch = _real(objective)
  items = batch['items']
  variables = {'params': params}
  loss, _ = model.apply(variables, batch, jax.random.key(0), False)
  length = (items > 0).sum(1)
  history = np.where(np.arange(9)[None] < length[:, None] - 1, items, 0)
  query = model.apply(variables, {'items': history}, method='query')
  candidates = model.apply(variables, method='candidates')
  assert candidates.first == 1 and not candidates.of_unit_length
  table = candidates.table[1:-1]
  scores = np.asarray(query @ table.T + candidates.bias[None], np.float64)
  target = items[np.arange(4), length - 1] - 1
  expected = np.log(np.exp(scores).sum(1)) - scores[np.arange(4), target]
  np.testing.assert_allclose(loss, expected.mean(), rtol=1e-5)


def test_dual_encoder_scores_are_cosines_over_the_temperature():
  model, params, batch = _real('dual_encoder')
  variables = {'params': params}
  query = model.apply(variables, batch, method='query')
  candidates = model.apply(variables, method='candidates')
  h = np.asarray(
    model.encoder.apply({'params': params['encoder']}, batch['items'], False)
  )
  items = params['encoder']['item_table']['embedding'][1:-1]
  temperature = np.exp(params['objective']['log_temperature'])
  nobody = np.full((len(h), 1), -1)
  best, scores = ranking.top_items(query, candidates, nobody, k=len(items))
  for user, rows, score in zip(h, best, scores, strict=True):
    cosine = (items @ user) / np.linalg.norm(items, axis=1)
    expected = cosine / np.linalg.norm(user) / temperature
    np.testing.assert_allclose(score, expected[rows], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('objective', ['next_item', 'masked_item'])
def test_packed_rows_give_the_same_loss(objective):
  model, params, batch = _real(
    objective, encoder={**tiny.config().encoder.to_dict(), 'dropout': 0.0}
  )
  # 9; 4 + 2; 6 of 9 slots.
  packed = {
    **batch,
    'row': np.array([0, 1, 2, 1], np.int32),
    'offset': np.array([0, 0, 0, 4], np.int32),
  }
  losses = [
    model.apply({'params': params}, b, jax.random.key(3), True)[0]
    for b in (batch, packed)
  ]
  np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


@pytest.mark.parametrize(
  'objective, encoder, sentence',
  [
    ('next_item', {'causal': False}, 'encoder.causal=True'),
    ('masked_item', {'causal': True}, 'encoder.causal=False'),
    ('next_item', {'name': 'bag_of_items'}, 'encoder.name=transformer'),
    ('masked_item', {'name': 'bag_of_items'}, 'encoder.name=transformer'),
  ],
)
def test_an_encoder_that_does_not_suit_is_refused(objective, encoder, sentence):
  config = tiny.config(objective=objective, encoder=encoder)
  with pytest.raises(InputError, match=sentence):
    pretext.make_model(config, tiny.dataset().catalogue, None)


@pytest.mark.parametrize(
  'field, value', [('mask_ratio', 0.0), ('mask_ratio', 1.0)]
)
def test_bad_ratios_get_a_sentence(field, value):
  config = tiny.config(objective='masked_item', masked_item={field: value})
  with pytest.raises(InputError, match=f'{field}={value}'):
    pretext.make_model(config, tiny.dataset().catalogue, None)
