"""Tests of bt4rec.vocabulary: what ids are taken, and what is refused."""

import logging

import numpy as np
import pytest

from bt4rec import vocabulary
from bt4rec.errors import InputError

_INTEGERS = np.array([3, 7, 10])
_TEXTS = np.array(['10', '7', 'abc'])


@pytest.mark.parametrize(
  'sequences',
  [
    [[7, 10], [3]],
    [(7, 10), np.array([3], np.int32)],
    [np.array([7, 10], np.uint8), [np.int64(3)]],
    [['7', '10'], ['3']],
    [['7', 10], np.array([3], object)],
    [np.array(['7', '10']), [3]],
    [np.array(['7', '10'], np.dtypes.StringDType()), [3]],
  ],
)
def test_integers_in_every_guise(sequences):
  tokens = vocabulary.encode(sequences, _INTEGERS)
  assert tokens.items.dtype == np.int32
  assert tokens.items.tolist() == [2, 3, 1]
  assert tokens.offsets.tolist() == [0, 2, 3]


@pytest.mark.parametrize(
  'sequences', [[['7', 'abc', '10']], [['7', 'abc', 10]]]
)
def test_a_catalogue_of_text_takes_integers_as_text(sequences):
  assert vocabulary.encode(sequences, _TEXTS).items.tolist() == [2, 3, 1]
  assert vocabulary.encode([[7, 10]], _TEXTS).items.tolist() == [2, 1]


def test_an_unknown_item_gets_the_mask_token_and_is_reported(caplog):
  with caplog.at_level(logging.WARNING):
    tokens = vocabulary.encode([[7, 99], [98]], _INTEGERS)
  assert tokens.items.tolist() == [2, 4, 4]
  assert '2 of 3 items' in caplog.text
  assert 'such as 99;' in caplog.text
  assert '1 of 2 sequences have no other' in caplog.text


def test_a_longer_text_is_not_cut_to_the_length_of_the_known_ones():
  assert vocabulary.encode([['abcd']], _TEXTS).items.tolist() == [4]


def test_nobody_is_no_mistake():
  tokens = vocabulary.encode([], _INTEGERS)
  assert len(tokens.items) == 0 and tokens.offsets.tolist() == [0]


@pytest.mark.parametrize(
  'sequence, words',
  [
    (['x1'], ["'x1' is no integer", 'such as 3']),
    # As in a log, where 007 and 7 are two ids.
    (['007'], ["'007' is no integer"]),
    (['7.0'], ["'7.0' is no integer"]),
    ([7.0], ['7.0 is a float', 'astype(int)']),
    (np.array([7.0]), ['is a float']),
    ([7, 2.5], ['2.5 is a float']),
    ([7, float('nan')], ['leave missing ones out']),
    ([7, None], ['None is a NoneType', 'leave missing ones out']),
    ([True], ['is a bool']),
    ([b'7'], ['is a bytes']),
    ([[7]], ['is a list', 'one flat list a user']),
    ([2**70], ['does not fit into 64 bits']),
    (np.array([2**63], np.uint64), ['does not fit into 64 bits']),
    ([], ['is empty']),
    ('7', ["is '7', not a list", '[[1, 2, 3]]']),
    (7, ['is 7, not a list']),
  ],
)
def test_bad_ids_get_a_sentence_that_names_the_sequence(sequence, words):
  with pytest.raises(InputError) as error:
    vocabulary.encode([[3], sequence], _INTEGERS)
  for word in ['sequence 1', *words]:
    assert word in str(error.value)
