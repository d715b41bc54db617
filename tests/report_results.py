"""Results made up for the tests of the report."""

import json
import pathlib

import numpy as np

from bt4rec import downstream, result_lines


def line(objective, value, seed=0, fraction=0.1, **overrides) -> dict:
  """A finished evaluation of `next_item`, unless overridden."""
  task = overrides.get('task', 'next_item')
  return {
    'dataset': 'ml1m',
    'task': task,
    'objective': objective,
    'protocol': 'probe',
    'label_fraction': fraction,
    'seed': seed,
    'metrics': {result_lines.HEADLINES[task]: value},
    'split_fingerprint': 'f',
    'inductive': False,
    'commit': 'abc',
    'device': '1 x cpu',
    'wall_seconds': 1800.0,
    **overrides,
  }


def write(path: pathlib.Path, lines: list[dict]) -> str:
  """Writes `results.jsonl` into a folder; returns the folder."""
  path.mkdir(parents=True, exist_ok=True)
  (path / 'results.jsonl').write_text(
    ''.join(json.dumps(line) + '\n' for line in lines)
  )
  return str(path)


def write_outcomes(path: pathlib.Path, line: dict, outcomes) -> None:
  """Writes the outcomes of the test users beside the results."""
  (path / 'outcomes').mkdir(parents=True, exist_ok=True)
  name = f'{downstream.cell_name(line)}.npy'
  np.save(path / 'outcomes' / name, np.array(outcomes, np.float32))


def write_metrics(path: pathlib.Path, seed: int, **config) -> None:
  """Writes the `metrics.jsonl` of a training that learns."""
  path.mkdir(parents=True)
  (path / 'config.json').write_text(json.dumps({'seed': seed, **config}))
  (path / 'metrics.jsonl').write_text(
    ''.join(
      json.dumps({'step': step, name: 9.0 - step}) + '\n'
      for step in (1, 2, 3)
      for name in ('loss', 'validation_loss')
    )
  )


def study() -> list[dict]:
  """Two seeds of three rows on two tasks, with all that can be plotted."""
  lines = []
  for seed in (0, 1):
    for row, value in (
      ('majority', 0.1),
      ('barlow_twins', 0.2),
      ('dual_encoder_tuned', 0.3),
    ):
      protocol = 'majority' if row == 'majority' else 'probe'
      negatives = 127 if row.startswith('dual') else None
      # Early stopping takes another step with each seed.
      facts = {
        'batch_size': 128,
        'total_steps': 60,
        'step': 50 + seed,
        'num_negatives': negatives,
      }
      for task in ('next_item', 'next_category'):
        metric = result_lines.HEADLINES[task]
        common = {
          'protocol': protocol,
          'task': task,
          'pretraining': {} if row == 'majority' else facts,
          'cold_start': {str(k): {metric: value * k / 20} for k in (10, 1, 20)},
        }
        if task == 'next_item':
          common['by_popularity'] = [
            {'max_events': 3, 'num_test': 1, 'metrics': {metric: 0.0}},
            {'max_events': 30, 'num_test': 9, 'metrics': {metric: value}},
          ]
        for fraction in (0.01, 0.1, 1.0):
          spread = value + 0.01 * seed + 0.1 * fraction
          lines.append(line(row, spread, seed, fraction, **common))
        if row == 'majority':
          continue
        settings = {
          f'batch_size={size}': (
            value - 1 / size,
            {
              'batch_size': size,
              # As many users in all.
              'total_steps': 60 * 128 // size,
              'step': 400 + seed,
              'num_negatives': negatives and size - 1,
            },
          )
          for size in (16, 32)
        }
        settings |= {
          f'step={step}': (value * step / 60, {**facts, 'step': step})
          for step in (20, 40)
        }
        for variant, (result, pretraining) in settings.items():
          varied = {'variant': variant, 'pretraining': pretraining}
          lines.append(line(row, result, seed, **{**common, **varied}))
  return lines
