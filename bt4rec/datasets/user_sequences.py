"""The TFDS builder: one record per user, events in order.

TFDS' own MovieLens builder writes one record per rating, in the order of a
hash, so the order of ratings with equal timestamps is lost; hence this one.
Imported only where records are written or read: it needs TensorFlow.
"""

import collections
import contextlib
import hashlib
import io
import os
import tempfile
import urllib.request
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import logging
from tensorflow_datasets.core.download import download_manager

from bt4rec.datasets import archive, sequences
from bt4rec.errors import InputError

# A change of the record's layout or of the reading code's meaning raises it.
_VERSION = '2.0.2'


class SourceConfig(tfds.core.BuilderConfig):
  """What a builder reads, with a hash that names exactly that in the cache.

  Attributes:
    read: Reads the source files of a folder into a dataset.
    path: The folder, or '' to download the archive from `url`.
    url: Address of the archive.
  """

  def __init__(
    self,
    *,
    source: str,
    path: str,
    files: list[str],
    url: str,
    read: Callable[[str], sequences.SequenceDataset],
    options: dict,
  ):
    digest = hashlib.sha256(repr((sorted(options.items()), url)).encode())
    for file in files:
      with open(file, 'rb') as f:
        digest.update(hashlib.file_digest(f, 'sha256').digest())
    name = f'{source}-{digest.hexdigest()[:16]}'
    super().__init__(name=name, version=_VERSION)
    self.read = read
    self.path = path
    self.url = url


class _Metadata(tfds.core.MetadataDict):
  """What is no record: small values as JSON, the catalogue as arrays."""

  # A million items with their titles would be slow to read as JSON.
  catalogue: sequences.Catalogue | None = None

  def save_metadata(self, data_dir) -> None:
    super().save_metadata(data_dir)
    if self.catalogue is not None:
      sequences.save_catalogue(self.catalogue, str(data_dir))


class UserSequences(tfds.core.GeneratorBasedBuilder):
  """User sequences of one source, in the order of the user ids."""

  # The sizes and SHA-256 of archives stand in checksums.tsv beside this file.
  VERSION = tfds.core.Version(_VERSION)

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {
          'user_id': tfds.features.Text(),
          'items': tfds.features.Tensor(shape=(None,), dtype=np.int32),
          'timestamps': tfds.features.Tensor(shape=(None,), dtype=np.int64),
        }
      ),
      metadata=_Metadata(),
      # Records stay in the order they are generated in.
      disable_shuffling=True,
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager):
    config = self.builder_config
    if config.path:
      dataset = config.read(config.path)
    else:
      file = _download(dl_manager, config.url)
      with tempfile.TemporaryDirectory(dir=os.path.dirname(file)) as folder:
        dataset = config.read(archive.unpack(file, folder))
    metadata = self.info.metadata
    metadata.catalogue = dataset.catalogue
    metadata.update(
      name=dataset.name,
      origin=dataset.origin,
      user_ids_are_integers=bool(dataset.user_ids.dtype.kind == 'i'),
      category_names=list(dataset.catalogue.category_names),
    )
    return {'train': self._generate_examples(dataset)}

  def _generate_examples(
    self, dataset: sequences.SequenceDataset
  ) -> Iterator[tuple[int, dict]]:
    for index, user_id in enumerate(dataset.user_ids.tolist()):
      events = slice(dataset.offsets[index], dataset.offsets[index + 1])
      yield (
        index,
        {
          'user_id': str(user_id),
          'items': dataset.items[events],
          'timestamps': dataset.timestamps[events],
        },
      )


def _download(dl_manager: tfds.download.DownloadManager, url: str) -> str:
  """Path of the archive, whose checksum is the recorded one."""
  try:
    # Fails at once where TFDS would try for minutes.
    request = urllib.request.Request(url, method='HEAD')
    urllib.request.urlopen(request, timeout=10).close()
    return str(dl_manager.download(url))
  except (OSError, tfds.core.download.util.DownloadError) as error:
    raise InputError(
      f'cannot download {url} ({error}); fetch it on another machine, unpack '
      f'it, and name the folder with --config.dataset.path.'
    ) from error


def load(config: SourceConfig, data_dir: str) -> sequences.SequenceDataset:
  """Writes the records if they are not in the cache yet, and reads them.

  Args:
    config: The source.
    data_dir: The TFDS cache; '' is TFDS' own default.

  Returns:
    The dataset, equal to what `config.read` returns.

  Raises:
    InputError: If the source cannot be read, or the archive's checksum is
      not the recorded one.
  """
  builder = UserSequences(config=config, data_dir=data_dir or None)
  try:
    # TFDS prints that it downloads, whatever the source, and on standard
    # output, where results go.
    with contextlib.redirect_stdout(io.StringIO()):
      builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(
          force_checksums_validation=True
        ),
        file_format='tfrecord',
      )
  except download_manager.NonMatchingChecksumError as error:
    raise InputError(
      f'the archive downloaded from {config.url} does not have the recorded '
      f'SHA-256 {builder.url_infos[config.url].checksum}; try again, or name '
      f'the folder of an unpacked one with --config.dataset.path.'
    ) from error
  logging.info('records: %s', builder.data_dir)
  return _read_records(builder)


def _read_records(builder: UserSequences) -> sequences.SequenceDataset:
  columns = collections.defaultdict(list)
  records = builder.as_dataset(
    split='train',
    read_config=tfds.ReadConfig(try_autocache=False),
    shuffle_files=False,
  )
  for batch in records.ragged_batch(4096):
    columns['user_ids'].append(batch['user_id'].numpy())
    columns['lengths'].append(batch['items'].row_lengths().numpy())
    columns['items'].append(batch['items'].flat_values.numpy())
    columns['timestamps'].append(batch['timestamps'].flat_values.numpy())
  arrays = {key: np.concatenate(value) for key, value in columns.items()}
  metadata = builder.info.metadata
  user_ids = np.char.decode(arrays['user_ids'].astype(np.bytes_), 'utf-8')
  if metadata['user_ids_are_integers']:
    user_ids = user_ids.astype(np.int64)
  return sequences.SequenceDataset(
    name=metadata['name'],
    user_ids=user_ids,
    offsets=np.concatenate([[0], np.cumsum(arrays['lengths'])]),
    items=arrays['items'],
    timestamps=arrays['timestamps'],
    catalogue=sequences.load_catalogue(
      str(builder.data_dir), metadata['category_names']
    ),
    origin=metadata['origin'],
  )


# Input pipelines must leave the accelerators to JAX.
tf.config.set_visible_devices([], 'GPU')
