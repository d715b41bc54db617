"""Tests of overrides that keep the number of users seen."""

import pytest

from bt4rec.overrides import override
from configs import base, pretrain


def _config():
  config = base.get_config()
  config.update_from_flattened_dict(
    {
      'batch_size': 128,
      'total_steps': 600,
      'eval_every_steps': 100,
      'keep_steps': (0, 300, 600),
      'optimizer.warmup_steps': 50,
    }
  )
  return config


def _steps(config):
  return (
    config.total_steps,
    config.eval_every_steps,
    config.keep_steps,
    config.optimizer.warmup_steps,
  )


@pytest.mark.parametrize(
  'batch_size, steps',
  [
    (128, (600, 100, (0, 300, 600), 50)),
    (16, (4800, 800, (0, 2400, 4800), 400)),
    (256, (300, 50, (0, 150, 300), 25)),
    # 600 * 128 = 76,800 users; never less than a step.
    (2**15, (2, 1, (0, 1, 2), 1)),
  ],
)
def test_another_batch_size_sees_as_many_users(batch_size, steps):
  config = _config()
  override(config, {'batch_size': batch_size, 'encoder': {'dim': 8}})
  assert _steps(config) == steps
  assert (config.batch_size, config.encoder.dim) == (batch_size, 8)


def test_steps_that_are_given_are_taken():
  config = _config()
  config.keep_steps = ()
  override(
    config,
    {'batch_size': 64, 'total_steps': 7, 'optimizer': {'warmup_steps': 3}},
  )
  assert _steps(config) == (7, 200, (), 3)


def test_no_warm_up_stays_none():
  config = _config()
  config.optimizer.warmup_steps = 0
  override(config, {'batch_size': 64})
  assert config.optimizer.warmup_steps == 0


def test_the_published_dual_encoder_sees_as_many_users_as_its_rivals():
  seen = {
    config.batch_size * config.total_steps
    for config in map(
      pretrain.get_config,
      ('ml1m', 'ml1m,dual_encoder', 'ml1m,dual_encoder_public_code'),
    )
  }
  assert len(seen) == 1
