"""The parts of a transformer block, against NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bt4rec import blocks

_DIM = 6


def _sigmoid(x):
  return 1 / (1 + np.exp(-x))


def _gelu(x):
  # The approximation by tanh, as in BERT's and T5's code.
  return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def _rms_norm(x, scale):
  return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale


def _layer_norm(x, scale, bias):
  centred = x - x.mean(-1, keepdims=True)
  variance = (centred**2).mean(-1, keepdims=True)
  return centred / np.sqrt(variance + 1e-6) * scale + bias


def _random(module, *args):
  """Random parameters, float64 for NumPy and as the module takes them."""
  shapes = jax.eval_shape(
    lambda: module.init(jax.random.key(0), *args)['params']
  )
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), shapes)
  return params, jax.tree.map(jnp.float32, params)


_X = np.random.default_rng(1).normal(2.0, 1.0, size=(2, 4, _DIM))


@pytest.mark.parametrize('name', blocks.NORMS)
def test_norms(name):
  module = blocks.NORMS[name]()
  params, own = _random(module, _X)
  norm = {'rms_norm': _rms_norm, 'layer_norm': _layer_norm}[name]
  expected = norm(_X, **params)
  x = jnp.float32(_X)
  np.testing.assert_allclose(
    module.apply({'params': own}, x), expected, rtol=1e-4, atol=1e-5
  )
  rounded = module.apply({'params': own}, x.astype(jnp.bfloat16))
  assert rounded.dtype == jnp.float32


def _mlp(name, y, params):
  """The MLP of a block in NumPy."""
  if name == 'gelu':
    up, down = params['up'], params['down']
    hidden = _gelu(y @ up['kernel'] + up['bias'])
    return hidden @ down['kernel'] + down['bias']
  gate, up, down = (params[key]['kernel'] for key in ('gate', 'up', 'down'))
  z = y @ gate
  activated = {'swiglu': z * _sigmoid(z), 'geglu': _gelu(z)}[name]
  return (activated * (y @ up)) @ down


@pytest.mark.parametrize('norm', blocks.NORMS)
@pytest.mark.parametrize('mlp', blocks.MLPS)
def test_mlp_of_a_block(norm, mlp):
  module = blocks.Block(2, 3, 0.0, jnp.float32, norm=norm, mlp=mlp)
  mask = jnp.ones((1, 1, 4, 4), bool)
  params, own = _random(module, jnp.float32(_X), mask, False)
  # With an attention that gives nothing, the MLP alone is added.
  own['attention']['out'] = jax.tree.map(
    jnp.zeros_like, own['attention']['out']
  )
  given = module.apply({'params': own}, jnp.float32(_X), mask, False)
  kinds = {'rms_norm': _rms_norm, 'layer_norm': _layer_norm}
  y = kinds[norm](_X, **params['mlp_norm'])
  expected = _X + _mlp(mlp, y, params)
  np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize('mlp', blocks.MLPS)
def test_gradient_of_the_narrowing_product_of_an_mlp(mlp):
  module = blocks.Block(2, 3, 0.0, jnp.float32, mlp=mlp)
  mask = jnp.ones((1, 1, 4, 4), bool)
  params, own = _random(module, jnp.float32(_X), mask, False)
  own['attention']['out'] = jax.tree.map(
    jnp.zeros_like, own['attention']['out']
  )
  weight = np.random.default_rng(1).normal(size=_X.shape)

  def total(own, x):
    y = module.apply({'params': own}, x, mask, False)
    return (y * jnp.float32(weight)).sum()

  of_params, of_x = jax.grad(total, (0, 1))(own, jnp.float32(_X))
  # Of sum(weight * (hidden @ kernel)) it is the sum of hidden' weight.
  y = _layer_norm(_X, **params['mlp_norm'])
  expected = np.empty(params['down']['kernel'].shape)
  for unit in range(len(expected)):
    alone = {**params, 'down': {'kernel': np.eye(len(expected))[:, [unit]]}}
    alone['down']['bias'] = 0.0
    expected[unit] = (_mlp(mlp, y, alone) * weight).sum((0, 1))
  given = of_params['down']['kernel']
  np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-3)
  # And of the input, along one direction, by a central difference.
  direction = np.random.default_rng(2).normal(size=_X.shape)
  ends = []
  for sign in (1, -1):
    x = _X + sign * 1e-5 * direction
    ends.append(_mlp(mlp, _layer_norm(x, **params['mlp_norm']), params) + x)
  expected = ((ends[0] - ends[1]) * weight).sum() / 2e-5
  given = (np.asarray(of_x, np.float64) * direction).sum()
  np.testing.assert_allclose(given, expected, rtol=2e-3)


@pytest.mark.parametrize('kind', blocks.POSITIONS)
def test_a_block_adds_its_attention_and_then_its_mlp(kind):
  module = blocks.Block(
    3, 2, 0.0, jnp.float32, 'rms_norm', positions=kind, causal=True
  )
  # So long that causal distances have other buckets.
  x = np.random.default_rng(2).normal(size=(2, 12, _DIM))
  mask = jnp.tril(jnp.ones((12, 12), bool))[None, None]
  params, own = _random(module, jnp.float32(x), mask, False)
  given = module.apply({'params': own}, jnp.float32(x), mask, False)
  attention = blocks.Attention(3, jnp.float32, kind, causal=True)
  normed = jnp.float32(_rms_norm(x, **params['attention_norm']))
  x = x + np.asarray(
    attention.apply({'params': own['attention']}, normed, mask)
  )
  expected = x + _mlp('gelu', _rms_norm(x, **params['mlp_norm']), params)
  np.testing.assert_allclose(given, expected, rtol=1e-3, atol=1e-2)


# The part -> what silences the other.
@pytest.mark.parametrize(
  'other', [('down',), ('attention', 'out')], ids=['attention', 'mlp']
)
def test_each_part_of_a_block_is_dropped_in_training_alone(other):
  module = blocks.Block(2, 3, 0.25, jnp.float32)
  mask, x = jnp.ones((1, 1, 4, 4), bool), jnp.float32(_X)
  _, own = _random(module, x, mask, False)
  *path, last = other
  group = functools.reduce(lambda tree, name: tree[name], path, own)
  group[last] = jax.tree.map(jnp.zeros_like, group[last])
  added = module.apply({'params': own}, x, mask, False) - x
  trained = module.apply(
    {'params': own}, x, mask, True, rngs={'dropout': jax.random.key(3)}
  )
  is_kept = np.abs(trained - x) > 1e-6
  assert 0.5 < is_kept.mean() < 0.95
  np.testing.assert_allclose(
    trained - x, np.where(is_kept, added / 0.75, 0), rtol=1e-3, atol=1e-4
  )


@pytest.mark.parametrize('mlp', ['swiglu', 'geglu'])
def test_a_gated_mlp_has_as_many_weights(mlp):
  def num_weights(mlp):
    module = blocks.Block(2, 4, 0.0, jnp.float32, mlp=mlp)
    shapes = jax.eval_shape(
      lambda: module.init(
        jax.random.key(0),
        jnp.ones((1, 1, 66)),
        jnp.ones((1, 1, 1, 1), bool),
        False,
      )['params']
    )
    return sum(
      shapes[name]['kernel'].size
      for name in ('gate', 'up', 'down')
      if name in shapes
    )

  # 66 * 4 = 264, of which two thirds are 176: 3 * 66 * 176 = 2 * 66 * 264.
  assert num_weights(mlp) == num_weights('gelu') == 34_848


@pytest.mark.parametrize('kind', ['learned', 'rotary', 'relative'])
def test_attention(kind):
  module = blocks.Attention(3, jnp.float32, kind, causal=True)
  mask = jnp.tril(jnp.ones((4, 4), bool))[None, None]
  params, own = _random(module, jnp.float32(_X), mask)
  given = module.apply({'params': own}, jnp.float32(_X), mask)
  qkv = np.einsum('bld,dnhk->blnhk', _X, params['qkv']['kernel'])
  query, key, value = np.moveaxis(qkv + params['qkv']['bias'], 2, 0)
  expected = np.broadcast_to(params['out']['bias'], _X.shape).copy()
  for row, head, at in np.ndindex(2, 3, 4):
    scores = np.empty(at + 1)
    for other in range(at + 1):
      q, k = query[row, at, head], key[row, other, head]
      if kind == 'rotary':
        # One pair of features, which turns by a radian a place.
        q, k = (
          complex(*x) * np.exp(1j * place) for x, place in ((q, at), (k, other))
        )
        scores[other] = (q * k.conjugate()).real / np.sqrt(2)
      else:
        scores[other] = q @ k / np.sqrt(2)
      if kind == 'relative':
        # Below 16 the bucket is the distance.
        scores[other] += params['relative']['bias_embedding'][at - other, head]
    weight = np.exp(scores - scores.max())
    mixed = weight / weight.sum() @ value[row, : at + 1, head]
    expected[row, at] += mixed @ params['out']['kernel'][head]
  np.testing.assert_allclose(given, expected, rtol=1e-3, atol=1e-3)


@pytest.fixture
def fused(monkeypatch):
  """The lengths that cuDNN is asked for, played by XLA on what it takes."""
  lengths, attend = [], jax.nn.dot_product_attention

  def play(query, key, value, *, mask, bias=None, implementation):
    if implementation == 'cudnn':
      lengths.append(query.shape[1])
      assert query.dtype == key.dtype == value.dtype == jnp.bfloat16
      assert query.shape[1] % 2 == 0
      assert mask.shape == (len(query), 1, *2 * query.shape[1:2])
      assert bias is None
      # Left out by a large negative number, which is finite.
      bias, mask = jnp.where(mask, 0, -1e9).astype(query.dtype), None
    return attend(query, key, value, bias, mask, implementation='xla')

  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  monkeypatch.setattr(jax.nn, 'dot_product_attention', play)
  return lengths


@pytest.mark.parametrize('causal', [False, True])
@pytest.mark.parametrize('kind', ['learned', 'rotary'])
@pytest.mark.parametrize('length', [5, 6])
@pytest.mark.parametrize('is_packed', [False, True])
def test_fused_attention_is_the_other_one(
  is_packed, length, kind, causal, fused
):
  """Two windows packed into a row, or one and padding; and gradients."""
  segment = np.arange(length) < 3
  mask = segment[:, None] == segment if is_packed else segment[None]
  mask = jnp.asarray(mask)[None, None].repeat(2, 0)
  if causal:
    mask = mask & jnp.tril(jnp.ones((length, length), bool))[None, None]
  x = jnp.asarray(np.random.default_rng(1).normal(size=(2, length, 16)))
  plain, other = (
    blocks.Attention(2, jnp.bfloat16, kind, causal, implementation)
    for implementation in blocks.ATTENTIONS
  )
  params = plain.init(jax.random.key(0), x, mask)['params']

  def loss(params, x, module):
    out = module.apply({'params': params}, x, mask)
    return (out.astype(jnp.float32) ** 2).sum(), out

  def both(module):
    return jax.grad(loss, (0, 1), has_aux=True)(params, x, module)

  expected, given = both(plain), both(other)
  assert fused and set(fused) == {6}
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      np.asarray(a, np.float32), np.asarray(b, np.float32), rtol=0.05, atol=0.02
    ),
    given,
    expected,
  )


def test_without_a_gpu_attention_is_that_of_xla():
  x, mask = jnp.ones((1, 4, 16)), jnp.ones((1, 1, 4, 4), bool)
  plain, other = (
    blocks.Attention(2, jnp.bfloat16, implementation=implementation)
    for implementation in blocks.ATTENTIONS
  )
  params = plain.init(jax.random.key(0), x, mask)
  np.testing.assert_array_equal(
    plain.apply(params, x, mask), other.apply(params, x, mask)
  )
