"""The bar on a terminal, the lines elsewhere, and the time left."""

import io
import sys
import types

import pytest
from absl import flags, logging

from bt4rec import progress, train


class _Terminal(io.StringIO):
  def isatty(self):
    return True


def _screen(written: str) -> list[str]:
  """What a terminal shows: a carriage return goes back and writes over."""
  lines = []
  for line in written.split('\n'):
    row: list[str] = []
    for part in line.split('\r'):
      row[: len(part)] = part
    lines.append(''.join(row).rstrip())
  return lines


@pytest.fixture(name='clock')
def _clock(monkeypatch):
  """A clock that stands still until it is set."""
  now = [0.0]
  monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])

  def set_clock(seconds):
    now[0] = seconds

  return set_clock


@pytest.fixture(name='use_stderr')
def _use_stderr(monkeypatch):
  """Makes a stream standard error and the place of absl's log.

  To be called in the test: pytest sets standard error after the fixtures.
  """
  handler = logging.get_absl_handler()
  formatter, verbosity = (
    handler.python_handler.formatter,
    logging.get_verbosity(),
  )
  was_parsed = flags.FLAGS.is_parsed()

  def use(stream):
    monkeypatch.setattr(sys, 'stderr', stream)
    monkeypatch.setattr(handler.python_handler, 'stream', stream)
    monkeypatch.setenv('TERM', 'xterm')
    flags.FLAGS.mark_as_parsed()
    logging.set_verbosity(logging.INFO)
    handler.setFormatter(None)  # No time and place.
    logging.use_absl_handler()
    return stream

  yield use
  handler.setFormatter(formatter)
  logging.set_verbosity(verbosity)
  if not was_parsed:
    flags.FLAGS.unparse_flags()


@pytest.fixture(name='terminal')
def _terminal(use_stderr):
  return lambda: use_stderr(_Terminal())


@pytest.fixture(name='file')
def _file(use_stderr):
  return lambda: use_stderr(io.StringIO())


def test_seconds_are_hours_minutes_seconds():
  # 3 * 3600 + 25 * 60 + 45.
  assert progress.format_seconds(12345) == '3:25:45'
  assert progress.format_seconds(59.6) == '0:01:00'


class TestTimeLeft:
  def test_leaves_out_the_step_that_compiles(self, file, clock):
    file = file()
    p = progress.Progress('train', 31, unit_per_step=8)
    clock(100.0)
    p.advance(1)
    clock(110.0)
    p.advance(11)
    rate = p.rate(11)
    # 20 steps to go at one a second; 11 steps of 8 in the 110 seconds.
    assert rate == {'sequences_per_second': 0.8, 'eta_seconds': 20.0}
    clock(120.0)
    # Now twice as fast; on the average 30 steps in 20 seconds.
    assert p.rate(31) == {'sequences_per_second': 16.0, 'eta_seconds': 0.0}

  def test_is_known_from_the_first_step_on(self, file, clock):
    file = file()
    p = progress.Progress('train', 10)
    clock(2.0)
    p.advance(1)
    assert p.rate(1)['eta_seconds'] == pytest.approx(18.0)

  def test_counts_from_where_a_run_continues(self, file, clock):
    file = file()
    p = progress.Progress('train', 40, first=30)
    clock(50.0)
    p.advance(31)
    clock(52.0)
    # 4 steps in 2 seconds.
    assert p.rate(35)['eta_seconds'] == pytest.approx(2.5)


class TestElsewhere:
  def test_writes_lines_and_no_bar(self, file, clock):
    file = file()
    p = progress.Progress('train', 4)
    for step in range(1, 5):
      clock(step * 2.0)
      p.advance(step)
      metrics = {'gradient_norm': 3.0, 'loss': 0.5, 'health': 'healthy'}
      p.show(step, metrics | p.rate(step))
    p.close()
    lines = file.getvalue().splitlines()
    assert len(lines) == 4
    # The time left and the loss stand where they are seen.
    assert lines[1] == (
      'train 2/4, ETA 0:00:04 loss 0.5 gradient_norm 3 sequences_per_second 0.5'
    )
    assert '\r' not in file.getvalue()

  def test_a_dumb_terminal_is_no_terminal(self, terminal, monkeypatch):
    terminal = terminal()
    monkeypatch.setenv('TERM', 'dumb')
    p = progress.Progress('train', 4)
    p.advance(2)
    p.close()
    assert terminal.getvalue() == ''

  def test_what_is_soon_over_is_not_shown(self, file, clock):
    file = file()
    blocks = [('a', 3), ('b', 2)]
    assert list(progress.track('embed', 5, blocks)) == blocks
    assert file.getvalue() == ''

  def test_what_takes_long_says_so_now_and_then(self, file, clock):
    file = file()
    for number, _ in progress.track('embed', 60, ((i, 10) for i in range(6))):
      clock(4.0 * (number + 1))
    # At 4 to 24 seconds, every ten of them; and at the end.
    assert [line.split()[1] for line in file.getvalue().splitlines()] == [
      *('30/60,', '60/60,')
    ]

  def test_a_pass_of_its_own_is_always_said(self, file, clock):
    file = file()
    p = progress.Progress('export', 7, unit='rows')
    clock(0.5)
    p.pulse(7)
    assert file.getvalue().startswith(
      'export 7/7, ETA 0:00:00 rows_per_second 14'
    )


class TestTerminal:
  def test_log_lines_and_prints_stand_whole_above_the_bar(
    self, terminal, clock
  ):
    terminal = terminal()
    p = progress.Progress('train', 8)
    for step in range(1, 9):
      clock(float(step))
      p.note({'loss': 1.0 / step})
      p.advance(step)
      if step == 3:
        logging.info('first line')
        print('a', 'print', file=sys.stderr)
      if step == 5:
        logging.info('second line')
        sys.stderr.write('a half')
        during = _screen(terminal.getvalue())
    p.close()
    # The bar has its own clock, so what it shows is that of some step.
    assert during[-1].startswith('train ') and '/8, ETA' in during[-1]
    shown = _screen(terminal.getvalue())
    assert shown[0] == 'first line'
    assert shown[1] == 'a print'
    assert 'second line' in shown
    # Gone when it is closed, and nothing of it is left in a line.
    assert shown[-1] == 'a half'
    assert not any('|' in line for line in shown)

  def test_shows_percent_time_left_and_numbers(self, terminal, clock):
    terminal = terminal()
    p = progress.Progress('train', 200)
    p.advance(100)
    p.note({'loss': 0.123456})
    clock(10.0)
    p.advance(150)
    p._bar.refresh()
    text = _screen(terminal.getvalue())[-1]
    p.close()
    assert text.startswith('train  75%|')
    # 50 steps in ten seconds.
    assert text.endswith('| 150/200, ETA 0:00:10 loss 0.1235')

  def test_of_the_lines_only_the_last_is_printed(self, terminal, clock):
    terminal = terminal()
    p = progress.Progress('train', 3)
    for step in range(1, 4):
      p.advance(step)
      p.show(step, {'loss': 2.0})
    p.close()
    lines = [line for line in _screen(terminal.getvalue()) if line]
    assert lines == ['train 3/3, loss 2']

  def test_an_inner_bar_leaves_the_outer_one(self, terminal, clock):
    terminal = terminal()
    outer = progress.Progress('outer', 2)
    before = sys.stderr
    for _ in progress.track('inner', 2, [('a', 1), ('b', 1)]):
      pass
    assert sys.stderr is before
    outer.advance(1)
    outer.close()
    assert sys.stderr is terminal
    assert logging.get_absl_handler().python_handler.stream is terminal
    assert not any('|' in line for line in _screen(terminal.getvalue()))

  def test_a_failure_inside_gives_standard_error_back(self, terminal, clock):
    terminal = terminal()
    blocks = progress.track('embed', 2, [('a', 1), ('b', 1)])
    next(blocks)
    assert sys.stderr is not terminal
    blocks.close()
    assert sys.stderr is terminal


class _Number:
  def __init__(self, ready):
    self._ready = ready

  def is_ready(self):
    return self._ready

  def __array__(self, *args, **kwargs):
    raise AssertionError('waited for the device')


def test_the_loop_counts_finished_steps_without_waiting():
  run = object.__new__(train._Run)
  run._job = types.SimpleNamespace(step=types.SimpleNamespace(steps_per_call=1))
  # Steps 8, 9 and 10; the device works in order.
  run._pending = [(_Number(ready), None) for ready in (True, False, False)]
  run._num_ready, run._step = 0, 10
  assert run._finished_step() == 8
  run._pending[1][0]._ready = True
  assert run._finished_step() == 9
