"""The events that TensorBoard shows, written where they are made.

`tensorboardX.SummaryWriter` writes from a thread of its own, behind a queue,
and once more at exit: on a full disk that thread dies, a full queue holds the
training for ever, and the failure shows as tracebacks after the one sentence
that names it. The same records go through its writer of files here, call by
call, so that a failing disk is an `OSError` of the call.
"""

import os
import time

import numpy as np


class EventFile:
  """An event file of TensorBoard.

  Args:
    directory: Where the file is made.
    purge_step: TensorBoard hides what earlier files hold of this and later
      steps.

  Raises:
    OSError: The disk is full or cannot be written; so does every call.
  """

  def __init__(self, directory: str, purge_step: int):
    # Slow to import; not needed by every command.
    from tensorboardX import event_file_writer, summary
    from tensorboardX.proto import event_pb2

    self._summary = summary
    self._event = event_pb2.Event
    os.makedirs(directory, exist_ok=True)
    self._file = event_file_writer.EventsWriter(
      os.path.join(directory, 'events')
    )
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._write(purge_step, session_log=start)

  def scalar(self, name: str, value: float, step: int) -> None:
    """Writes a number."""
    self._write(step, summary=self._summary.scalar(name, value))

  def text(self, name: str, value: str, step: int) -> None:
    """Writes a text."""
    self._write(step, summary=self._summary.text(name, value))

  def histogram(self, name: str, values: np.ndarray, step: int) -> None:
    """Writes how often which values occur, over 64 bins of one width."""
    self._write(step, summary=self._summary.histogram(name, values, bins=64))

  def flush(self) -> None:
    """Returns when all is on the disk."""
    self._file.flush()

  def close(self) -> None:
    """Closes the file."""
    self._file.close()

  def _write(self, step: int, **content) -> None:
    self._file.write_event(
      self._event(step=step, wall_time=time.time(), **content)
    )
