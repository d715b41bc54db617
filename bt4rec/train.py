"""The one training loop; what it trains is handed to it as a `Job`."""

import contextlib
import dataclasses
import itertools
import math
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from bt4rec import optimizer, plans, processes, provenance, train_step, writer
from bt4rec.checkpoint import Checkpointer
from bt4rec.embedding_projector import Points
from bt4rec.errors import InputError, NonFiniteLossError
from bt4rec.progress import Progress
from bt4rec.train_state import TrainState

# Enough that a device never waits for the host. With more than 32 XLA's CPU
# client makes the threads wait that would start the other devices' steps, and
# steps with collectives then wait for each other forever.
_STEPS_IN_FLIGHT = 16
_PREEMPTED = 128 + signal.SIGTERM


@dataclasses.dataclass(frozen=True)
class Job:
  """What the loop trains.

  Attributes:
    name: Shown with the progress.
    state: The state at step 0.
    step: The compiled step. Where a call runs several, everything else
      happens between calls, so that they must divide all the steps below.
    feed: First step -> this process's batches from there on.
    tables: Arrays every batch gets besides its own, replicated.
    total_steps: Number of updates.
    batch_size: Global batch size.
    log_every_steps: Period of the log.
    eval_every_steps: Period of `evaluate` and of checkpoints.
    checkpoint_every_steps: Period of further checkpoints; 0 is none.
    keep_checkpoints: Latest checkpoints kept, besides the best.
    patience: Evaluations without improvement after which training stops; 0
      never stops early.
    meta: JSON object stored in every checkpoint.
    evaluate: State -> numbers, named `validation_*`; none if there is no
      validation data.
    select: The one the best step is chosen by, by its smallest value if it is
      a loss and by its largest otherwise.
    health: State -> numbers and the verdict, or None.
    points: State -> embeddings for TensorBoard by name, or None.
    health_every_steps: Period of `health` and `points`.
    tensorboard: Whether to write TensorBoard events.
    keep_steps: Steps whose checkpoints are made and kept besides.
    max_skipped_steps: Steps in a row that may be skipped, by a step that skips
      what is not finite.
  """

  name: str
  state: TrainState
  step: train_step.CompiledStep
  feed: Callable[[int], Iterator[plans.Rows]]
  tables: dict[str, Any]
  total_steps: int
  batch_size: int
  log_every_steps: int
  eval_every_steps: int
  checkpoint_every_steps: int
  keep_checkpoints: int
  patience: int
  meta: dict
  evaluate: Callable[[TrainState], dict[str, float]]
  select: str = 'validation_loss'
  health: Callable[[TrainState], dict] | None = None
  points: Callable[[TrainState], dict[str, Points]] | None = None
  health_every_steps: int = 0
  tensorboard: bool = True
  keep_steps: tuple[int, ...] = ()
  max_skipped_steps: int = 0


@dataclasses.dataclass
class _Selection:
  """Early stopping; travels in the checkpoint so that it resumes exactly."""

  best: float = math.inf
  best_step: int = 0
  evaluations_since_best: int = 0
  stopped: bool = False

  def update(self, value: float, step: int, patience: int) -> None:
    if value < self.best:
      self.best, self.best_step = value, step
      self.evaluations_since_best = 0
      return
    if value == self.best:
      self.best_step = step  # The one that the checkpoints count as best.
    self.evaluations_since_best += 1
    if patience and self.evaluations_since_best >= patience:
      self.stopped = True


@dataclasses.dataclass
class _Skipped:
  """Steps whose update was left out; travels in the checkpoint too."""

  total: int = 0
  in_a_row: int = 0

  def update(self, is_skipped: bool) -> None:
    self.total += is_skipped
    self.in_a_row = self.in_a_row + 1 if is_skipped else 0


def fit(job: Job, workdir: str) -> tuple[TrainState, dict]:
  """Trains to the end, from the latest checkpoint if there is one.

  Initialisation, in order: the latest checkpoint of this workdir that can be
  read; else `job.state`.

  Args:
    job: What to train.
    workdir: Gets `metrics.jsonl`, `sessions.jsonl`, `checkpoints/` and
      TensorBoard events.

  Returns:
    The best state by validation (the last one without validation data) and
    the meta it was stored with.

  Raises:
    NonFiniteLossError: At the first loss or update that is not finite, or
      after as many in a row as may be skipped.
    SystemExit: After SIGTERM, with status 143, when the state is saved.
  """
  with contextlib.ExitStack() as stack:
    stop = stack.enter_context(_stop_signal())
    checkpointer = None
    if processes.is_first():
      checkpointer = Checkpointer(workdir, job.keep_checkpoints, job.keep_steps)
      stack.enter_context(contextlib.closing(checkpointer))
    restored = _of_first(
      checkpointer.restore_latest(job.state) if checkpointer else None, job
    )
    state, selection, skipped = job.state, _Selection(), _Skipped()
    steps_per_call = job.step.steps_per_call
    if restored is not None:
      state, meta = restored
      selection = _Selection(**meta['selection'])
      skipped = _Skipped(**meta.get('skipped', {}))
      if int(state.step) % steps_per_call:
        raise InputError(
          f'{workdir} was stopped at step {int(state.step)}, which '
          f'steps_per_call={steps_per_call} does not divide; continue with '
          f'steps_per_call=1, or with the number it was started with.'
        )
      logging.info('%s: resumed at step %d', job.name, int(state.step))
    run = _Run(
      job,
      workdir,
      checkpointer,
      state,
      selection,
      skipped,
      restored is not None,
    )
    with contextlib.closing(run):
      if not run.is_finished and processes.is_first():
        provenance.record_session(workdir, int(state.step))
      run.train(stop)
    best = _of_first(
      checkpointer.restore_best(job.state) if checkpointer else None, job
    )
    assert best is not None  # Or the first process would have raised.
    return best


def _of_first(
  restored: tuple[TrainState, dict] | None, job: Job
) -> tuple[TrainState, dict] | None:
  """What the first process has restored, on all."""
  meta = processes.value_of_first(restored and restored[1])
  if meta is None:
    return None
  state = restored[0] if restored else job.state
  data = processes.arrays_of_first(
    state.replace(rng=jax.random.key_data(state.rng))
  )
  return data.replace(rng=jax.random.wrap_key_data(data.rng)), meta


class _Run:
  """One pass of the loop from a restored state on."""

  def __init__(
    self,
    job: Job,
    workdir: str,
    checkpointer: Checkpointer | None,
    state: TrainState,
    selection: _Selection,
    skipped: _Skipped,
    is_resumed: bool,
  ):
    self._job = job
    self._workdir = workdir
    self._checkpointer = checkpointer
    self._selection = selection
    self._skipped = skipped
    self._is_resumed = is_resumed
    self._step = int(state.step)
    self._state = job.step.replicate(state)
    self._tables = job.step.replicate(job.tables)
    # A run that starts afresh keeps no line, not even of step 0.
    self._writer = None
    if processes.is_first():
      self._writer = writer.MetricsWriter(
        workdir, self._step if is_resumed else -1, job.tensorboard
      )
    self._progress = Progress(
      job.name, job.total_steps, self._step, job.batch_size
    )
    self._calls_in_flight = max(_STEPS_IN_FLIGHT // job.step.steps_per_call, 1)
    # Of every call; jax.Arrays, whose declared type lacks `is_ready`.
    self._pending: list[tuple[Any, ...]] = []
    self._num_ready = 0
    self._metrics: dict[str, jax.Array] = {}

  @property
  def is_finished(self) -> bool:
    """Whether there is nothing left to train."""
    return self._step >= self._job.total_steps or self._selection.stopped

  def train(self, stop: threading.Event) -> None:
    job = self._job
    batches = job.feed(self._step)
    if not self._is_resumed:
      self._evaluate_and_save()
    while not self.is_finished:
      rows = itertools.islice(batches, job.step.steps_per_call)
      batch = {**job.step.place_batch(*rows), **self._tables}
      self._state, self._metrics = job.step(self._state, batch)
      # They stay on the device until the next log: no sync per step.
      names = ('loss', 'update_norm', 'skipped')
      self._pending.append(
        tuple(self._metrics[name] for name in names if name in self._metrics)
      )
      self._step += job.step.steps_per_call
      self._progress.advance(self._finished_step())
      self._wait(self._calls_in_flight)
      last = self._step == job.total_steps
      if (
        last
        or self._is_due(job.log_every_steps)
        or (job.health and self._is_due(job.health_every_steps))
      ):
        self._log()
      if last or self._step % job.eval_every_steps == 0:
        self._evaluate_and_save()
      elif (
        self._is_due(job.checkpoint_every_steps) or self._step in job.keep_steps
      ):
        self._save()
      if self._should_stop(stop):
        self._save()
        self._wait_for_checkpoint()
        logging.warning(
          '%s: stopped by SIGTERM at step %d; the state is saved, the same '
          'command continues.',
          job.name,
          self._step,
        )
        raise SystemExit(_PREEMPTED)
    if job.step.num_traces > 1:
      raise AssertionError(
        f'the step was traced {job.step.num_traces} times: a shape changed.'
      )
    self._wait_for_checkpoint()

  def close(self) -> None:
    self._progress.close()
    if self._writer:
      self._writer.close()

  def _should_stop(self, stop: threading.Event) -> bool:
    if jax.process_count() > 1:
      # The point to meet at is one of successive numbers: those of the calls.
      steps_per_call = self._job.step.steps_per_call
      return processes.all_should_stop(self._step // steps_per_call)
    return stop.is_set()

  def _write(self, metrics: dict) -> None:
    if self._writer:
      self._writer.write(self._step, metrics)

  def _wait_for_checkpoint(self) -> None:
    if self._checkpointer:
      self._checkpointer.wait()

  def _is_due(self, period: int) -> bool:
    return bool(period) and self._step % period == 0

  def _finished_step(self) -> int:
    """The last step the device is done with; does not wait for it."""
    pending = self._pending
    while (
      self._num_ready < len(pending) and pending[self._num_ready][0].is_ready()
    ):
      self._num_ready += 1
    num_left = len(pending) - self._num_ready
    return self._step - num_left * self._job.step.steps_per_call

  def _wait(self, num_left: int = 0) -> None:
    """Waits for the device, call by call, so that the bar goes on.

    Args:
      num_left: How many calls may be left to do.
    """
    while len(self._pending) - self._num_ready > num_left:
      self._pending[self._num_ready][0].block_until_ready()
      self._progress.advance(self._finished_step())

  def _check_finite(self) -> None:
    self._wait()
    pending, self._pending = jax.device_get(self._pending), []
    self._num_ready = 0
    # [loss, update norm, skipped of a step] of all steps.
    steps = [
      numbers
      for call in pending
      for numbers in zip(*map(self._of_steps, call), strict=True)
    ]
    first = self._step - len(steps) + 1
    for step, (loss, update_norm, *skipped) in enumerate(steps, start=first):
      self._skipped.update(skipped == [1])
      if skipped == [1]:
        logging.warning(
          '%s: step %d was skipped: its loss is %g, its update %g (%d in all).',
          self._job.name,
          step,
          loss,
          update_norm,
          self._skipped.total,
        )
        if self._skipped.in_a_row > self._job.max_skipped_steps:
          raise NonFiniteLossError(
            f'{self._job.name}: {self._skipped.in_a_row} steps in a row, the '
            f'last one step {step}, are not finite; lower '
            f'optimizer.learning_rate, or raise optimizer.max_skipped_steps. '
            f'The checkpoints before them are in {self._workdir}.'
          )
        continue
      self._require_finite('loss', loss, step)
      # A finite loss may have a gradient that is not, and the parameters
      # would be saved before the next loss shows it.
      self._require_finite('update', update_norm, step)

  def _of_steps(self, metric: np.ndarray) -> list[float]:
    """A metric of each step of a call."""
    # Under pmap it comes once per device, all equal.
    return np.reshape(metric, (-1, self._job.step.steps_per_call))[0].tolist()

  def _require_finite(self, name: str, value: float, step: int) -> None:
    if not math.isfinite(value):
      raise NonFiniteLossError(
        f'{self._job.name}: the {name} of step {step} is {value}; lower '
        f'optimizer.learning_rate or optimizer.clip_norm. The checkpoints '
        f'before it are in {self._workdir}.'
      )

  def _log(self) -> None:
    self._check_finite()
    metrics = {
      name: float(self._of_steps(jax.device_get(value))[-1])
      for name, value in self._metrics.items()
    }
    if 'skipped' in metrics:
      if metrics.pop('skipped'):  # What is left has no NaN: JSON has none.
        metrics = {k: v for k, v in metrics.items() if math.isfinite(v)}
      metrics['skipped_steps'] = self._skipped.total
    metrics |= self._progress.rate(self._step)
    if self._job.health and self._is_due(self._job.health_every_steps):
      state = self._model_state()
      metrics |= self._job.health(state)
      if self._writer and self._job.points and self._job.tensorboard:
        self._writer.write_points(self._step, self._job.points(state))
      logging.info(
        '%s: step %d: %s (effective rank %.1f)',
        self._job.name,
        self._step,
        metrics['health'],
        metrics['effective_rank'],
      )
    self._write(metrics)
    # A step that was skipped has none.
    self._progress.note({k: v for k, v in metrics.items() if k == 'loss'})
    self._progress.show(self._step, metrics)

  def _model_state(self) -> TrainState:
    """The state on one device, less the optimizer's, to look at the model."""
    state = self._state.replace(opt_state=())
    return jax.device_put(
      self._job.step.unreplicate(state), jax.local_devices()[0]
    )

  def _evaluate_and_save(self) -> None:
    self._check_finite()
    # Those of the first: by rounding of their own they might not stop alike.
    numbers = processes.value_of_first(self._job.evaluate(self._model_state()))
    if not numbers:
      self._save()
      return
    select = self._job.select
    if select not in numbers:
      raise InputError(
        f'select_by={select.removeprefix("validation_")} is not measured on '
        f'validation; the valid names are: '
        f'{", ".join(name.removeprefix("validation_") for name in numbers)}.'
      )
    value = numbers[select]
    self._require_finite(select.replace('_', ' '), value, self._step)
    self._write(numbers)
    self._progress.note({'validation': value})
    if not select.endswith('loss'):
      value = -value  # Lower is better, for the checkpoints too.
    self._selection.update(value, self._step, self._job.patience)
    self._save(value)

  def _save(self, metric: float | None = None) -> None:
    self._check_finite()
    if not self._checkpointer:
      return
    self._checkpointer.save(
      self._step,
      self._job.step.unreplicate(self._state),
      {
        **self._job.meta,
        'selection': dataclasses.asdict(self._selection),
        'skipped': dataclasses.asdict(self._skipped),
      },
      metric,
    )


@contextlib.contextmanager
def _stop_signal() -> Iterator[threading.Event]:
  """Turns SIGTERM into an event while the context lasts."""
  stop = threading.Event()
  is_main = threading.current_thread() is threading.main_thread()
  if not is_main or jax.process_count() > 1:
    # Only the main thread may set handlers; several processes have JAX's.
    yield stop
    return
  before = signal.signal(signal.SIGTERM, lambda *_: stop.set())
  try:
    yield stop
  finally:
    signal.signal(signal.SIGTERM, before)
    if stop.is_set():
      # Arrived after the last step: not to be lost.
      raise SystemExit(_PREEMPTED)


def settings(config: ConfigDict) -> dict[str, Any]:
  """The fields of a config that a `Job` takes as they are, checked.

  Raises:
    InputError: If a number of steps is not positive, or the seed negative, or
      the steps of a call do not divide the others.
  """
  positive = ('total_steps', 'log_every_steps', 'eval_every_steps')
  for name in (*positive, 'batch_size', 'health_every_steps', 'steps_per_call'):
    if config[name] < 1:
      raise InputError(f'{name}={config[name]} must be at least 1.')
  if config.seed < 0:
    raise InputError(f'seed={config.seed} must be at least 0.')
  if any(not 0 <= step <= config.total_steps for step in config.keep_steps):
    raise InputError(
      f'keep_steps={tuple(config.keep_steps)} must lie between 0 and '
      f'total_steps={config.total_steps}.'
    )
  others = ('checkpoint_every_steps', 'keep_checkpoints', 'patience')
  _check_steps_per_call(config)
  limit = config.optimizer.max_skipped_steps
  if limit < 1:
    raise InputError(
      f'optimizer.max_skipped_steps={limit} must be at least 1; '
      f'optimizer.on_non_finite=stop allows none.'
    )
  return {
    'max_skipped_steps': limit * optimizer.skips_non_finite(config.optimizer),
    'select': f'validation_{config.select_by}',
    'keep_steps': tuple(config.keep_steps),
    **{
      name: config[name]
      for name in (*positive, *others, 'health_every_steps', 'tensorboard')
    },
  }


# Fields of a config with steps at which something happens outside of the step.
STEPS_OF_EVENTS = (
  'total_steps',
  'log_every_steps',
  'health_every_steps',
  'eval_every_steps',
  'checkpoint_every_steps',
)


def _check_steps_per_call(config: ConfigDict) -> None:
  """Refuses calls within which something would have to happen."""
  keep_steps = tuple(config.keep_steps)
  steps = {name: config[name] for name in STEPS_OF_EVENTS}
  largest = math.gcd(*steps.values(), *keep_steps)
  if largest % config.steps_per_call == 0:
    return
  odd = [f'{k}={v}' for k, v in steps.items() if v % config.steps_per_call]
  if any(step % config.steps_per_call for step in keep_steps):
    odd.append(f'keep_steps={keep_steps}')
  raise InputError(
    f'steps_per_call={config.steps_per_call} does not divide '
    f'{" and ".join(odd)}, and between its steps nothing can happen; with '
    f'these the largest is {largest}.'
  )
