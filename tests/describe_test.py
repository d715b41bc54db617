"""The dataset card: figures by hand, files, and the command."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from bt4rec import card, card_plots, card_text, describe, splits
from bt4rec.datasets import movielens, sequences
from bt4rec.errors import InputError
from configs import base
from tests import dataset_assertions, tiny

_ROOT = pathlib.Path(__file__).parents[1]


def _dataset(events, categories=None) -> sequences.SequenceDataset:
  """Of (user, item, second)."""
  users, items, seconds = (np.array(c) for c in zip(*events, strict=True))
  return sequences.from_events(
    'toy', users, items, seconds, categories=categories
  )


class TestTieReport:
  @pytest.mark.parametrize(
    'events, tied, undetermined',
    [
      ([(1, 1, 1), (1, 2, 2), (2, 1, 2)], 0.0, 0.0),
      # The last of user 1 and the first of user 2 share a second, no user.
      ([(1, 1, 1), (1, 2, 7), (2, 1, 7), (2, 2, 9)], 0.0, 0.0),
      # A tie before the end.
      ([(1, 1, 1), (1, 2, 1), (1, 3, 2), (2, 1, 1)], 2 / 4, 0.0),
      # A tie at the end, of three events.
      ([(1, 4, 0), (1, 1, 1), (1, 2, 1), (1, 3, 1), (2, 1, 1)], 3 / 5, 1 / 2),
      # The same item twice in the last second is determined.
      ([(1, 1, 1), (1, 2, 2), (1, 2, 2)], 2 / 3, 0.0),
      # But not beside another one, in whatever order.
      ([(1, 1, 2), (1, 2, 2), (1, 2, 2)], 1.0, 1.0),
      ([(1, 2, 2), (1, 2, 2), (1, 1, 2)], 1.0, 1.0),
    ],
  )
  def test_by_hand(self, events, tied, undetermined):
    assert card.tie_report(_dataset(events)) == {
      'events': pytest.approx(tied),
      'users_with_undetermined_last_item': pytest.approx(undetermined),
    }

  def test_of_movielens_is_the_published_one(self, shared_data):
    if shared_data is None or not (shared_data / 'ml-1m').is_dir():
      pytest.skip('no MovieLens-1M')
    whole = movielens.read_ml1m(str(shared_data / 'ml-1m'), True)
    # Users of the original file's head, whose times are untouched; measured
    # there independently: 77.5 % of the events, 42.3 % of the users.
    end = whole.offsets[2_998]
    head = _dataset(
      zip(
        np.repeat(whole.user_ids, whole.lengths)[:end].tolist(),
        whole.items[:end].tolist(),
        whole.timestamps[:end].tolist(),
        strict=True,
      )
    )
    assert head.num_events == 487_515
    report = card.tie_report(head)
    assert round(report['events'], 3) == 0.775
    assert round(report['users_with_undetermined_last_item'], 3) == 0.423


class TestCard:
  @pytest.fixture
  def measured(self) -> dict:
    # User 1 has 12 events, user 2 has 5, user 3 one.
    events = [(1, 10 + i % 4, 86_400 * i) for i in range(12)]
    events += [(2, 10, 86_400 * i) for i in range(5)] + [(3, 99, 0)]
    categories = {10: ['A', 'B'], 11: ['A'], 99: []}
    return card.make_card(_dataset(events, categories), base.get_config())

  def test_sizes(self, measured):
    assert (measured['users'], measured['items'], measured['events']) == (
      3,
      5,
      18,
    )
    assert measured['density'] == pytest.approx(18 / 15)
    assert measured['events_per_user']['min'] == 1
    assert measured['events_per_user']['p50'] == 5
    assert measured['events_per_user']['max'] == 12
    assert measured['events_per_user']['mean'] == pytest.approx(6)
    # Item 10 has 3 + 5 events, 11 to 13 have 3, 99 has one.
    assert measured['events_per_item']['max'] == 8
    assert measured['events_per_item']['p50'] == 3

  def test_time(self, measured):
    assert measured['time'] == {
      'first': '1970-01-01 00:00:00',
      'last': '1970-01-12 00:00:00',
      'days': 11.0,
    }

  def test_cold_start(self, measured):
    assert measured['cold_start'] == {
      'most_events': 5,
      'users': pytest.approx(2 / 3),
      'items': pytest.approx(4 / 5),
    }

  def test_categories(self, measured):
    categories = measured['categories']
    assert categories['number'] == 2
    assert categories['items_with_one'] == pytest.approx(2 / 5)
    # 8 of item 10, 3 of item 11.
    assert categories['events_with_one'] == pytest.approx(11 / 18)
    assert categories['mean_per_item'] == pytest.approx(3 / 5)
    assert categories['most_frequent'] == {'A': 2 / 5, 'B': 1 / 5}

  def test_pretraining(self, measured):
    # Of 12 events the last 5 are held out, of 5 and of 1 the last two.
    assert measured['pretraining'] == {
      'scope': 'shared',
      'events_seen': 7 + 3,
      'users_with_fewer_than_2_such_events': 1,
      'users_too_short_for_favorite_category': 2,
    }

  def test_is_json_and_text(self, measured):
    assert json.loads(json.dumps(measured)) == measured
    text = card_text.to_markdown(measured)
    assert '3 users, 5 items, 18 events' in text
    assert '66.7% of the users and 80.0% of the items have at most 5' in text
    assert 'A 40.0%, B 20.0%' in text

  def test_what_was_left_out_is_on_it(self, measured):
    measured['origin'] = {
      'source': 'logs',
      'rows_read': 30,
      'events_kept': 18,
      'dropped': {'ragged rows': 12},
      'notes': {'repeated events, kept': 1},
    }
    text = card_text.to_markdown(measured)
    assert '30 rows read, 18 events kept' in text
    assert 'Left out: 12 ragged rows' in text
    assert 'Counted: 1 repeated events, kept' in text


class TestMajority:
  def test_by_hand(self):
    # Every user: A A A B, then a last event that must not count.
    events, categories = [], {1: ['A'], 2: ['B'], 3: ['A', 'C'], 4: ['C']}
    for user, validation in enumerate([1, 2, 3, 4, 4]):
      items = [1, 1, 3, 2, validation, 4]
      events += [(user, item, second) for second, item in enumerate(items)]
    measured = card.make_card(_dataset(events, categories), base.get_config())
    majority = measured['majority_class']
    # Training targets are 1, 3, 2 of each user: A has the weight 1.5, and is
    # right on the validation targets 1 and 3.
    assert majority['next_category'] == {
      'answer': 'A',
      'accuracy': pytest.approx(2 / 5),
      'examples': 5,
    }
    # 1, 3, 2 are equally frequent; the first one is right once.
    assert majority['next_item'] == {
      'answer': '1',
      'accuracy': pytest.approx(1 / 5),
      'examples': 5,
    }
    assert 'not_possible' in majority['favorite_category']

  def test_without_categories_is_not_possible(self):
    measured = card.make_card(
      _dataset([(1, i, i) for i in range(12)]), base.get_config()
    )
    for task in ('next_category', 'favorite_category'):
      assert measured['majority_class'][task] == {
        'not_possible': 'no item has a category'
      }
    assert 'no item has a category' in card_text.to_markdown(measured)

  def test_of_users_labels_where_the_config_names_them(self, tmp_path):
    path = tmp_path / 'users.csv'
    path.write_text(
      'user,plan\n' + ''.join(f'{u},{"ab"[u < 30]}\n' for u in range(40))
    )
    config = base.get_config()
    dataset = _dataset([(user, 1, user) for user in range(40)])
    assert 'user_attribute' not in card.make_card(dataset, config)
    config.user_attribute.update(path=str(path), label='plan')
    measured = card.make_card(dataset, config)
    assert measured['majority_class']['user_attribute']['answer'] == 'b'

  def test_looks_at_no_test_label(self):
    dataset = tiny.dataset()
    config = base.get_config()
    before = card.make_card(dataset, config)['majority_class']
    # The last event of every user is the test of both position-wise tasks.
    items = dataset.items.copy()
    items[dataset.offsets[1:] - 1] = 1
    changed = sequences.SequenceDataset(**{**vars(dataset), 'items': items})
    after = card.make_card(changed, config)['majority_class']
    for task in ('next_item', 'next_category'):
      assert before[task] == after[task]


class TestFiles:
  def _config(self):
    return tiny.config(dataset={'synthetic': {'num_users': 60}})

  def test_arrays_card_and_plots_are_written(self, tmp_path):
    pytest.importorskip('matplotlib')
    text = describe.describe(
      self._config(), str(tmp_path), arrays=True, plots=True
    )
    found = json.loads((tmp_path / 'card.json').read_text())
    dataset = sequences.load(str(tmp_path))
    assert dataset.name == 'synthetic'
    assert found['split_fingerprint'] == splits.fingerprint(dataset)
    assert (tmp_path / 'card.md').read_text() in text
    plots = sorted(path.name for path in (tmp_path / 'plots').iterdir())
    assert plots == sorted(f'{name}.png' for name in card_plots._PLOTS)
    for name in plots:
      data = (tmp_path / 'plots' / name).read_bytes()
      assert data[:8] == b'\x89PNG\r\n\x1a\n' and len(data) > 2_000

  def test_what_is_turned_off_is_not_written(self, tmp_path):
    describe.describe(self._config(), str(tmp_path), arrays=False, plots=False)
    assert sorted(os.listdir(tmp_path)) == ['card.json', 'card.md', 'lock']

  def test_without_matplotlib_all_but_the_plots_is_written(
    self, tmp_path, monkeypatch, caplog
  ):
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    monkeypatch.setitem(sys.modules, 'matplotlib.backends.backend_agg', None)
    describe.describe(self._config(), str(tmp_path), arrays=True, plots=True)
    assert 'pip install matplotlib, or' in caplog.text
    assert (tmp_path / 'dataset.json').exists()
    assert not (tmp_path / 'plots').exists()

  @pytest.mark.parametrize(
    'events', [[(1, 1, 5)], [(1, 1, -(10**10)), (1, 2, 10**11)]]
  )
  def test_odd_datasets_are_drawn(self, tmp_path, events):
    pytest.importorskip('matplotlib')
    assert len(card_plots.save_plots(_dataset(events), str(tmp_path))) == 3

  def test_prepared_arrays_are_described_alike(self, tmp_path):
    config = self._config()
    first, second = (str(tmp_path / name) for name in ('first', 'second'))
    describe.describe(config, first, arrays=True, plots=False)
    config.dataset.prepared = first
    describe.describe(config, second, arrays=True, plots=False)
    dataset_assertions.assert_equal(
      sequences.load(first), sequences.load(second)
    )
    with pytest.raises(InputError, match='choose another --output'):
      describe.describe(config, first, arrays=True, plots=False)


class TestCommand:
  def _run(self, *arguments):
    return subprocess.run(
      [sys.executable, '-m', 'bt4rec.describe', *arguments],
      cwd=_ROOT,
      capture_output=True,
      text=True,
      timeout=300,
    )

  def test_describes_a_log_and_its_arrays_are_training_data(self, tmp_path):
    rows = [f'u{i % 7},i{i % 3},{1_600_000_000 + i}' for i in range(50)]
    log = tmp_path / 'log.csv'
    log.write_text('\n'.join(['user,item,timestamp', *rows, '']))
    output = tmp_path / 'out'
    done = self._run(
      '--config=configs/pretrain.py:logs',
      f'--config.dataset.path={log}',
      f'--config.dataset.data_dir={tmp_path / "cache"}',
      f'--workdir={output}',
    )
    assert done.returncode == 0, done.stderr
    assert '50 rows read, 50 events kept' in done.stdout
    assert 'logs: 50 rows read, 50 events kept' in done.stderr
    assert sequences.load(str(output)).num_users == 7

  @pytest.mark.parametrize(
    'arguments, words',
    [
      ([], ['--config is missing']),
      (['--config=configs/base.py', 'extra'], ["unexpected argument 'extra'"]),
      (
        ['--config=configs/pretrain.py:logs', '--config.dataset.path=none.csv'],
        ['none.csv does not exist'],
      ),
      (
        ['--config=configs/base.py', '--config.dataset.k_cores=3'],
        ["did you mean 'k_core'"],
      ),
    ],
  )
  def test_bad_input_is_one_sentence(self, tmp_path, arguments, words):
    done = self._run(*arguments, f'--output={tmp_path / "out"}')
    assert done.returncode == 2, done.stderr
    assert 'Traceback' not in done.stderr
    sentences = [
      line for line in done.stderr.splitlines() if line.startswith('bt4rec: ')
    ]
    assert len(sentences) == 1
    for word in words:
      assert word in sentences[0]
