"""Barlow Twins pre-training of user sequence encoders."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from bt4rec.encode import load_encoder

__all__ = ['load_encoder']


def __getattr__(name: str) -> Any:
  """Imports what is asked for, so that `import bt4rec` stays instant."""
  if name == 'load_encoder':
    from bt4rec.encode import load_encoder

    return load_encoder
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
