"""A serving artifact: the encoder as a StableHLO program that needs only JAX.

A directory with

* `encoder.stablehlo`: [batch, max_length] int32 tokens -> [batch, dim] float32,
  any batch size, the parameters inside (`jax.export.deserialize`); where the
  encoder has features of events, after the tokens as many [batch, max_length]
  uint8 codes;
* `item_ids.npy`: the original ids in the order of their tokens;
* `manifest.json`: how ids become tokens, sizes, checksums, provenance.
"""

import hashlib
import json
import os
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from bt4rec import workdir
from bt4rec.encode import Encoder
from bt4rec.encoders import TransformerEncoder
from bt4rec.errors import InputError
from bt4rec.features import EVENT_FEATURES, of_events

_PROGRAM = 'encoder.stablehlo'
_ITEM_IDS = 'item_ids.npy'
# The serialised form has 32-bit offsets; some room for the program itself.
_MOST_BYTES = (1 << 31) - (1 << 24)
PLATFORMS = ('cpu', 'cuda', 'rocm', 'tpu')


def save(
  encoder: Encoder,
  directory: str,
  platforms: Sequence[str],
  provenance: dict,
) -> None:
  """Writes the artifact.

  The manifest is written last: a directory that has it is whole.

  Args:
    encoder: The encoder.
    directory: The output directory.
    platforms: Where it shall run, of `PLATFORMS`.
    provenance: JSON object for the manifest.

  Raises:
    InputError: If a platform is unknown, the directory cannot be written or
      the encoder is too large.
  """
  unknown = set(platforms) - set(PLATFORMS)
  if unknown or not platforms:
    raise InputError(
      f'--platforms={",".join(platforms)} must name some of: '
      f'{", ".join(PLATFORMS)}.'
    )
  num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(encoder.params))
  if num_bytes > _MOST_BYTES:
    raise InputError(
      f'the encoder has {num_bytes:,} bytes, more than the {_MOST_BYTES:,} '
      f'that one StableHLO program can hold; choose a smaller encoder.dim or '
      f'k_core, or serve with bt4rec.load_encoder.'
    )
  manifest = os.path.join(directory, 'manifest.json')
  try:
    os.makedirs(directory, exist_ok=True)
    if os.path.exists(manifest):
      os.remove(manifest)
    program = _program(encoder, platforms)
    with open(os.path.join(directory, _PROGRAM), 'wb') as f:
      f.write(program)
    np.save(os.path.join(directory, _ITEM_IDS), encoder.item_ids)
  except OSError as error:
    raise InputError(
      f'cannot write the serving artifact to {directory} ({error.strerror}); '
      f'choose another directory.'
    ) from error
  content = {
    'format': 1,
    'input': {'shape': ['batch', encoder.max_length], 'dtype': 'int32'},
    'codes': [
      {'feature': name, 'dtype': 'uint8', 'rule': EVENT_FEATURES[name].rule}
      for name in of_events(encoder.features)
    ],
    'output': {'shape': ['batch', encoder.dim], 'dtype': 'float32'},
    'tokens': {
      'padding': 0,
      'first_item': 1,
      'mask': len(encoder.item_ids) + 1,
      'rule': (
        'The item in row i of item_ids.npy has the token i + 1; any other '
        'item has the mask token. A row of the input holds the newest '
        'max_length items of a user, the oldest of them first, then padding.'
      ),
    },
    'max_length': encoder.max_length,
    'num_items': len(encoder.item_ids),
    'platforms': list(platforms),
    'sha256': {
      name: _sha256(os.path.join(directory, name))
      for name in (_PROGRAM, _ITEM_IDS)
    },
    'provenance': provenance,
  }
  workdir.write_atomically(manifest, json.dumps(content, indent=2) + '\n')


def _program(encoder: Encoder, platforms: Sequence[str]) -> bytearray:
  names = of_events(encoder.features)
  module = encoder.module
  if isinstance(module, TransformerEncoder):
    # The one that every platform has.
    module = module.clone(attention='xla')

  def embed(tokens, *codes):
    return module.apply(
      {'params': encoder.params},
      tokens,
      train=False,
      codes=dict(zip(names, codes, strict=True)),
    )

  (batch,) = export.symbolic_shape('batch')
  shape = (batch, encoder.max_length)
  inputs = [
    jax.ShapeDtypeStruct(shape, dtype)
    for dtype in (jnp.int32, *(jnp.uint8 for _ in names))
  ]
  exported = export.export(jax.jit(embed), platforms=tuple(platforms))(*inputs)
  return exported.serialize()


def _sha256(path: str) -> str:
  with open(path, 'rb') as f:
    return hashlib.file_digest(f, 'sha256').hexdigest()
