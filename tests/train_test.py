"""The loop: resume, early stopping, loud failures, signals."""

import dataclasses
import itertools
import json
import os
import pathlib
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bt4rec import checkpoint, train, train_step
from bt4rec.errors import InputError, NonFiniteLossError
from bt4rec.train_state import create_train_state
from tests import tiny

_BATCH = 8
_SELECT = 'validation_loss'
# They depend on the clock.
_TIMING = ('seconds', 'sequences_per_second', 'eta_seconds')


def _job(
  *,
  loss_fn=None,
  validation=None,
  parallelism='jit',
  start=1.0,
  steps_per_call=1,
  on_batch=lambda step: None,
  **overrides,
) -> train.Job:
  """Least squares whose gradient draws on everything a resume must restore.

  Args:
    loss_fn: Replaces the loss.
    validation: Step -> validation loss; None is the parameter's square.
    parallelism: 'jit' or 'pmap'.
    start: Initial parameter.
    steps_per_call: Steps of a call.
    on_batch: Called with the step before its batch is made.
    **overrides: Fields of the job.
  """
  axis_name = train_step.axis_name_of(parallelism)

  def default_loss(params, batch_stats, batch, rng):
    target = batch['x'].mean() + jax.random.normal(rng)
    if axis_name:
      target = jax.lax.pmean(target, axis_name)
    mean = 0.9 * batch_stats['mean'] + 0.1 * target
    loss = (params['w'] - target - mean) ** 2
    return loss, ({'target': target}, {'mean': mean})

  schedule = optax.linear_schedule(0.1, 0.0, 20)
  tx = optax.adam(schedule)
  variables = {
    'params': {'w': jnp.float32(start)},
    'batch_stats': {'mean': jnp.float32(0)},
  }

  def feed(first_step):
    for step in itertools.count(first_step):
      on_batch(step)
      yield {'x': np.arange(_BATCH, dtype=np.float32) * (step % 5)}

  def evaluate(state):
    if validation is None:
      return {_SELECT: float(state.params['w']) ** 2}
    value = validation(int(state.step))
    return {} if value is None else {_SELECT: value}

  return train.Job(
    **{
      'name': 'test',
      'state': create_train_state(variables, tx, jax.random.key(0)),
      'step': train_step.CompiledStep(
        train_step.make_train_step(
          loss_fn or default_loss, tx, schedule, axis_name
        ),
        parallelism,
        _BATCH,
        steps_per_call=steps_per_call,
      ),
      'feed': feed,
      'tables': {},
      'total_steps': 12,
      'batch_size': _BATCH,
      'log_every_steps': 2,
      'eval_every_steps': 3,
      'checkpoint_every_steps': 0,
      'keep_checkpoints': 1,
      'patience': 0,
      'meta': {'name': 'test'},
      'evaluate': evaluate,
      'tensorboard': False,
      **overrides,
    }
  )


class _Later:
  """A number that the device is done with when it is waited for."""

  def __init__(self, value, waiting):
    self._value, self._waiting = value, waiting
    waiting.append(self)

  def is_ready(self):
    return self not in self._waiting

  def block_until_ready(self):
    self._waiting.remove(self)

  def __array__(self, dtype=None, copy=None):
    return np.asarray(self._value)


class _KilledError(Exception):
  """Stands for the end of the process."""


def _killed_at(killed_step):
  def on_batch(step):
    if step == killed_step:
      raise _KilledError

  return on_batch


def _lines(workdir, but=_TIMING):
  text = (pathlib.Path(workdir) / 'metrics.jsonl').read_text()
  return [
    {key: value for key, value in json.loads(line).items() if key not in but}
    for line in text.splitlines()
  ]


def _steps(workdir):
  names = os.listdir(pathlib.Path(workdir) / 'checkpoints')
  return sorted(int(name) for name in names if name.isdigit())


def _latest(job, workdir):
  checkpointer = checkpoint.Checkpointer(str(workdir))
  try:
    return checkpointer.restore_latest(job.state)
  finally:
    checkpointer.close()


def _assert_same_bits(a, b):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
      x, y = jax.random.key_data(x), jax.random.key_data(y)
    np.testing.assert_array_equal(np.asarray(x), np.asarray(y), strict=True)


class TestResume:
  @pytest.mark.parametrize('parallelism', ['jit', 'pmap'])
  def test_stopped_and_resumed_equals_uninterrupted(
    self, parallelism, tmp_path
  ):
    whole, parts = str(tmp_path / 'whole'), str(tmp_path / 'parts')
    job = _job(parallelism=parallelism)
    train.fit(job, whole)
    # Steps 7 and 8 come after the last checkpoint and are done again.
    with pytest.raises(_KilledError):
      train.fit(_job(parallelism=parallelism, on_batch=_killed_at(8)), parts)
    assert [line['step'] for line in _lines(parts)][-1] == 8
    train.fit(job, parts)
    _assert_same_bits(_latest(job, whole)[0], _latest(job, parts)[0])
    assert _latest(job, whole)[1] == _latest(job, parts)[1]
    assert _lines(whole) == _lines(parts)

  def test_first_steps_done_again_leave_no_line_twice(self, tmp_path):
    whole, parts = str(tmp_path / 'whole'), str(tmp_path / 'parts')
    train.fit(_job(), whole)
    # Killed before the first checkpoint was written, though after its line.
    os.makedirs(parts)
    line = {'step': 0, _SELECT: 5.0}
    pathlib.Path(parts, 'metrics.jsonl').write_text(json.dumps(line) + '\n')
    # Killed after it.
    with pytest.raises(_KilledError):
      train.fit(_job(on_batch=_killed_at(1)), parts)
    train.fit(_job(), parts)
    assert _lines(whole) == _lines(parts)

  def test_each_kind_of_line_comes_once_at_its_steps(self, tmp_path):
    train.fit(_job(), str(tmp_path))
    lines = _lines(tmp_path)
    logs = [line['step'] for line in lines if 'loss' in line]
    evaluations = [line['step'] for line in lines if _SELECT in line]
    assert logs == [2, 4, 6, 8, 10, 12]
    assert evaluations == [0, 3, 6, 9, 12]
    assert len(lines) == len(logs) + len(evaluations)
    assert set(_lines(tmp_path, but=())[1]) == {
      *('step', 'loss', 'target', 'gradient_norm', 'parameter_norm'),
      *('update_norm', 'learning_rate', *_TIMING),
    }

  def test_finished_run_is_not_trained_again(self, tmp_path):
    state, meta = train.fit(_job(), str(tmp_path))
    before = _lines(tmp_path, but=())
    job = _job(on_batch=_killed_at(12))
    again, meta_again = train.fit(job, str(tmp_path))
    _assert_same_bits(state, again)
    assert meta == meta_again
    assert _lines(tmp_path, but=()) == before

  def test_job_can_be_used_twice(self, tmp_path):
    # Its state is donated to the step by no copy but the loop's own.
    job = _job()
    first, _ = train.fit(job, str(tmp_path / 'a'))
    second, _ = train.fit(job, str(tmp_path / 'b'))
    _assert_same_bits(first, second)

  def test_pmap_continues_what_jit_began(self, tmp_path):
    with pytest.raises(_KilledError):
      train.fit(_job(on_batch=_killed_at(7)), str(tmp_path))
    train.fit(_job(parallelism='pmap'), str(tmp_path))
    assert [line['step'] for line in _lines(tmp_path)][-1] == 12

  def test_further_checkpoints_come_at_their_period(self, tmp_path):
    job = _job(
      validation=lambda step: float(step),
      checkpoint_every_steps=5,
      keep_checkpoints=9,
    )
    train.fit(job, str(tmp_path))
    assert _steps(tmp_path) == [0, 3, 5, 6, 9, 10, 12]


# Step -> validation loss, 2 twice.
_VALIDATION = {0: 9.0, 3: 2.0, 6: 5.0, 9: 2.0, 12: 4.0, 15: 1.0, 18: 0.5}


class TestSelection:
  def _patient(self, **overrides):
    return _job(
      validation=_VALIDATION.__getitem__,
      patience=3,
      total_steps=18,
      **overrides,
    )

  def test_returns_the_best_and_keeps_the_latest(self, tmp_path):
    job = _job(validation=_VALIDATION.__getitem__)
    state, meta = train.fit(job, str(tmp_path))
    assert int(state.step) == meta['selection']['best_step']
    assert int(state.step) == 9  # The last of equal values.
    assert _steps(tmp_path) == [9, 12]

  def test_named_steps_are_kept(self, tmp_path):
    job = _job(validation=_VALIDATION.__getitem__, keep_steps=(0, 4, 6))
    train.fit(job, str(tmp_path))
    assert _steps(tmp_path) == [0, 4, 6, 9, 12]

  def test_the_largest_is_best_of_what_is_no_loss(self, tmp_path):
    select = 'validation_ndcg@10'

    def evaluate(state):
      loss = _VALIDATION[int(state.step)]
      return {_SELECT: -loss, select: 5 - loss}

    job = dataclasses.replace(_job(select=select), evaluate=evaluate)
    state, meta = train.fit(job, str(tmp_path))
    assert int(state.step) == meta['selection']['best_step'] == 9
    assert _steps(tmp_path) == [9, 12]

  def test_refuses_to_select_by_what_is_not_measured(self, tmp_path):
    with pytest.raises(
      InputError, match=r'select_by=ndcg@10 .*names are: loss'
    ):
      train.fit(_job(select='validation_ndcg@10'), str(tmp_path))

  def test_returns_the_latest_without_validation(self, tmp_path):
    state, _ = train.fit(_job(validation=lambda step: None), str(tmp_path))
    assert int(state.step) == 12
    assert _steps(tmp_path) == [12]

  def test_stops_when_patience_ends(self, tmp_path):
    train.fit(self._patient(), str(tmp_path))
    # 6, 9 (no better than 3) and 12 are the three without improvement.
    assert [line['step'] for line in _lines(tmp_path)][-1] == 12

  @pytest.mark.parametrize('killed_step', [7, 10, 11])
  def test_patience_survives_a_resume(self, killed_step, tmp_path):
    whole, parts = str(tmp_path / 'whole'), str(tmp_path / 'parts')
    job = self._patient()
    train.fit(job, whole)
    with pytest.raises(_KilledError):
      train.fit(self._patient(on_batch=_killed_at(killed_step)), parts)
    train.fit(job, parts)
    assert _lines(whole) == _lines(parts)
    assert _latest(job, whole)[1] == _latest(job, parts)[1]
    assert _latest(job, parts)[1]['selection'] == {
      'best': 2.0,
      'best_step': 9,
      'evaluations_since_best': 3,
      'stopped': True,
    }

  def test_stopped_run_stays_stopped(self, tmp_path):
    train.fit(self._patient(), str(tmp_path))
    train.fit(self._patient(on_batch=_killed_at(12)), str(tmp_path))
    assert _steps(tmp_path)[-1] == 12


def _loss_bad_at(bad_step, value):
  """A loss that is `value` at one step, counted from 1, and after it."""

  def loss_fn(params, batch_stats, batch, rng):
    del rng
    count = batch_stats['mean'] + 1
    loss = params['w'] ** 2 + 0 * batch['x'].sum()
    bad = jnp.where(count >= bad_step, value, 0.0)
    return loss + params['w'] * bad, ({}, {'mean': count})

  return loss_fn


def _assert_checkpoints_are_finite(job, workdir):
  checkpointer = checkpoint.Checkpointer(str(workdir), 99)
  for step in _steps(workdir):
    state, _ = checkpointer._restore(step, job.state)
    assert all(np.isfinite(x) for x in jax.tree.leaves(state.params)), step
  checkpointer.close()


class TestNonFinite:
  @pytest.mark.parametrize('value', [np.nan, np.inf])
  @pytest.mark.parametrize(
    'bad_step, periods',
    [
      (8, {}),
      # Between two logs, and found by an evaluation or a checkpoint.
      (5, {'log_every_steps': 50, 'eval_every_steps': 6}),
      (4, {'log_every_steps': 50, 'checkpoint_every_steps': 5}),
      # At the very step that is saved.
      (6, {'log_every_steps': 50, 'eval_every_steps': 6}),
    ],
  )
  def test_names_the_first_bad_step(self, bad_step, periods, value, tmp_path):
    job = _job(
      loss_fn=_loss_bad_at(bad_step, value), keep_checkpoints=99, **periods
    )
    with pytest.raises(
      NonFiniteLossError, match=rf'the loss of step {bad_step} is (nan|inf)'
    ):
      train.fit(job, str(tmp_path))
    _assert_checkpoints_are_finite(job, tmp_path)
    assert _steps(tmp_path)[-1] < bad_step
    # The same command fails the same way, and loses nothing.
    with pytest.raises(NonFiniteLossError, match=f'step {bad_step} '):
      train.fit(job, str(tmp_path))

  def test_finite_loss_with_a_gradient_that_is_not(self, tmp_path):
    def loss_fn(params, batch_stats, batch, rng):
      del rng
      count = batch_stats['mean'] + 1
      # The root has an infinite slope at 0, where its value is 0.
      distance = jnp.where(count >= 6, 0.0, 1.0) * params['w']
      loss = jnp.sqrt(jnp.abs(distance)) + 0 * batch['x'].sum()
      return loss, ({}, {'mean': count})

    # The step is saved before the next loss could show it.
    job = _job(loss_fn=loss_fn, keep_checkpoints=99)
    with pytest.raises(NonFiniteLossError, match=r'the update of step 6 is'):
      train.fit(job, str(tmp_path))
    assert _steps(tmp_path) == [0, 3]
    _assert_checkpoints_are_finite(job, tmp_path)

  def test_validation_loss(self, tmp_path):
    job = _job(validation=lambda step: np.nan if step == 6 else 1.0)
    with pytest.raises(
      NonFiniteLossError, match='the validation loss of step 6 is nan'
    ):
      train.fit(job, str(tmp_path))
    assert _steps(tmp_path)[-1] == 3


def _skipping(bad, parallelism='jit', steps_per_call=1, **overrides):
  """A job whose steps of these numbers, from 0, have a loss that is NaN."""
  axis_name = train_step.axis_name_of(parallelism)

  def loss_fn(params, batch_stats, batch, rng):
    del rng
    target = batch['x'].mean()
    if axis_name:
      target = jax.lax.pmean(target, axis_name)
    # Taken from the data, which come at their step whatever is skipped.
    loss = (params['w'] - target) ** 2
    mean = 0.9 * batch_stats['mean'] + 0.1 * target
    return loss, ({}, {'mean': mean})

  def feed(first_step):
    for step in itertools.count(first_step):
      x = np.arange(_BATCH, dtype=np.float32) * (step % 5)
      # One example of one device.
      x[3] = bad.get(step, x[3])
      yield {'x': x}

  # The rate of the schedule is that of the updates made.
  schedule = optax.linear_schedule(0.1, 0.0, 20)
  job = _job(parallelism=parallelism, **{'max_skipped_steps': 2, **overrides})
  return dataclasses.replace(
    job,
    feed=feed,
    step=train_step.CompiledStep(
      train_step.make_train_step(
        loss_fn, optax.adam(schedule), schedule, axis_name, True
      ),
      parallelism,
      _BATCH,
      steps_per_call=steps_per_call,
    ),
  )


class TestSkip:
  @pytest.mark.parametrize('parallelism', ['jit', 'pmap'])
  @pytest.mark.parametrize('value', [np.nan, np.inf])
  def test_a_skipped_step_changes_the_step_alone(self, value, parallelism):
    job = _skipping({2: value}, parallelism)
    state = job.step.replicate(job.state)
    states, skipped = [], []
    for batch in itertools.islice(job.feed(0), 4):
      state, metrics = job.step(state, job.step.place_batch(batch))
      # Every device has its own copy under pmap.
      states.append([np.asarray(x) for x in jax.tree.leaves(_plain(state))])
      skipped.append(int(np.ravel(metrics['skipped'])[0]))
    assert skipped == [0, 0, 1, 0]
    changed = [
      [not np.array_equal(x, y) for x, y in zip(a, b, strict=True)]
      for a, b in itertools.pairwise(states)
    ]
    # step, w, mean, and of Adam: count, mu, nu and the schedule's count.
    assert sum(changed[0]) == sum(changed[2]) == 7
    assert changed[1] == [True] + [False] * (len(changed[1]) - 1)

  def test_equals_a_run_that_never_had_the_batch(self):
    left_out, without = _skipping({2: np.nan}), _skipping({})
    ends = []
    for job, steps in ((left_out, (0, 1, 2, 3)), (without, (0, 1, 3))):
      state = job.step.replicate(job.state)
      for step in steps:
        batch = next(job.feed(step))
        state, _ = job.step(state, job.step.place_batch(batch))
      ends.append((state.params, state.opt_state, state.batch_stats))
    _assert_same_bits(*ends)

  def test_is_counted_logged_and_resumed(self, tmp_path):
    bad = {3: np.nan, 4: np.inf, 7: np.nan}
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    train.fit(_skipping(bad), str(whole))
    lines = _lines(whole)
    counts = {
      line['step']: line['skipped_steps']
      for line in lines
      if 'skipped_steps' in line
    }
    assert counts == {2: 0, 4: 1, 6: 2, 8: 3, 10: 3, 12: 3}
    # Step 4 was skipped, and JSON has no NaN.
    assert 'loss' not in next(line for line in lines if line['step'] == 4)
    assert 'NaN' not in (whole / 'metrics.jsonl').read_text()
    job = _skipping(bad)
    feed = job.feed

    def killed(first_step):
      for step, batch in enumerate(feed(first_step), first_step):
        if step == 8:
          raise _KilledError
        yield batch

    with pytest.raises(_KilledError):
      train.fit(dataclasses.replace(job, feed=killed), str(parts))
    train.fit(job, str(parts))
    assert _lines(whole) == _lines(parts)
    _assert_same_bits(_latest(job, whole)[0], _latest(job, parts)[0])
    assert _latest(job, parts)[1]['skipped'] == {'total': 3, 'in_a_row': 0}

  @pytest.mark.parametrize('period', [1, 2, 50])
  def test_gives_up_after_too_many_in_a_row(self, period, tmp_path):
    job = _skipping(
      {2: np.nan, 4: np.nan, 5: np.nan, 8: np.nan, 9: np.nan, 10: np.nan},
      log_every_steps=period,
    )
    with pytest.raises(
      NonFiniteLossError, match=r'3 steps in a row, the last one step 11,'
    ):
      train.fit(job, str(tmp_path))
    assert _steps(tmp_path)[-1] == 9
    # Also where the row is cut by a checkpoint, and the job by the end.
    with pytest.raises(NonFiniteLossError, match='3 steps in a row'):
      train.fit(job, str(tmp_path))

  def test_refuses_a_limit_of_none(self):
    with pytest.raises(InputError, match='max_skipped_steps=0 must be'):
      train.settings(tiny.config(optimizer={'max_skipped_steps': 0}))
    config = tiny.config(optimizer={'on_non_finite': 'ignore'})
    with pytest.raises(InputError, match=r"'ignore'.* stop, skip"):
      train.settings(config)
    config = tiny.config(optimizer={'on_non_finite': 'skip'})
    assert train.settings(config)['max_skipped_steps'] == 10
    assert train.settings(tiny.config())['max_skipped_steps'] == 0


def _plain(state):
  return state.replace(rng=jax.random.key_data(state.rng))


class TestStopSignal:
  def test_saves_exits_and_continues(self, tmp_path):
    whole, parts = str(tmp_path / 'whole'), str(tmp_path / 'parts')
    job = _job()
    train.fit(job, whole)

    def terminate(step):
      # During step 8, which neither logs before it nor saves after it.
      if step == 7:
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
      train.fit(_job(on_batch=terminate), parts)
    assert stopped.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == before
    assert _steps(parts)[-1] == 8
    train.fit(job, parts)
    _assert_same_bits(_latest(job, whole)[0], _latest(job, parts)[0])
    assert _lines(whole) == _lines(parts)

  def test_trains_outside_of_the_main_thread(self, tmp_path):
    # Only the main thread may set signal handlers.
    thread = threading.Thread(target=train.fit, args=(_job(), str(tmp_path)))
    thread.start()
    thread.join()
    assert _steps(tmp_path)[-1] == 12


def _three_a_call(**overrides):
  return _job(
    **{
      'log_every_steps': 3,
      'eval_every_steps': 6,
      'keep_steps': (0, 3),
      'steps_per_call': 3,
      **overrides,
    }
  )


class TestStepsPerCall:
  @pytest.mark.parametrize('parallelism', ['jit', 'pmap'])
  def test_all_that_is_seen_is_as_with_one(self, parallelism, tmp_path):
    one, three = str(tmp_path / 'one'), str(tmp_path / 'three')
    setting = {'parallelism': parallelism, 'checkpoint_every_steps': 9}
    ends = []
    for workdir, count in ((one, 1), (three, 3)):
      job = _three_a_call(**setting, steps_per_call=count)
      best, meta = train.fit(job, workdir)
      assert job.step.num_traces == 1
      latest, latest_meta = _latest(job, workdir)
      ends.append(((_plain(best), _plain(latest)), meta, latest_meta))
    _assert_same_bits(ends[0][0], ends[1][0])
    assert ends[0][1:] == ends[1][1:]
    assert _lines(one) == _lines(three)
    assert [line['step'] for line in _lines(three) if 'loss' in line] == [
      *(3, 6, 9, 12)
    ]
    assert _steps(one) == _steps(three) == [0, 3, 12]

  def test_each_kind_of_period_is_kept(self, tmp_path):
    job = _three_a_call(checkpoint_every_steps=9, keep_checkpoints=99)
    train.fit(job, str(tmp_path))
    assert _steps(tmp_path) == [0, 3, 6, 9, 12]

  @pytest.mark.parametrize('count', [1, 2, 3])
  def test_killed_and_resumed_with_another_number(self, count, tmp_path):
    whole, parts = str(tmp_path / 'whole'), str(tmp_path / 'parts')
    train.fit(_three_a_call(), whole)
    # The third call does not get its last batch.
    with pytest.raises(_KilledError):
      train.fit(_three_a_call(on_batch=_killed_at(8)), parts)
    job = _three_a_call(
      steps_per_call=count, log_every_steps=6 if count == 2 else 3
    )
    train.fit(job, parts)
    _assert_same_bits(_latest(job, whole)[0], _latest(job, parts)[0])
    assert _latest(job, whole)[1] == _latest(job, parts)[1]
    if count != 2:
      assert _lines(whole) == _lines(parts)

  def test_sigterm_saves_at_the_end_of_the_call(self, tmp_path):
    whole, parts = str(tmp_path / 'whole'), str(tmp_path / 'parts')
    train.fit(_three_a_call(log_every_steps=6), whole)

    def terminate(step):
      if step == 7:
        os.kill(os.getpid(), signal.SIGTERM)

    job = _three_a_call(log_every_steps=6, on_batch=terminate)
    with pytest.raises(SystemExit):
      train.fit(job, parts)
    assert _steps(parts)[-1] == 9
    job = _three_a_call(log_every_steps=6)
    train.fit(job, parts)
    _assert_same_bits(_latest(job, whole)[0], _latest(job, parts)[0])
    assert _lines(whole) == _lines(parts)

  def test_refuses_to_go_on_within_a_call(self, tmp_path):
    def terminate(step):
      if step == 6:
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit):
      train.fit(_three_a_call(steps_per_call=1, on_batch=terminate), tmp_path)
    with pytest.raises(
      InputError,
      match='stopped at step 7, which steps_per_call=3 does not divide; '
      'continue with steps_per_call=1',
    ):
      train.fit(_three_a_call(), str(tmp_path))
    # Nothing is lost by that.
    train.fit(_three_a_call(steps_per_call=1), str(tmp_path))
    assert _steps(tmp_path)[-1] == 12

  def test_stops_early_at_the_same_step(self, tmp_path):
    setting = {
      'validation': _VALIDATION.__getitem__,
      'total_steps': 18,
      'eval_every_steps': 3,
      'patience': 3,
    }
    train.fit(_three_a_call(**setting), str(tmp_path))
    assert [line['step'] for line in _lines(tmp_path)][-1] == 12

  @pytest.mark.parametrize('bad_step', [4, 5, 6])
  def test_names_the_first_bad_step_of_a_call(self, bad_step, tmp_path):
    job = _three_a_call(loss_fn=_loss_bad_at(bad_step, np.nan))
    with pytest.raises(
      NonFiniteLossError, match=f'the loss of step {bad_step} is nan'
    ):
      train.fit(job, str(tmp_path))
    assert _steps(tmp_path)[-1] == 3

  @pytest.mark.parametrize('parallelism', ['jit', 'pmap'])
  def test_skips_the_same_steps(self, parallelism, tmp_path):
    bad = {3: np.nan, 4: np.inf, 8: np.nan}
    workdirs, states = [], []
    for count in (1, 3):
      job = _skipping(
        bad, parallelism, count, log_every_steps=3, eval_every_steps=6
      )
      workdirs.append(tmp_path / str(count))
      train.fit(job, str(workdirs[-1]))
      states.append(_latest(job, workdirs[-1]))
    assert _lines(workdirs[0]) == _lines(workdirs[1])
    assert _lines(workdirs[1])[-2]['skipped_steps'] == 3
    # Step 9 was skipped, the last of its call.
    assert 'loss' not in _lines(workdirs[1])[4]
    _assert_same_bits(states[0][0], states[1][0])
    assert states[0][1] == states[1][1]

  def test_gives_up_within_a_call(self, tmp_path):
    bad = {4: np.nan, 5: np.nan, 6: np.nan}
    job = _skipping(bad, steps_per_call=3, log_every_steps=3)
    with pytest.raises(
      NonFiniteLossError, match='3 steps in a row, the last one step 7,'
    ):
      train.fit(job, str(tmp_path))

  def test_refuses_a_number_that_does_not_divide(self):
    setting = {'log_every_steps': 4, 'health_every_steps': 8}
    assert train.settings(tiny.config(steps_per_call=4, **setting))
    # Of 8, 4, 8, 4 and 6.
    config = tiny.config(steps_per_call=4, keep_steps=(0, 6), **setting)
    with pytest.raises(
      InputError,
      match=r'steps_per_call=4 does not divide keep_steps=\(0, 6\), .*'
      'the largest is 2',
    ):
      train.settings(config)
    config = tiny.config(
      steps_per_call=4, checkpoint_every_steps=2, total_steps=10, **setting
    )
    with pytest.raises(
      InputError, match='total_steps=10 and checkpoint_every_steps=2, '
    ):
      train.settings(config)
    with pytest.raises(InputError, match='steps_per_call=0 must be'):
      train.settings(tiny.config(steps_per_call=0))


class TestSettings:
  def test_refuses_a_period_that_is_not_positive(self):
    assert train.settings(tiny.config())['total_steps'] == 8
    with pytest.raises(InputError, match=r'log_every_steps=0 '):
      train.settings(tiny.config(log_every_steps=0))

  @pytest.mark.parametrize('step', [-1, 9])
  def test_refuses_to_keep_a_step_that_never_comes(self, step):
    assert train.settings(tiny.config(keep_steps=(0, 8)))['keep_steps'] == (
      0,
      8,
    )
    with pytest.raises(InputError, match=r'keep_steps.*total_steps=8'):
      train.settings(tiny.config(keep_steps=(2, step)))

  def test_refuses_a_negative_seed(self):
    with pytest.raises(InputError, match='seed=-1 '):
      train.settings(tiny.config(seed=-1))


def test_fields_of_a_job_are_documented():
  for field in dataclasses.fields(train.Job):
    assert f'    {field.name}: ' in train.Job.__doc__


@pytest.mark.parametrize('steps_per_call, least', [(1, 8), (4, 2), (20, 1)])
def test_the_host_is_not_far_ahead_of_the_device(
  steps_per_call, least, tmp_path
):
  waiting, most = [], 0
  job = _job(
    total_steps=80,
    log_every_steps=80,
    eval_every_steps=80,
    steps_per_call=steps_per_call,
  )
  step = job.step

  class Ahead:
    def __getattr__(self, name):
      return getattr(step, name)

    def __call__(self, state, batch):
      nonlocal most
      state, metrics = step(state, batch)
      metrics['loss'] = _Later(metrics['loss'], waiting)
      most = max(most, len(waiting))
      return state, metrics

  train.fit(dataclasses.replace(job, step=Ahead()), str(tmp_path))
  # A device that is quick never waits, and 32 in flight make XLA's CPU client
  # stand still where steps have collectives.
  assert least <= most
  assert (most - 1) * steps_per_call < 32
  assert not waiting
