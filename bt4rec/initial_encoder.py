"""The encoder that a job starts from: that of `init_from`."""

import numpy as np
from ml_collections import ConfigDict

from bt4rec import encode, features, remote, splits, workdir
from bt4rec.datasets import SequenceDataset
from bt4rec.errors import InputError

# What `encoders.from_config` reads.
_OF_ENCODER = ('encoder', 'max_length', 'compute_dtype')


def with_own_encoder(config: ConfigDict) -> ConfigDict:
  """Returns the config with the encoder that the job trains.

  A fine-tuning goes on with that of its pre-training, and so does a
  pre-training that starts from another one; its workdir must say so, since the
  encoder is loaded from there.

  Args:
    config: A whole config.

  Raises:
    InputError: If the pre-training has no config.
  """
  trains_it = config.task == 'pretrain' or config.protocol == 'finetune'
  # A fine-tuning without a pre-training is refused with its own sentence.
  if not trains_it or not config.init_from:
    return config
  source = workdir.read_config(remote.fetched(config.init_from))
  own = config.copy_and_resolve_references()
  own.update({field: source[field] for field in _OF_ENCODER})
  return own


def step_of(config: ConfigDict) -> int | None:
  """Step of the checkpoint of `init_from`, None for the best."""
  return None if config.init_step < 0 else config.init_step


def load(
  config: ConfigDict,
  dataset: SequenceDataset,
  job: str,
  held_out_from: np.ndarray,
  scope: str = 'shared',
) -> encode.Encoder:
  """Loads the encoder of `init_from`.

  Args:
    config: A whole config.
    dataset: The data of the job.
    job: What it is called in an error.
    held_out_from: [num_users] int, the first event of each user that nobody
      may have seen.
    scope: A `pretrain_scope` that sees none of them.

  Raises:
    InputError: If the checkpoint has seen events that are held out, or was
      made from other data or another split of the users.
  """
  encoder = encode.load_encoder(config.init_from, step_of(config))
  if encoder.directory != remote.absolute(config.init_from):
    raise InputError(
      f'{config.init_from} holds a head without an encoder (a probe); use '
      f'--config.init_from={encoder.directory}, the workdir it was run on.'
    )
  meta = encoder.meta
  splits.check_fingerprint(meta['split_fingerprint'], dataset, config.init_from)
  # Its validation users, and with `inductive` those it has not seen, are some
  # of this split's test users otherwise.
  split_seed = meta.get('split_seed', config.split_seed)
  if split_seed != config.split_seed:
    raise InputError(
      f'the checkpoint in {config.init_from} was made with '
      f'split_seed={split_seed}, and the config has {config.split_seed}; give '
      f'--config.split_seed={split_seed}, or pre-train again.'
    )
  categories = encoder.module.categories
  if categories and categories != features.ItemCategories(dataset.catalogue):
    raise InputError(
      f'the encoder in {config.init_from} was given other categories of the '
      f'items than the data have; evaluate on the data it was trained from.'
    )
  visible = splits.visible_lengths(meta['pretrain_scope'], dataset.lengths)
  if (visible > held_out_from).any():
    raise InputError(
      f'the checkpoint in {config.init_from} was pre-trained with scope '
      f'{meta["pretrain_scope"]!r}, which contains held-out events of '
      f'{job!r}; pre-train with --config.pretrain_scope={scope}.'
    )
  if config.inductive and not meta['inductive']:
    raise InputError(
      f'the checkpoint in {config.init_from} was pre-trained on all users; '
      f'make it with --config.inductive=True, or leave that out here too.'
    )
  return encoder
