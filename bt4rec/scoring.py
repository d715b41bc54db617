"""What a pre-training itself predicts next, as scores of all items."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from bt4rec import checkpoint, evaluate, pipeline, pretext, workdir
from bt4rec.datasets import Catalogue
from bt4rec.errors import InputError
from bt4rec.tasks import Examples, Task

_BLOCK = 512


@functools.partial(jax.jit, static_argnames=('model',))
def _query_block(model, params, items):
  return model.apply({'params': params}, items, method='query')


@dataclasses.dataclass(frozen=True)
class Scorer:
  """An objective that predicts items, with its parameters.

  An item's score is `query @ candidate + bias`, whatever the objective.

  Attributes:
    model: Encoder and objective.
    params: Their parameters.
  """

  model: pretext.Pretraining
  params: dict

  @property
  def max_history(self) -> int:
    """Events of a history that are used, the newest: one less than a window.

    The last place of a window is that of the item to be predicted.
    """
    return self.model.encoder.max_length - 1

  def queries(
    self, events: np.ndarray, start: np.ndarray, length: np.ndarray
  ) -> np.ndarray:
    """What the next item of histories is like.

    Args:
      events: [num_events] int32 tokens; may be a memory map.
      start: [num_histories] int64, first event of each.
      length: [num_histories] int32, events of each, at most `max_history`.

    Returns:
      [num_histories, dim] float32.
    """
    blocks = []
    width = self.model.encoder.max_length
    for rows, real in pipeline.padded_blocks(len(start), _BLOCK):
      items = pipeline.cut_windows(events, start[rows], length[rows], width)
      block = _query_block(self.model, self.params, items)
      blocks.append(np.asarray(block[:real]))
    return np.concatenate(blocks)

  def candidates(self) -> tuple[jax.Array, jax.Array]:
    """[num_items, dim] what queries are compared with, [num_items] biases."""
    variables = {'params': self.params}
    found: Any = self.model.apply(variables, method='candidates')
    return found


def load_scorer(directory: str, catalogue: Catalogue) -> tuple[Scorer, dict]:
  """Loads the item scores of a pre-training, its best step by validation.

  Args:
    directory: Workdir of the pre-training.
    catalogue: The items it was trained on.

  Returns:
    The scores, and what was stored with the checkpoint.

  Raises:
    InputError: If the directory holds no pre-training, or its objective
      predicts no items.
  """
  config = workdir.read_config(directory)
  if config.task != 'pretrain':
    raise InputError(
      f'{directory} is a run of task={config.task}; name the workdir of a '
      f'pre-training.'
    )
  model = pretext.make_model(config, catalogue, None)
  if not model.predicts_items:
    raise InputError(
      f'objective {config.objective!r} of {directory} gives no item scores; '
      f'train them by protocol=probe or protocol=finetune.'
    )
  params, meta = checkpoint.restore_params(directory)
  return Scorer(model, params), meta


def evaluate_scorer(
  scorer: Scorer, task: Task, examples: Examples, exclude_seen: bool
) -> tuple[dict[str, float], np.ndarray]:
  """Ranks the next items of examples in the whole catalogue.

  Args:
    scorer: The item scores.
    task: A ranking task.
    examples: Its examples of one split.
    exclude_seen: See `evaluate.rank_examples`.

  Returns:
    The metrics, and [num_examples] float32 ranks.
  """
  windows = examples.windows(task.dataset.offsets, scorer.max_history)
  queries = scorer.queries(task.dataset.items, **windows)
  table, bias = scorer.candidates()
  return evaluate.evaluate(
    task, examples, lambda rows: queries[rows], table, exclude_seen, bias
  )
