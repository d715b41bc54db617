"""Flax modules: sequence encoders."""

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from bt4rec import blocks, features, mesh, packing, ranking
from bt4rec.datasets import Catalogue
from bt4rec.dropout import Dropout
from bt4rec.errors import InputError, choose
from bt4rec.features import ItemCategories, SideFeatures

_DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}
# Field of the config group `encoder` -> the valid names.
_CHOICES = {
  'pooling': ('mean', 'last', 'class_token'),
  'norm': tuple(blocks.NORMS),
  'mlp': tuple(blocks.MLPS),
  'positions': blocks.POSITIONS,
  'attention': blocks.ATTENTIONS,
}
# Of a head, from NVIDIA's Hopper on; before it half of that.
_MOST_CUDNN_FEATURES = 256
_EMBEDDING_INIT = nn.initializers.normal(stddev=0.02)
# Event feature -> its codes, aligned with the items; none need be there.
Codes = Mapping[str, jax.Array]


class ItemTable(nn.Module):
  """The embeddings of the vocabulary: padding, items, mask token.

  Attributes:
    vocabulary_size: Number of tokens.
    dim: Width of the embeddings.
    sharding: How the rows are split over devices; None is not.
  """

  vocabulary_size: int
  dim: int
  sharding: mesh.RowSharding | None = None

  def setup(self):
    num_rows = self.vocabulary_size
    if self.sharding:
      num_rows = self.sharding.padded_rows
    self.embedding = self.param(
      'embedding', _EMBEDDING_INIT, (num_rows, self.dim)
    )

  def __call__(self, items: jax.Array) -> jax.Array:
    """[batch, ...] int32 -> [batch, ..., dim]."""
    return mesh.take(self.sharding, self.embedding, items)

  def candidates(
    self, bias: jax.Array | None = None, of_unit_length: bool = False
  ) -> ranking.Candidates:
    """All items, to be ranked; `bias` is [num_items] float, or zeros."""
    if bias is None:
      bias = jnp.zeros(self.vocabulary_size - 2)
    return ranking.Candidates(self.embedding, bias, 1, of_unit_length)


class TransformerEncoder(nn.Module):
  """Pre-norm transformer over a user's items, pooled to one vector.

  Learned positions are counted back from the newest item, so they mean recency
  and do not depend on the amount of padding. The other kinds are distances of
  two items, see `positions`.

  Attributes:
    vocabulary_size: Rows of the item table: padding 0, items, mask token.
    max_length: Longest sequence.
    dim: Width of the embeddings and of the output.
    num_layers: Number of blocks.
    num_heads: Number of attention heads, a divisor of `dim`.
    mlp_ratio: Width of a block's plain MLP, in multiples of `dim`.
    dropout: Dropout rate after the embedding and inside each block.
    causal: Whether an item attends only to earlier ones.
    pooling: 'mean' over the real items, 'last' item, or 'class_token'.
    dtype: Type of the matrix products; everything else is float32.
    norm: One of `blocks.NORMS`.
    mlp: One of `blocks.MLPS`.
    positions: One of `blocks.POSITIONS`.
    attention: One of `blocks.ATTENTIONS`.
    features: Side features, whose embeddings are added to the items'.
    categories: Those of the items, if they are a feature.
    table_sharding: How the item table is split over devices; None is not.
    num_micro_batches: Parts that the rows of a training batch go through the
      blocks in, one after the other; a divisor of their number. The result is
      the same, but for the masks of dropout.
  """

  vocabulary_size: int
  max_length: int
  dim: int
  num_layers: int
  num_heads: int
  mlp_ratio: int = 4
  dropout: float = 0.1
  causal: bool = False
  pooling: str = 'mean'
  dtype: jnp.dtype = jnp.float32
  # What configs of before these choices have.
  norm: str = 'layer_norm'
  mlp: str = 'gelu'
  positions: str = 'learned'
  attention: str = 'xla'
  features: Sequence[str] = ()
  categories: ItemCategories | None = None
  table_sharding: mesh.RowSharding | None = None
  num_micro_batches: int = 1

  def setup(self):
    self.item_table = ItemTable(
      self.vocabulary_size, self.dim, self.table_sharding
    )
    self.side_features = _side_features(self)
    if self.positions == 'learned':
      self.position_embedding = self.param(
        'position_embedding', _EMBEDDING_INIT, (self.max_length, self.dim)
      )
    if self.pooling == 'class_token':
      self.class_embedding = self.param(
        'class_embedding', _EMBEDDING_INIT, (self.dim,)
      )
    self.drop = Dropout(self.dropout)
    self.blocks = [
      blocks.Block(
        self.num_heads,
        self.mlp_ratio,
        self.dropout,
        self.dtype,
        self.norm,
        self.mlp,
        self.positions,
        self.causal,
        self.attention,
      )
      for _ in range(self.num_layers)
    ]
    self.final_norm = blocks.NORMS[self.norm]()

  def __call__(
    self,
    items: jax.Array,
    train: bool,
    layout: packing.Layout | None = None,
    codes: Codes | None = None,
  ) -> jax.Array:
    """Embeds users.

    Args:
      items: [batch, length] int32, real tokens first, then 0.
      train: Whether dropout is on; needs the rng 'dropout'.
      layout: How the sequences are packed into rows; None is one a row.
      codes: Event feature -> [batch, length]; one that is missing is unknown.

    Returns:
      [batch, dim] float32.
    """
    x, rows = self._encode(items, train, layout, codes or {})
    length = (items > 0).sum(-1)
    if self.pooling == 'class_token':
      return rows.at(x, length)
    if self.pooling == 'last':
      return rows.at(x, jnp.maximum(length - 1, 0))
    return rows.mean(x)

  def states(
    self,
    items: jax.Array,
    train: bool,
    layout: packing.Layout | None = None,
    codes: Codes | None = None,
  ) -> jax.Array:
    """Embeds each item in its sequence.

    Args:
      items: [batch, length] int32, real tokens first, then 0.
      train: Whether dropout is on; needs the rng 'dropout'.
      layout: How the sequences are packed into rows; None is one a row.
      codes: Event feature -> [batch, length]; one that is missing is unknown.

    Returns:
      [batch, length, dim] float32; after a sequence's end without meaning.
    """
    x, rows = self._encode(items, train, layout, codes or {})
    return rows.restore(x)[:, : items.shape[1]]

  def prefixes(
    self,
    items: jax.Array,
    ends: jax.Array,
    train: bool,
    layout: packing.Layout | None = None,
    codes: Codes | None = None,
  ) -> jax.Array:
    """Embeds first parts of each sequence in one pass over it.

    Of a causal encoder only, and not of its class token. Each is embedded as
    by itself, except that learned positions are counted back from the end of
    the whole sequence, and that the masks of dropout are shared.

    Args:
      items: [batch, length] int32, real tokens first, then 0.
      ends: [batch, count] int32, lengths of the first parts, 1 and more.
      train: As of `states`, and so are the others.
      layout: Likewise.
      codes: Likewise.

    Returns:
      [batch, count, dim] float32.
    """
    x = self.states(items, train, layout, codes)
    if self.pooling == 'mean':
      x = jnp.cumsum(x, axis=1) / (1 + jnp.arange(x.shape[1]))[None, :, None]
    return jnp.take_along_axis(x, ends[..., None] - 1, axis=1)

  def _encode(self, items, train, layout, codes):
    """The outputs [num_rows, row_length, dim] and how rows are made up."""
    length = (items > 0).sum(-1, keepdims=True)  # [batch, 1]
    if self.pooling == 'class_token':
      # After the items, so that a causal encoder's token sees them all.
      items = jnp.pad(items, ((0, 0), (0, 1)))
      position = jnp.arange(items.shape[1])[None]
      items = jnp.where(position == length, self.vocabulary_size, items)
    position = jnp.arange(items.shape[1])[None]
    rows = packing.arrangement(items > 0, layout)
    room = items.shape[1]
    items = rows.arrange(items)  # [num_rows, row_length]
    x = self.item_table(items)
    if self.features:
      codes = {
        name: rows.arrange(jnp.pad(code, ((0, 0), (0, room - code.shape[1]))))
        for name, code in codes.items()
      }
      x = x + self.side_features(items, codes)
    if self.positions == 'learned':
      age = jnp.clip(length - 1 - position, 0, self.max_length - 1)
      x = x + self.position_embedding[rows.arrange(age)]
    if self.pooling == 'class_token':
      is_class = (items == self.vocabulary_size)[..., None]
      x = jnp.where(is_class, self.class_embedding[None, None], x)
    arrays = x, *rows.segments()
    if not train or self.num_micro_batches == 1:
      return self._transform(arrays, train), rows

    def micro_batch(encoder, carry, arrays):
      return carry, encoder._transform(arrays, train)

    # Backwards, each is computed once more: the activations of one alone exist
    # at a time. The scan's CSE cannot undo that.
    _, x = nn.scan(
      nn.remat(micro_batch, prevent_cse=False),
      variable_broadcast='params',
      split_rngs={'params': False, 'dropout': True},
    )(self, (), jax.tree.map(self._cut, arrays))
    return x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), rows

  def _cut(self, x):
    """[num_rows, ...] -> [num_micro_batches, rows of one, ...].

    Neighbours come into different ones, so that of rows that are split over
    devices each has some of every device.
    """
    return x.reshape(-1, self.num_micro_batches, *x.shape[1:]).swapaxes(0, 1)

  def _transform(self, arrays, train):
    """Inputs of the blocks with the segments of their rows -> outputs."""
    x, query, key = arrays
    x = self.drop(x, train)
    mask = (query[:, :, None] == key[:, None, :])[:, None]
    if self.causal:
      mask = mask & jnp.tril(jnp.ones(2 * x.shape[1:2], bool))[None, None]
    for block in self.blocks:
      x = block(x, mask, train)
    return self.final_norm(x).astype(jnp.float32)


class BagOfItems(nn.Module):
  """Mean of the items' embeddings: the published dual encoder's tower.

  Attributes:
    vocabulary_size: Rows of the item table.
    max_length: Longest sequence.
    dim: Width of the embeddings and of the output.
    features: Side features, whose embeddings are added to the items'.
    categories: Those of the items, if they are a feature.
    table_sharding: How the item table is split over devices; None is not.
  """

  vocabulary_size: int
  max_length: int
  dim: int
  features: Sequence[str] = ()
  categories: ItemCategories | None = None
  table_sharding: mesh.RowSharding | None = None

  def setup(self):
    self.item_table = ItemTable(
      self.vocabulary_size, self.dim, self.table_sharding
    )
    self.side_features = _side_features(self)

  def __call__(
    self,
    items: jax.Array,
    train: bool,
    layout: packing.Layout | None = None,
    codes: Codes | None = None,
  ) -> jax.Array:
    """[batch, length] int32 -> [batch, dim] float32."""
    del train, layout  # A sum has nothing to gain from packed rows.
    weight = (items > 0)[..., None].astype(jnp.float32)
    x = self.item_table(items)
    if self.features:
      x = x + self.side_features(items, codes or {})
    return (x * weight).sum(1) / jnp.maximum(weight.sum(1), 1.0)


def _side_features(encoder: TransformerEncoder | BagOfItems) -> SideFeatures:
  return SideFeatures(
    encoder.features,
    encoder.dim,
    encoder.vocabulary_size - 1,
    encoder.categories,
  )


_ENCODERS = {'transformer': TransformerEncoder, 'bag_of_items': BagOfItems}


def make_encoder(
  name: str,
  *,
  vocabulary_size: int,
  max_length: int,
  dtype,
  features: Sequence[str] = (),
  categories: ItemCategories | None = None,
  **sizes,
) -> nn.Module:
  """Returns the encoder of that name.

  Args:
    name: 'transformer' or 'bag_of_items'.
    vocabulary_size: Rows of the item table.
    max_length: Longest sequence.
    dtype: Type of the matrix products.
    features: Side features.
    categories: Those of the items, if they are a feature.
    **sizes: The other attributes; the bag of items takes `dim` alone.

  Raises:
    InputError: If a name, the number of heads or the dropout is not valid.
  """
  encoder = choose('encoder', name, _ENCODERS)
  if encoder is BagOfItems:
    return BagOfItems(
      vocabulary_size, max_length, sizes['dim'], features, categories
    )
  for key, valid in _CHOICES.items():
    if key in sizes:
      choose(f'encoder.{key}', sizes[key], dict.fromkeys(valid))
  head_dim, rest = divmod(sizes['dim'], sizes['num_heads'])
  if rest:
    raise InputError(
      f'encoder.dim={sizes["dim"]} is not divisible by '
      f'encoder.num_heads={sizes["num_heads"]}; choose a multiple.'
    )
  if sizes.get('positions') == 'rotary' and head_dim % 2:
    raise InputError(
      f'encoder.positions=rotary turns pairs of features, but '
      f'encoder.dim={sizes["dim"]} with encoder.num_heads='
      f'{sizes["num_heads"]} gives a head {head_dim} of them, an odd number; '
      f'choose another number of heads.'
    )
  rate = sizes.get('dropout', 0)
  # As `Dropout` rounds it.
  if not 0 <= rate < 1 - 2**-16:
    raise InputError(
      f'encoder.dropout={rate} is no rate; give a number from 0 on, below 1.'
    )
  if sizes.get('attention') == 'cudnn':
    _check_cudnn(head_dim, dtype, sizes.get('positions'))
  return TransformerEncoder(
    vocabulary_size,
    max_length,
    dtype=dtype,
    features=features,
    categories=categories,
    **sizes,
  )


def _check_cudnn(head_dim: int, dtype, positions: str | None) -> None:
  """Refuses what cuDNN cannot compute, or not without the weights."""
  reason = ''
  if dtype != jnp.bfloat16:
    reason = 'computes in bfloat16; use compute_dtype=bfloat16'
  elif positions == 'relative':
    reason = (
      'fuses no bias that is trained; use encoder.positions=learned or rotary'
    )
  elif head_dim % 8 or head_dim > _MOST_CUDNN_FEATURES:
    reason = (
      f'takes heads of 8, 16, 24 and so on to {_MOST_CUDNN_FEATURES} features, '
      f'not of {head_dim}; choose another encoder.num_heads'
    )
  if reason:
    raise InputError(
      f'encoder.attention=cudnn {reason}, or encoder.attention=xla.'
    )


def from_config(config: ConfigDict, catalogue: Catalogue) -> nn.Module:
  """Returns the encoder a config describes.

  Args:
    config: A whole config.
    catalogue: The items.

  Raises:
    InputError: If a setting is not valid.
  """
  settings = config.encoder.to_dict()
  names = features.check(settings.pop('features'))
  needs_categories = 'category' in names
  return make_encoder(
    vocabulary_size=catalogue.vocabulary_size,
    max_length=config.max_length,
    dtype=compute_dtype(config),
    features=names,
    categories=ItemCategories(catalogue) if needs_categories else None,
    **settings,
  )


def check_device(config: ConfigDict) -> None:
  """Refuses what would be ignored without a GPU.

  A trained encoder may be loaded without one all the same.

  Args:
    config: A whole config.

  Raises:
    InputError: If the attention needs a GPU and there is none.
  """
  platform = jax.default_backend()
  if config.encoder.attention == 'cudnn' and platform != 'gpu':
    raise InputError(
      f'encoder.attention=cudnn needs an NVIDIA GPU, and JAX sees a {platform} '
      f'here; use encoder.attention=xla, or BT4REC_ACCELERATOR=cuda.'
    )


def compute_dtype(config: ConfigDict):
  """Returns the dtype of the matrix products."""
  return choose('compute_dtype', config.compute_dtype, _DTYPES)
