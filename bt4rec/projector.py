"""The projector between an embedding and a loss of the pre-training."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from bt4rec import ranking


class Projector(nn.Module):
  """MLP with batch normalisation, used in pre-training only.

  The three-layer projector of Zbontar et al. (2021), arXiv 2103.03230,
  section 2.2, when `widths` has three entries.

  Attributes:
    widths: Output width of each layer.
    axis_name: Mapped axis the batch is split over, None under `jit`.
    dtype: Type of the matrix products.
    equal_length: Whether outputs are scaled to one length, as those of TiCo,
      Zhu et al. (2022), arXiv 2206.10698, but to the square root of the width:
      features of the size 1 that standardisation expects.
  """

  widths: Sequence[int]
  axis_name: str | None = None
  dtype: jnp.dtype = jnp.float32
  equal_length: bool = False

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """[batch, dim] -> [batch, widths[-1]] float32."""
    for number, width in enumerate(self.widths):
      if number:
        # Statistics of the global batch, in float32.
        x = nn.BatchNorm(
          use_running_average=not train,
          axis_name=self.axis_name,
          momentum=0.9,
          name=f'norm_{number - 1}',
        )(x.astype(jnp.float32))
        x = nn.relu(x)
      x = nn.Dense(
        width, use_bias=False, dtype=self.dtype, name=f'dense_{number}'
      )(x)
    if self.equal_length:
      return ranking.unit_length(x) * x.shape[-1] ** 0.5
    return x.astype(jnp.float32)


class FourierFeatures(nn.Module):
  """Sines of unit vectors, of learned frequencies.

  Features whose products are a kernel of the distance of two vectors, at first
  a Gaussian one, `exp(-|u - v|^2 / (2 * bandwidth^2))`: the random Fourier
  features of Rahimi and Recht (2007), Random Features for Large-Scale Kernel
  Machines. On unit vectors that is the exponential of their cosine.

  Attributes:
    width: Number of features.
    bandwidth: Of the kernel at first.
  """

  width: int
  bandwidth: float = 0.7

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[batch, dim] -> [batch, width] float32, of mean square 1 or so."""
    # In float32: of an angle of several turns bfloat16 leaves two digits.
    x = nn.Dense(
      self.width,
      precision=lax.Precision.HIGHEST,
      kernel_init=nn.initializers.normal(1 / self.bandwidth),
      bias_init=nn.initializers.uniform(2 * jnp.pi),
      name='frequencies',
    )(ranking.unit_length(x))
    return jnp.cos(x) * 2**0.5
