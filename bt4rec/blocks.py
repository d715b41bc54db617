"""Transformer blocks: norm, MLP and the positions of attention by choice."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from bt4rec import positions
from bt4rec.dropout import Dropout

# Name in the config -> norm before each part of a block and at the end. They
# compute in float32 whatever the dtype of the matrix products. RMSNorm: Zhang
# and Sennrich (2019), arXiv 1910.07467.
NORMS: dict[str, Callable[..., nn.Module]] = {
  'layer_norm': nn.LayerNorm,
  'rms_norm': nn.RMSNorm,
}


@jax.custom_vjp
def _narrowing_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """`x @ kernel`, [rows, wide] and [wide, narrow].

  XLA's CPU library takes twice as long for a gradient of the kernel that is
  [wide, narrow] as for its transpose, so that is computed.
  """
  return x @ kernel


def _save_factors(x, kernel):
  return x @ kernel, (x, kernel)


def _narrowing_gradient(saved, gradient):
  x, kernel = saved
  # Otherwise the compiler moves the transposition into the product again.
  transposed = jax.lax.optimization_barrier(gradient.T @ x)
  return gradient @ kernel.T, transposed.T


_narrowing_product.defvjp(_save_factors, _narrowing_gradient)


def _down(dim: int, dtype: jnp.dtype, use_bias: bool = True) -> nn.Dense:
  return nn.Dense(
    dim,
    use_bias=use_bias,
    dtype=dtype,
    name='down',
    dot_general=lambda x, kernel, *_, **__: _narrowing_product(x, kernel),
  )


def _plain_mlp(x: jax.Array, width: int, dtype: jnp.dtype) -> jax.Array:
  hidden = nn.gelu(nn.Dense(width, dtype=dtype, name='up')(x))
  return _down(x.shape[-1], dtype)(hidden)


def gated_width(width: int) -> int:
  """Two thirds of the plain MLP's width, rounded, at least 1.

  Three matrices have so as many entries as the plain MLP's two.
  """
  return max(1, round(2 * width / 3))


def _gated_mlp(
  activation: Callable, x: jax.Array, width: int, dtype: jnp.dtype
) -> jax.Array:
  """`(activation(x W) * x V) W2` of Shazeer (2020), arXiv 2002.05202."""
  dense = functools.partial(nn.Dense, use_bias=False, dtype=dtype)
  gate = activation(dense(gated_width(width), name='gate')(x))
  hidden = gate * dense(gated_width(width), name='up')(x)
  return _down(x.shape[-1], dtype, use_bias=False)(hidden)


# Name in the config -> input [rows, dim], width of the plain one, dtype ->
# output [rows, dim]; to be called inside of a block.
MLPS: dict[str, Callable[[jax.Array, int, jnp.dtype], jax.Array]] = {
  'gelu': _plain_mlp,
  'swiglu': functools.partial(_gated_mlp, nn.silu),
  'geglu': functools.partial(_gated_mlp, nn.gelu),
}

# Where the encoder knows the place of a token from: an embedding added to the
# item's, or the attention of each block.
POSITIONS = ('learned', 'rotary', 'relative')


# Who computes the attention: XLA, which writes the weights of all pairs to
# memory, or cuDNN, on an NVIDIA GPU, in one go without them: FlashAttention,
# Dao et al. (2022), arXiv 2205.14135.
ATTENTIONS = ('xla', 'cudnn')


def _fused_attention(
  query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array
) -> jax.Array:
  """As `jax.nn.dot_product_attention`, by cuDNN; not run on a GPU yet."""
  length = query.shape[1]
  # cuDNN repeats no row of a mask; that of padding alone has one for all.
  mask = jnp.broadcast_to(mask, (len(query), 1, length, length))
  if length % 2:
    # With a mask its gradient takes even lengths alone. Nobody attends to what
    # is added.
    query, key, value = (
      jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (query, key, value)
    )
    mask = jnp.pad(mask, ((0, 0), (0, 0), (0, 1), (0, 1)))
  return jax.nn.dot_product_attention(
    query, key, value, mask=mask, implementation='cudnn'
  )[:, :length]


class Attention(nn.Module):
  """Multi-head self-attention.

  Attributes:
    num_heads: Number of heads, a divisor of the width.
    dtype: Type of the matrix products.
    positions: One of `POSITIONS`; 'learned' leaves them to the encoder.
    causal: Whether the mask is causal.
    implementation: One of `ATTENTIONS`; where there is no GPU, it is XLA.
  """

  num_heads: int
  dtype: jnp.dtype
  positions: str = 'learned'
  causal: bool = False
  implementation: str = 'xla'

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
    """`x` [batch, length, dim], `mask` broadcast to [batch, 1, query, key]."""
    *shape, dim = x.shape
    # The products here and in the MLP are of matrices: of a three-dimensional
    # input, XLA transposes what the gradient of the weights is made of first.
    qkv = nn.DenseGeneral(
      (3, self.num_heads, dim // self.num_heads), dtype=self.dtype, name='qkv'
    )(x.reshape(-1, dim))
    qkv = qkv.reshape(*shape, *qkv.shape[1:])
    # [batch, length, 3, num_heads, head_dim]
    query, key, value = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
    bias = None
    if self.positions == 'rotary':
      query, key = positions.rotate(query), positions.rotate(key)
    elif self.positions == 'relative':
      bias = positions.RelativeBias(
        self.num_heads, self.causal, name='relative'
      )(x.shape[1])
    # The softmax inside is computed in float32.
    if self.implementation == 'cudnn' and jax.default_backend() == 'gpu':
      mixed = _fused_attention(query, key, value, mask)
    else:
      mixed = jax.nn.dot_product_attention(
        query, key, value, bias=bias, mask=mask, implementation='xla'
      )
    return nn.DenseGeneral(dim, axis=(-2, -1), dtype=self.dtype, name='out')(
      mixed.reshape(-1, *mixed.shape[2:])
    ).reshape(*shape, dim)


class Block(nn.Module):
  """Pre-norm transformer block, Xiong et al. (2020), arXiv 2002.04745.

  Attributes:
    num_heads: Number of attention heads.
    mlp_ratio: Width of the plain MLP, in multiples of the block's.
    dropout: Dropout rate of attention and MLP.
    dtype: Type of the matrix products.
    norm: One of `NORMS`.
    mlp: One of `MLPS`.
    positions: One of `POSITIONS`.
    causal: Whether the mask is causal.
    attention: One of `ATTENTIONS`.
  """

  num_heads: int
  mlp_ratio: int
  dropout: float
  dtype: jnp.dtype
  norm: str = 'layer_norm'
  mlp: str = 'gelu'
  positions: str = 'learned'
  causal: bool = False
  attention: str = 'xla'

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array, train: bool) -> jax.Array:
    """[batch, length, dim] -> [batch, length, dim]."""
    drop = Dropout(self.dropout)
    norm = NORMS[self.norm]
    attend = Attention(
      self.num_heads,
      self.dtype,
      self.positions,
      self.causal,
      self.attention,
      name='attention',
    )
    x = x + drop(attend(norm(name='attention_norm')(x), mask), train)
    width = x.shape[-1] * self.mlp_ratio
    y = norm(name='mlp_norm')(x).reshape(-1, x.shape[-1])
    y = MLPS[self.mlp](y, width, self.dtype)
    return x + drop(y.reshape(x.shape), train)
