"""Timestamps of every unit and type, as a log holds them."""

import pyarrow as pa
import pytest

from bt4rec.datasets import timestamps
from tests import log_files


class TestTimestamps:
  @pytest.mark.parametrize(
    'unit, text',
    [
      ('s', '1577836799'),
      ('s', '1577836799.0'),
      ('s', '1.577836799e9'),
      ('ms', '1577836799000'),
      ('us', '1577836799000000'),
      ('ns', '1577836799000000000'),
      ('iso', '2019-12-31 23:59:59'),
      ('iso', '2019-12-31T23:59:59Z'),
      ('iso', '2020-01-01T00:59:59+01:00'),
      ('iso', '2019-12-31T23:59:59.000'),
    ],
  )
  def test_of_one_moment_are_equal(self, tmp_path, unit, text):
    dataset = log_files.read_text(
      tmp_path, f'{log_files.HEAD}1,2,{text}\n', timestamp_unit=unit
    )
    assert dataset.timestamps.tolist() == [1577836799]

  def test_with_and_without_zone_in_one_file(self, tmp_path):
    rows = '1,a,2019-12-31\n1,b,2019-12-31T01:00+01:00\n1,c,2019-12-30\n'
    dataset = log_files.read_text(
      tmp_path, log_files.HEAD + rows, timestamp_unit='iso'
    )
    assert log_files.events_of(dataset) == [
      (1, 'c', 1577664000),
      (1, 'a', 1577750400),
      (1, 'b', 1577750400),
    ]

  @pytest.mark.parametrize(
    'unit, texts',
    [
      ('s', ('7.30', '7.2999999', '7.1')),
      ('ms', ('7300', '7299', '7100')),
      ('ns', ('7000000003', '7000000002', '7000000001')),
      ('iso', ('1970-01-01 00:00:07.3', '1970-01-01 00:00:07.2', '1970-01-01')),
    ],
  )
  def test_order_has_the_full_resolution(self, tmp_path, unit, texts):
    rows = ''.join(
      f'1,{item},{text}\n' for item, text in zip('cba', texts, strict=True)
    )
    dataset = log_files.read_text(
      tmp_path, log_files.HEAD + rows, timestamp_unit=unit
    )
    assert dataset.catalogue.item_ids[dataset.items - 1].tolist() == list('abc')

  def test_before_1970(self, tmp_path):
    dataset = log_files.read_text(
      tmp_path,
      f'{log_files.HEAD}1,a,1969-12-31\n1,b,1960-01-01\n',
      timestamp_unit='iso',
    )
    assert dataset.timestamps.tolist() == [-315619200, -86400]

  @pytest.mark.parametrize(
    'column',
    [
      pa.array([7, 5, None], pa.int32()),
      pa.array([7.5, 5.0, None]),
      pa.array([7_000, 5_000, None], pa.timestamp('ms')),
      pa.array([7_000, 5_000, None], pa.timestamp('ms', 'Asia/Tokyo')),
      pa.array(['7', ' 5 ', 'x']),
      pa.array(['7', '5', None]).dictionary_encode(),
    ],
    ids=str,
  )
  def test_types_of_parquet(self, column):
    times, valid = timestamps.to_nanoseconds(column, 's')
    assert (times[:2] // 10**9).tolist() == [7, 5]
    assert valid.tolist() == [True, True, False]
