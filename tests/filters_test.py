"""Repeated events of a log: counted, kept or left out."""

import numpy as np

from tests import log_files


class TestRepeatedEvents:
  # Rows 3, 5 and 6 repeat rows 1, 2 and 1; the others only look like it.
  _ROWS = '1,a,3\n2,a,3\n1,a,3\n1,b,3\n2,a,3\n1,a,3\n1,a,4\n'

  def test_kept_and_counted(self, tmp_path, caplog):
    dataset = log_files.read_text(tmp_path, log_files.HEAD + self._ROWS)
    assert dataset.num_events == 7
    assert dataset.origin['notes'] == {'repeated events, kept': 3}
    assert dataset.origin['dropped'] == {}
    assert '3 events repeat' in caplog.text
    assert 'the first in line 4; they are kept' in caplog.text

  def test_dropped_and_counted(self, tmp_path, caplog):
    dataset = log_files.read_text(
      tmp_path, log_files.HEAD + self._ROWS, duplicates='drop'
    )
    assert log_files.events_of(dataset) == [
      (1, 'a', 3),
      (1, 'b', 3),
      (1, 'a', 4),
      (2, 'a', 3),
    ]
    assert dataset.origin['dropped'] == {'repeated events': 3}
    assert 'they are left out' in caplog.text

  def test_equals_a_set_on_random_events(self, tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 5, (300, 3)).tolist()
    text = log_files.HEAD + ''.join('{},{},{}\n'.format(*row) for row in rows)
    dataset = log_files.read_text(tmp_path, text, duplicates='drop')
    kept = list(dict.fromkeys(map(tuple, rows)))
    expected = sorted(kept, key=lambda row: (row[0], row[2]))
    assert log_files.events_of(dataset) == expected
