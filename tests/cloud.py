"""Stand-ins for gcloud and the commands of SLURM, as programs for PATH.

A folder is the cloud: `buckets/` has a folder for each bucket, `journal` a line
for each change of one, `state` the state of the one TPU, `vm/` its disk,
`calls` a line for each call. As a real bucket, this one keeps files and no
folders.
"""

import json
import os
import pathlib
import sys
import textwrap
from collections.abc import Iterator

_GCLOUD = """
import json, os, pathlib, shutil, subprocess, sys

cloud = pathlib.Path(os.environ['CLOUD'])
words = [word for word in sys.argv[1:] if not word.startswith('--')]
flags = dict(
  word.removeprefix('--').partition('=')[::2]
  for word in sys.argv[1:]
  if word.startswith('--')
)
state = cloud / 'state'


def local(path):
  if path.startswith('gs://'):
    return cloud / 'buckets' / path.removeprefix('gs://')
  return pathlib.Path(path)


def files(folder):
  return {str(p.relative_to(folder)) for p in folder.rglob('*') if p.is_file()}


def note(kind, path, text=''):
  with open(cloud / 'journal', 'a') as f:
    f.write(json.dumps([kind, str(path), text]) + '\\n')


def put(source, target):
  target.parent.mkdir(parents=True, exist_ok=True)
  shutil.copy(source, target)
  note('put', target, target.read_bytes()[:100].decode('latin-1'))


def storage(verb, source, target=None):
  source = local(source)
  if verb == 'ls':
    if not source.is_dir() or not files(source):
      sys.exit('ERROR: One or more URLs matched no objects.')
  elif verb == 'cat':
    if not source.exists():
      sys.exit('ERROR: The following URLs matched no objects or files:')
    print(source.read_text(), end='')
  elif verb == 'cp':
    put(source, local(target))
  else:
    assert verb == 'rsync' and 'recursive' in flags
    # In the order that leaves least if it is broken off.
    if 'delete-unmatched-destination-objects' in flags:
      for path in files(local(target)) - files(source):
        (local(target) / path).unlink()
        note('delete', local(target) / path)
    for path in sorted(files(source)):
      put(source / path, local(target) / path)
      if os.environ.get('BREAKS') == path:
        sys.exit('ERROR: the connection broke')


def queued_resources(verb, name=None):
  if verb == 'list':
    assert flags['filter'].startswith('name~/')
    print(state.read_text() if state.exists() else '', end='')
  elif verb == 'create':
    assert not state.exists()
    state.write_text('WAITING_FOR_RESOURCES')
    # So long that a look comes in between.
    subprocess.Popen(
      ['bash', '-c', f'sleep 0.3; echo ACTIVE >{state}'],
      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    (cloud / 'vm').mkdir()
  else:
    assert verb == 'delete' and 'force' in flags
    state.unlink()
    shutil.rmtree(cloud / 'vm', ignore_errors=True)


def tpu_vm(verb, *names):
  if not state.exists() or state.read_text().strip() != 'ACTIVE':
    sys.exit('ERROR: the TPU does not answer')
  assert flags['worker'] == 'all'
  home = cloud / 'vm'
  if verb == 'scp':
    shutil.copy(names[0], home / names[1].partition(':')[2])
  else:
    environment = {**os.environ, 'HOME': str(home)}
    done = subprocess.run(
      ['bash', '-c', flags['command']], cwd=home, env=environment
    )
    # A worker has gone; the others have said so before the service does.
    if 'echo "job:' in flags['command'] and (cloud / 'going').exists():
      (cloud / 'going').unlink()
      state.write_text('SUSPENDED')
    sys.exit(done.returncode)


with open(cloud / 'calls', 'a') as f:
  f.write(json.dumps(sys.argv[1:]) + '\\n')
if words[0] == 'storage':
  storage(*words[1:])
elif words[2] == 'queued-resources':
  queued_resources(*words[3:])
else:
  tpu_vm(*words[3:])
"""

# Brings a Python that runs the program JOB in place of bt4rec.main.
_UV = """
import os, pathlib, sys

if sys.argv[1:3] == ['python', 'find']:
  print(sys.executable)
elif sys.argv[1] == 'venv':
  python = pathlib.Path(sys.argv[-1], 'bin', 'python')
  python.parent.mkdir(parents=True)
  python.write_text(f'#!/bin/sh\\nexec {os.environ["JOB"]} "$@"\\n')
  python.chmod(0o755)
"""


class Cloud:
  """A cloud in a folder.

  Args:
    folder: An empty folder.

  Attributes:
    folder: The same.
    environment: Variables for what is run in it.
  """

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    self._programs = folder / 'programs'
    self._programs.mkdir()
    self.environment = {
      **os.environ,
      'PATH': f'{self._programs}:{os.environ["PATH"]}',
      'CLOUD': str(folder),
      'TMPDIR': str(folder),
    }
    self.add('gcloud', _GCLOUD)
    self.add('uv', _UV)

  def add(self, name: str, code: str) -> str:
    """Puts a program in Python on PATH; returns where it is."""
    path = self._programs / name
    path.write_text(f'#!{sys.executable}\n{textwrap.dedent(code)}')
    path.chmod(0o755)
    return str(path)

  @property
  def calls(self) -> list[str]:
    """The commands so far; of those on a TPU only that there was one."""
    path = self.folder / 'calls'
    lines = path.read_text().splitlines() if path.exists() else []
    return [' '.join(json.loads(line)) for line in lines]

  def moments(self, url: str) -> Iterator[dict[str, str]]:
    """Path -> the first 100 bytes, of a bucket's folder after each change."""
    now = {}
    for line in (self.folder / 'journal').read_text().splitlines():
      kind, path, text = json.loads(line)
      if not pathlib.Path(path).is_relative_to(self.bucket(url)):
        continue
      name = str(pathlib.Path(path).relative_to(self.bucket(url)))
      if kind == 'put':
        now[name] = text
      else:
        del now[name]
      yield dict(now)

  def bucket(self, url: str) -> pathlib.Path:
    """The folder that stands for one of a bucket."""
    return self.folder / 'buckets' / url.removeprefix('gs://')
