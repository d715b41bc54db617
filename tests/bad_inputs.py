"""Every bad input tried; bt4rec/datasets/README.md has the sentence of each."""

import functools
import gzip
import os
import pathlib
import stat
import zipfile
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bt4rec import datasets, plans, user_labels
from bt4rec.datasets import archive, movielens, sequences, yelp
from configs import base
from tests import log_files

# Does something bad in an empty folder, which must raise.
Case = Callable[[pathlib.Path], object]

_HEAD = log_files.HEAD


def _log(data, name='log.csv', **options) -> Case:
  """Reads a log with this content."""
  return lambda folder: log_files.read_text(folder, data, name=name, **options)


def _parquet(cut: int | None = None, options=None, **columns) -> Case:
  """Reads a Parquet log, the columns as given; `cut` takes bytes away."""

  def read(folder: pathlib.Path):
    path = folder / 'log.parquet'
    table = {'user': [1, 2], 'item': [3, 4], 'timestamp': [5, 6], **columns}
    pq.write_table(pa.table(table), path)
    path.write_bytes(path.read_bytes()[:cut])
    return log_files.read(path, **(options or {}))

  return read


def _files(read: Callable, originals: dict, **changes) -> Case:
  """Reads a folder of files of which some are changed, or None: missing."""

  def read_folder(folder: pathlib.Path):
    for name, data in {**originals, **changes}.items():
      if data is not None:
        log_files.write(folder, data, name)
    return read(str(folder))

  return read_folder


_ML1M = {
  'ratings.dat': '1::7::5::10\n1::8::4::11\n2::7::3::12\n',
  'movies.dat': '7::Seven (1995)::Crime\n8::Eight (1996)::War|Drama\n',
}
_ML20M = {
  'ratings.csv': 'userId,movieId,rating,timestamp\n1,7,5.0,10\n2,8,0.5,11\n',
  'movies.csv': 'movieId,title,genres\n7,Seven,Crime\n8,Eight,War|Drama\n',
}
_REVIEW = '{"user_id": "u", "business_id": "b", "date": "2019-01-01"}\n'
_YELP = {
  'review.json': _REVIEW * 2,
  'business.json': '{"business_id": "b", "name": "B", "categories": "Thai"}\n',
}
_read_ml1m = functools.partial(movielens.read_ml1m, expect_official=False)
_read_ml20m = functools.partial(movielens.read_ml20m, expect_official=False)
_read_yelp = functools.partial(
  yelp.read_yelp, k_core=0, generic_share=1.0, num_categories=50
)


def _ml1m(**changes) -> Case:
  names = {'ratings': 'ratings.dat', 'movies': 'movies.dat'}
  return _files(
    _read_ml1m, _ML1M, **{names[key]: data for key, data in changes.items()}
  )


def _ml20m(name: str, old: str, new: str, encoding='utf-8') -> Case:
  data = _ML20M[name].replace(old, new).encode(encoding)
  return _files(_read_ml20m, _ML20M, **{name: data})


def _yelp(line: str | bytes) -> Case:
  """Reads reviews of which line 2 is this one."""
  if isinstance(line, str):
    line = line.encode()
  data = _REVIEW.encode() + line + b'\n' + _REVIEW.encode()
  return _files(_read_yelp, _YELP, **{'review.json': data})


def _load(name: str, **changes) -> Case:
  """Loads by the config, fields of it changed; DIR in a text is the folder."""

  def load(folder: pathlib.Path):
    config = base.get_config().dataset
    config.update({'name': name, 'data_dir': str(folder / 'cache')})
    config.update_from_flattened_dict(
      {
        key: value.replace('DIR', str(folder)) if key == 'prepared' else value
        for key, value in changes.items()
      }
    )
    return datasets.load(config)

  return load


def _labels(text: str, label='plan', name='users.csv') -> Case:
  """Reads labels of the users 7 and 10; a text of '' is no file."""

  def read(folder: pathlib.Path):
    if text:
      (folder / name).write_text(text)
    ids = np.array([7, 10])
    dataset = sequences.from_events('logs', ids, ids, ids)
    return user_labels.read(str(folder / name), 'user', label, dataset)

  return read


def _prepared(change: Callable | None = None, case: Case | None = None) -> Case:
  """Saves arrays, changes a file of the folder, and reads them, or else."""

  def read(folder: pathlib.Path):
    ids = np.array([1, 1, 2, 2])
    dataset = sequences.from_events('ml1m', ids, ids + 6, np.arange(4))
    sequences.save(dataset, str(folder))
    if change:
      change(folder)
    return case(folder) if case else sequences.load(str(folder))

  return read


def _save(name: str, values, **options) -> Callable:
  return lambda folder: np.save(folder / name, values, **options)


def _prepare_world(folder: pathlib.Path) -> None:
  config = base.get_config().dataset
  config.synthetic.num_users = 30
  sequences.save(datasets.load(config), str(folder))


def _archive(*members, cut: int = 0, lie: int = 0) -> Case:
  """Unpacks an archive; `lie` is the size it gives for 1,000 bytes."""

  def unpack(folder: pathlib.Path):
    path = folder / 'x.zip'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as f:
      for member in members:
        f.writestr(member, b'1' * 1000)
    data = path.read_bytes()
    if lie:
      data = data.replace(
        (1000).to_bytes(4, 'little'), lie.to_bytes(4, 'little')
      )
    path.write_bytes(data[: len(data) - cut])
    (folder / 'out').mkdir()
    return archive.unpack(str(path), str(folder / 'out'))

  return unpack


def _link() -> zipfile.ZipInfo:
  link = zipfile.ZipInfo('link')
  link.external_attr = (stat.S_IFLNK | 0o777) << 16
  return link


def _few_users(_: pathlib.Path):
  return plans.PretrainPlan(
    np.array([0, 3, 6, 9]),
    np.array([2, 1, 2]),
    max_length=2,
    batch_size=3,
    seed=0,
  )


def _gzip_of(rows: int) -> bytes:
  rng = np.random.default_rng(0)
  text = ''.join(f'{i},1,1\n' for i in rng.integers(0, 10**9, rows))
  return gzip.compress((_HEAD + text).encode())


_CUT_HALF = _gzip_of(2_000)[:-2_000]
_RATED = 'user,item,timestamp,stars\n1,2,3,4.5\n1,2,3,good\n'

# Section of the document -> what was done -> how.
CASES: dict[str, dict[str, Case]] = {
  'The choice of a dataset': {
    'a dataset that there is not': _load('ml2m'),
    'an option that the dataset does not read': _load('ml1m', k_core=5),
    'an option of another dataset, in a group': _load(
      'yelp', **{'columns.item': 'sku'}
    ),
    'raw files and prepared arrays at once': _load(
      'logs', path='log.csv', prepared='DIR'
    ),
    'an option of the raw files, with prepared arrays': _load(
      'ml1m', expect_official=False, prepared='DIR'
    ),
    'prepared arrays of another dataset': _prepared(
      case=_load('yelp', prepared='DIR')
    ),
    'prepared arrays of another synthetic world': _prepared(
      _prepare_world, case=_load('synthetic', prepared='DIR')
    ),
    'a synthetic world with too few items': _load(
      'synthetic', **{'synthetic.num_items': 60}
    ),
    'no path, where nothing can be downloaded': _load('logs'),
    'fewer users than a batch': _few_users,
  },
  'Own logs': {
    'missing file': lambda folder: log_files.read(folder / 'log.csv'),
    'a folder': log_files.read,
    'missing item table': lambda folder: log_files.read_text(
      folder,
      _HEAD + '1,2,3\n',
      {'title': 'title'},
      item_table=str(folder / 'items.csv'),
    ),
    'empty file': _log(''),
    'header alone': _log(_HEAD),
    'header without line end': _log(_HEAD.strip()),
    'missing column': _log('user,item,time\n1,2,3\n'),
    'missing header': _log('1,2,3\n1,4,5\n'),
    'column twice': _log('user,item,timestamp,item\n1,2,3,4\n'),
    'missing category column': _log(
      _HEAD + '1,2,3\n', columns={'category': 'genre'}
    ),
    'null user id': _log(_HEAD + '1,2,3\n,2,4\n'),
    'null item id': _log(_HEAD + '1,2,3\n\n1,NULL,4\n'),
    'missing timestamp': _log(_HEAD + '1,2,\n'),
    'unparsable timestamp': _log(_HEAD + '1,2,3\n1,2,yesterday\n'),
    'milliseconds taken for seconds': _log(_HEAD + '1,2,1600000000000\n'),
    'a date taken for seconds': _log(_HEAD + '1,2,2020-01-01\n'),
    'seconds taken for a date': _log(
      _HEAD + '1,2,1600000000\n', timestamp_unit='iso'
    ),
    'a date that does not exist': _log(
      _HEAD + '1,2,2020-01-31\n1,2,2020-02-30\n', timestamp_unit='iso'
    ),
    'too few fields': _log(_HEAD + '1,2,3\n\n4,5\n'),
    'too many fields': _log(_HEAD + '1,2,3\n1,a,b,4\n'),
    'open quote': _log(_HEAD + '1,"2,3\n4,5,6\n'),
    'another encoding': _log((_HEAD + '1,a,3\n1,é,4\n').encode('latin-1')),
    'UTF-16': _log((_HEAD + '1,2,3\n').encode('utf-16')),
    'unknown encoding': _log(_HEAD + '1,2,3\n', encoding='klingon'),
    'NUL in an id': _log(_HEAD + '1,a\0b,3\n'),
    'endless id': _log(_HEAD + f'1,{"x" * 257},3\n'),
    'endless line': _log(_HEAD + '1,2,3\n1,"' + 'x' * (8 << 20)),
    'endless line in a small gzip file': _log(
      gzip.compress((_HEAD + '1,' + 'x' * (8 << 20)).encode()), 'log.csv.gz'
    ),
    'endless header': _log('user,item,timestamp' + ',x' * (4 << 20)),
    'endless name of a column': _log(
      f'user,item,timestamp,{"x" * 200_000}\n1,2,3,4\n'
    ),
    'damaged gzip file': _log(_gzip_of(99)[:12] + b'\xff' * 99, 'log.csv.gz'),
    'cut gzip file': _log(_CUT_HALF, 'log.csv.gz'),
    'cut Parquet file': _parquet(cut=-10),
    'null user id in a Parquet file': _parquet(user=[1, None]),
    'empty item id in a Parquet file': _parquet(item=['a', '']),
    'numbers with a fraction as ids': _parquet(item=[1.5, 2.0]),
    'null timestamp in a Parquet file': _parquet(timestamp=[3, None]),
    'unparsable timestamp in a Parquet file': _parquet(timestamp=['3', 'x']),
    'an encoding for a Parquet file': _parquet(options={'encoding': 'latin-1'}),
    'rating that is none': _log(
      _RATED, columns={'rating': 'stars'}, min_rating=3.0
    ),
    'threshold without rating column': _log(_HEAD + '1,2,3\n', min_rating=3.0),
    'rating column without threshold': _log(
      _RATED, columns={'rating': 'stars'}
    ),
    'separator without category column': _log(
      _HEAD + '1,2,3\n', category_separator='|'
    ),
    'item table of which nothing is read': _log(
      _HEAD + '1,2,3\n', item_table='items.csv'
    ),
    'nothing left': _log(_HEAD + '1,2,3\n', k_core=5),
    'nothing left of rows dropped': _log(
      _HEAD + '1,2,2020-01-01\n,2,3\n', bad_rows='drop'
    ),
    'unknown unit': _log(_HEAD + '1,2,3\n', timestamp_unit='minutes'),
    'unknown rule': _log(_HEAD + '1,2,3\n', bad_rows='ignore'),
    'long delimiter': _log(_HEAD + '1,2,3\n', delimiter='::'),
  },
  'MovieLens-1M': {
    'missing file': _ml1m(movies=None),
    'empty file': _ml1m(ratings=''),
    'a rating of 6 stars': _ml1m(ratings='1::7::5::10\n1::8::6::11\n'),
    'a rating without timestamp': _ml1m(ratings='1::7::5\n'),
    'commas': _ml1m(ratings='1,7,5,10\n'),
    'cut in the last line': _ml1m(ratings=_ML1M['ratings.dat'][:-2]),
    'a movie without genres': _ml1m(movies='7::Seven (1995)\n'),
    'a rated movie without a line': _ml1m(movies='7::Seven (1995)::Crime\n'),
    'fewer ratings than the official file': _files(
      functools.partial(movielens.read_ml1m, expect_official=True), _ML1M
    ),
  },
  'MovieLens-20M': {
    'missing file': _files(_read_ml20m, {**_ML20M, 'ratings.csv': None}),
    'empty file': _files(_read_ml20m, {**_ML20M, 'ratings.csv': ''}),
    'missing column': _ml20m('ratings.csv', 'movieId', 'itemId'),
    'too few fields': _ml20m('ratings.csv', '0.5,11', '0.5'),
    'null item id': _ml20m('ratings.csv', '2,8', '2,'),
    'an id that is no number': _ml20m('ratings.csv', '2,8', '2,x5'),
    'unparsable timestamp': _ml20m('ratings.csv', '0.5,11', '0.5,1l'),
    'a rated movie without a line': _ml20m('movies.csv', '8,E', '9,E'),
    'another encoding': _ml20m('movies.csv', 'Eight', 'Señor', 'latin-1'),
    'fewer ratings than the official file': _files(
      functools.partial(movielens.read_ml20m, expect_official=True), _ML20M
    ),
  },
  'Yelp': {
    'missing file': _files(_read_yelp, {**_YELP, 'business.json': None}),
    'empty file': _files(_read_yelp, {**_YELP, 'business.json': ''}),
    'a line that is cut': _yelp('{"user_id": "u", '),
    'a line that is a list': _yelp('[1, 2]'),
    'a line that is nested 100,000 deep': _yelp('[' * 100_000),
    'a line that is no text': _yelp(b'\xff\xfe{}'),
    'an endless line': _yelp('{"user_id": "' + 'u' * (8 << 20)),
    'an endless line in a small gzip file': _files(
      _read_yelp,
      {**_YELP, 'review.json': None},
      **{'review.json.gz': gzip.compress(b'{"user_id": "' + b'u' * (9 << 20))},
    ),
    'a review without business': _yelp('{"user_id": "u"}'),
    'a user id that is a number': _yelp(_REVIEW.strip().replace('"u"', '7')),
    'unparsable date': _yelp(_REVIEW.strip().replace('2019-01-01', '1/2/19')),
    'a damaged gzip file': _files(
      _read_yelp,
      {**_YELP, 'review.json': None},
      **{'review.json.gz': _gzip_of(99)[:12] + b'\xff' * 99},
    ),
    'categories that are a number': _files(
      _read_yelp,
      {**_YELP, 'business.json': '{"business_id": "b", "categories": 7}\n'},
    ),
  },
  'Labels of users': {
    'missing file': _labels(''),
    'missing column': _labels('user,age\n7,a\n'),
    'missing column of the ids': _labels('id,plan\n7,a\n'),
    'null user id': _labels('user,plan\n7,a\n,b\n'),
    'a user with two labels': _labels('user,plan\n7,a\n10,b\n7,b\n'),
    'ids of another log': _labels('user,plan\nu7,a\nu10,b\n'),
    'no label but one': _labels('user,plan\n7,a\n10,a\n'),
    'missing users.dat': _labels('', name='users.dat'),
    'users.dat without a user': _labels('\n', name='users.dat'),
    'cut users.dat': _labels('7::F::1::10::48', 'age', 'users.dat'),
    'a column that users.dat does not have': _labels(
      '7::F::1::10::48067\n', name='users.dat'
    ),
  },
  'Prepared arrays': {
    'missing folder': _load('ml1m', prepared='DIR/none'),
    'missing file': _prepared(lambda folder: os.remove(folder / 'items.npy')),
    'empty file': _prepared(
      lambda folder: (folder / 'titles.npy').write_bytes(b'')
    ),
    'a header of another form': _prepared(
      lambda folder: (folder / 'dataset.json').write_text('[]')
    ),
    'pickled objects': _prepared(
      _save('items.npy', np.array([{}], object), allow_pickle=True)
    ),
    'an array of another dataset': _prepared(
      _save('timestamps.npy', np.arange(5))
    ),
    'an item outside of the catalogue': _prepared(
      _save('items.npy', np.array([1, 1, 2, 3], np.int32))
    ),
  },
  'Archives': {
    'no zip file': _archive('a', cut=60),
    'a member that leaves the folder': _archive('good', '../evil'),
    'an absolute path': _archive('good', '/etc/evil'),
    'a link': _archive('good', _link()),
    'a member longer than it says': _archive('a', lie=9),
    'more than 4 GiB when unpacked': _archive('a', 'b', lie=(1 << 32) - 2),
  },
}
