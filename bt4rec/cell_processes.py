"""Units of a grid in processes of their own, each on a share of the machine."""

import collections
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection

from absl import logging
from ml_collections import ConfigDict

from bt4rec import cell_runner, command, datasets, provenance
from bt4rec.grid import Cell

# Seconds without an end of a cell after which progress is shown.
_SILENCE = 60.0
# Of an accelerator's memory, for all processes.
_MEMORY = 0.9


def run_units(
  config: ConfigDict,
  directory: str,
  units: dict[str, list[Cell]],
  processes: int,
  on_silence: Callable[[Sequence[str]], None],
) -> cell_runner.Events:
  """Runs units, so many at a time, each in a process of its own.

  A process writes its results itself and tells what it has done. It logs to
  `logs/UNIT.log` of the workdir, and ends at once when this process ends. When
  this one is told to end, it has its processes save their state first.

  Args:
    config: The whole config of the study.
    directory: The study's workdir.
    units: Name -> cells.
    processes: How many to run at a time.
    on_silence: Called with the names of those that run, now and then.

  Yields:
    What became of each cell, in the order of their ends.
  """
  os.makedirs(os.path.join(directory, 'logs'), exist_ok=True)
  waiting = collections.deque(units.items())
  slots = collections.deque(range(processes))
  running: dict[connection.Connection, _Worker] = {}
  with _raise_at_sigterm():
    try:
      while waiting or running:
        while waiting and slots:
          name, unit = waiting.popleft()
          worker = _Worker(
            config, directory, name, unit, slots.popleft(), processes
          )
          running[worker.channel] = worker
        ready = connection.wait(list(running), _SILENCE)
        if not ready:
          on_silence([worker.name for worker in running.values()])
        for channel, worker in list(running.items()):
          if channel not in ready:
            continue
          try:
            event = channel.recv()
          except (EOFError, OSError):
            del running[channel]
            slots.append(worker.slot)
            yield from worker.end()
          else:
            worker.left.remove(event.cell)
            yield event
    finally:
      for worker in running.values():
        worker.process.terminate()
      for worker in running.values():
        worker.process.join()


class _Worker:
  """A process that runs a unit.

  Attributes:
    name: Of the unit.
    slot: Number of its share of the machine.
    left: Cells that have not come to their end.
    channel: Tells the events.
    process: The process.
  """

  def __init__(self, config, directory, name, unit, slot, processes):
    self.name = name
    self.slot = slot
    self.left = list(unit)
    self._log = os.path.join(directory, 'logs', f'{name}.log')
    # A fresh interpreter: JAX does not survive a fork.
    context = multiprocessing.get_context('spawn')
    self.channel, theirs = context.Pipe(duplex=False)
    self.process = context.Process(
      target=_work,
      args=(config, directory, unit, theirs, self._log, slot, processes),
      name=name,
    )
    self.process.start()
    theirs.close()  # So that theirs is the only one, and its end is noticed.

  def end(self) -> Iterator[cell_runner.Event]:
    """Events of the cells it has not come to."""
    self.process.join()
    self.channel.close()
    status = self.process.exitcode
    text = f'its process ended with status {status}, see {self._log}'
    for cell in self.left:
      yield cell_runner.Event(cell, text, 0.0, failed=True)


def _work(config, directory, unit, channel, log, slot, processes) -> None:
  """What a process does."""
  provenance.commit()  # It has loaded the code anew.
  threading.Thread(target=_end_with_parent, daemon=True).start()
  # The keyboard interrupts the parent too, which then says what to do.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  _take_share(slot, processes)
  with open(log, 'a') as f:
    os.dup2(f.fileno(), sys.stdout.fileno())
    os.dup2(f.fileno(), sys.stderr.fileno())
  command.show_progress()
  dataset = datasets.load(config.dataset)
  for event in cell_runner.run_unit(config, directory, dataset, unit):
    if event.failed:
      logging.error('%s: failed: %s', event.cell.directory, event.text)
    channel.send(event)


def _end_with_parent() -> None:
  """Ends this process when the parent has ended, however it ended."""
  parent = multiprocessing.parent_process()
  assert parent is not None
  connection.wait([parent.sentinel])
  os._exit(1)


def _take_share(slot: int, processes: int) -> None:
  """Keeps to a share of the cores and of the accelerator's memory.

  XLA makes as many threads as it has cores, when JAX is first used.
  """
  share = f'{_MEMORY / processes:.3f}'
  os.environ.setdefault('XLA_PYTHON_CLIENT_MEM_FRACTION', share)
  if hasattr(os, 'sched_setaffinity'):  # Linux.
    cores = sorted(os.sched_getaffinity(0))
    count = max(len(cores) // processes, 1)
    first = slot * count % len(cores)
    os.sched_setaffinity(0, cores[first : first + count])


@contextlib.contextmanager
def _raise_at_sigterm() -> Iterator[None]:
  """Turns SIGTERM into SystemExit, so that `finally` is come to."""
  if threading.current_thread() is not threading.main_thread():
    yield  # Only the main thread may set handlers.
    return
  before = signal.signal(
    signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM)
  )
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, before)
