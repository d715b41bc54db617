"""Strict JAX on eight simulated CPU devices, and the data tests run on."""

import os
import pathlib
import signal

# Before JAX starts. Tests compile far more than they compute.
os.environ['XLA_FLAGS'] = (
  os.environ.get('XLA_FLAGS', '')
  + ' --xla_force_host_platform_device_count=8'
  + ' --xla_backend_optimization_level=0'
  # A busy machine may hold one of the devices up; XLA would abort the process.
  + ' --xla_cpu_collective_call_terminate_timeout_seconds=600'
)
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')

import jax
import pytest

# A shell has what it runs in the background ignore it, and so would the jobs
# that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A silently broadcast axis is a mistake.
jax.config.update('jax_numpy_rank_promotion', 'raise')


def pytest_configure(config):
  """Compiles once what several tests need, here or in an earlier run."""
  if not config.pluginmanager.hasplugin('cacheprovider'):
    return  # By `-p no:cacheprovider`.
  cache = config.cache.mkdir('jax')
  jax.config.update('jax_compilation_cache_dir', str(cache))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.05)


_SHARED = pathlib.Path(__file__).parents[2] / 'shared' / 'data'


@pytest.fixture(scope='session')
def shared_data():
  """Folder with the real datasets, or None where there is none.

  MovieLens and Yelp may not be redistributed, so a user's clone has none.
  """
  return _SHARED if _SHARED.is_dir() else None


def pytest_report_header():
  """Says which data the tests use."""
  if _SHARED.is_dir():
    return f'data: real, {_SHARED}'
  return 'data: synthetic and generated (no ../shared/data)'
