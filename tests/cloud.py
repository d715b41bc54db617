"""Stand-ins for gcloud and the commands of SLURM, as programs for PATH.

A folder is the cloud: `state` is the state of the one TPU, `vm/` its disk,
`calls` a line for each call.
"""

import json
import os
import pathlib
import sys
import textwrap

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
if words[2] == 'queued-resources':
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
