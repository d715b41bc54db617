"""The downstream tasks: which events are inputs, which are labels.

An example is a user and a cut: the events before the cut are the input, the
label lies at or after it. Test examples are made by `evaluate` alone, after
the selection on validation.
"""

import dataclasses
from typing import Self

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from bt4rec import splits, user_labels
from bt4rec.datasets import SequenceDataset
from bt4rec.errors import InputError, choose


@dataclasses.dataclass(frozen=True)
class Examples:
  """Inputs and labels.

  Attributes:
    users: [num_examples] int64, row of each user in the dataset.
    ends: [num_examples] int64, index of the cut in the flat event array; the
      input is the user's events before it.
    labels: [num_examples] int32, see `Task.label_weights`.
    cut_to: The input is cut to its newest events, for cold start; 0 does not.
  """

  users: np.ndarray
  ends: np.ndarray
  labels: np.ndarray
  cut_to: int = 0

  def __len__(self) -> int:
    return len(self.users)

  def take(self, chosen: np.ndarray) -> 'Examples':
    """The examples of an index or boolean array."""
    return dataclasses.replace(
      self,
      users=self.users[chosen],
      ends=self.ends[chosen],
      labels=self.labels[chosen],
    )

  def cut(self, length: int) -> 'Examples':
    """The same examples of users of whom only the newest events are known."""
    return dataclasses.replace(self, cut_to=length)

  def starts(self, offsets: np.ndarray) -> np.ndarray:
    """[num_examples] int64, index of the first event of each input.

    Args:
      offsets: [num_users + 1] int64, of the dataset.
    """
    first = offsets[self.users]
    return np.maximum(first, self.ends - self.cut_to) if self.cut_to else first

  def windows(
    self, offsets: np.ndarray, max_length: int
  ) -> dict[str, np.ndarray]:
    """The newest events of each input.

    Args:
      offsets: [num_users + 1] int64, of the dataset.
      max_length: Events of a window at most.

    Returns:
      `start` [num_examples] int64 and `length` [num_examples] int32.
    """
    length = np.minimum(self.ends - self.starts(offsets), max_length)
    return {'start': self.ends - length, 'length': length.astype(np.int32)}


class Task:
  """A downstream task on one dataset.

  Attributes:
    name: Name in the config.
    is_ranking: Whether the label is an item, ranked among all items.
    is_user_level: Whether users, not positions, are split.
    asks_of_events: Whether the label is made of held-out events.
    label_weights: [num_labels, num_classes] float32, the distribution to
      learn for each label, or None where label `i` is class `i`. A class is
      right if its weight is positive.
    num_classes: Number of outputs: items, or classes.
    class_names: The names of the classes, of no ranking task.
  """

  name: str
  is_ranking = False
  is_user_level = False
  asks_of_events = True
  label_weights: np.ndarray | None = None

  def __init__(self, dataset: SequenceDataset, split_seed: int):
    self.dataset = dataset
    self.split_seed = split_seed

  @classmethod
  def of_config(cls, dataset: SequenceDataset, config: ConfigDict) -> Self:
    """Makes the task that a config describes; one that needs more overrides.

    Raises:
      InputError: If the config or the data do not fit.
    """
    return cls(dataset, config.split_seed)

  @property
  def class_names(self) -> tuple[str, ...]:
    return self.dataset.catalogue.category_names

  @property
  def num_classes(self) -> int:
    return len(self.class_names)

  def facts(self) -> dict[str, str]:
    """What tells results of this name apart, besides the data; for tables."""
    return {}

  def held_out_from(self) -> np.ndarray:
    """[num_users] int64, the first position pre-training must not see."""
    raise NotImplementedError

  def train_and_validation(
    self, fraction: float, seed: int, validation_fraction: float = 0.0
  ) -> tuple[Examples, Examples]:
    """The labelled examples of a label fraction.

    Args:
      fraction: Share of the labelled users, in (0, 1].
      seed: Seed of the draw of users.
      validation_fraction: The same for validation; 0 is `fraction`.

    Raises:
      InputError: If nothing is left to train on.
    """
    raise NotImplementedError

  def test(self) -> Examples:
    """The test examples. To be called by `evaluate` only."""
    raise NotImplementedError

  def _require(self, examples: Examples, what: str) -> Examples:
    if not len(examples):
      raise InputError(
        f'task {self.name!r} on {self.dataset.name!r} has no {what} example; '
        f'use more data or a larger label_fraction.'
      )
    return examples


class NextItem(Task):
  """The item that follows: last event test, the one before validation."""

  name = 'next_item'
  is_ranking = True

  @property
  def num_classes(self) -> int:
    return self.dataset.catalogue.num_items

  def held_out_from(self) -> np.ndarray:
    return splits.last_two_cut(self.dataset.lengths)

  def train_and_validation(
    self, fraction: float, seed: int, validation_fraction: float = 0.0
  ) -> tuple[Examples, Examples]:
    # Two events to train on (one predicts the other) and two held out.
    long_enough = np.flatnonzero(self.dataset.lengths >= 4)
    ids = self.dataset.user_ids[long_enough]
    users, validated = (
      long_enough[splits.label_subset(ids, share, seed)]
      for share in (fraction, validation_fraction or fraction)
    )
    # Positions 1 .. n - 3 of each user are training targets.
    counts = self.dataset.lengths[users] - 3
    within = splits.positions_within(counts)
    rows = np.repeat(users, counts)
    train = self._examples(rows, self.dataset.offsets[rows] + 1 + within)
    validation = self._examples(
      validated, self.dataset.offsets[validated + 1] - 2
    )
    return (
      self._require(train, 'training'),
      self._require(validation, 'validation'),
    )

  def test(self) -> Examples:
    users = np.flatnonzero(self.dataset.lengths >= 3)
    return self._require(
      self._examples(users, self.dataset.offsets[users + 1] - 1), 'test'
    )

  def labels_at(self, ends: np.ndarray) -> np.ndarray:
    """What is asked for at each cut; another task of these positions differs.

    Args:
      ends: [num_examples] int64, index of the cuts in the flat event array.

    Returns:
      [num_examples] int32, see `Task.label_weights`.
    """
    return self.dataset.items[ends] - 1

  def _examples(self, users: np.ndarray, ends: np.ndarray) -> Examples:
    return Examples(users, ends, self.labels_at(ends))


class NextCategory(NextItem):
  """The categories of the item that follows; same positions."""

  name = 'next_category'
  is_ranking = False

  def __init__(self, dataset: SequenceDataset, split_seed: int):
    super().__init__(dataset, split_seed)
    self._weights = dataset.catalogue.category_weights()[1:-1]
    self.label_weights = self._weights

  @property
  def num_classes(self) -> int:
    return len(self.class_names)

  def _examples(self, users: np.ndarray, ends: np.ndarray) -> Examples:
    examples = super()._examples(users, ends)
    has_category = self._weights[examples.labels].any(axis=1)
    if not has_category.all():
      logging.info(
        '%s: %d of %d targets have no category and are skipped',
        self.name,
        (~has_category).sum(),
        len(has_category),
      )
    return examples.take(has_category)


class UserTask(Task):
  """A task that asks something of users, who are split by a seeded hash."""

  is_user_level = True

  def __init__(
    self, dataset: SequenceDataset, split_seed: int, examples: Examples
  ):
    """Splits the examples.

    Args:
      dataset: The dataset.
      split_seed: Seed of the split of the users.
      examples: All there are, one a user.
    """
    super().__init__(dataset, split_seed)
    split = splits.user_splits(dataset.user_ids, split_seed)
    self._split = {
      name: examples.take(member[examples.users])
      for name, member in split.items()
    }

  def train_and_validation(
    self, fraction: float, seed: int, validation_fraction: float = 0.0
  ) -> tuple[Examples, Examples]:
    subsets = []
    for name, what, share in (
      ('train', 'training', fraction),
      ('validation', 'validation', validation_fraction or fraction),
    ):
      examples = self._require(self._split[name], what)
      chosen = splits.label_subset(
        self.dataset.user_ids[examples.users],
        share,
        seed,
        classes=examples.labels,
      )
      subsets.append(examples.take(chosen))
    return subsets[0], subsets[1]

  def test(self) -> Examples:
    return self._require(self._split['test'], 'test')


class FavoriteCategory(UserTask):
  """The category with the largest share among the held-out events."""

  name = 'favorite_category'

  def __init__(self, dataset: SequenceDataset, split_seed: int):
    super().__init__(dataset, split_seed, self.examples(dataset))

  @classmethod
  def examples(cls, dataset: SequenceDataset) -> Examples:
    """The users that are long enough, and have a category to ask for."""
    lengths = dataset.lengths
    users = np.flatnonzero(lengths >= splits.MIN_EVENTS_FOR_FAVORITE)
    cut = splits.favorite_cut(lengths[users])
    ends = dataset.offsets[users] + cut
    shares = _sum_categories(dataset, ends, dataset.offsets[users + 1])
    known = shares.sum(axis=1) > 0
    logging.info(
      '%s: %d of %d users have fewer than %d events, %d have no category '
      'among the held-out ones; they are left out',
      cls.name,
      dataset.num_users - len(users),
      dataset.num_users,
      splits.MIN_EVENTS_FOR_FAVORITE,
      (~known).sum(),
    )
    # Rounded, so that equal shares summed in another order stay ties; argmax
    # takes the lower index.
    labels = np.round(shares, 6).argmax(axis=1).astype(np.int32)
    return Examples(users, ends, labels).take(known)

  def held_out_from(self) -> np.ndarray:
    lengths = self.dataset.lengths
    has_label = lengths >= splits.MIN_EVENTS_FOR_FAVORITE
    return np.where(has_label, splits.favorite_cut(lengths), lengths)


class UserAttribute(UserTask):
  """A label of the user from a file of its own, from the whole history."""

  name = 'user_attribute'
  asks_of_events = False

  def __init__(
    self,
    dataset: SequenceDataset,
    split_seed: int,
    labels: user_labels.UserLabels,
  ):
    users = np.flatnonzero(labels.classes >= 0)
    ends = dataset.offsets[users + 1]
    super().__init__(
      dataset, split_seed, Examples(users, ends, labels.classes[users])
    )
    self._labels = labels

  @classmethod
  def of_config(cls, dataset: SequenceDataset, config: ConfigDict) -> Self:
    labels = user_labels.of_config(config, dataset)
    return cls(dataset, config.split_seed, labels)

  @property
  def class_names(self) -> tuple[str, ...]:
    return self._labels.class_names

  def facts(self) -> dict[str, str]:
    return {
      'attribute': self._labels.attribute,
      'label_fingerprint': self._labels.digest,
    }

  def held_out_from(self) -> np.ndarray:
    # The label is no event.
    return self.dataset.lengths


def _sum_categories(
  dataset: SequenceDataset, first: np.ndarray, last: np.ndarray
) -> np.ndarray:
  """[num_users, num_categories], weights of the events `first:last` summed."""
  weights = dataset.catalogue.category_weights()
  counts = last - first
  rows = np.repeat(np.arange(len(first)), counts)
  within = splits.positions_within(counts)
  items = dataset.items[first[rows] + within]
  shares = np.zeros((len(first), weights.shape[1]))
  # One pass a category: a row per event would not fit where events are many.
  for category in range(weights.shape[1]):
    shares[:, category] = np.bincount(
      rows, weights=weights[items, category], minlength=len(first)
    )
  return shares


TASKS: dict[str, type[Task]] = {
  task.name: task
  for task in (NextItem, NextCategory, FavoriteCategory, UserAttribute)
}


def make_task(name: str, dataset: SequenceDataset, config: ConfigDict) -> Task:
  """Returns the task of that name on a dataset, as a config describes it.

  Raises:
    InputError: If the name is unknown, or as `Task.of_config`.
  """
  return choose('task', name, TASKS).of_config(dataset, config)
