"""Yelp: both forms, the category rule, the k-core, bad lines."""

import gzip
import json
import pathlib
import shutil

import numpy as np
import pytest

from bt4rec import datasets
from bt4rec.datasets import json_lines, sequences, yelp
from bt4rec.errors import InputError
from configs import base
from tests import dataset_assertions, full_size

_SECRET = 'a text that must not be stored'


def _review(user, business, date, **others) -> dict:
  return {
    'review_id': 'r',
    'user_id': user,
    'business_id': business,
    'stars': 4.0,
    'text': _SECRET,
    'date': date,
    **others,
  }


_REVIEWS = (
  _review('u2', 'b1', '2019-03-01 00:00:10'),
  # An older release: no time of day, votes, whole stars.
  _review('u1', 'b2', '2019-03-01', votes={'funny': 1}, type='review', stars=4),
  _review('u2', 'b1', '2019-03-01 00:00:09'),
  _review('u1', 'lost', '2018-12-31 23:59:59'),
)
_BUSINESSES = (
  {'business_id': 'b1', 'name': 'Café', 'categories': 'Thai, Food'},
  {'business_id': 'b2', 'name': 'B', 'categories': None},
  {'business_id': 'b3', 'name': 'C', 'categories': ['Zoo', 'Food']},
)


def _write_lines(path: pathlib.Path, rows) -> None:
  text = ''.join(json.dumps(row) + '\n' for row in rows).encode()
  path.write_bytes(gzip.compress(text) if path.suffix == '.gz' else text)


def _write(folder, reviews=_REVIEWS, businesses=_BUSINESSES) -> str:
  folder.mkdir(exist_ok=True)
  _write_lines(folder / 'yelp_academic_dataset_review.json', reviews)
  _write_lines(folder / 'yelp_academic_dataset_business.json', businesses)
  return str(folder)


def _read(path: str, **options) -> sequences.SequenceDataset:
  options = {
    'k_core': 0,
    'generic_share': 1.0,
    'num_categories': 50,
    **options,
  }
  return yelp.read_yelp(path, **options)


def _categories(dataset, item: str) -> list[str]:
  catalogue = dataset.catalogue
  row = catalogue.item_ids.tolist().index(item)
  first, last = catalogue.category_offsets[row : row + 2]
  return [
    catalogue.category_names[i] for i in catalogue.category_values[first:last]
  ]


class TestAcademicFiles:
  def test_by_hand(self, tmp_path):
    dataset = _read(_write(tmp_path / 'yelp'))
    assert dataset.name == 'yelp'
    assert dataset.user_ids.tolist() == ['u1', 'u2']
    assert dataset.catalogue.item_ids.tolist() == ['b1', 'b2', 'lost']
    assert dataset.offsets.tolist() == [0, 2, 4]
    assert dataset.items.tolist() == [3, 2, 1, 1]
    # Seconds since 1970 of the four dates, UTC.
    assert dataset.timestamps.tolist() == [
      1546300799,
      1551398400,
      1551398409,
      1551398410,
    ]
    assert dataset.catalogue.titles.tolist() == ['Café', 'B', '']

  def test_categories_are_text_a_list_or_null(self, tmp_path):
    dataset = _read(
      _write(tmp_path / 'y', [*_REVIEWS, _review('u3', 'b3', '2019-01-01')])
    )
    assert _categories(dataset, 'b1') == ['Food', 'Thai']
    assert _categories(dataset, 'b2') == []
    assert _categories(dataset, 'b3') == ['Food', 'Zoo']

  def test_reviews_of_unknown_businesses_are_kept_and_counted(self, tmp_path):
    origin = _read(_write(tmp_path / 'yelp')).origin
    assert origin['rows_read'] == origin['events_kept'] == 4
    assert origin['notes'] == {'reviews of businesses without a record': 1}

  def test_blocks_do_not_show(self, tmp_path, monkeypatch):
    full_size.write_yelp(str(tmp_path), 700)
    whole = _read(str(tmp_path))
    monkeypatch.setattr(yelp, '_BLOCK_ROWS', 7)
    dataset_assertions.assert_equal(_read(str(tmp_path)), whole)
    assert whole.num_events == 700

  def test_compressed_files_are_read(self, tmp_path):
    folder = _write(tmp_path / 'plain')
    packed = tmp_path / 'packed'
    packed.mkdir()
    _write_lines(packed / 'review.json.gz', _REVIEWS)
    _write_lines(packed / 'business.json.gz', _BUSINESSES)
    dataset_assertions.assert_equal(_read(str(packed)), _read(folder))

  def test_records_hold_no_text_of_a_review(self, tmp_path):
    config = base.get_config().dataset
    config.update({'name': 'yelp', 'path': _write(tmp_path / 'yelp')})
    config.data_dir = str(tmp_path / 'cache')
    config.yelp.generic_share = 1.0
    written, cached = datasets.load(config), datasets.load(config)
    dataset_assertions.assert_equal(written, cached)
    files = [p for p in (tmp_path / 'cache').rglob('*') if p.is_file()]
    assert files
    assert not any(_SECRET.encode() in p.read_bytes() for p in files)


class TestSnapshot:
  def test_none_matches(self, tmp_path):
    origin = _read(_write(tmp_path / 'yelp')).origin
    assert origin['published_snapshot'] == 'none'
    assert origin['businesses_read'] == 3

  def test_matching_counts_are_named(self, tmp_path, monkeypatch):
    monkeypatch.setitem(yelp._RELEASES, (4, 3), 'toy')
    path = _write(tmp_path / 'yelp')
    assert _read(path).origin['published_snapshot'] == 'toy'
    # The counts are those of the files, not of what a filter leaves.
    assert _read(path, k_core=2).origin['published_snapshot'] == 'toy'


class TestKCore:
  def test_equals_removing_one_by_one(self, tmp_path):
    rng = np.random.default_rng(0)
    pairs = {tuple(pair) for pair in rng.integers(0, 14, (60, 2)).tolist()}
    rows = [
      _review(f'u{user}', f'b{item}', f'2019-01-01 00:00:{second:02}')
      for second, (user, item) in enumerate(sorted(pairs))
    ]
    dataset = _read(_write(tmp_path / 'yelp', rows), k_core=3)
    left = [(row['user_id'], row['business_id']) for row in rows]
    while True:
      users = [user for user, _ in left]
      items = [item for _, item in left]
      rare = [
        pair
        for pair in left
        if users.count(pair[0]) < 3 or items.count(pair[1]) < 3
      ]
      if not rare:
        break
      left.remove(rare[0])
    assert 0 < len(left) < len(rows)
    assert dataset.num_events == len(left)
    assert dataset.user_ids.tolist() == sorted({user for user, _ in left})
    assert dataset.catalogue.item_ids.tolist() == sorted({i for _, i in left})
    assert dataset.origin['dropped'] == {
      'events outside of the 3-core': len(rows) - len(left)
    }

  def test_that_leaves_nothing_is_told(self, tmp_path):
    with pytest.raises(InputError, match='has no events'):
      _read(_write(tmp_path / 'yelp'), k_core=9)


class TestSelectCategories:
  # Of five items with a category, A is on 4, B on 3, C and D on 2, E on 1.
  _MEMBERSHIPS = ('ABC', 'ABD', 'ABC', 'AD', 'E', '')

  def _select(self, generic_share, num_categories):
    ids = np.arange(6)
    catalogue = sequences.make_catalogue(
      ids, {}, dict(zip(ids.tolist(), self._MEMBERSHIPS, strict=True))
    )
    chosen = yelp.select_categories(catalogue, generic_share, num_categories)
    names, offsets = chosen.category_names, chosen.category_offsets
    values = chosen.category_values
    return [
      ''.join(names[i] for i in values[offsets[row] : offsets[row + 1]])
      for row in range(6)
    ], ''.join(names)

  @pytest.mark.parametrize(
    'generic_share, num_categories, memberships, names',
    [
      (1.0, 9, ['ABC', 'ABD', 'ABC', 'AD', 'E', ''], 'ABCDE'),
      # 4 of 5 is not more than 0.8.
      (0.8, 9, ['ABC', 'ABD', 'ABC', 'AD', 'E', ''], 'ABCDE'),
      (0.79, 9, ['BC', 'BD', 'BC', 'D', 'E', ''], 'BCDE'),
      # Of the equally frequent C and D the first.
      (0.79, 2, ['BC', 'B', 'BC', '', '', ''], 'BC'),
      (0.0, 9, [''] * 6, ''),
    ],
  )
  def test_by_hand(self, generic_share, num_categories, memberships, names):
    found = self._select(generic_share, num_categories)
    assert found == (memberships, names)


class TestBadFiles:
  @pytest.mark.parametrize(
    'line, words',
    [
      (b'{"user_id": "u", ', 'line 2 is not a JSON object'),
      (b'[1, 2]', 'line 2 is not a JSON object (it is no object)'),
      (b'[' * 100_000, 'line 2 is not a JSON object (it is nested deeper'),
      (b'\xff\xfe{}', 'line 2 is not a JSON object'),
      (b'{"user_id": "u", "date": "2019-01-01"}', 'line 2 has no text for'),
      (
        b'{"user_id": 7, "business_id": "b", "date": "2019-01-01"}',
        'line 2 has no text for',
      ),
      (
        b'{"user_id": "u", "business_id": "b", "date": "01/02/2019"}',
        "line 2: the date '01/02/2019' is not like",
      ),
    ],
  )
  def test_review_is_named_with_its_line(self, tmp_path, line, words):
    folder = _write(tmp_path / 'yelp')
    path = tmp_path / 'yelp' / 'yelp_academic_dataset_review.json'
    lines = path.read_bytes().splitlines()
    path.write_bytes(b'\n'.join([lines[0], line, *lines[1:]]))
    with pytest.raises(InputError) as error:
      _read(folder)
    assert words in str(error.value)
    assert path.name in str(error.value)
    assert _SECRET not in str(error.value)

  def test_brackets_in_a_text_are_no_nesting(self, tmp_path):
    odd = _review('u', 'b1', '2019-01-01', text='"[{\\' * 300)
    dataset = _read(_write(tmp_path / 'yelp', [*_REVIEWS, odd]))
    assert dataset.num_events == 5

  def test_business_with_odd_categories(self, tmp_path):
    folder = _write(
      tmp_path / 'yelp', businesses=[{'business_id': 'b', 'categories': 7}]
    )
    with pytest.raises(InputError, match=r'business\.json, line 1 has no text'):
      _read(folder)

  def test_a_line_has_a_limit(self, tmp_path, monkeypatch):
    monkeypatch.setattr(json_lines, 'MAX_LINE_BYTES', 300)
    folder = _write(
      tmp_path / 'yelp', [*_REVIEWS, _review('u', 'x' * 300, '2019-01-01')]
    )
    with pytest.raises(InputError, match=r'line 5 .*longer than 300 bytes'):
      _read(folder)

  @pytest.mark.parametrize('cut', [1, 40])
  def test_a_cut_archive(self, tmp_path, cut):
    _write(tmp_path / 'yelp')
    path = tmp_path / 'yelp' / 'yelp_academic_dataset_review.json'
    packed = gzip.compress(path.read_bytes())
    path.with_suffix('.json.gz').write_bytes(packed[:-cut])
    path.unlink()
    with pytest.raises(InputError, match='cannot be read after line'):
      _read(str(tmp_path / 'yelp'))

  def test_empty_file_and_missing_files(self, tmp_path):
    folder = _write(tmp_path / 'yelp')
    path = tmp_path / 'yelp' / 'yelp_academic_dataset_business.json'
    path.write_bytes(b'')
    with pytest.raises(InputError, match=r'business\.json is empty'):
      _read(folder)
    path.unlink()
    with pytest.raises(InputError) as error:
      _read(folder)
    assert 'yelp_academic_dataset_business.json' in str(error.value)
    assert 'interactions.csv.gz' in str(error.value)


class TestRealFiles:
  @pytest.fixture
  def raw(self, shared_data) -> pathlib.Path:
    if shared_data is None or not (shared_data / 'yelp-raw-sample').is_dir():
      pytest.skip('no raw sample of Yelp')
    return shared_data / 'yelp-raw-sample'

  def test_sequences_of_2019(self, shared_data):
    if shared_data is None or not (shared_data / 'yelp-2019-seq').is_dir():
      pytest.skip('no sequences of Yelp')
    dataset = yelp.read_yelp(
      str(shared_data / 'yelp-2019-seq'),
      k_core=5,
      generic_share=0.1,
      num_categories=50,
    )
    # They are a 5-core already, so nothing is left out.
    assert dataset.name == 'yelp-2019'
    assert dataset.num_events == 316_324
    assert (dataset.num_users, dataset.catalogue.num_items) == (30_425, 20_027)
    assert dataset.origin['dropped'] == {}
    assert dataset.origin['published_snapshot'].startswith('S3-Rec')
    assert (dataset.timestamps.min(), dataset.timestamps.max()) == (
      1546300809,
      1576252117,
    )
    names = dataset.catalogue.category_names
    assert len(names) == 50
    assert not {'Restaurants', 'Food', 'Nightlife', 'Bars'} & set(names)
    assert 'Mexican' in names

  def test_raw_sample(self, raw):
    dataset = _read(str(raw))
    assert (dataset.num_events, dataset.num_users) == (5_000, 4_843)
    assert dataset.catalogue.num_items == 2_663
    assert dataset.origin['notes'] == {
      'reviews of businesses without a record': 3_276
    }
    # 2005-03-12 03:47:06 and 2018-10-04 18:10:01.
    assert (dataset.timestamps.min(), dataset.timestamps.max()) == (
      1110599226,
      1538676601,
    )

  @pytest.mark.parametrize('release, reviews', [('2015', 300), ('2019', 3_610)])
  def test_older_releases(self, raw, tmp_path, release, reviews):
    older = raw / 'older-releases'
    shutil.copy(
      older / f'review_{release}_release.json', tmp_path / 'review.json'
    )
    shutil.copy(
      older / 'business_2014_release.json', tmp_path / 'business.json'
    )
    dataset = _read(str(tmp_path))
    assert dataset.num_events == reviews
    titles, categories = yelp._read_businesses(str(tmp_path / 'business.json'))
    assert len(titles) == 2_005
    # A list of names, not a name of letters.
    assert 'Restaurants' in {n for names in categories.values() for n in names}
