"""Where the metrics of a run go: the screen, metrics.jsonl, TensorBoard."""

import json
import os
import time

from absl import logging

from bt4rec import workdir as workdir_lib


def format_seconds(seconds: float) -> str:
  """12345 -> '3:25:45'."""
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02d}:{seconds:02d}'


class MetricsWriter:
  """Appends one JSON object a call to metrics.jsonl, and TensorBoard events.

  Args:
    workdir: The output directory.
    step: Step the run continues from; lines of later steps, written before a
      kill, are cut.
    tensorboard: Whether to write TensorBoard events.
  """

  def __init__(self, workdir: str, step: int, tensorboard: bool = True):
    path = os.path.join(workdir, 'metrics.jsonl')
    workdir_lib.keep_lines(path, lambda line: line['step'] <= step)
    self._file = open(path, 'a')
    self._events = None
    if tensorboard:
      import tensorboardX  # Slow to import; not needed by every command.

      self._events = tensorboardX.SummaryWriter(
        os.path.join(workdir, 'tensorboard'), purge_step=step + 1
      )

  def write(self, step: int, metrics: dict) -> None:
    """Writes numbers and short texts under their names."""
    self._file.write(json.dumps({'step': step, **metrics}) + '\n')
    self._file.flush()
    if self._events is None:
      return
    for name, value in metrics.items():
      if isinstance(value, str):
        self._events.add_text(name, value, step)
      else:
        self._events.add_scalar(name, value, step)

  def close(self) -> None:
    """Writes what is left."""
    self._file.close()
    if self._events is not None:
      self._events.close()


class Progress:
  """Lines on the screen with rate and time left.

  Args:
    name: What is running.
    total: Number of steps in all.
    first: Step it starts from.
    unit_per_step: Sequences per step, for the rate.
  """

  def __init__(self, name: str, total: int, first: int, unit_per_step: int):
    self._name = name
    self._total = total
    self._unit = unit_per_step
    self._last = self._start = (first, time.monotonic())
    # The first interval compiles; the estimate starts after it.
    self._is_first = True

  def rate(self, step: int) -> dict[str, float]:
    """Sequences per second since the last call, and seconds left."""
    now = (step, time.monotonic())
    recent, speed = _speed(self._last, now), _speed(self._start, now)
    self._last = now
    if self._is_first:
      self._start, self._is_first = now, False
    return {
      'sequences_per_second': recent * self._unit,
      'eta_seconds': (self._total - step) / max(speed, 1e-9),
    }

  def show(self, step: int, metrics: dict) -> None:
    """Prints a line."""
    numbers = ' '.join(
      f'{name} {value:.4g}'
      for name, value in metrics.items()
      if name != 'eta_seconds' and not isinstance(value, str)
    )
    left = metrics.get('eta_seconds')
    eta = '' if left is None else f' ETA {format_seconds(left)}'
    logging.info('%s %d/%d %s%s', self._name, step, self._total, numbers, eta)


def _speed(before: tuple[int, float], now: tuple[int, float]) -> float:
  """Steps per second between two (step, seconds)."""
  return (now[0] - before[0]) / max(now[1] - before[1], 1e-9)
