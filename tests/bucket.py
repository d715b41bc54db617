"""An object store in a folder, for fsspec: bucket://NAME/... .

It has whole objects and nothing else: no appends, renames or folders. Run as a
program, it is bt4rec.main that knows it:

  BUCKETS=FOLDER python -m tests.bucket --workdir=bucket://mine/run ...
"""

import contextlib
import os
import pathlib
import runpy
import shutil
import signal
import tempfile
from typing import ClassVar

import fsspec
from fsspec.spec import AbstractFileSystem

from bt4rec import lease, object_store, remote_workdir


class BucketFileSystem(AbstractFileSystem):
  """The store; its folder is named by the variable BUCKETS.

  Attributes:
    changes: Number of objects put, copied or deleted.
    break_at: The change that `on_break` is called before, from 1; 0 is none.
    on_break: What ends it all.
    reads: Names of the objects that were read.
  """

  protocol = 'bucket'
  cachable = False
  changes = 0
  break_at = 0
  on_break = staticmethod(lambda: os.kill(os.getpid(), signal.SIGKILL))
  reads: ClassVar[list[str]] = []

  def _place(self, path):
    return pathlib.Path(os.environ['BUCKETS'], self._strip_protocol(path))

  def _change(self):
    cls = BucketFileSystem
    cls.changes += 1
    if cls.changes == cls.break_at:
      cls.on_break()

  def _put(self, path, write):
    self._change()
    place = self._place(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    half = tempfile.mktemp(dir=os.environ['BUCKETS'])
    write(half)
    os.replace(half, place)

  def put_file(self, lpath, rpath, **kwargs):
    self._put(rpath, lambda half: shutil.copyfile(lpath, half))

  def pipe_file(self, path, value, mode='overwrite', **kwargs):
    if mode == 'create' and self._place(path).exists():
      raise FileExistsError(path)
    self._put(path, lambda half: pathlib.Path(half).write_bytes(value))

  def cp_file(self, path1, path2, **kwargs):
    self._put(path2, lambda half: shutil.copyfile(self._place(path1), half))

  def rm_file(self, path):
    self._change()
    place = self._place(path)
    place.unlink()
    # A store has no folders that could be left.
    with contextlib.suppress(OSError):
      for folder in place.parents:
        folder.rmdir()

  def cat_file(self, path, start=None, end=None, **kwargs):
    self.reads.append(path)
    return self._place(path).read_bytes()

  def get_file(self, rpath, lpath, **kwargs):
    self.reads.append(rpath)
    shutil.copyfile(self._place(rpath), lpath)

  def ls(self, path, detail=True, **kwargs):
    place = self._place(path)
    if not place.exists():
      raise FileNotFoundError(path)
    found = []
    for child in [place] if place.is_file() else place.iterdir():
      is_file = child.is_file()
      found.append(
        {
          'name': str(child.relative_to(os.environ['BUCKETS'])),
          'size': child.stat().st_size if is_file else 0,
          'type': 'file' if is_file else 'directory',
          'generation': child.stat().st_mtime_ns if is_file else 0,
        }
      )
    return found if detail else [info['name'] for info in found]


def register() -> None:
  """Makes bucket:// known."""
  fsspec.register_implementation('bucket', BucketFileSystem, clobber=True)


if __name__ == '__main__':
  from tests import bucket

  bucket.register()
  bucket.BucketFileSystem.break_at = int(os.environ.get('BREAK_AT', '0'))
  object_store._PAUSES = ()
  remote_workdir.LOOK = 0.2
  lease.BEAT, lease.PATIENCE, lease._LOOK = 0.2, 1.0, 0.05
  runpy.run_module('bt4rec.main', run_name='__main__', alter_sys=True)
