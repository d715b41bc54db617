"""Use of a trained encoder: sequences in, embeddings out.

Evaluation goes through the same functions as a user does.
"""

import dataclasses
import functools
import os
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from bt4rec import checkpoint, encoders, pipeline, workdir
from bt4rec.datasets import Catalogue
from bt4rec.errors import InputError

_BLOCK = 512


@functools.partial(jax.jit, static_argnames='module')
def _embed_block(module, params, items):
  return module.apply({'params': params}, items, train=False)


@dataclasses.dataclass(frozen=True)
class Encoder:
  """A trained encoder with its vocabulary.

  Attributes:
    module: The Flax module.
    params: Its parameters.
    item_ids: [num_items] original item ids, ascending.
    max_length: Events of a sequence that are used, the newest.
    meta: What was stored with the checkpoint: dataset, scope, fingerprint.
  """

  module: nn.Module
  params: dict
  item_ids: np.ndarray
  max_length: int
  meta: dict

  @property
  def dim(self) -> int:
    """Width of an embedding."""
    return self.module.dim

  @property
  def item_table(self) -> jax.Array:
    """[num_items, dim] float32, the embeddings of the items."""
    return self.params['item_table']['embedding'][1:-1]

  def embed_windows(
    self, events: np.ndarray, start: np.ndarray, length: np.ndarray
  ) -> np.ndarray:
    """Embeds windows of a flat event array.

    Args:
      events: [num_events] int32 tokens; may be a memory map.
      start: [num_windows] int64, first event of each.
      length: [num_windows] int32, events of each, at most `max_length`.

    Returns:
      [num_windows, dim] float32.
    """
    h = np.empty((len(start), self.dim), np.float32)
    for rows, real in pipeline.padded_blocks(len(start), _BLOCK):
      items = pipeline.cut_windows(
        events, start[rows], length[rows], self.max_length
      )
      h[rows[:real]] = _embed_block(self.module, self.params, items)[:real]
    return h

  def embed(self, sequences: Sequence[Sequence]) -> np.ndarray:
    """Embeds sequences of original item ids, oldest first.

    Users need not have been seen in training. An item that is not in the
    catalogue counts as a masked one; how many there were is logged.

    Args:
      sequences: Item ids of each user, at least one.

    Returns:
      [num_sequences, dim] float32.

    Raises:
      InputError: If a sequence is empty.
    """
    for number, sequence in enumerate(sequences):
      if len(sequence) == 0:
        raise InputError(
          f'sequence {number} is empty; leave it out, or give its items.'
        )
    newest = [sequence[-self.max_length :] for sequence in sequences]
    length = np.array([len(sequence) for sequence in newest], np.int32)
    flat = np.concatenate([np.asarray(s) for s in newest])
    tokens, unknown = tokens_of(flat, self.item_ids)
    if unknown:
      logging.warning(
        '%d of %d items are not in the catalogue; they count as masked.',
        unknown,
        len(flat),
      )
    start = np.cumsum(length) - length
    return self.embed_windows(tokens, start, length)


def tokens_of(ids: np.ndarray, item_ids: np.ndarray) -> tuple[np.ndarray, int]:
  """Original item ids -> tokens.

  Args:
    ids: [num_events] original ids.
    item_ids: [num_items] the catalogue's, ascending.

  Returns:
    [num_events] int32 tokens, and how many were not in the catalogue and got
    the mask token.
  """
  ids = ids.astype(item_ids.dtype)
  row = np.minimum(np.searchsorted(item_ids, ids), len(item_ids) - 1)
  known = item_ids[row] == ids
  tokens = np.where(known, row + 1, len(item_ids) + 1).astype(np.int32)
  return tokens, int((~known).sum())


def save_vocabulary(directory: str, catalogue: Catalogue) -> None:
  """Writes the original item ids beside the checkpoints."""
  np.save(os.path.join(directory, 'item_ids.npy'), catalogue.item_ids)


def load_encoder(directory: str) -> Encoder:
  """Loads the encoder of a workdir, its best checkpoint by validation.

  Args:
    directory: A workdir of a pre-training or of a fine-tuning.

  Raises:
    InputError: If the directory holds no encoder.
  """
  config = workdir.read_config(directory)
  path = os.path.join(directory, 'item_ids.npy')
  if not os.path.exists(path):
    raise InputError(
      f'{path} does not exist; name the workdir of a pre-training.'
    )
  item_ids = np.load(path, allow_pickle=False)
  params, meta = checkpoint.restore_params(directory)
  if 'encoder' not in params:
    raise InputError(
      f'{directory} holds a head without an encoder (a probe); name the '
      f'pre-training it was run on.'
    )
  return Encoder(
    encoders.from_config(config, len(item_ids) + 2),
    params['encoder'],
    item_ids,
    config.max_length,
    meta,
  )


def random_encoder(
  config: ConfigDict, catalogue: Catalogue, seed: int
) -> Encoder:
  """Returns an encoder that was never trained."""
  module = encoders.from_config(config, catalogue.vocabulary_size)
  items = jnp.ones((1, config.max_length), jnp.int32)
  variables = jax.jit(functools.partial(module.init, train=False))(
    jax.random.key(seed), items
  )
  return Encoder(
    module, variables['params'], catalogue.item_ids, config.max_length, {}
  )
