"""Who sees which event: scopes, held-out positions, users and label subsets.

Everything here is arithmetic on the lengths of the histories and on seeded
hashes of the original ids, so it does not depend on the order in which users
were read, and it never looks at an item, except to fingerprint the split.
"""

import hashlib
import math
from collections.abc import Iterator

import numpy as np

from bt4rec.datasets.sequences import Catalogue, SequenceDataset
from bt4rec.errors import InputError, choose

# A history shorter than this has no favourite category to hold out.
MIN_EVENTS_FOR_FAVORITE = 10
VALIDATION_SHARE = 0.1
TEST_SHARE = 0.1
# Events in memory at a time, of a dataset that may be larger.
_BLOCK_EVENTS = 1 << 18


def favorite_cut(lengths: np.ndarray) -> np.ndarray:
  """First held-out position of `favorite_category`, `n - h`.

  The last `h = max(5, ceil(n / 5))` events are held out.

  Args:
    lengths: [num_users] int, events of each user.

  Returns:
    [num_users] int64; meaningful for users with 10 events and more.
  """
  lengths = np.asarray(lengths, np.int64)
  return lengths - np.maximum(5, -(-lengths // 5))


def last_two_cut(lengths: np.ndarray) -> np.ndarray:
  """First held-out position of `next_item` and `next_category`, `n - 2`."""
  return np.maximum(np.asarray(lengths, np.int64) - 2, 0)


def _shared_scope(lengths: np.ndarray) -> np.ndarray:
  return np.where(
    np.asarray(lengths) >= MIN_EVENTS_FOR_FAVORITE,
    favorite_cut(lengths),
    last_two_cut(lengths),
  )


# Scope -> how many first events of each user pre-training may see. `shared`
# hides the held-out events of every task, so that one checkpoint serves all;
# `leave_two_out` is for comparison with published next-item figures.
_SCOPES = {'shared': _shared_scope, 'leave_two_out': last_two_cut}


def visible_lengths(scope: str, lengths: np.ndarray) -> np.ndarray:
  """Returns how many first events of each user pre-training sees.

  Args:
    scope: 'shared' or 'leave_two_out'.
    lengths: [num_users] int, events of each user.

  Returns:
    [num_users] int64.
  """
  return choose('pretrain_scope', scope, _SCOPES)(lengths)


def positions_within(counts: np.ndarray) -> np.ndarray:
  """Numbers the members of each group: [2, 3] -> [0, 1, 0, 1, 2].

  Args:
    counts: [num_groups] int, members of each group.

  Returns:
    [sum of counts] int64.
  """
  counts = np.asarray(counts, np.int64)
  return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def user_blocks(counts: np.ndarray) -> Iterator[slice]:
  """Cuts the users into runs with a quarter of a million events each.

  Args:
    counts: [num_users] int, events of each user.

  Yields:
    Slices of users, one user at least.
  """
  ends = np.cumsum(counts)
  first, before = 0, 0
  while first < len(ends):
    last = int(np.searchsorted(ends, before + _BLOCK_EVENTS, 'right'))
    last = max(last, first + 1)
    yield slice(first, last)
    first, before = last, ends[last - 1]


def fingerprint(dataset: SequenceDataset) -> str:
  """Hash of user, position and item of every held-out event of every task.

  Original ids go in, so that the same log gives the same fingerprint whatever
  file it came from.

  Returns:
    16 hexadecimal digits.
  """
  digest = hashlib.sha256()
  for column in range(2):
    separator = b''
    for block in _held_out_blocks(dataset):
      digest.update(separator)
      digest.update('\n'.join(map(str, block[column].tolist())).encode())
      separator = b'\n'
    digest.update(b'\0')
  for _, _, position in _held_out_blocks(dataset):
    digest.update(position.astype('<i8').tobytes())
  return digest.hexdigest()[:16]


def category_fingerprint(catalogue: Catalogue) -> str:
  """Hash of the categories of every item, which labels are made of.

  Returns:
    16 hexadecimal digits.
  """
  digest = hashlib.sha256('\n'.join(catalogue.category_names).encode())
  digest.update(b'\0')
  digest.update('\n'.join(map(str, catalogue.item_ids.tolist())).encode())
  for array in (catalogue.category_offsets, catalogue.category_values):
    digest.update(array.astype('<i8').tobytes())
  return digest.hexdigest()[:16]


def check_fingerprint(
  recorded: str, dataset: SequenceDataset, directory: str
) -> None:
  """Checks that a checkpoint was trained from these data.

  Args:
    recorded: The fingerprint stored with the checkpoint.
    dataset: The data given.
    directory: The checkpoint's workdir, for the message.

  Raises:
    InputError: If the fingerprints differ.
  """
  given = fingerprint(dataset)
  if recorded != given:
    raise InputError(
      f'the checkpoint in {directory} was made from a split with '
      f'fingerprint {recorded}, the data given have {given}; use the data it '
      f'was trained from.'
    )


def _held_out_blocks(
  dataset: SequenceDataset,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
  """User id, item id and position of the held-out events.

  As text they take some hundred bytes each, too many to have all at once.
  """
  lengths = dataset.lengths
  first_held_out = visible_lengths('shared', lengths)
  held_out = lengths - first_held_out
  for users in user_blocks(held_out):
    user = np.repeat(np.arange(users.start, users.stop), held_out[users])
    position = first_held_out[user] + positions_within(held_out[users])
    item = dataset.items[dataset.offsets[user] + position] - 1
    yield dataset.user_ids[user], dataset.catalogue.item_ids[item], position


def user_hash(user_ids: np.ndarray, salt: str) -> np.ndarray:
  """Seeded hash of the original user ids.

  Args:
    user_ids: [num_users] int or str.
    salt: What the hash is for, with its seed.

  Returns:
    [num_users] float64, uniform in [0, 1).
  """
  salt_bytes = f'{salt}:'.encode()
  words = b''.join(
    hashlib.blake2b(salt_bytes + str(user).encode(), digest_size=8).digest()
    for user in user_ids.tolist()
  )
  # 53 bits fit a float64 exactly.
  return (np.frombuffer(words, '<u8') >> np.uint64(11)) / float(1 << 53)


def user_splits(user_ids: np.ndarray, seed: int) -> dict[str, np.ndarray]:
  """Splits the users 80/10/10 for the user-level tasks.

  Returns:
    'train', 'validation' and 'test' -> [num_users] bool.
  """
  position = user_hash(user_ids, f'user split {seed}')
  test = position < TEST_SHARE
  validation = ~test & (position < TEST_SHARE + VALIDATION_SHARE)
  return {
    'train': ~test & ~validation,
    'validation': validation,
    'test': test,
  }


def label_subset(
  user_ids: np.ndarray,
  fraction: float,
  seed: int,
  classes: np.ndarray | None = None,
) -> np.ndarray:
  """Draws the users whose labels may be used.

  The subsets of one seed are nested: a larger fraction contains a smaller
  one. With `classes` each class keeps its share as far as whole users allow.

  Args:
    user_ids: [num_users] int or str, the users with labels.
    fraction: Share of them to keep, in (0, 1].
    seed: Seed of the draw.
    classes: [num_users] int, or None.

  Returns:
    [num_users] bool with `ceil(fraction * num_users)` users set.
  """
  priority = user_hash(user_ids, f'labels {seed}')
  if classes is not None:
    # Within each class, the k-th user of m takes the quantile (k + u) / m; a
    # threshold on the quantiles then cuts every class at the same share.
    order = np.lexsort((priority, classes))
    counts = np.bincount(classes)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    rank = np.arange(len(classes)) - first
    quantile = np.empty(len(classes))
    quantile[order] = (rank + priority[order]) / counts[classes[order]]
    priority = quantile
  chosen = np.zeros(len(user_ids), bool)
  count = math.ceil(fraction * len(user_ids) - 1e-9)
  chosen[np.argsort(priority, kind='stable')[:count]] = True
  return chosen
