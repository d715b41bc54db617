"""The exceptions whose text is meant for the user."""


class InputError(ValueError):
  """A mistake in what the user gave: a flag, a file, a row.

  `main` prints its text as one sentence on standard error and exits with
  status 2, without a traceback. The text names the file, row or key and the
  remedy.
  """


def choose(kind: str, name: str, table: dict):
  """Returns `table[name]`.

  Args:
    kind: What is chosen, for the error text, such as 'dataset'.
    name: The key the user gave.
    table: The visible dict of everything of this kind.

  Raises:
    InputError: If there is no such name; the text lists the valid ones.
  """
  if name not in table:
    raise InputError(
      f'unknown {kind} {name!r}; the valid names are: {", ".join(table)}.'
    )
  return table[name]


class UnfinishedError(RuntimeError):
  """Some jobs of a grid failed; the text says which, and how to go on."""


class NonFiniteLossError(RuntimeError):
  """Training met a loss that is not finite; the text names the step."""


class StorageError(RuntimeError):
  """Something cannot be written: a full disk, or no right to."""
