"""Scores of all items for the histories of users.

Whether the pre-training itself
predicts items or a head was trained to. Evaluation and use go the same way.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from bt4rec import heads, pipeline, pretext, progress, ranking, vocabulary
from bt4rec.features import Events

_BLOCK = 512


class ItemScorer(Protocol):
  """What scores items: a query for each history, a candidate for each item."""

  @property
  def max_history(self) -> int:
    """Events of a history that are used, the newest."""

  @property
  def features(self) -> Sequence[str]:
    """The features of events that are used."""

  def queries(
    self, events: Events, start: np.ndarray, length: np.ndarray
  ) -> np.ndarray:
    """What the next item of histories is like.

    Args:
      events: Arrays [num_events], see `features`; may be memory maps.
      start: [num_histories] int64, first event of each.
      length: [num_histories] int32, events of each, at most `max_history`.

    Returns:
      [num_histories, width] float32.
    """

  def candidates(self) -> ranking.Candidates:
    """All items, to be compared with queries."""


@dataclasses.dataclass(frozen=True)
class ObjectiveScorer:
  """An objective that predicts items, with its parameters.

  Attributes:
    model: Encoder and objective.
    params: Their parameters.
  """

  model: pretext.Pretraining
  params: dict

  @property
  def max_history(self) -> int:
    """One less than a window, whose last place is the predicted item's."""
    return self.model.encoder.max_length - 1

  @property
  def features(self) -> Sequence[str]:
    """See `ItemScorer`."""
    return self.model.encoder.features

  def queries(
    self, events: Events, start: np.ndarray, length: np.ndarray
  ) -> np.ndarray:
    """See `ItemScorer`."""
    encoder = self.model.encoder
    return pipeline.over_windows(
      'queries',
      lambda windows: _query_block(self.model, self.params, windows),
      events,
      start,
      length,
      max_length=encoder.max_length,
      dim=encoder.dim,
      room=1,
    )

  def candidates(self) -> ranking.Candidates:
    """See `ItemScorer`."""
    variables = {'params': self.params}
    found: Any = self.model.apply(variables, method='candidates')
    return found


@dataclasses.dataclass(frozen=True)
class HeadScorer:
  """A head trained on the labels of `next_item`, on an encoder.

  Attributes:
    head: The head; it has candidates.
    embed: Embeds windows, as `Encoder.embed_windows`.
    max_history: Longest window.
    features: Features of the encoder.
  """

  head: heads.TrainedHead
  embed: Callable[[Events, np.ndarray, np.ndarray], np.ndarray]
  max_history: int
  features: Sequence[str] = ()

  def queries(
    self, events: Events, start: np.ndarray, length: np.ndarray
  ) -> np.ndarray:
    """See `ItemScorer`."""
    width = self.candidates().table.shape[1]
    queries = np.empty((len(start), width), np.float32)
    h = self.embed(events, start, length)
    for rows, real in pipeline.padded_blocks(len(start), _BLOCK):
      queries[rows[:real]] = np.asarray(self.head(h[rows]))[:real]
    return queries

  def candidates(self) -> ranking.Candidates:
    """See `ItemScorer`."""
    assert self.head.candidates is not None
    return self.head.candidates


def top_items(
  scorer: ItemScorer,
  histories: vocabulary.Tokens,
  k: int,
  exclude_seen: bool,
  recall_target: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
  """The best items for each history.

  Args:
    scorer: What scores the items.
    histories: The histories, none of them empty.
    k: Number of items.
    exclude_seen: Whether the items of a history, all of it, are left out.
    recall_target: See `ranking.top_items`.

  Returns:
    [num_histories, k] int32 rows and float32 scores, as `ranking.top_items`.
  """
  offsets = histories.offsets
  queries = scorer.queries(
    histories.events, **histories.windows(scorer.max_history)
  )
  candidates = scorer.candidates()
  best = np.empty((len(queries), k), np.int32)
  scores = np.empty((len(queries), k), np.float32)
  blocks = pipeline.padded_blocks(len(queries), _BLOCK)
  for rows, real in progress.track('recommend', len(queries), blocks):
    if exclude_seen:
      seen = ranking.seen_items(
        histories.items, offsets[rows], offsets[rows + 1]
      )
    else:
      seen = np.full((len(rows), 1), -1, np.int32)
    found = ranking.top_items(
      queries[rows], candidates, seen, k=k, recall_target=recall_target
    )
    best[rows[:real]], scores[rows[:real]] = (part[:real] for part in found)
  return best, scores


@functools.partial(jax.jit, static_argnames=('model',))
def _query_block(model, params, rows):
  return model.apply({'params': params}, rows, method='query')
