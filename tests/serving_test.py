"""Tests of bt4rec.serving: the artifact alone gives the same embeddings."""

import hashlib
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax import export

from bt4rec import encode, serving
from bt4rec.errors import InputError
from tests import tiny

# What a server does that has JAX and NumPy and follows the manifest.
_SERVER = """
import json, pathlib, sys
import numpy as np
from jax import export

folder = pathlib.Path(sys.argv[1])
manifest = json.loads((folder / 'manifest.json').read_text())
item_ids = np.load(folder / 'item_ids.npy')
program = export.deserialize(
  bytearray((folder / 'encoder.stablehlo').read_bytes())
)
sequences = json.loads(sys.argv[2])
tokens = np.zeros((len(sequences), manifest['max_length']), np.int32)
for row, sequence in zip(tokens, sequences):
  newest = np.array(sequence[-manifest['max_length']:])
  index = np.minimum(np.searchsorted(item_ids, newest), len(item_ids) - 1)
  known = item_ids[index] == newest
  row[: len(newest)] = np.where(known, index + 1, manifest['tokens']['mask'])
np.save(sys.argv[3], program.call(tokens))
assert not {'bt4rec', 'flax'} & set(sys.modules), 'the model code was loaded'
"""


def _encoder(**overrides):
  dataset = tiny.dataset()
  config = tiny.config(encoder=overrides)
  return encode.random_encoder(config, dataset.catalogue, 3)


def test_an_encoder_trained_by_cudnn_is_served_without(tmp_path, monkeypatch):
  dataset = tiny.dataset()
  config = tiny.config(
    compute_dtype='bfloat16',
    encoder={'attention': 'cudnn', 'dim': 8, 'num_heads': 1},
  )
  encoder = encode.random_encoder(config, dataset.catalogue, 3)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  # It could not be traced for a CPU otherwise.
  serving.save(encoder, str(tmp_path), ['cpu', 'cuda'], {})
  assert (tmp_path / 'manifest.json').exists()


def test_a_process_without_the_model_code_gives_the_same(tmp_path):
  encoder = _encoder()
  folder, output = tmp_path / 'serving', tmp_path / 'h.npy'
  serving.save(encoder, str(folder), ['cpu', 'cuda', 'tpu'], {'step': 7})
  # Longer than the window, short, with an unknown item.
  sequences = [list(range(1, 21)), [5], [7, 999, 3]]
  done = subprocess.run(
    [sys.executable, '-c', _SERVER, folder, json.dumps(sequences), output],
    # A folder without the package: nothing is found by accident.
    cwd=tmp_path,
    env={'JAX_PLATFORMS': 'cpu', 'PATH': os.environ['PATH']},
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 0, done.stderr
  np.testing.assert_allclose(
    np.load(output), encoder.embed(sequences), rtol=1e-5, atol=1e-6
  )


@pytest.mark.parametrize(
  'overrides',
  [
    {'pooling': 'class_token', 'causal': True},
    {'pooling': 'last'},
    {'name': 'bag_of_items'},
  ],
)
def test_every_encoder_takes_any_batch(overrides, tmp_path):
  encoder = _encoder(**overrides)
  serving.save(encoder, str(tmp_path), ['cpu'], {})
  program = export.deserialize(
    bytearray((tmp_path / 'encoder.stablehlo').read_bytes())
  )
  ids = encoder.item_ids
  for batch in (1, 3):
    sequences = [ids[first : first + 9] for first in range(batch)]
    tokens = np.stack([np.searchsorted(ids, s) + 1 for s in sequences])
    np.testing.assert_allclose(
      program.call(tokens.astype(np.int32)),
      encoder.embed(sequences),
      rtol=1e-5,
      atol=1e-6,
    )


def test_the_manifest_says_what_is_there(tmp_path):
  encoder = _encoder()
  serving.save(encoder, str(tmp_path), ['cpu', 'tpu'], {'step': 7})
  manifest = json.loads((tmp_path / 'manifest.json').read_text())
  assert manifest['max_length'] == 9
  assert manifest['output']['shape'] == ['batch', 12]
  assert manifest['platforms'] == ['cpu', 'tpu']
  assert manifest['provenance'] == {'step': 7}
  assert set(manifest['sha256']) == {'encoder.stablehlo', 'item_ids.npy'}
  for name, expected in manifest['sha256'].items():
    content = (tmp_path / name).read_bytes()
    assert hashlib.sha256(content).hexdigest() == expected


def test_a_directory_half_written_has_no_manifest(tmp_path, monkeypatch):
  encoder = _encoder()
  serving.save(encoder, str(tmp_path), ['cpu'], {})

  def fail(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(np, 'save', fail)
  with pytest.raises(KeyboardInterrupt):
    serving.save(encoder, str(tmp_path), ['cpu'], {})
  assert not (tmp_path / 'manifest.json').exists()


def test_refuses_what_one_program_cannot_hold(tmp_path, monkeypatch):
  monkeypatch.setattr(serving, '_MOST_BYTES', 100)
  with pytest.raises(InputError, match='more than the 100'):
    serving.save(_encoder(), str(tmp_path), ['cpu'], {})
