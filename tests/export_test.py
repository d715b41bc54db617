"""Tests of bt4rec.export and the files it writes."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import bt4rec
from bt4rec import datasets, embedding_files, pretrain, provenance, workdir
from bt4rec import export as export_lib
from bt4rec.errors import InputError
from tests import tiny

_ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope='module')
def pretrained(tmp_path_factory):
  """A workdir whose dataset the config alone describes, and that dataset."""
  directory = str(tmp_path_factory.mktemp('pretrained'))
  config = tiny.config(total_steps=4)
  config.dataset.synthetic.num_users = 40
  config.dataset.synthetic.num_items = 61
  dataset = datasets.load(config.dataset)
  workdir.check_config(config, directory)
  pretrain.run(config, directory, dataset)
  return directory, dataset


def _vectors(table):
  column = table['embedding'].combine_chunks()
  return column.flatten().to_numpy().reshape(len(table), -1)


class TestUsers:
  def test_every_user_of_the_dataset_once_with_original_id(
    self, pretrained, tmp_path, monkeypatch
  ):
    monkeypatch.setattr(embedding_files, '_ROW_GROUP', 16)
    directory, dataset = pretrained
    path = str(tmp_path / 'new folder' / 'users.parquet')
    text = export_lib.export(directory, output=path)
    assert f'  {path}  (40 users x 12)\n' in text
    table = pq.read_table(path)
    assert table.schema.names == ['user_id', 'embedding']
    assert table.schema.field('user_id').type == pa.int64()
    assert table.schema.field('embedding').type == pa.list_(pa.float32(), 12)
    assert pq.ParquetFile(path).metadata.num_row_groups == 3
    assert table['user_id'].to_pylist() == dataset.user_ids.tolist()
    # The whole history, in original ids, of which the newest events count.
    encoder = bt4rec.load_encoder(directory)
    histories = np.split(
      dataset.catalogue.item_ids[dataset.items - 1], dataset.offsets[1:-1]
    )
    np.testing.assert_allclose(
      _vectors(table), encoder.embed(histories), rtol=1e-5, atol=1e-6
    )

  def test_the_file_says_where_it_comes_from(self, pretrained, tmp_path):
    directory, _ = pretrained
    path = str(tmp_path / 'users.parquet')
    export_lib.export(directory, output=path)
    found = json.loads(pq.read_schema(path).metadata[b'bt4rec'])
    encoder = bt4rec.load_encoder(directory)
    assert found['workdir'] == directory
    assert found['step'] in (0, 4)
    assert found['dataset'] == 'synthetic'
    assert found['split_fingerprint'] == encoder.meta['split_fingerprint']
    here = provenance.describe()
    assert found['commit'] == here['commit']
    assert found['versions'] == here['versions']

  def test_a_log_of_other_users_needs_no_training(
    self, pretrained, tmp_path, caplog
  ):
    directory, dataset = pretrained
    ids = dataset.catalogue.item_ids.tolist()
    a, b, c = ids[5], ids[40], ids[20]
    log = tmp_path / 'new.csv'
    # Rows out of order, a new item, users that training never saw. The log's
    # own numbering of its items is another than the encoder's.
    log.write_text(
      'who,item,timestamp\n'
      f'zoe,{a},30\nada,{b},2\nzoe,{c},10\nada,123456,1\nzoe,{b},20\n'
      'new,123456,5\n'
    )
    path = str(tmp_path / 'users.parquet')
    export_lib.export(
      directory,
      output=path,
      sequences=str(log),
      overrides={'dataset.columns.user': 'who'},
    )
    assert '1 of the 4 items are not in the catalogue' in caplog.text
    assert 'such as 123456' in caplog.text
    assert '1 of the 3 users have no item' in caplog.text
    table = pq.read_table(path)
    assert table['user_id'].to_pylist() == ['ada', 'new', 'zoe']
    encoder = bt4rec.load_encoder(directory)
    expected = encoder.embed([[123456, b], [123456], [c, b, a]])
    np.testing.assert_allclose(_vectors(table), expected, rtol=1e-5, atol=1e-6)


class TestItems:
  def test_every_item_with_title_and_embedding(self, pretrained, tmp_path):
    directory, dataset = pretrained
    path = str(tmp_path / 'items.parquet')
    export_lib.export(directory, items=path)
    table = pq.read_table(path)
    ids = dataset.catalogue.item_ids.tolist()
    assert table.schema.names == ['item_id', 'embedding', 'title']
    assert table['item_id'].to_pylist() == ids
    assert table['title'].to_pylist() == [f'Item {item}' for item in ids]
    encoder = bt4rec.load_encoder(directory)
    np.testing.assert_array_equal(_vectors(table), encoder.item_table)


class TestFile:
  _COLUMNS = {'user_id': np.arange(3)}  # noqa: RUF012

  def test_is_there_whole_or_not_at_all(self, tmp_path):
    path = tmp_path / 'a.parquet'
    seen = []

    def embed(rows):
      seen.append((path.exists(), (tmp_path / 'a.parquet.tmp').exists()))
      return np.zeros((rows.stop - rows.start, 2), np.float32)

    embedding_files.write(str(path), self._COLUMNS, embed, 2, {})
    assert seen == [(False, True)]
    assert os.listdir(tmp_path) == ['a.parquet']

  def test_a_failure_leaves_the_old_file(self, tmp_path):
    path = tmp_path / 'a.parquet'
    path.write_text('old')

    def embed(rows):
      raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
      embedding_files.write(str(path), self._COLUMNS, embed, 2, {})
    assert os.listdir(tmp_path) == ['a.parquet']
    assert path.read_text() == 'old'


class TestBadInput:
  @pytest.mark.parametrize(
    'arguments, sentence',
    [
      ({}, 'nothing to export'),
      ({'sequences': 'a.csv', 'items': 'i.parquet'}, 'without --output'),
      (
        {'sequences': 'a.csv', 'output': 'u.parquet', 'items': 'i.parquet'},
        'one command each',
      ),
      ({'output': '.'}, 'cannot write the file'),
      ({'output': '/dev/null/a.parquet'}, 'cannot make the folder'),
      ({'sequences': 'a.csv', 'output': 'u.parquet'}, 'a.csv is no file'),
      ({'serving': 's', 'platforms': ['gpu']}, 'cpu, cuda, rocm, tpu'),
      ({'serving': '/dev/null/s'}, 'cannot write the serving artifact'),
    ],
  )
  def test_gets_a_sentence(
    self, arguments, sentence, pretrained, tmp_path, monkeypatch
  ):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=sentence):
      export_lib.export(pretrained[0], **arguments)
    assert os.listdir(tmp_path) == []

  def test_an_item_id_of_another_type_names_the_log(self, pretrained, tmp_path):
    log = tmp_path / 'new.csv'
    log.write_text('user,item,timestamp\n1,abc,3\n')
    with pytest.raises(InputError, match="'abc' is no integer"):
      export_lib.export(
        pretrained[0], output=str(tmp_path / 'u'), sequences=str(log)
      )


def _run(*arguments):
  # TensorFlow is not everywhere where embeddings are wanted.
  program = (
    'import runpy, sys; sys.modules["tensorflow"] = None; '
    'runpy.run_module("bt4rec.export", run_name="__main__", alter_sys=True)'
  )
  return subprocess.run(
    [sys.executable, '-c', program, *arguments],
    cwd=_ROOT,
    capture_output=True,
    text=True,
    timeout=300,
  )


class TestCommand:
  def test_writes_the_file_without_tensorflow(self, pretrained, tmp_path):
    path = tmp_path / 'users.parquet'
    done = _run(f'--workdir={pretrained[0]}', f'--output={path}')
    assert done.returncode == 0, done.stderr
    assert f'  {path}  (40 users x 12)\n' in done.stdout
    assert 'export user_id 40/40, ETA' in done.stderr
    assert pq.read_metadata(path).num_rows == 40

  @pytest.mark.parametrize(
    'arguments, sentence',
    [
      (['--output=u'], '--workdir is missing'),
      (['--config.dataset.pth=x'], "did you mean 'path'"),
    ],
  )
  def test_bad_flags_get_one_sentence(self, arguments, sentence):
    done = _run(*arguments)
    assert done.returncode == 2
    assert 'Traceback' not in done.stderr
    assert done.stderr.splitlines()[-1].startswith('bt4rec: ')
    assert sentence in done.stderr
