"""What an installation has: types that a type checker of others sees."""

import configparser
import pathlib
import shutil
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).parents[1]


def _install(site_packages):
  """Puts there what setup.cfg says that a wheel holds of the package."""
  setup = configparser.ConfigParser()
  setup.read(_ROOT / 'setup.cfg')
  data = setup['options.package_data']
  for source in (_ROOT / 'bt4rec').rglob('*'):
    folder = source.relative_to(_ROOT).parent
    patterns = data.get('.'.join(folder.parts), '').split()
    if source.suffix == '.py' or source.name in patterns:
      target = site_packages / folder / source.name
      target.parent.mkdir(parents=True, exist_ok=True)
      shutil.copy(source, target)


def test_a_scratch_project_sees_the_types(tmp_path):
  pytest.importorskip('mypy')
  environment, project = tmp_path / 'env', tmp_path / 'project'
  subprocess.run(
    [sys.executable, '-m', 'venv', '--without-pip', str(environment)],
    check=True,
  )
  (site_packages,) = environment.glob('lib/python*/site-packages')
  _install(site_packages)
  project.mkdir()
  (project / 'use.py').write_text(
    'import bt4rec\n'
    'reveal_type(bt4rec.load_encoder)\n'
    "encoder = bt4rec.load_encoder('runs/mine')\n"
    'reveal_type(encoder.max_length)\n'
    'bt4rec.load_encoder(3)\n'
  )
  # What the package imports is not there, and is no concern of the project.
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'mypy', '--no-incremental', 'use.py'),
      *('--python-executable', str(environment / 'bin' / 'python')),
      *('--config-file', ''),
    ],
    cwd=project,
    capture_output=True,
    text=True,
  )
  assert 'py.typed' not in done.stdout, done.stdout
  first, second, third, *_ = done.stdout.splitlines()
  assert 'def (directory: ' in first and 'bt4rec.encode.Encoder"' in first
  assert '"builtins.int"' in second or '"int"' in second
  assert 'use.py:5: error: Argument 1 to "load_encoder"' in third
