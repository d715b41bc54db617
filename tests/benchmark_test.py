"""The lines of the benchmark: what they claim to have computed."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from bt4rec.benchmark_lines import LINES, Sizes

# Short windows, so that several fit into a row.
_SIZES = Sizes(
  batch=16,
  length=40,
  dim=8,
  layers=1,
  heads=2,
  items=90,
  projector=10,
  dropout=0.0,
  lengths='yelp',
  prepared='',
  dtype='float32',
)


@pytest.fixture(scope='module')
def measured():
  """Name -> the rivals and their lines; the first of two runs is no count."""
  dataset = _SIZES.dataset()
  found = {}
  for name, make_rivals in LINES.items():
    rivals = list(make_rivals(_SIZES, dataset))
    for _ in range(2):
      for rival in rivals:
        rival.run()
    found[name] = [(rival, rival.describe(1, 1e9)) for rival in rivals]
  return found


@pytest.mark.parametrize('name', LINES)
def test_rates_follow_from_the_seconds(name, measured):
  for rival, line in measured[name]:
    assert line['name'] == name
    sequences = 16 * (64 if name == 'pipeline' else 1)
    seconds = rival.seconds[1]
    assert line['sequences_per_second'] == pytest.approx(
      sequences / seconds, rel=0.01, abs=0.1
    )
    tokens = np.mean(rival.tokens)
    assert 0 < tokens <= sequences * 40
    assert line['real_tokens_per_second'] == pytest.approx(
      tokens / seconds, rel=0.01, abs=0.1
    )
    assert 0 < line['real_token_share'] <= 1
    assert line['peak_memory_bytes'] > 0
    if 'flops' in line:
      assert line['matmul_share'] == pytest.approx(
        line['flops'] / seconds / 1e9, rel=0.01, abs=0.001
      )


def test_packing_computes_on_less_padding(measured):
  (_, padded), (_, packed) = measured['pretrain_step']
  assert not padded['packed'] and packed['packed']
  assert packed['real_token_share'] > padded['real_token_share']
  assert packed['flops'] < padded['flops']


def test_a_call_of_two_steps_counts_both(measured):
  sizes = dataclasses.replace(_SIZES, steps_per_call=2)
  rival, _ = LINES['dual_encoder_step'](sizes, sizes.dataset())
  for _ in range(2):
    rival.run()
  line = rival.describe(1, 1e9)
  assert line['sequences_per_second'] == pytest.approx(
    32 / rival.seconds[1], rel=0.01
  )
  (_, single), _ = measured['dual_encoder_step']
  for name in ('flops', 'bytes'):
    assert line[name] == pytest.approx(2 * single[name], rel=0.1)
  # At most two windows of full length for each of 16 users.
  assert 16 * 2 * 5 <= np.mean(rival.tokens) <= 16 * 2 * 40


def test_a_step_has_the_operations_of_its_matrix_products(measured):
  (_, padded), _ = measured['dual_encoder_step']
  tokens = 16 * 40
  # A block's twelve matrices of dim x dim, and scores and mixture of the
  # attention; twice as much backwards as forwards.
  products = 2 * tokens * 12 * 8 * 8 + 2 * 2 * tokens * 40 * 8
  # The rest is softmax, norms, update: not small at this width.
  assert 3 * products < padded['flops'] < 6 * 3 * products


def test_ranking_has_two_passes_over_the_catalogue(measured):
  ((_, ranking),) = measured['full_ranking']
  ((_, recommend),) = measured['recommend']
  assert ranking['flops'] == 2 * 2 * 16 * 90 * 8
  assert recommend['flops'] == 2 * 16 * 90 * 8


@pytest.mark.parametrize('lengths', ['full', 'uniform', 'yelp'])
def test_windows_have_the_lengths_asked_for(lengths):
  sizes = dataclasses.replace(_SIZES, lengths=lengths)
  made = sizes.dataset()
  # Two events more are hidden from pre-training.
  visible = made.lengths - 2
  assert made.catalogue.num_items == 90
  assert visible.max() == 40
  assert visible.min() == (40 if lengths == 'full' else 5)


def _run(*flags):
  command = [sys.executable, '-m', 'bt4rec.benchmark', *flags]
  return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_combination_of_sizes_is_measured():
  small = ('--steps=1', '--warmup=0', '--only=full_ranking', '--length=4')
  done = _run('--batch=8,16', '--items=20,30', '--dim=8', *small)
  assert done.returncode == 0, done.stderr
  lines = [json.loads(line) for line in done.stdout.splitlines()]
  found = [
    (line['batch'], line['items'])
    for line in lines
    if line['name'] == 'full_ranking'
  ]
  assert found == [(8, 20), (8, 30), (16, 20), (16, 30)]


def test_a_size_that_is_no_number_is_named():
  done = _run('--batch=8,x')
  assert done.returncode == 2
  assert '--batch=8,x is not a whole number of 1 and more' in done.stderr


def test_the_time_of_a_step_goes_to_parts_of_the_model(measured):
  (step, _), *_ = measured['pretrain_step']
  shares = step.time_shares()
  assert sum(shares.values()) == pytest.approx(1)
  products = ('attention, matmul', 'MLP, matmul', 'projector, matmul')
  assert {'item table', 'normalisation', *products} <= set(shares)
  assert shares.get('the rest', 0) < 0.5
