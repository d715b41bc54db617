"""Copies of a workdir that a job writes to meanwhile."""

import errno
import os
import shutil

import pytest

from bt4rec import snapshot


def _write(folder, **texts):
  for name, text in texts.items():
    path = folder / name.replace('__', '/')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _names(folder):
  return sorted(
    str(path.relative_to(folder))
    for path in folder.rglob('*')
    if path.is_file()
  )


@pytest.fixture(name='workdir')
def _workdir(tmp_path):
  folder = tmp_path / 'run'
  _write(folder, metrics='1', checkpoints__5__a='5', checkpoints__5__b='5')
  return folder


def test_a_folder_that_cannot_be_read_is_not_empty(workdir, monkeypatch):
  scandir = os.scandir

  def refuse(path):
    if path.endswith('/checkpoints'):
      raise OSError(errno.EMFILE, 'Too many open files', path)
    return scandir(path)

  monkeypatch.setattr(os, 'scandir', refuse)
  with pytest.raises(OSError, match='Too many open files'):
    snapshot.files_in(str(workdir))


class TestTake:
  def test_leaves_out_locks_and_what_is_half_written(self, workdir, tmp_path):
    for name in ('lock', 'cells/x/lock', 'config.json.tmp'):
      (workdir / name).parent.mkdir(parents=True, exist_ok=True)
      (workdir / name).touch()
    half = workdir / 'checkpoints' / '6.orbax-checkpoint-tmp'
    half.mkdir()
    (half / 'a').touch()
    target = tmp_path / 'snapshot'
    found = snapshot.take(str(workdir), str(target), {})
    assert _names(target) == sorted(found)
    assert sorted(found) == ['checkpoints/5/a', 'checkpoints/5/b', 'metrics']

  def test_copies_what_is_not_known(self, workdir, tmp_path):
    target = tmp_path / 'snapshot'
    known = snapshot.take(str(workdir), str(target), {})
    _write(workdir, metrics='1, 2')
    found = snapshot.take(str(workdir), str(target), known)
    assert sorted(found) == sorted(known) and _names(target) == ['metrics']
    assert found['metrics'] != known['metrics']

  def test_what_is_appended_later_does_not_reach_it(self, workdir, tmp_path):
    target = tmp_path / 'snapshot'
    snapshot.take(str(workdir), str(target), {})
    with open(workdir / 'metrics', 'a') as f:
      f.write(', 2')
    assert (target / 'metrics').read_text() == '1'
    # Arrays may be large; they are not copied.
    pair = [folder / 'checkpoints' / '5' / 'a' for folder in (workdir, target)]
    assert os.path.samefile(*pair)

  def test_a_checkpoint_that_goes_meanwhile_is_no_harm(
    self, workdir, tmp_path, monkeypatch
  ):
    link = os.link

    def link_and_go_on(source, target):
      link(source, target)
      if source.endswith('/5/a'):
        # As Orbax: the next one, then this one goes.
        _write(workdir, checkpoints__6__a='6', checkpoints__6__b='6')
        shutil.rmtree(workdir / 'checkpoints' / '5')

    monkeypatch.setattr(os, 'link', link_and_go_on)
    monkeypatch.setattr(snapshot.time, 'sleep', lambda _: None)
    target = tmp_path / 'snapshot'
    found = snapshot.take(str(workdir), str(target), {})
    assert sorted(found) == ['checkpoints/6/a', 'checkpoints/6/b', 'metrics']
    assert _names(target) == sorted(found)

  def test_a_result_is_not_there_before_its_checkpoint(
    self, workdir, tmp_path, monkeypatch
  ):
    link = os.link

    def link_and_finish(source, target):
      link(source, target)
      _write(workdir, checkpoints__9__a='9', outcomes__x='x')
      (workdir / 'results.jsonl').write_text('{}')

    monkeypatch.setattr(os, 'link', link_and_finish)
    found = snapshot.take(str(workdir), str(tmp_path / 'snapshot'), {})
    assert 'results.jsonl' not in found
    monkeypatch.setattr(os, 'link', link)
    found = snapshot.take(str(workdir), str(tmp_path / 'snapshot'), {})
    assert {'results.jsonl', 'checkpoints/9/a', 'outcomes/x'} <= found.keys()

  def test_gives_up_where_nothing_stays(self, workdir, tmp_path, monkeypatch):
    def vanish(source, target):
      raise FileNotFoundError(source)

    monkeypatch.setattr(os, 'link', vanish)
    monkeypatch.setattr(snapshot.time, 'sleep', lambda _: None)
    assert snapshot.take(str(workdir), str(tmp_path / 'snapshot'), {}) is None


class TestFinished:
  def test_changes_with_checkpoints_and_results_alone(self, workdir):
    before = snapshot.finished(str(workdir))
    _write(workdir, metrics='1, 2', checkpoints__5__c='5')
    assert snapshot.finished(str(workdir)) == before
    _write(workdir, checkpoints__6__a='6')
    after = snapshot.finished(str(workdir))
    assert after != before
    (workdir / 'results.jsonl').write_text('{}')
    assert snapshot.finished(str(workdir)) != after


def test_newest_checkpoints():
  paths = [
    *('pretrain/x/checkpoints/9/a', 'pretrain/x/checkpoints/10/a'),
    *('checkpoints/0/a', 'checkpoints/3.orbax-checkpoint-tmp/a', 'metrics'),
  ]
  assert snapshot.newest_checkpoints(paths) == {
    'pretrain/x/checkpoints/10',
    'checkpoints/0',
  }
