"""From config to learning-rate schedule and optax transformation."""

import jax
import optax
from ml_collections import ConfigDict

from bt4rec import mesh
from bt4rec.errors import InputError, choose


def make_schedule(config: ConfigDict, total_steps: int) -> optax.Schedule:
  """Linear warm-up from 0, then what `schedule` says.

  Args:
    config: The group `optimizer` of the config; its `schedule` is 'cosine',
      which ends at 0, or 'constant'.
    total_steps: Number of updates.

  Raises:
    InputError: If the warm-up does not end before the training.
  """
  follow = choose('optimizer.schedule', config.schedule, _SCHEDULES)
  if not 0 <= config.warmup_steps < total_steps:
    raise InputError(
      f'optimizer.warmup_steps={config.warmup_steps} must be at least 0 and '
      f'less than total_steps={total_steps}; lower '
      f'--config.optimizer.warmup_steps.'
    )
  rate, warmup = config.learning_rate, config.warmup_steps
  return optax.join_schedules(
    [
      optax.linear_schedule(0.0, rate, warmup),
      follow(rate, total_steps - warmup),
    ],
    [warmup],
  )


# Name in the config -> peak and number of steps after the warm-up -> schedule.
_SCHEDULES = {
  'cosine': optax.cosine_decay_schedule,
  'constant': lambda rate, _: optax.constant_schedule(rate),
}


def decay_mask(params, exclude: tuple[str, ...]):
  """Marks the parameters that weight decay applies to.

  Args:
    params: Tree of parameters.
    exclude: Parameters whose path holds one of these words are left out.

  Returns:
    The same tree with booleans.
  """

  def decays(path, _):
    name = jax.tree_util.keystr(path)
    return not any(word in name for word in exclude)

  return jax.tree_util.tree_map_with_path(decays, params)


def _item_table_mask(params):
  """Marks the item table, in the same tree with booleans."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: mesh.is_item_table(path), params
  )


def make_optimizer(
  config: ConfigDict, schedule: optax.Schedule
) -> optax.GradientTransformation:
  """AdamW with clipping by global norm.

  The update of the item table, its weight decay included, is scaled by
  `item_table_rate`, which is a learning rate of its own under the same
  schedule.

  Args:
    config: The group `optimizer` of the config.
    schedule: Step -> learning rate.

  Raises:
    InputError: If the rate of the item table is negative.
  """
  if config.item_table_rate < 0:
    raise InputError(
      f'optimizer.item_table_rate={config.item_table_rate} must be at least 0.'
    )
  steps = [
    optax.adamw(
      schedule,
      b1=config.b1,
      b2=config.b2,
      weight_decay=config.weight_decay,
      mask=lambda params: decay_mask(params, tuple(config.decay_exclude)),
    )
  ]
  if config.clip_norm:
    steps.insert(0, optax.clip_by_global_norm(config.clip_norm))
  if config.item_table_rate != 1:
    scale = optax.scale(config.item_table_rate)
    steps.append(optax.masked(scale, _item_table_mask))
  return steps[0] if len(steps) == 1 else optax.chain(*steps)


def skips_non_finite(config: ConfigDict) -> bool:
  """Whether a step that is not finite is skipped, or stops the training."""
  return choose('optimizer.on_non_finite', config.on_non_finite, _ON_NON_FINITE)


_ON_NON_FINITE = {'stop': False, 'skip': True}
