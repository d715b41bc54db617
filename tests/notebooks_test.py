"""The Colab notebooks: thin, stripped, and run from end to end on little data.

They run as a user's do, in a kernel of their own, with values put behind the
cells tagged `parameters` as papermill would.
"""

import ast
import json
import os
import pathlib

import pytest

from tests import distributions, tiny

nbclient = pytest.importorskip('nbclient')
nbformat = pytest.importorskip('nbformat')
pytest.importorskip('ipykernel')

_ROOT = pathlib.Path(__file__).parents[1]
_PATHS = sorted((_ROOT / 'launch' / 'colab').glob('*.ipynb'))

# Steps and sizes that a training takes a moment with.
_TINY = {
  'max_length': 9,
  'batch_size': 16,
  'total_steps': 4,
  'feed': 'device',
  'encoder.dim': 12,
  'encoder.num_layers': 1,
  'barlow_twins.projector': [10, 11],
  'optimizer.warmup_steps': 1,
  'log_every_steps': 1,
  'eval_every_steps': 2,
  'health_every_steps': 2,
  'tensorboard': False,
  **{f'dataset.synthetic.{key}': value for key, value in tiny.WORLD.items()},
  # Of users with ten events, 3 of 40 would be validation users.
  'dataset.synthetic.num_users': 120,
}
_FEW_PROBE_STEPS = {
  'study.protocols.probe.total_steps': 2,
  'study.protocols.probe.eval_every_steps': 1,
  'study.protocols.probe.optimizer.warmup_steps': 1,
}
_VALUES = {
  'quickstart': {
    'OVERRIDES': json.dumps(
      {
        **_TINY,
        **_FEW_PROBE_STEPS,
        'study.rows': ['majority', 'barlow_twins', 'dual_encoder_tuned'],
        'study.tasks': ['next_category'],
      }
    ),
    'WORKDIR': 'quickstart',
  },
  'evaluate': {
    'OUTPUT': 'evaluate',
    'LABEL_FRACTIONS': (0.3, 1.0),
    'SEEDS': (0, 1),
    'MOST_USERS': 50,
    'PRETRAIN_OVERRIDES': json.dumps(_TINY),
    'PROBE_OVERRIDES': json.dumps(
      {**_FEW_PROBE_STEPS, 'study.tasks': ['next_category']}
    ),
  },
}
# Title of the cell -> what its outputs must have, in order.
_SHOWN = {
  'quickstart': {
    'What is used': ['text'],
    'The table': ['table'],
    'Embed two users': ['text'],
    'Recommend to the first user': ['table'],
    'Where it is': ['text'],
  },
  'evaluate': {
    'What is used': ['text'],
    'Load it, or train it first': ['text'],
    'Loss': ['picture'],
    'Health': ['picture'],
    'Label-fraction curves': ['picture'],
    'Cold start': ['picture'],
    'Correlation, before and after': ['picture'],
    'Spectrum': ['picture'],
    'Map': ['picture'],
    'Nearest users': ['text', 'table'],
    'Nearest items': ['table'],
  },
}


def _read(path: pathlib.Path):
  return nbformat.read(path, as_version=4)


def _code(notebook) -> list:
  return [cell for cell in notebook.cells if cell.cell_type == 'code']


def _inject(notebook, values: dict) -> None:
  """Puts a cell with the values behind each cell that has their defaults."""
  left, cells = dict(values), []
  for cell in notebook.cells:
    cells.append(cell)
    if 'parameters' in cell.metadata.get('tags', []):
      names = {
        target.id
        for node in ast.parse(cell.source).body
        for target in node.targets
      }
      lines = [f'{name} = {left.pop(name)!r}' for name in names & left.keys()]
      cells.append(nbformat.v4.new_code_cell('\n'.join(lines)))
  assert not left, 'no such parameters'
  notebook.cells = cells


def _execute(notebook, folder: pathlib.Path, monkeypatch) -> None:
  # One device and quick compilation; the package of this checkout.
  monkeypatch.setenv('XLA_FLAGS', '--xla_backend_optimization_level=0')
  monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
  monkeypatch.setenv('PYTHONPATH', str(_ROOT))
  nbclient.NotebookClient(
    notebook, timeout=600, resources={'metadata': {'path': str(folder)}}
  ).execute()


def _kinds(cell) -> list[str]:
  kinds = []
  for output in cell.outputs:
    data = output.get('data', {})
    if 'image/png' in data:
      assert len(data['image/png']) > 10_000, 'an empty picture'
      kinds.append('picture')
    elif 'text/markdown' in data:
      assert data['text/markdown'].count('\n| ') >= 3
      # Commands would be headings, and the report's pictures lie elsewhere.
      assert 'written:' not in data['text/markdown']
      assert '](plots/' not in data['text/markdown']
      kinds.append('table')
    elif 'text' in output and output.name == 'stdout':
      kinds.append('text')
  return kinds


def _title(cell) -> str:
  return cell.source.partition('\n')[0].removeprefix('# @title ')


def test_there_are_two():
  assert [path.stem for path in _PATHS] == ['evaluate', 'quickstart']


@pytest.mark.parametrize('path', _PATHS, ids=lambda path: path.stem)
class TestSource:
  def test_defines_nothing(self, path):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    for cell in _code(_read(path)):
      for node in ast.walk(ast.parse(cell.source)):
        assert not isinstance(node, kinds), cell.source

  def test_outputs_are_stripped(self, path):
    for cell in _code(_read(path)):
      assert cell.outputs == [] and cell.execution_count is None

  def test_metadata_are_those_of_a_plain_python_kernel(self, path):
    notebook = _read(path)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == 'python3'
    assert notebook.metadata.colab.name == path.name

  def test_each_code_cell_is_explained_and_has_a_title(self, path):
    cells = _read(path).cells
    explained = False
    for cell in cells:
      if cell.cell_type == 'markdown':
        explained = True
        continue
      assert explained, cell.source
      assert cell.source.startswith('# @title '), cell.source
      # What installs or trains is followed by what shows the outcome.
      explained = explained and _title(cell) not in _SHOWN[path.stem]

  def test_the_installation_is_pinned(self, path):
    form, run = _code(_read(path))[:2]
    assert "REPOSITORY = ''" in form.source and "REVISION = ''" in form.source
    assert '@ git+{REPOSITORY}@{REVISION}' in run.source
    assert 'google' not in run.source


@pytest.mark.parametrize('path', _PATHS, ids=lambda path: path.stem)
def test_runs_and_shows(path, tmp_path, monkeypatch):
  notebook = _read(path)
  _inject(notebook, _VALUES[path.stem])
  _execute(notebook, tmp_path, monkeypatch)
  shown = {
    _title(cell): kinds for cell in _code(notebook) if (kinds := _kinds(cell))
  }
  assert shown == _SHOWN[path.stem]


@pytest.mark.parametrize('path', _PATHS, ids=lambda path: path.stem)
def test_without_bt4rec_it_asks_for_what_to_install(
  path, tmp_path, monkeypatch
):
  form, run = _code(_read(path))[:2]
  hide = 'import importlib.util\nimportlib.util.find_spec = {}.get'
  cells = [nbformat.v4.new_code_cell(hide), form, run]
  with pytest.raises(nbclient.exceptions.CellExecutionError) as error:
    _execute(nbformat.v4.new_notebook(cells=cells), tmp_path, monkeypatch)
  assert 'give REPOSITORY (a git URL) and REVISION' in str(error.value)
  assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('path', _PATHS, ids=lambda path: path.stem)
def test_drift_stops_the_notebook_with_a_sentence(path, tmp_path, monkeypatch):
  distributions.install(
    tmp_path,
    'bt4rec',
    '9',
    ['Provides-Extra: plots', 'Requires-Dist: jax>=99'],
  )
  notebook = _read(path)
  # An old or new JAX may well fail when it is imported.
  first = nbformat.v4.new_code_cell(
    'import sys\n'
    f'sys.path.insert(0, {str(tmp_path)!r})\n'
    "sys.modules['jax'] = None"
  )
  notebook.cells.insert(0, first)
  with pytest.raises(nbclient.exceptions.CellExecutionError) as error:
    _execute(notebook, tmp_path, monkeypatch)
  assert 'needed >=99' in str(error.value)
