"""Several objectives at once: the weighted sum of their losses."""

import math
from collections.abc import Iterable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from bt4rec import ranking
from bt4rec.errors import InputError
from bt4rec.features import Events


def parse_sum(text: str, valid: Iterable[str]) -> dict[str, float]:
  """Reads 'barlow_twins+0.5*next_item'.

  Args:
    text: Names with weights in front, 1 where there is none.
    valid: The names there are.

  Returns:
    Name -> weight, in the order given.

  Raises:
    InputError: If a name is unknown or repeated, or a weight not positive.
  """
  valid = list(valid)
  weights: dict[str, float] = {}
  for term in text.split('+'):
    factor, _, name = term.rpartition('*')
    name = name.strip()
    if name not in valid:
      raise InputError(
        f'unknown objective {name!r} in objective={text!r}; the valid names '
        f'are: {", ".join(valid)}; join them as in barlow_twins+0.5*next_item.'
      )
    if name in weights:
      raise InputError(
        f'objective={text!r} names {name!r} twice; give it one weight.'
      )
    try:
      weights[name] = float(factor) if factor else 1.0
    except ValueError:
      weights[name] = math.nan
    if not 0 < weights[name] < math.inf:
      raise InputError(
        f'the weight {factor.strip()!r} of {name!r} in objective={text!r} must '
        f'be a number above 0.'
      )
  return weights


class WeightedSum(nn.Module):
  """`sum_i weight_i * loss_i` of objectives under one encoder.

  Each has its own parameters and draws on its own; the metrics carry its name.

  Attributes:
    parts: Name -> objective.
    weights: Name -> weight.
  """

  parts: Mapping[str, nn.Module]
  weights: Mapping[str, float]

  def __call__(
    self, encoder: nn.Module, batch: dict, rng: jax.Array, train: bool
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """`batch` has what the parts need."""
    total = jnp.zeros(())
    metrics: dict[str, jax.Array] = {}
    for number, (name, part) in enumerate(self.parts.items()):
      loss, terms = part(encoder, batch, jax.random.fold_in(rng, number), train)
      total = total + self.weights[name] * loss
      terms = {'loss': loss, **terms}
      metrics |= {f'{name}/{key}': value for key, value in terms.items()}
    return total, metrics

  @property
  def predicts_items(self) -> bool:
    """Whether one of the parts does."""
    return any(map(predicts_items, self.parts.values()))

  def _predicting(self):
    """The first part that predicts items gives the scores."""
    return next(filter(predicts_items, self.parts.values()))

  def query(self, encoder: nn.Module, rows: Events) -> jax.Array:
    """Arrays [batch, length] -> [batch, dim], what the next item is like."""
    return self._predicting().query(encoder, rows)

  def candidates(self, encoder: nn.Module) -> ranking.Candidates:
    """All items, to be compared with queries."""
    return self._predicting().candidates(encoder)


def predicts_items(objective: nn.Module) -> bool:
  """Whether an objective has item scores: `query` and `candidates`."""
  return getattr(objective, 'predicts_items', hasattr(objective, 'query'))
