"""Tests of the documents: what they tell the reader to do can be done."""

import ast
import configparser
import pathlib
import re
import runpy

import numpy as np
import pytest

from bt4rec.augment import AUGMENTATIONS
from bt4rec.pretext import OBJECTIVES
from configs import presets, study
from tests import documents

_ROOT = documents.ROOT
# Every document for users; a new one is found.
_DOCUMENTS = sorted(
  str(path.relative_to(_ROOT))
  for folder in ('', 'bt4rec/**', 'configs/**', 'launch/**')
  for path in _ROOT.glob(f'{folder}/README.md'.lstrip('/'))
)
_README = (_ROOT / 'README.md').read_text()
# Command -> why no test can run it. Its files must exist.
_NOT_RUN = {
  'launch/test.sh': 'runs this test',
}


def _steps(document: str) -> list[tuple[str, documents.Block, list[str]]]:
  """(title, block, words) of all that a document tells to run, in order."""
  steps = []
  for block in documents.blocks((_ROOT / document).read_text()):
    if block.language == 'python':
      steps.append((f'{block.line}: python', block, ['python']))
    elif block.language == 'bash':
      steps += [
        (f'{block.line}: {" ".join(words)[:60]}', block, words)
        for words in documents.commands(block)
      ]
  return steps


class _Story:
  """The commands of a document, each run once, after those before it."""

  def __init__(self, document: str, folder: pathlib.Path, cache: pathlib.Path):
    self._steps = _steps(document)
    self._workspace = documents.Workspace(folder, cache)
    self._done = 0
    self.printed: list[str | BaseException] = []

  @property
  def folder(self) -> pathlib.Path:
    return self._workspace.folder

  def output_of(self, number: int) -> str:
    while len(self.printed) <= number:
      _, block, words = self._steps[len(self.printed)]
      try:
        skip = ' '.join(words) in _NOT_RUN
        output = '' if skip else self._workspace.run(block, words)
        self.printed.append(output)
      except (AssertionError, LookupError) as error:
        self.printed.append(error)
    printed = self.printed[number]
    if isinstance(printed, BaseException):
      raise printed
    return printed

  def finish(self) -> None:
    """Runs what has not been run yet."""
    for number in range(len(self._steps)):
      self.output_of(number)


@pytest.fixture(scope='module')
def stories(tmp_path_factory):
  cache = tmp_path_factory.mktemp('compiled')
  return {
    document: _Story(document, tmp_path_factory.mktemp('clone'), cache)
    for document in _DOCUMENTS
  }


@pytest.mark.parametrize(
  'document, number',
  [
    pytest.param(document, number, id=f'{document}:{title}')
    for document in _DOCUMENTS
    for number, (title, _, _) in enumerate(_steps(document))
  ],
)
def test_what_the_document_says_can_be_run(document, number, stories):
  stories[document].output_of(number)


def test_every_exception_is_still_in_a_document():
  found = {
    ' '.join(words)
    for document in _DOCUMENTS
    for _, _, words in _steps(document)
  }
  assert set(_NOT_RUN) <= found
  for command in _NOT_RUN:
    assert (_ROOT / command.split()[0]).is_file()


def test_run_sh_runs_what_the_tests_run_in_its_place():
  last = (_ROOT / 'launch' / 'run.sh').read_text().splitlines()[-1]
  assert last == 'exec .venv/bin/python -m bt4rec.main "$@"'


def test_an_unknown_command_is_refused(tmp_path):
  workspace = documents.Workspace(tmp_path, tmp_path / 'compiled')
  block = documents.Block('bash', '', 1)
  for words in (
    ['make', 'all'],
    ['.venv/bin/python', 'setup.py'],
    ['launch/run.sh', '--config=configs/mine.py'],
  ):
    with pytest.raises(LookupError, match='nobody has said'):
      workspace.run(block, words)


def test_a_command_that_fails_is_a_failure(tmp_path):
  workspace = documents.Workspace(tmp_path, tmp_path / 'compiled')
  block = documents.Block('bash', '', 1)
  words = [
    'launch/run.sh',
    '--config=configs/pretrain.py:synthetic',
    '--config.total_stebs=1',
  ]
  with pytest.raises(AssertionError, match='total_steps'):
    workspace.run(block, words)


def test_a_block_is_cut_into_commands():
  block = documents.Block(
    'bash',
    '# First.\nlaunch/a.sh --x="(0,)" \\\n  --y=1  # why\n'
    '(ulimit -d 3; launch/b.sh)\npython -c "\nprint(1)"\n',
    1,
  )
  assert list(documents.commands(block)) == [
    ['launch/a.sh', '--x=(0,)', '--y=1'],
    ['ulimit', '-d', '3'],
    ['launch/b.sh'],
    ['python', '-c', '\nprint(1)'],
  ]


def test_the_files_of_a_workdir_are_written(stories):
  story = stories['README.md']
  story.finish()
  written = {
    str(path.relative_to(folder)) + '/' * path.is_dir()
    for config in story.folder.glob('runs/**/config.json')
    for folder in [config.parent]
    for path in folder.rglob('*')
  }
  rows = _table('| file | what |')
  assert rows and {_code(row[0]) for row in rows} <= written


def _prose(document: str) -> str:
  """A document without its fenced blocks."""
  return re.sub(r'(?ms)^ *```.*?^ *```$', '', (_ROOT / document).read_text())


def _anchors(text: str) -> set[str]:
  """The anchors of the headings, by the rule of GitHub."""
  headings = re.findall(r'(?m)^#+ (.+)$', text)
  return {
    re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-')
    for heading in headings
  }


@pytest.mark.parametrize('document', _DOCUMENTS)
def test_every_link_leads_somewhere(document):
  text = _prose(document)
  links = re.findall(r'\]\(([^)\s]+)\)', text)
  assert links
  for link in links:
    if re.match(r'https?:', link):
      continue
    path, _, anchor = link.partition('#')
    target = (_ROOT / document).parent / path if path else _ROOT / document
    assert target.resolve().exists(), link
    assert target.resolve().is_relative_to(_ROOT), link
    if anchor:
      assert anchor in _anchors(_prose(target.resolve())), link


@pytest.mark.parametrize('document', _DOCUMENTS)
def test_every_module_that_is_named_exists(document):
  for module in re.findall(r'python -m (bt4rec[\w.]*)', _prose(document)):
    assert (_ROOT / f'{module.replace(".", "/")}.py').is_file(), module


@pytest.mark.parametrize('document', _DOCUMENTS)
def test_every_config_key_that_is_named_exists(document):
  config = study.get_config('synthetic,full')
  groups = '|'.join(key for key in config if hasattr(config[key], 'keys'))
  text = (_ROOT / document).read_text()
  named = re.findall(r'--config\.([a-z_0-9.]+)', text)
  named += re.findall(r'`config\.([a-z_0-9.]+)', _prose(document))
  named += re.findall(rf'`((?:{groups})\.[a-z_0-9.]+)', _prose(document))
  assert named
  for key in named:
    key = key.rstrip('.')
    if key.split('.')[-1] in ('json', 'py', 'stablehlo'):  # A file.
      continue
    node = config
    for part in key.split('.'):
      assert part in node, key
      node = node[part]


_DRAW = runpy.run_path(str(_ROOT / 'launch' / 'figures' / 'results.py'))


def _table(header: str) -> list[list[str]]:
  """The rows under the line that starts with `header`, as cells."""
  _, found, rest = _README.partition(f'\n{header}')
  assert found, header
  rows = []
  for line in rest.split('\n')[2:]:
    if not line.startswith('|'):
      break
    rows.append([cell.strip() for cell in line.strip('|').split(' | ')])
  return rows


def _code(cell: str) -> str:
  """What stands between the first backticks."""
  return re.search(r'`([^`]+)`', cell)[1]


def test_no_heading_comes_twice():
  prose = re.sub(r'```.*?```', '', _README, flags=re.DOTALL)
  headings = re.findall(r'^#+ .*', prose, flags=re.MULTILINE)
  assert len(headings) > 20
  assert [x for x in headings if headings.count(x) > 1] == []


def test_the_table_of_objectives_is_complete():
  rows = [_code(row[0]) for row in _table('| `--config.objective=` |')]
  assert sorted(rows) == sorted(OBJECTIVES), (
    'the table under "Objectives" of README.md needs a row for each objective'
  )


def test_every_argument_of_a_pretraining_is_named():
  for name in (*presets.pretrainings(), *presets.DATASETS, *presets.TASKS):
    assert f'`{name}`' in _README, f'README.md does not name {name}'


def test_every_augmentation_is_named():
  text = (_ROOT / 'bt4rec' / 'objectives' / 'README.md').read_text()
  for name in AUGMENTATIONS:
    assert f'`{name}`' in text, (
      f'bt4rec/objectives/README.md does not name the augmentation {name}'
    )


def test_the_rows_of_results_are_rows_of_a_study():
  config = study.get_config()
  known = {
    *(*config.study.rows, *config.study.pretrainings),
    'the better of plain and tuned',
  }
  for heading in _DRAW['SECTIONS'].values():
    table = _DRAW['table_of'](_README, heading)
    lines = _DRAW['lines_of'](table)
    cells = {
      (x['task'], x['objective'], x['protocol'], x['label_fraction'])
      for x in lines
    }
    names = [row.strip('| ').split(' | ')[0] for row in table.splitlines()]
    names = [name for name in names if not re.match(r'---|\w+: ', name)]
    # No cell that the picture cannot read.
    encoders = [name for name in names if not name.startswith('gain')]
    assert len(cells) == len(encoders) * len(config.study.label_fractions)
    # A row for each encoder and task; `scratch` is the dearest, and is none.
    for row in {*config.study.rows} - {'scratch'}:
      assert sum(name.partition(', ')[0] == row for name in encoders) in (3, 6)
    for name in names:
      for of_row in name.removeprefix('gain of ').split(' over '):
        assert of_row.partition(',')[0] in known, name


def test_the_layout_names_every_file_once_and_no_other():
  document = (_ROOT / 'bt4rec' / 'README.md').read_text()
  text = document.partition('\n## Layout\n')[2].partition('```')[2]
  text = text.partition('```')[0]
  named = re.findall(r'[\w]+(?:\.py|\.sh|/)', text)
  exist = {
    *(f'{name}/' for name in ('bt4rec', 'configs', 'launch', 'tests')),
    *('datasets/', 'objectives/', 'colab/', 'figures/', 'base.py'),
    *(path.name for path in (_ROOT / 'launch').glob('*.sh')),
    *(path.name for path in (_ROOT / 'bt4rec').glob('*.py')),
  } - {'__init__.py'}
  assert sorted(exist - set(named)) == []
  assert [name for name in named if name not in exist] == []


def _sentences() -> str:
  """Every text in the code, one a line, with `…` for what it is filled with."""
  # Of a shell a sentence goes on in the next word and line.
  texts = [
    re.sub(r"""(['"]) \\\n\s*\1""", ' ', path.read_text())
    for path in (_ROOT / 'launch').glob('*.sh')
  ]
  for path in (_ROOT / 'bt4rec').rglob('*.py'):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.JoinedStr):
        parts = [getattr(part, 'value', '…') for part in node.values]
        texts.append(
          ''.join(part if isinstance(part, str) else '…' for part in parts)
        )
      elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        texts.append(node.value)
  return '\n'.join(texts)


def test_symptoms_are_words_that_bt4rec_says():
  sentences = _sentences()
  quoted = [
    symptom
    for row in _table('| symptom | cause | remedy |')
    if 'JAX says' not in row[0]
    for symptom in re.findall(r'`([^`]+)`', row[0])
  ]
  assert len(quoted) > 10
  for symptom in quoted:
    assert symptom in sentences, symptom


def test_the_citation_is_of_this_version():
  yaml = pytest.importorskip('yaml')
  setup = configparser.ConfigParser()
  setup.read(_ROOT / 'setup.cfg')
  version = setup['metadata']['version']
  found = {block.language: block.text for block in documents.blocks(_README)}
  citation = yaml.safe_load(found['yaml'])
  assert citation['version'] == version
  assert citation['license'] == setup['metadata']['license']
  assert f'version = {{{version}}}' in found['bibtex']
  # The paper's authors, the same in both.
  names = [
    f'{a["family-names"]}, {a["given-names"]}'
    for a in citation['references'][0]['authors']
  ]
  assert ' and '.join(names) in re.sub(r'\s+', ' ', found['bibtex'])


class TestPictures:
  @pytest.mark.parametrize('picture', _DRAW['SECTIONS'])
  def test_each_is_of_the_tables_that_stand_in_the_readme(self, picture):
    table = _DRAW['table_of'](_README, _DRAW['SECTIONS'][picture])
    assert f'launch/figures/{picture}.png' in _README
    assert (
      _DRAW['digest_of'](table).encode()
      in _DRAW['path_of'](picture).read_bytes()
    ), 'the table has changed: run launch/figures/results.py'

  def test_lines_have_the_figures_of_the_table(self):
    table = """| next_item: recall@10 | 1% labels | 10% labels |
| --- | --- | --- |
| majority | 0.035 ± 0.000 | 0.036 ± 0.000 |
| random, probe | 0.004 ± 0.001 | 0.005 |
| gain of random, probe over majority, probe | +1.0% [-1, +2] | -3.0% |
"""
    lines = _DRAW['lines_of'](table)
    # Three seeds of each of three cells, and one of the last.
    assert len(lines) == 10
    of_cell = [
      line['metrics']['recall@10']
      for line in lines
      if (line['objective'], line['label_fraction']) == ('random', 0.01)
    ]
    np.testing.assert_allclose(np.mean(of_cell), 0.004)
    np.testing.assert_allclose(np.std(of_cell, ddof=1), 0.001)
    assert {line['protocol'] for line in lines} == {'majority', 'probe'}
