"""How far something is: a bar on a terminal, lines now and then elsewhere."""

import contextlib
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from absl import logging

# Between two lines of what has no period of its own.
_SECONDS_BETWEEN_LINES = 10.0
# A bar that comes and goes at once would only flicker.
_SECONDS_BEFORE_BAR = 1.0
_BAR_FORMAT = '{desc} {percentage:3.0f}%|{bar:12}| {n_fmt}/{total_fmt}{postfix}'


def format_seconds(seconds: float) -> str:
  """12345 -> '3:25:45'."""
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02d}:{seconds:02d}'


class Progress:
  """Rate and time left of what is done step by step.

  On a terminal it draws a bar, above which log lines appear whole, and which
  is gone when it is closed. Elsewhere it logs lines. To be closed in the
  reverse order of opening.

  Args:
    name: What is running.
    total: Number of steps in all.
    first: Step it starts from.
    unit_per_step: Units in a step, for the rate.
    unit: What is counted by the rate.
    is_minor: Whether nothing is shown of what is soon over.
  """

  def __init__(
    self,
    name: str,
    total: int,
    first: int = 0,
    unit_per_step: int = 1,
    unit: str = 'sequences',
    is_minor: bool = False,
  ):
    self._name = name
    self._total = total
    self._unit_per_step = unit_per_step
    self._unit = unit
    self._is_minor = is_minor
    self._begin = self._last_line = time.monotonic()
    self._first = first
    self._last = self._start = (first, self._begin)
    # The first step compiles; the estimate starts after it.
    self._is_first = True
    self._notes: dict[str, float] = {}
    self._cleanup = contextlib.ExitStack()
    self._bar: Any = None
    terminal = _terminal()
    if terminal is not None:
      self._bar = self._open_bar(terminal)

  def _open_bar(self, terminal: TextIO):
    import tqdm  # Of use on a terminal alone.

    self._cleanup.enter_context(_lines_above_bars(terminal))
    bar = tqdm.tqdm(
      desc=self._name,
      total=self._total,
      initial=self._first,
      file=terminal,
      leave=False,
      **_size_options(terminal),
      mininterval=0.2,
      miniters=1,
      delay=_SECONDS_BEFORE_BAR if self._is_minor else 0.0,
      bar_format=_BAR_FORMAT,
    )
    self._cleanup.callback(bar.close)
    return bar

  def advance(self, step: int) -> None:
    """Moves the bar; cheap enough for every step."""
    now = (step, time.monotonic())
    if self._is_first and step > self._first:
      self._start, self._is_first = now, False
    if self._bar is None:
      return
    parts = []
    if step > self._start[0]:
      parts.append(f'ETA {format_seconds(self._seconds_left(now))}')
    parts += [
      f'{name} {value:.4g}' for name, value in sorted(self._notes.items())
    ]
    self._bar.set_postfix_str(' '.join(parts), refresh=False)
    self._bar.update(step - self._bar.n)

  def pulse(self, step: int) -> None:
    """As `advance`, with a line now and then, and at the end."""
    self.advance(step)
    now = time.monotonic()
    is_short = now - self._begin < _SECONDS_BETWEEN_LINES
    is_last = step == self._total and not (self._is_minor and is_short)
    if is_last or now - self._last_line >= _SECONDS_BETWEEN_LINES:
      self.show(step, self.rate(step))

  def rate(self, step: int) -> dict[str, float]:
    """Units per second since the last call, and seconds left."""
    now = (step, time.monotonic())
    recent, left = _speed(self._last, now), self._seconds_left(now)
    self._last = now
    if self._is_first:
      self._start, self._is_first = now, False
    return {
      f'{self._unit}_per_second': recent * self._unit_per_step,
      'eta_seconds': left,
    }

  def note(self, numbers: dict[str, float]) -> None:
    """Gives numbers to stand beside the bar, under their names."""
    self._notes |= numbers

  def show(self, step: int, metrics: dict) -> None:
    """Prints a line; where there is a bar, the last one alone."""
    self._last_line = time.monotonic()
    if self._bar is not None and step < self._total:
      return
    left = metrics.get('eta_seconds')
    parts = [] if left is None else [f'ETA {format_seconds(left)}']
    # First what is looked for: a line may have twenty numbers.
    parts += [
      f'{name} {metrics[name]:.4g}'
      for name in sorted(metrics, key=lambda name: name != 'loss')
      if name != 'eta_seconds' and not isinstance(metrics[name], str)
    ]
    text = ' '.join(parts)
    logging.info('%s %d/%d, %s', self._name, step, self._total, text)

  def close(self) -> None:
    """Removes the bar."""
    self._cleanup.close()

  def _seconds_left(self, now: tuple[int, float]) -> float:
    # Until there is a second step, by the first one, though it compiled.
    is_known = now[0] > self._start[0]
    since = self._start if is_known else (self._first, self._begin)
    return (self._total - now[0]) / max(_speed(since, now), 1e-9)


def track(
  name: str, total: int, blocks: Iterable[tuple[Any, int]]
) -> Iterator[tuple[Any, int]]:
  """Yields blocks of work, showing progress if they take long.

  Args:
    name: What is running.
    total: Number of rows in all.
    blocks: What is yielded; the second of each is its number of rows.
  """
  progress = Progress(name, total, unit='rows', is_minor=True)
  done = 0
  with contextlib.closing(progress):
    for block in blocks:
      yield block
      done += block[1]
      progress.pulse(done)


def _speed(before: tuple[int, float], now: tuple[int, float]) -> float:
  """Steps per second between two (step, seconds)."""
  return (now[0] - before[0]) / max(now[1] - before[1], 1e-9)


class _AboveBars:
  """Standard error while there is a bar: what is written appears above it."""

  def __init__(self, terminal: TextIO):
    self.terminal = terminal
    self._begun = ''  # Of a line whose end is not written yet.

  def write(self, text: str) -> int:
    import tqdm

    whole, newline, self._begun = (self._begun + text).rpartition('\n')
    if newline:
      tqdm.tqdm.write(whole, file=self.terminal)
    return len(text)

  def finish(self) -> None:
    """Writes what no line end followed."""
    self.terminal.write(self._begun)
    self._begun = ''

  def __getattr__(self, name: str) -> Any:
    return getattr(self.terminal, name)


def _terminal() -> TextIO | None:
  """Standard error if it is a terminal on which a bar can be drawn."""
  stream: Any = sys.stderr
  if isinstance(stream, _AboveBars):
    stream = stream.terminal
  if not stream.isatty() or os.environ.get('TERM') == 'dumb':
    return None
  return stream


def _size_options(terminal: TextIO) -> dict[str, Any]:
  """How wide bars are; some pseudo-terminals say that they have no room."""
  try:
    size = os.get_terminal_size(terminal.fileno())
  except (OSError, ValueError):
    size = os.terminal_size((0, 0))
  if 0 in size:
    return {'ncols': 80, 'nrows': 24}
  return {'dynamic_ncols': True}


@contextlib.contextmanager
def _lines_above_bars(terminal: TextIO) -> Iterator[None]:
  """Sends log lines and warnings through the bars, so that none tears."""
  if isinstance(sys.stderr, _AboveBars):
    yield  # An outer bar has done so.
    return
  above: Any = _AboveBars(terminal)
  handler = logging.get_absl_handler().python_handler
  # Both, or absl would take them for two places and log twice.
  stream = handler.setStream(above) if handler.stream is terminal else None
  with contextlib.redirect_stderr(above):
    try:
      yield
    finally:
      if stream is not None:
        handler.setStream(stream)
      above.finish()
