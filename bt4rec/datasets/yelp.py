"""Reads Yelp: the academic JSON lines, or the sequences of the year 2019.

Yelp Open Dataset, https://www.yelp.com/dataset; the sequences follow K. Zhou
et al. (2020), S3-Rec, https://arxiv.org/abs/2008.07873.
"""

import dataclasses
import os
from typing import TypeGuard

import numpy as np
import pyarrow as pa

from bt4rec.datasets import (
  event_table,
  events,
  filters,
  json_lines,
  sequences,
  tables,
  timestamps,
)
from bt4rec.errors import InputError

_UNPACK = 'unpack the archive again'
_BLOCK_ROWS = 1 << 16
# The names of the academic files, and those of some releases.
_REVIEW_NAMES = ('yelp_academic_dataset_review.json', 'review.json')
_BUSINESS_NAMES = ('yelp_academic_dataset_business.json', 'business.json')
_SEQUENCE_NAMES = ('interactions.csv.gz', 'business_categories.jsonl.gz')

# Reviews and businesses of the releases, as Yelp and its users gave them.
_RELEASES = {
  (1_569_264, 61_184): '2015 (round 6)',
  (4_736_897, 156_639): '2017 (round 10)',
  (5_261_669, 174_567): '2018 (round 11)',
  (5_996_996, 188_593): '2018 (round 12)',
  (6_685_900, 192_609): '2019',
  (8_021_122, 209_393): '2020',
  (8_635_403, 160_585): '2021',
  (6_990_280, 150_346): '2022',
}
_SEQUENCES = {
  (316_354, 20_033): 'S3-Rec, 2019, 5-core',
  (316_324, 20_027): 'S3-Rec, 2019, 5-core, without 6 users',
}

# Line, user id, business id, date.
_Review = tuple[int, str, str, str]


def yelp_files(path: str) -> list[str]:
  """Returns the two files of a Yelp folder: the events, the businesses.

  Raises:
    InputError: If there is neither of the two forms.
  """
  forms = (
    (_REVIEW_NAMES, _BUSINESS_NAMES),
    (_SEQUENCE_NAMES[:1], _SEQUENCE_NAMES[1:]),
  )
  for pair in forms:
    found = [_first_file(path, names) for names in pair]
    if all(found):
      return [file for file in found if file]
  raise InputError(
    f'{path} has neither {_REVIEW_NAMES[0]} with {_BUSINESS_NAMES[0]}, nor '
    f'{" with ".join(_SEQUENCE_NAMES)}; --config.dataset.path must name the '
    f'folder of the unpacked Yelp Open Dataset.'
  )


def _first_file(path: str, names: tuple[str, ...]) -> str | None:
  for name in names:
    for ending in ('', '.gz'):
      file = os.path.join(path, name + ending)
      if os.path.isfile(file):
        return file
  return None


def read_yelp(
  path: str, *, k_core: int, generic_share: float, num_categories: int
) -> sequences.SequenceDataset:
  """Reads a folder of either form.

  Args:
    path: The folder.
    k_core: Smallest number of events of users and businesses; 0 keeps all.
    generic_share: Categories on more than this share of the businesses with
      events and a category are dropped.
    num_categories: How many of the others are kept, the most frequent first.

  Returns:
    The dataset, 'yelp' or 'yelp-2019'. Reviews of businesses that the
    business file lacks are kept, without category, and counted.

  Raises:
    InputError: If a file is missing or damaged, naming file and line.
  """
  events_file, business_file = yelp_files(path)
  is_academic = '.json' in os.path.basename(events_file)
  found = (_read_reviews if is_academic else _read_sequences)(events_file)
  titles, categories = _read_businesses(business_file)
  counts = len(found), len(categories)
  snapshot = (_RELEASES if is_academic else _SEQUENCES).get(counts, 'none')
  known = np.array([str(i) in categories for i in found.item.values.tolist()])
  unknown = int((~known[found.item.codes]).sum())
  if unknown:
    found.notes['reviews of businesses without a record'] = unknown
  filters.k_core(found, k_core)
  dataset = events.to_dataset(
    'yelp' if is_academic else 'yelp-2019',
    found,
    titles=titles,
    categories=categories,
  )
  return dataclasses.replace(
    dataset,
    catalogue=select_categories(
      dataset.catalogue, generic_share, num_categories
    ),
    origin={
      **dataset.origin,
      'businesses_read': len(categories),
      'published_snapshot': snapshot,
    },
  )


def select_categories(
  catalogue: sequences.Catalogue, generic_share: float, num_categories: int
) -> sequences.Catalogue:
  """Keeps the categories that say something.

  With generic ones such as Restaurants, nothing but them would be predicted.

  Args:
    catalogue: The items with all their categories.
    generic_share: Categories on more than this share of the items that have
      any are dropped.
    num_categories: How many of the others are kept, the most frequent first;
      of equally frequent ones those first in the alphabet.
  """
  values = catalogue.category_values
  counts = np.bincount(values, minlength=len(catalogue.category_names))
  has_any = np.diff(catalogue.category_offsets) > 0
  counts[counts > generic_share * has_any.sum()] = 0
  chosen = np.sort(np.argsort(-counts, kind='stable')[:num_categories])
  chosen = chosen[counts[chosen] > 0]
  new_index = np.full(len(counts), -1, np.int32)
  new_index[chosen] = np.arange(len(chosen))
  kept = new_index[values] >= 0
  return dataclasses.replace(
    catalogue,
    category_names=tuple(catalogue.category_names[i] for i in chosen),
    category_offsets=np.append(0, np.cumsum(kept))[catalogue.category_offsets],
    category_values=new_index[values[kept]],
  )


def _read_reviews(file: str) -> events.Events:
  gatherer = events.Gatherer()
  number = 0
  block: list[_Review] = []
  for number, review in json_lines.read(file):
    user, business, date = (
      review.get(key) for key in ('user_id', 'business_id', 'date')
    )
    if not (_is_text(user) and _is_text(business) and _is_text(date)):
      raise InputError(
        f'{file}, line {number} has no text for user_id, business_id or date; '
        f'{_UNPACK}.'
      )
    block.append((number, user, business, date))
    if len(block) == _BLOCK_ROWS:
      _add_block(gatherer, block, file)
      block = []
  if block:
    _add_block(gatherer, block, file)
  return gatherer.finish(number, {})


def _is_text(value) -> TypeGuard[str]:
  return isinstance(value, str) and value != ''


def _add_block(
  gatherer: events.Gatherer, block: list[_Review], file: str
) -> None:
  lines, users, items, dates = zip(*block, strict=True)
  times, valid = timestamps.to_nanoseconds(pa.array(dates), 'iso')
  if not valid.all():
    bad = int((~valid).argmax())
    raise InputError(
      f'{file}, line {lines[bad]}: the date {dates[bad][:40]!r} is not like '
      f'2019-12-31 or 2019-12-31 23:59:59; {_UNPACK}.'
    )
  columns = {'user': pa.array(users), 'item': pa.array(items)}
  gatherer.add(columns, times, valid)


def _read_sequences(file: str) -> events.Events:
  return event_table.read(
    tables.Table(file, remedy=_UNPACK),
    event_table.Layout(
      user='user_id', item='business_id', timestamp='timestamp'
    ),
  )


def _read_businesses(
  file: str,
) -> tuple[dict[str, str], dict[str, list[str]]]:
  """Business id -> name, business id -> categories."""
  titles: dict[str, str] = {}
  categories: dict[str, list[str]] = {}
  for number, business in json_lines.read(file):
    business_id = business.get('business_id')
    names = business.get('categories') or []
    # A text since 2018, a list before; null where there is none.
    if isinstance(names, str):
      names = names.split(', ')
    if not isinstance(business_id, str) or not isinstance(names, list):
      raise InputError(
        f'{file}, line {number} has no text business_id, or categories that '
        f'are neither text nor a list; {_UNPACK}.'
      )
    titles[business_id] = str(business.get('name') or '')
    categories[business_id] = [
      str(name).strip() for name in names if str(name).strip()
    ]
  return titles, categories
