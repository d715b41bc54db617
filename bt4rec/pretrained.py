"""A pre-training read back: its data, its model, before and after training."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from bt4rec import (
  checkpoint,
  datasets,
  encode,
  features,
  pipeline,
  pretext,
  pretrain,
  pretrain_data,
  remote,
  splits,
  workdir,
)
from bt4rec.datasets import SequenceDataset
from bt4rec.errors import InputError


@dataclasses.dataclass(frozen=True)
class Pretrained:
  """A finished pre-training.

  Where `encode.Encoder` is for use, this is for a look inside: it has the
  objective with its projector, and what the training started from.

  Attributes:
    directory: Its workdir.
    config: Its whole config.
    dataset: What it was trained on.
    model: Encoder and objective.
    tables: What a batch gets besides its rows.
    untrained: `params` and `batch_stats` before the first step.
    trained: Those of the best checkpoint.
    meta: What was stored with the checkpoint, and its `step`.
  """

  directory: str
  config: ConfigDict
  dataset: SequenceDataset
  model: pretext.Pretraining
  tables: dict[str, jax.Array]
  untrained: dict
  trained: dict
  meta: dict

  def encoder(self, variables: dict) -> encode.Encoder:
    """The encoder with the parameters of `untrained` or `trained`."""
    return encode.Encoder(
      self.model.encoder,
      variables['params']['encoder'],
      self.dataset.catalogue.item_ids,
      self.config.max_length,
      self.meta,
      self.directory,
    )

  def windows(self, most: int) -> dict[str, np.ndarray]:
    """Windows the training is validated on, of `most` users at most.

    Returns:
      As `pretrain_data.validation_windows`.

    Raises:
      InputError: If there is none.
    """
    rows = pretrain_data.validation_windows(self.dataset, self.config)
    rows = {key: array[:most] for key, array in rows.items()}
    if len(rows['users']) < 2:
      raise InputError(
        f'{self.dataset.name} has {len(rows["users"])} validation users, too '
        f'few to look at.'
      )
    return rows

  def view_pairs(
    self, variables: dict, rows: dict[str, np.ndarray]
  ) -> tuple[jax.Array, jax.Array]:
    """Two vectors of each user that the same training step would compare.

    They are the projections of two views. An objective without views has none:
    then they are the embeddings of the older and the newer half of the window.

    Args:
      variables: `untrained` or `trained`.
      rows: Windows, see `windows`.

    Returns:
      Two [num_users, dim] float32.
    """
    events = features.events_of(self.dataset, self.model.encoder.features)
    if not pretext.makes_views(self.model.objective):
      encoder = self.encoder(variables)
      start, length = rows['start'], rows['length']
      half = length // 2
      older = encoder.embed_windows(events, start, half)
      newer = encoder.embed_windows(events, start + half, length - half)
      return jnp.asarray(older), jnp.asarray(newer)
    windows = {key: array for key, array in rows.items() if key != 'users'}
    batch = pipeline.cut_rows(events, windows, self.config.max_length)
    batch['index'] = np.arange(len(rows['users']), dtype=np.int32)
    z = pretext.project_views(
      self.model,
      variables,
      {**batch, **self.tables},
      jax.random.key(self.config.seed),
    )
    return z[:, 0], z[:, 1]


def load(directory: str, overrides: dict | None = None) -> Pretrained:
  """Reads a pre-training back.

  Args:
    directory: The workdir of a pre-training, or its URL.
    overrides: Dotted fields of the config -> values other than the workdir's,
      such as 'dataset.path' of data that have moved.

  Raises:
    InputError: If the workdir holds no pre-training, or the data are not those
      it was trained on.
  """
  # It names what is wrong with a directory.
  encoder = encode.load_encoder(directory)
  if 'task' in encoder.meta or encoder.directory != remote.absolute(directory):
    raise InputError(
      f'{directory} is a run on labels, not a pre-training; name the workdir '
      f'of the pre-training it began with.'
    )
  local = remote.fetched(directory)
  config = workdir.read_config(local)
  config.update_from_flattened_dict(overrides or {})
  dataset = datasets.load(config.dataset)
  splits.check_fingerprint(
    encoder.meta['split_fingerprint'], dataset, directory
  )
  model = pretext.make_model(config, dataset.catalogue, None)
  tables = pretrain.make_tables(
    config, dataset, pretrain_data.visible_events(dataset, config), model
  )
  found = checkpoint.restore_model(local)
  trained = {'params': found.params, 'batch_stats': found.batch_stats}
  return Pretrained(
    encoder.directory,
    config,
    dataset,
    model,
    tables,
    pretrain.initial_variables(config, model, tables),
    trained,
    encoder.meta,
  )
