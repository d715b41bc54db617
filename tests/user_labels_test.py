"""Tests of bt4rec.user_labels; tests/bad_inputs.py has what is refused."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bt4rec import user_labels
from bt4rec.datasets import sequences
from bt4rec.errors import InputError
from configs import base


def _dataset(user_ids):
  ids = np.array(user_ids)
  return sequences.from_events(
    'hand', ids, np.arange(len(ids)), np.arange(len(ids))
  )


_USERS = _dataset([7, 10, 30])


def _read(folder, text, label='plan', user='user', users=_USERS, name='u.csv'):
  path = folder / name
  path.write_text(text)
  return user_labels.read(str(path), user, label, users)


def test_labels_are_found_by_id_whatever_the_order(tmp_path):
  labels = _read(tmp_path, 'user,plan\n30,free\n99,gold\n7,paid\n10,\n')
  assert labels.attribute == 'plan'
  # 99 is no user of the log, and 10 has no label.
  assert labels.class_names == ('free', 'paid')
  assert labels.classes.tolist() == [1, -1, 0]


def test_numbers_stand_in_their_order_before_text(tmp_path):
  labels = _read(tmp_path, 'user,plan\n7,9\n10,10\n30,none\n')
  assert labels.class_names == ('9', '10', 'none')


def test_text_ids_and_parquet(tmp_path):
  path = str(tmp_path / 'users.parquet')
  pq.write_table(pa.table({'who': ['b', 'a'], 'churned': [1, 0]}), path)
  labels = user_labels.read(path, 'who', 'churned', _dataset(['a', 'b', 'c']))
  assert labels.class_names == ('0', '1')
  assert labels.classes.tolist() == [0, 1, -1]


def test_the_digest_is_of_the_labels_alone(tmp_path):
  texts = {
    'same': 'user,plan\n7,a\n10,b\n',
    'in another order, with another user': 'user,plan\n10,b\n99,a\n7,a\n',
    'changed': 'user,plan\n7,a\n10,b\n30,b\n',
  }
  digests = [_read(tmp_path, text).digest for text in texts.values()]
  assert digests[0] == digests[1] != digests[2]


def test_a_number_is_no_class(tmp_path):
  rows = ''.join(f'{user},{user / 7}\n' for user in range(1_001))
  with pytest.raises(InputError, match='is 1,001, and'):
    _read(tmp_path, f'user,plan\n{rows}', users=_dataset(range(1_001)))


class TestUsersOfMovieLens:
  _TEXT = '7::F::1::10::48067\n10::M::56::0::70072-1234\n'

  def test_every_label(self, tmp_path):
    for label, names in (
      ('gender', ('F', 'M')),
      ('age', ('1', '56')),
      ('occupation', ('0', '10')),
    ):
      labels = _read(tmp_path, self._TEXT, label, name='users.dat')
      assert labels.class_names == names

  def test_is_found_beside_the_ratings(self, tmp_path):
    (tmp_path / 'users.dat').write_text(self._TEXT)
    config = base.get_config()
    config.dataset.name, config.dataset.path = 'ml1m', str(tmp_path)
    config.user_attribute.label = 'gender'
    labels = user_labels.of_config(config, _USERS)
    assert labels.classes.tolist() == [0, 1, -1]


def test_a_config_without_labels_is_told_how():
  config = base.get_config()
  with pytest.raises(InputError, match=r'with --config.user_attribute.path'):
    user_labels.of_config(config, _USERS)
  config.user_attribute.path = 'users.csv'
  with pytest.raises(InputError, match=r'with --config.user_attribute.label'):
    user_labels.of_config(config, _USERS)
  config.user_attribute.label = 'plan'
  with pytest.raises(InputError, match='cannot open users'):
    user_labels.of_config(config, _USERS)
