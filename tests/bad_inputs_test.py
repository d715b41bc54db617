"""Every bad input gets the sentence that the document promises."""

import pathlib
import re

import pytest

from bt4rec import datasets
from bt4rec.errors import InputError
from tests import bad_inputs

_DOCUMENT = pathlib.Path(datasets.__file__).with_name('README.md')


def _rows() -> dict[tuple[str, str], str]:
  """(section, what was done) -> sentence, as the document has them."""
  _, _, text = _DOCUMENT.read_text().partition('\n## Bad input\n')
  text, _, _ = text.partition('\n## ')
  rows: dict[tuple[str, str], str] = {}
  section = ''
  for line in text.splitlines():
    if line.startswith('### '):
      section = line.removeprefix('### ')
    row = re.fullmatch(r'\| (.+) \| `(.+)` \|', line)
    if row:
      assert (section, row[1]) not in rows, line
      rows[section, row[1]] = row[2].replace(r'\|', '|')
  return rows


_CASES = [
  (section, name)
  for section, cases in bad_inputs.CASES.items()
  for name in cases
]


def test_the_document_has_each_case_once_in_order():
  assert list(_rows()) == _CASES


@pytest.mark.parametrize('section, name', _CASES)
def test_the_sentence_is_that_of_the_document(section, name, tmp_path):
  with pytest.raises(InputError) as error:
    bad_inputs.CASES[section][name](tmp_path)
  said = str(error.value).replace(str(tmp_path), 'DIR')
  assert '\n' not in said
  # The words of a library, which its next version may change.
  expected = re.escape(_rows()[section, name]).replace(r'\(…\)', r'\(.+\)')
  assert re.fullmatch(expected, said), said
