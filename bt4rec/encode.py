"""Use of a trained encoder: sequences in, embeddings and items out.

Evaluation goes through the same functions as a user does.
"""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from ml_collections import ConfigDict

from bt4rec import (
  checkpoint,
  encoders,
  features,
  heads,
  pipeline,
  pretext,
  ranking,
  remote,
  scoring,
  vocabulary,
  workdir,
)
from bt4rec.datasets import Catalogue
from bt4rec.errors import InputError
from bt4rec.features import Events


@functools.partial(jax.jit, static_argnames='module')
def _embed_block(module, params, rows):
  return module.apply(
    {'params': params},
    rows['items'],
    train=False,
    codes=features.codes_of(rows),
  )


class Recommendations(NamedTuple):
  """The best items for each sequence.

  Attributes:
    item_ids: [num_sequences, k] original ids by descending score; of equal
      scores the item with the lower id first.
    scores: [num_sequences, k] float32. Where fewer than k items are left, the
      last places have the score -inf and the id -1 or ''.
  """

  item_ids: np.ndarray
  scores: np.ndarray


@dataclasses.dataclass(frozen=True)
class Encoder:
  """A trained encoder with its vocabulary.

  Attributes:
    module: The Flax module.
    params: Its parameters.
    item_ids: [num_items] original item ids, ascending.
    max_length: Events of a sequence that are used, the newest.
    meta: What was stored with the checkpoint: dataset, scope, fingerprint.
    directory: Workdir it comes from, or its URL; '' if none.
    scorer: What scores items for `recommend`, or None.
    exclude_seen: Whether `recommend` leaves out items already seen.
  """

  module: nn.Module
  params: dict
  item_ids: np.ndarray
  max_length: int
  meta: dict
  directory: str = ''
  scorer: scoring.ItemScorer | None = None
  exclude_seen: bool = True

  @property
  def dim(self) -> int:
    """Width of an embedding."""
    return self.module.dim

  @property
  def features(self) -> Sequence[str]:
    """What is embedded of an event besides its item."""
    return self.module.features

  @property
  def item_table(self) -> jax.Array:
    """[num_items, dim] float32, the embeddings of the items."""
    return self.params['item_table']['embedding'][1:-1]

  @property
  def candidates(self) -> ranking.Candidates:
    """The items by their embeddings, without a copy of the table."""
    bias = jnp.zeros(len(self.item_ids))
    return ranking.Candidates(self.params['item_table']['embedding'], bias, 1)

  def embed_windows(
    self, events: Events, start: np.ndarray, length: np.ndarray
  ) -> np.ndarray:
    """Embeds windows of flat event arrays.

    Args:
      events: Arrays [num_events], see `features`; may be memory maps.
      start: [num_windows] int64, first event of each.
      length: [num_windows] int32, events of each, at most `max_length`.

    Returns:
      [num_windows, dim] float32.
    """
    return pipeline.over_windows(
      'embed',
      lambda windows: _embed_block(self.module, self.params, windows),
      events,
      start,
      length,
      max_length=self.max_length,
      dim=self.dim,
    )

  def embed_tokens(self, tokens: vocabulary.Tokens) -> np.ndarray:
    """Embeds the newest events of each sequence: [num_sequences, dim]."""
    windows = tokens.windows(self.max_length)
    return self.embed_windows(tokens.events, **windows)

  def tokens_of(
    self, sequences: Sequence[Sequence], times: Sequence[Sequence] | None = None
  ) -> vocabulary.Tokens:
    """What `embed` embeds: sequences of original item ids as tokens."""
    tokens = vocabulary.encode(sequences, self.item_ids)
    codes = features.encode(self.features, tokens.offsets, {'times': times})
    return tokens._replace(codes=codes)

  def embed(
    self, sequences: Sequence[Sequence], times: Sequence[Sequence] | None = None
  ) -> np.ndarray:
    """Embeds sequences of original item ids, oldest first.

    Users need not have been seen in training. An item that is not in the
    catalogue counts as a masked one; how many there were is logged. Where the
    catalogue's ids are integers, text like '7' is read as one.

    Args:
      sequences: Item ids of each user, at least one.
      times: When the events of each user were, in seconds or as datetime64;
        for an encoder with the feature time_gap. Without them the gaps count
        as unknown, as that before a user's first event does.

    Returns:
      [num_sequences, dim] float32.

    Raises:
      InputError: If a sequence is empty, or an id missing or of another type;
        if times do not go with the sequences, or the encoder has no use for
        them.
    """
    return self.embed_tokens(self.tokens_of(sequences, times))

  def recommend(
    self,
    sequences: Sequence[Sequence],
    k: int,
    *,
    times: Sequence[Sequence] | None = None,
    exclude_seen: bool | None = None,
    recall_target: float = 1.0,
  ) -> Recommendations:
    """The best items for each sequence, out of all of the catalogue.

    Scored as the evaluation of `next_item` does: the rank it counts for an
    item is the item's place here, if no score is equal.

    Args:
      sequences: As for `embed`.
      k: Number of items.
      times: As for `embed`.
      exclude_seen: Whether the items of a sequence, all of it, are left out;
        None does as the evaluation of the workdir.
      recall_target: Expected share of the best items that is found, above 0; 1
        finds all, less is quicker on a TPU, see `ranking.top_items`.

    Returns:
      Items and scores. They unpack: `items, scores = encoder.recommend(...)`.

    Raises:
      InputError: As for `embed`; if k is not within the catalogue, or the
        target not within (0, 1]; if nothing was trained that scores items: the
        text has the command that does.
    """
    scorer = self.require_scorer()
    num_items = len(self.item_ids)
    if not 1 <= k <= num_items:
      raise InputError(
        f'k={k} must be at least 1 and at most {num_items}, the number of '
        f'items.'
      )
    if not 0 < recall_target <= 1:
      raise InputError(
        f'recall_target={recall_target} must be above 0 and at most 1.'
      )
    tokens = self.tokens_of(sequences, times)
    if exclude_seen is None:
      exclude_seen = self.exclude_seen
    rows, scores = scoring.top_items(
      scorer, tokens, k, exclude_seen, recall_target
    )
    empty = np.array('' if self.item_ids.dtype.kind == 'U' else -1)
    return Recommendations(
      np.where(rows >= 0, self.item_ids[rows], empty), scores
    )

  def require_scorer(self) -> scoring.ItemScorer:
    """Returns `scorer`.

    Raises:
      InputError: If it is None.
    """
    if self.scorer is not None:
      return self.scorer
    if not self.directory:
      raise InputError(
        'this encoder gives no item scores, and comes from no workdir.'
      )
    kind = 'task' if 'task' in self.meta else 'objective'
    command = workdir.downstream_command(
      workdir.read_config(remote.fetched(self.directory)),
      self.directory,
      'next_item',
    )
    raise InputError(
      f'{kind} {self.meta[kind]!r} of {self.directory} gives no item scores; '
      f'train them by protocol=probe or protocol=finetune, for example with '
      f'this command, and load its workdir: {command}'
    )

  def digest(self) -> str:
    """Hash of the parameters, by which a probe knows its encoder again."""
    digest = hashlib.sha256()
    for path, array in sorted(traverse_util.flatten_dict(self.params).items()):
      digest.update('/'.join(path).encode())
      digest.update(np.asarray(array).tobytes())
    return digest.hexdigest()[:16]


def load_encoder(directory: str, step: int | None = None) -> Encoder:
  """Loads the encoder of a workdir, its best checkpoint by validation.

  What scores items, for `Encoder.recommend`, comes with it from a downstream
  run of `next_item` (probe, fine-tuning or scratch) and from a pre-training
  whose objective predicts items.

  Args:
    directory: A workdir of a pre-training or of a downstream run, or its URL.
      A probe's holds a head alone; the encoder comes from the pre-training it
      was run on, which must lie where it was, or beside the probe.
    step: Step of another checkpoint (`keep_steps`); None is the best.

  Raises:
    InputError: If the directory holds no such encoder, or the probe's encoder
      is missing or has changed.
  """
  named, directory = remote.absolute(directory), remote.fetched(directory)
  directory = os.path.abspath(directory)
  with remote.naming(directory, named):
    return _load_encoder(directory, named, step)


def _load_encoder(directory: str, named: str, step: int | None) -> Encoder:
  config = workdir.read_config(directory)
  # Its pre-trainings have its task, but not the description of the grid.
  if 'study' in config:
    raise InputError(
      f'{directory} is the workdir of a study; name that of one of its '
      f'pre-trainings, such as {directory}/pretrain/barlow_twins-0.'
    )
  model = checkpoint.restore_model(directory, step)
  if 'encoder' not in model.params:
    encoder = _encoder_of_probe(named, model.meta)
    table = heads.probe_table(encoder.item_table)
    candidates = ranking.Candidates(table, jnp.zeros(len(table)))
  else:
    catalogue = vocabulary.load(directory)
    encoder = Encoder(
      encoders.from_config(config, catalogue),
      model.params['encoder'],
      catalogue.item_ids,
      config.max_length,
      {**model.meta, 'step': model.step},
      named,
    )
    if 'task' not in model.meta:
      scorer = _scorer_of_objective(config, catalogue, model.params)
      encoder = dataclasses.replace(encoder, scorer=scorer)
    candidates = encoder.candidates
  scorer = encoder.scorer
  if model.meta.get('task') == 'next_item':
    head = heads.TrainedHead(
      model.params['head'], model.batch_stats, candidates
    )
    scorer = scoring.HeadScorer(
      head, encoder.embed_windows, encoder.max_length, encoder.features
    )
  return dataclasses.replace(
    encoder, scorer=scorer, exclude_seen=config.exclude_seen
  )


def _scorer_of_objective(
  config: ConfigDict, catalogue: Catalogue, params: dict
) -> scoring.ItemScorer | None:
  model = pretext.make_model(config, catalogue, None)
  return (
    scoring.ObjectiveScorer(model, params) if model.predicts_items else None
  )


def _encoder_of_probe(directory: str, meta: dict) -> Encoder:
  source = meta.get('encoder')
  if not source:
    raise InputError(
      f'{directory} holds the probe of a random encoder, or one of an older '
      f'version, and not its encoder; name a pre-training, or run the probe '
      f'of one given with --config.init_from.'
    )
  # The two may have been moved together, to another machine for instance.
  beside = os.path.join(os.path.dirname(directory), os.path.basename(source))
  found = [path for path in (source, beside) if remote.exists(path)]
  if not found:
    raise InputError(
      f'{directory} holds the probe of the encoder in {source}, which does '
      f'not exist; put that workdir back, or at {beside}.'
    )
  for path in found:
    encoder = load_encoder(path, meta.get('encoder_step'))
    if encoder.digest() == meta['encoder_digest']:
      return encoder
  raise InputError(
    f'{directory} holds the probe of the encoder in {source}, which has been '
    f'trained again since; run the probe again in another workdir.'
  )


def random_encoder(
  config: ConfigDict, catalogue: Catalogue, seed: int
) -> Encoder:
  """Returns an encoder that was never trained."""
  module = encoders.from_config(config, catalogue)
  items = jnp.ones((1, config.max_length), jnp.int32)
  variables = jax.jit(functools.partial(module.init, train=False))(
    jax.random.key(seed), items
  )
  return Encoder(
    module, variables['params'], catalogue.item_ids, config.max_length, {}
  )
