"""Encoders, projector and head."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bt4rec import encoders, heads, projector
from bt4rec.errors import InputError
from configs import base

_VOCABULARY = 13
_LENGTH = 7
_DIM = 12
_MLP = 2 * _DIM

_USERS = np.array(
  [
    [3, 1, 4, 11, 5, 0, 0],
    [9, 0, 0, 0, 0, 0, 0],
    [2, 6, 12, 3, 5, 8, 7],
  ],
  np.int32,
)
_POOLINGS = ('mean', 'last', 'class_token')
# Every choice of a block comes once besides the plain one's.
_BLOCKS = {
  'rotary': {'norm': 'rms_norm', 'mlp': 'swiglu', 'positions': 'rotary'},
  'relative': {'norm': 'rms_norm', 'mlp': 'geglu', 'positions': 'relative'},
}
all_blocks = pytest.mark.parametrize('block', _BLOCKS.values(), ids=_BLOCKS)


def _transformer(**overrides):
  sizes = {
    'dim': _DIM,
    'num_layers': 2,
    'num_heads': 3,
    'mlp_ratio': 2,
    'dropout': 0.3,
    'causal': False,
    'pooling': 'mean',
    'dtype': jnp.float32,
    **overrides,
  }
  return encoders.make_encoder(
    'transformer', vocabulary_size=_VOCABULARY, max_length=_LENGTH, **sizes
  )


def _bag_of_items():
  return encoders.make_encoder(
    'bag_of_items',
    vocabulary_size=_VOCABULARY,
    max_length=_LENGTH,
    dtype=jnp.float32,
    dim=_DIM,
    pooling='unused',
  )


def _params(module, *args):
  """Random parameters that leave no part of the module without effect.

  The initial ones are so small that a mistake in the positions would hide
  behind the tolerances.
  """
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(
    lambda: module.init(jax.random.key(0), *args)['params']
  )
  return jax.tree.map(
    lambda leaf: rng.normal(0.1, 0.4, leaf.shape).astype(leaf.dtype), shapes
  )


@functools.partial(jax.jit, static_argnums=0)
def _apply(module, params, items):
  return module.apply({'params': params}, items, False)


def _embed(module, params, items):
  return np.asarray(_apply(module, params, items))


def _num_parameters(params) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(params))


class TestTransformerEncoder:
  @pytest.mark.parametrize(
    'pooling, extra', [('mean', 0), ('last', 0), ('class_token', _DIM)]
  )
  def test_parameter_count(self, pooling, extra):
    block = (
      2 * _DIM  # Norm before the attention: scale, bias.
      + _DIM * 3 * _DIM  # Query, key and value.
      + 3 * _DIM  # Their biases.
      + _DIM * _DIM  # Attention's output.
      + _DIM  # Its bias.
      + 2 * _DIM  # Norm before the MLP.
      + _DIM * _MLP  # Up.
      + _MLP  # Its bias.
      + _MLP * _DIM  # Down.
      + _DIM  # Its bias.
    )
    expected = (
      _VOCABULARY * _DIM  # Padding, 11 items, mask token.
      + _LENGTH * _DIM  # Positions.
      + extra  # Class token.
      + 2 * block
      + 2 * _DIM  # Final norm.
    )
    params = _params(_transformer(pooling=pooling), _USERS, False)
    assert _num_parameters(params) == expected

  @pytest.mark.parametrize('pooling', _POOLINGS)
  def test_gives_one_float32_vector_a_user(self, pooling):
    for dtype in (jnp.float32, jnp.bfloat16):
      module = _transformer(pooling=pooling, dtype=dtype)
      h, variables = jax.eval_shape(
        lambda module=module: module.init_with_output(
          jax.random.key(0), _USERS, False
        )
      )
      assert h.shape == (3, _DIM)
      assert h.dtype == jnp.float32
      leaves = jax.tree.leaves(variables)
      assert {leaf.dtype for leaf in leaves} == {jnp.dtype('float32')}

  def test_bfloat16_is_close_to_float32(self):
    params = _params(_transformer(), _USERS, False)
    exact = _embed(_transformer(), params, _USERS)
    rounded = _embed(_transformer(dtype=jnp.bfloat16), params, _USERS)
    assert rounded.dtype == np.float32
    assert not np.array_equal(exact, rounded)
    # Eight bits of mantissa; the embedding is of order 1.
    np.testing.assert_allclose(rounded, exact, atol=0.1)

  @pytest.mark.parametrize(
    'pooling, causal',
    [*((pooling, False) for pooling in _POOLINGS), ('class_token', True)],
  )
  def test_amount_of_padding_changes_nothing(self, pooling, causal):
    module = _transformer(pooling=pooling, causal=causal)
    params = _params(module, _USERS, False)
    padded = _embed(module, params, _USERS)
    cut = np.stack([_USERS[0, :5], _USERS[1, :5], [1, 2, 3, 4, 5]])
    np.testing.assert_allclose(
      _embed(module, params, cut)[:2], padded[:2], rtol=1e-5, atol=1e-5
    )

  @pytest.mark.parametrize('pooling', _POOLINGS)
  def test_neighbours_in_the_batch_change_nothing(self, pooling):
    module = _transformer(pooling=pooling)
    params = _params(module, _USERS, False)
    h = _embed(module, params, _USERS)
    for row in range(3):
      others = _USERS[[1, 2, 0]]
      others[row] = _USERS[row]
      np.testing.assert_array_equal(_embed(module, params, others)[row], h[row])

  @pytest.mark.parametrize('pooling', _POOLINGS)
  def test_every_item_and_their_order_count(self, pooling):
    module = _transformer(pooling=pooling)
    params = _params(module, _USERS, False)
    changed = np.repeat(_USERS[2:], _LENGTH, axis=0)
    np.fill_diagonal(changed, 10)
    swapped = _USERS[2:, [1, 0, 2, 3, 4, 5, 6]]
    h = _embed(module, params, np.concatenate([_USERS[2:], swapped, changed]))
    assert (np.abs(h[1:] - h[:1]).max(1) > 1e-3).all()

  def test_positions_mean_recency(self):
    # One block whose attention and MLP are off: the last token is the norm of
    # its item's embedding plus the position of age 0, however long the row.
    module = _transformer(pooling='last', num_layers=1)
    params = _params(module, _USERS, False)
    block = params['blocks_0']
    for layer in (block['attention']['out'], block['down']):
      layer.update(jax.tree.map(np.zeros_like, layer))
    table, positions = (
      params['item_table']['embedding'],
      params['position_embedding'],
    )
    x = table[[5, 9, 7]] + positions[0]
    x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-6)
    norm = params['final_norm']
    expected = x * norm['scale'] + norm['bias']
    np.testing.assert_allclose(
      _embed(module, params, _USERS), expected, rtol=1e-4, atol=1e-5
    )

  @pytest.mark.parametrize('pooling', _POOLINGS)
  def test_row_of_padding_alone_is_finite(self, pooling):
    module = _transformer(pooling=pooling)
    params = _params(module, _USERS, False)
    rows = np.concatenate([_USERS, np.zeros((1, _LENGTH), np.int32)])
    total, grads = jax.jit(
      jax.value_and_grad(lambda params: _apply(module, params, rows).sum())
    )(params)
    assert np.isfinite(total)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))

  @pytest.mark.parametrize('causal', [True, False])
  def test_causal_tokens_alone_do_not_see_later_items(self, causal):
    module = _transformer(causal=causal)
    params = _params(module, _USERS, False)

    @jax.jit
    def tokens(params, items):
      _, state = module.apply(
        {'params': params},
        items,
        False,
        capture_intermediates=lambda module, _: module.name == 'final_norm',
      )
      return state['intermediates']['final_norm']['__call__'][0]

    # Positions count from the newest item, so the length stays the same.
    changed = _USERS.copy()
    changed[2, 4:] = [1, 9, 10]
    difference = np.abs(
      tokens(params, _USERS)[2] - tokens(params, changed)[2]
    ).max(1)
    assert (difference[4:] > 1e-3).all()
    if causal:
      np.testing.assert_array_equal(difference[:4], 0)
    else:
      assert (difference[:4] > 1e-4).all()

  @pytest.mark.parametrize('pooling', ['mean', 'last'])
  def test_causal_prefix_is_not_changed_by_later_items(self, pooling):
    # Positions mean recency, so they are made equal: order comes from the
    # causal mask alone.
    module = _transformer(causal=True, pooling=pooling, num_layers=1)
    params = _params(module, _USERS, False)
    params['position_embedding'][:] = 0
    prefixes = np.where(
      np.arange(_LENGTH) < np.arange(1, _LENGTH + 1)[:, None], _USERS[2], 0
    )
    h = _embed(module, params, prefixes)
    if pooling == 'mean':
      # Means of k tokens -> the tokens.
      total = h * np.arange(1, _LENGTH + 1)[:, None]
      h = np.diff(total, axis=0, prepend=np.zeros((1, _DIM)))
    last = _transformer(causal=True, pooling='last', num_layers=1)
    np.testing.assert_allclose(
      h, _embed(last, params, prefixes), rtol=1e-4, atol=1e-4
    )

  @all_blocks
  def test_parameter_count_of_other_blocks(self, block):
    module = _transformer(num_layers=1, **block)
    gated = 2 * _MLP // 3
    expected = (
      _VOCABULARY * _DIM
      + 2 * _DIM  # Scales of the norms.
      + _DIM * 3 * _DIM  # Query, key and value.
      + 3 * _DIM  # Their biases.
      + _DIM * _DIM  # Attention's output.
      + _DIM  # Its bias.
      + 3 * _DIM * gated  # Gate, up and down.
      + 32 * 3 * (block['positions'] == 'relative')  # Buckets, heads.
      + _DIM  # Final norm.
    )
    assert _num_parameters(_params(module, _USERS, False)) == expected

  @all_blocks
  @pytest.mark.parametrize(
    'pooling, causal',
    [('mean', False), ('last', True), ('class_token', True)],
  )
  def test_other_blocks_keep_what_the_plain_one_keeps(
    self, block, pooling, causal
  ):
    """Padding, neighbours, order, rounding, and rows of padding alone."""
    module = _transformer(pooling=pooling, causal=causal, **block)
    params = _params(module, _USERS, False)
    close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5)
    empty = np.zeros((1, _LENGTH), np.int32)
    users = np.concatenate([_USERS, _USERS[2:, [1, 0, 2, 3, 4, 5, 6]], empty])
    h = _embed(module, params, users)
    assert np.isfinite(h).all()
    close(_embed(module, params, users[[1, 0, 4, 2, 3]]), h[[1, 0, 4, 2, 3]])
    cut = np.stack([_USERS[0, :5], _USERS[1, :5]])
    close(_embed(module, params, cut), h[:2])
    assert np.abs(h[2] - h[3]).max() > 1e-3
    rounded = _transformer(
      pooling=pooling, causal=causal, dtype=jnp.bfloat16, **block
    )
    np.testing.assert_allclose(_embed(rounded, params, users), h, atol=0.15)

  @all_blocks
  def test_other_blocks_see_no_later_item_if_causal(self, block):
    changed = _USERS[2:].copy()
    changed[0, 4:] = [1, 9, 10]
    users = np.concatenate([_USERS[2:], changed])
    for causal in (True, False):
      module = _transformer(causal=causal, **block)
      params = _params(module, _USERS, False)
      states = jax.jit(
        lambda params, module=module: module.apply(
          {'params': params}, users, False, method='states'
        )
      )(params)
      difference = np.abs(states[0] - states[1]).max(1)
      assert (difference[4:] > 1e-3).all()
      assert (difference[:4] == 0).all() == causal

  def test_dropout_is_drawn_in_training_only(self):
    module = _transformer()
    params = _params(module, _USERS, False)

    @jax.jit
    def train(params, seed):
      rngs = {'dropout': jax.random.key(seed)}
      return module.apply({'params': params}, _USERS, True, rngs=rngs)

    np.testing.assert_array_equal(train(params, 0), train(params, 0))
    assert not np.allclose(train(params, 0), train(params, 1))
    assert not np.allclose(train(params, 0), _embed(module, params, _USERS))

  @pytest.mark.parametrize(
    'key, valid',
    [
      ('pooling', 'mean, last, class_token'),
      ('norm', 'layer_norm, rms_norm'),
      ('mlp', 'gelu, swiglu, geglu'),
      ('positions', 'learned, rotary, relative'),
      ('attention', 'xla, cudnn'),
    ],
  )
  def test_refuses_an_unknown_name(self, key, valid):
    with pytest.raises(InputError, match=rf"encoder.{key} 'max'.*{valid}"):
      _transformer(**{key: 'max'})

  @pytest.mark.parametrize('rate', [-0.1, 1.0, 20.0])
  def test_refuses_what_is_no_rate_of_dropout(self, rate):
    with pytest.raises(InputError, match=f'dropout={rate} is no rate'):
      _transformer(dropout=rate)

  def test_refuses_rotary_positions_in_heads_of_odd_width(self):
    with pytest.raises(InputError, match=r'num_heads=4 gives a head 3 of them'):
      _transformer(num_heads=4, positions='rotary')

  def test_refuses_heads_that_do_not_divide_the_width(self):
    with pytest.raises(InputError, match=r'dim=12 .*num_heads=5'):
      _transformer(num_heads=5)

  @pytest.mark.parametrize(
    'fields, sentence',
    [
      ({'dtype': jnp.float32}, 'use compute_dtype=bfloat16'),
      ({'positions': 'relative'}, 'use encoder.positions=learned or rotary'),
      ({'num_heads': 6}, 'not of 4; choose another encoder.num_heads'),
      ({'dim': 264, 'num_heads': 1}, 'not of 264; choose another'),
    ],
  )
  def test_refuses_what_cudnn_cannot(self, fields, sentence):
    setting = {
      'attention': 'cudnn',
      'dtype': jnp.bfloat16,
      'dim': 24,
      'num_heads': 3,
    }
    _transformer(**setting)
    with pytest.raises(
      InputError, match=f'encoder.attention=cudnn.*{sentence}'
    ):
      _transformer(**setting | fields)

  def test_refuses_to_train_by_cudnn_without_a_gpu(self):
    config = base.get_config()
    encoders.check_device(config)
    config.encoder.attention = 'cudnn'
    with pytest.raises(InputError, match=r'needs an NVIDIA GPU, .* sees a cpu'):
      encoders.check_device(config)

  def test_refuses_an_unknown_encoder(self):
    with pytest.raises(InputError, match=r"'gru'.*transformer, bag_of_items"):
      encoders.make_encoder(
        'gru', vocabulary_size=3, max_length=5, dtype=jnp.float32
      )


class TestBagOfItems:
  def test_parameter_count(self):
    params = _params(_bag_of_items(), _USERS, False)
    assert _num_parameters(params) == _VOCABULARY * _DIM  # The item table.

  def test_is_the_mean_of_the_embeddings(self):
    module = _bag_of_items()
    params = _params(module, _USERS, False)
    table = params['item_table']['embedding']
    expected = [table[[3, 1, 4, 11, 5]].mean(0), table[9], 0 * table[0]]
    rows = np.concatenate([_USERS[:2], np.zeros((1, _LENGTH), np.int32)])
    np.testing.assert_allclose(
      _embed(module, params, rows), expected, rtol=1e-5, atol=1e-6
    )


class TestProjector:
  def test_parameter_count(self):
    x = np.ones((4, _DIM), np.float32)
    params = _params(projector.Projector((10, 9, 8)), x, False)
    assert _num_parameters(params) == (
      _DIM * 10  # Dense.
      + 2 * 10  # Norm: scale, bias.
      + 10 * 9  # Dense.
      + 2 * 9  # Norm.
      + 9 * 8  # Dense, to the loss.
    )

  @pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
  def test_normalises_by_the_batch_in_training(self, dtype):
    module = projector.Projector((10, 9), dtype=dtype)
    x = np.random.default_rng(0).normal(3, 2, (6, _DIM)).astype(np.float32)
    variables = jax.jit(lambda: module.init(jax.random.key(0), x, False))()
    z, updates = jax.jit(
      lambda: module.apply(variables, x, True, mutable=['batch_stats'])
    )()
    assert z.shape == (6, 9)
    assert z.dtype == jnp.float32
    params = jax.tree.map(np.float64, variables['params'])
    hidden = x @ params['dense_0']['kernel']
    # The first width is the running statistics' as well: 0.9 of (0, 1) kept.
    statistics = updates['batch_stats']['norm_0']
    rounding = 1e-5 if dtype == jnp.float32 else 0.05
    np.testing.assert_allclose(
      statistics['mean'], 0.1 * hidden.mean(0), rtol=rounding, atol=rounding
    )
    np.testing.assert_allclose(
      statistics['var'], 0.9 + 0.1 * hidden.var(0), rtol=rounding
    )
    assert statistics['mean'].dtype == jnp.float32
    normal = (hidden - hidden.mean(0)) / np.sqrt(hidden.var(0) + 1e-5)
    expected = np.maximum(normal, 0) @ params['dense_1']['kernel']
    np.testing.assert_allclose(z, expected, rtol=1e-3, atol=rounding)


class TestHead:
  def test_starts_at_zero(self):
    h = np.ones((2, _DIM), np.float32)
    module = heads.Head(5)
    variables = module.init(jax.random.key(0), h)
    np.testing.assert_array_equal(module.apply(variables, h), np.zeros((2, 5)))
    assert _num_parameters(variables) == _DIM * 5 + 5


class TestMicroBatches:
  @pytest.mark.parametrize(
    'overrides',
    [
      {'pooling': 'class_token'},
      {'causal': True, 'pooling': 'last', **_BLOCKS['relative']},
    ],
    ids=['plain', 'relative'],
  )
  def test_embedding_and_gradient_equal_those_of_the_whole(self, overrides):
    items = np.tile(_USERS, (2, 1))
    module = _transformer(dropout=0.0, **overrides)
    params = _params(module, items, False)
    weight = np.random.default_rng(1).normal(size=(6, _DIM))

    def total(params, number):
      # The states too: another way out of the encoder.
      parts = module.clone(num_micro_batches=number)
      apply = functools.partial(parts.apply, {'params': params}, items, True)
      states = apply(method='states')
      return (weight * apply()).sum() + (states**2)[:, 0].sum()

    gradient = jax.jit(jax.value_and_grad(total), static_argnums=1)
    whole = gradient(params, 1)
    for number in (2, 3):
      jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4),
        gradient(params, number),
        whole,
      )

  @pytest.mark.parametrize('number', [2, 4])
  def test_each_draws_its_own_dropout(self, number):
    items = np.tile(_USERS[:1], (4, 1))
    module = _transformer(num_micro_batches=number)
    h = module.apply(
      {'params': _params(module, items, False)},
      items,
      True,
      rngs={'dropout': jax.random.key(0)},
    )
    assert len(np.unique(np.round(h, 4), axis=0)) == 4

  def test_activations_of_one_alone_exist_at_a_time(self):
    items = np.tile(_USERS, (64, 1))

    def temporary_bytes(number):
      module = _transformer(num_layers=4, num_micro_batches=number)
      params = _params(module, items, False)

      def total(params):
        rngs = {'dropout': jax.random.key(0)}
        return module.apply({'params': params}, items, True, rngs=rngs).sum()

      compiled = jax.jit(jax.grad(total)).lower(params).compile()
      return compiled.memory_analysis().temp_size_in_bytes

    assert temporary_bytes(8) < temporary_bytes(1) / 3
