"""Where the metrics of a run go: metrics.jsonl and TensorBoard."""

import json
import os
import time

from bt4rec import embedding_projector
from bt4rec import workdir as workdir_lib
from bt4rec.embedding_projector import Points
from bt4rec.event_file import EventFile


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
    before = [
      0.0,
      *(x.get('seconds', 0.0) for x in workdir_lib.read_lines(path)),
    ][-1]
    self._begin = time.monotonic() - before
    self._file = open(path, 'a')
    self._events = None
    if tensorboard:
      self._directory = os.path.join(workdir, 'tensorboard')
      self._events = EventFile(self._directory, purge_step=step + 1)

  def write(self, step: int, metrics: dict) -> None:
    """Writes numbers and short texts under their names.

    A line also has `seconds`, those of the training so far: of all sessions
    together, without steps that were lost.
    """
    line = {
      'step': step,
      'seconds': round(time.monotonic() - self._begin, 3),
      **metrics,
    }
    self._file.write(json.dumps(line) + '\n')
    self._file.flush()
    if self._events is None:
      return
    for name, value in metrics.items():
      if isinstance(value, str):
        self._events.text(name, value, step)
      else:
        self._events.scalar(name, value, step)
    self._events.flush()

  def write_points(self, step: int, points: dict[str, Points]) -> None:
    """Gives TensorBoard embeddings: histograms of all, the newest as points.

    Args:
      step: The step.
      points: Name, such as 'users', -> the embeddings.
    """
    if self._events is None:
      return
    for name, shown in points.items():
      self._events.histogram(f'embeddings/{name}', shown.vectors, step)
    embedding_projector.write(self._directory, points)

  def close(self) -> None:
    """Writes what is left."""
    try:
      self._file.close()
    finally:
      if self._events is not None:
        self._events.close()
