"""The Barlow Twins step of bt4rec in PyTorch, timed: a JSON line.

What `python -m bt4rec.benchmark --only=pretrain_step` does, with one window a
row: the same sizes, the views of the default config (a segment masked, items
masked, a segment shuffled), encoder, projector, loss, clipping and AdamW.
Needs PyTorch and NumPy alone. launch/compare_torch.sh runs both in turn.
"""

import argparse
import json
import resource
import statistics
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional

_RATIO = 0.2


class Block(nn.Module):
  """Pre-norm transformer block."""

  def __init__(self, dim: int, heads: int, dropout: float):
    super().__init__()
    self.heads = heads
    self.attention_norm = nn.LayerNorm(dim, eps=1e-6)
    self.qkv = nn.Linear(dim, 3 * dim)
    self.out = nn.Linear(dim, dim)
    self.mlp = nn.Sequential(
      nn.LayerNorm(dim, eps=1e-6),
      nn.Linear(dim, 4 * dim),
      nn.GELU(approximate='tanh'),
      nn.Linear(4 * dim, dim),
    )
    self.drop = nn.Dropout(dropout)

  def forward(self, x, mask):
    """`x` [batch, length, dim], `mask` [batch, 1, length, length]."""
    qkv = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1))
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    mixed = functional.scaled_dot_product_attention(query, key, value, mask)
    x = x + self.drop(self.out(mixed.transpose(1, 2).flatten(2)))
    return x + self.drop(self.mlp(x))


class Model(nn.Module):
  """Encoder, mean over the real items, projector."""

  def __init__(self, sizes: argparse.Namespace):
    super().__init__()
    dim, width = sizes.dim, sizes.projector
    self.items = nn.Embedding(sizes.items + 2, dim)
    self.positions = nn.Embedding(sizes.length, dim)
    for table in (self.items, self.positions):
      nn.init.normal_(table.weight, std=0.02)
    self.drop = nn.Dropout(sizes.dropout)
    self.blocks = nn.ModuleList(
      Block(dim, sizes.heads, sizes.dropout) for _ in range(sizes.layers)
    )
    self.norm = nn.LayerNorm(dim, eps=1e-6)
    layers: list[nn.Module] = [nn.Linear(dim, width, bias=False)]
    for _ in range(2):
      layers += [
        nn.BatchNorm1d(width),
        nn.ReLU(),
        nn.Linear(width, width, bias=False),
      ]
    self.projector = nn.Sequential(*layers)

  def forward(self, items):
    """[batch, length] int64, real items first, then 0 -> [batch, projector]."""
    real = items > 0
    length = real.sum(1, keepdim=True)
    place = torch.arange(items.shape[1], device=items.device)
    age = (length - 1 - place).clamp(min=0)
    x = self.drop(self.items(items) + self.positions(age))
    # A row of padding alone would be NaN; each attends to itself there.
    mask = (real[:, None] & real[:, :, None]) | torch.eye(
      len(place), dtype=torch.bool, device=items.device
    )
    for block in self.blocks:
      x = block(x, mask[:, None])
    x = self.norm(x).float() * real[..., None]
    return self.projector(x.sum(1) / length.clamp(min=1))


def make_view(items, mask_item: int):
  """Masks a segment, masks items, shuffles a segment.

  Args:
    items: [batch, length] int64, real items first, then 0.
    mask_item: What a masked item becomes.
  """
  place = torch.arange(items.shape[1], device=items.device)
  length = (items > 0).sum(1, keepdim=True)
  span = (length * _RATIO).long()

  def segment():
    start = (
      torch.rand(length.shape, device=items.device) * (length - span + 1)
    ).long()
    return (place >= start) & (place < start + span)

  is_masked = segment() | (
    torch.rand(items.shape, device=items.device) < _RATIO
  )
  items = torch.where(is_masked & (items > 0), mask_item, items)
  # Places of the segment in random order, all others as they are.
  inside = segment()
  key = torch.where(inside, torch.rand(items.shape, device=items.device), 2.0)
  shuffled = key.argsort(1)
  first = inside.float().argmax(1, keepdim=True)
  source = shuffled.gather(1, (place - first).clamp(min=0))
  return items.gather(1, torch.where(inside, source, place))


def barlow_twins_loss(z_a, z_b, lambd: float = 0.05):
  """Eq. (1) of Zbontar et al. (2021), arXiv 2103.03230."""

  def standardise(z):
    variance, mean = torch.var_mean(z, 0, correction=0)
    return (z - mean) / torch.sqrt(variance + 1e-5)

  c = standardise(z_a.float()).T @ standardise(z_b.float()) / len(z_a)
  square = c.square()
  diagonal = c.diagonal()
  redundancy = square.sum() - diagonal.square().sum()
  return (diagonal - 1).square().sum() + lambd * redundancy


def make_batches(sizes: argparse.Namespace, count: int = 8):
  """Random items in windows of the lengths of bt4rec.benchmark."""
  rng = np.random.default_rng(0)
  shape = (sizes.batch, sizes.length)
  for _ in range(count):
    length = {
      'full': lambda: np.full(sizes.batch, sizes.length),
      'uniform': lambda: rng.integers(
        min(5, sizes.length), sizes.length + 1, sizes.batch
      ),
      'yelp': lambda: np.minimum(
        4 + rng.geometric(0.16, sizes.batch), sizes.length
      ),
    }[sizes.lengths]()
    items = rng.integers(1, sizes.items + 1, shape)
    items *= np.arange(sizes.length) < length[:, None]
    yield torch.from_numpy(items).to(sizes.device), int(length.sum())


def main() -> None:
  """Times the steps and prints the line."""
  parser = argparse.ArgumentParser(description=__doc__)
  for name, default in {
    'batch': 256,
    'length': 50,
    'dim': 128,
    'layers': 2,
    'heads': 2,
    'items': 3_706,
    'projector': 512,
    'steps': 20,
    'warmup': 3,
    'threads': 0,
  }.items():
    parser.add_argument(f'--{name}', type=int, default=default)
  parser.add_argument('--dropout', type=float, default=0.1)
  parser.add_argument(
    '--lengths', choices=('full', 'uniform', 'yelp'), default='uniform'
  )
  parser.add_argument(
    '--dtype', choices=('float32', 'bfloat16'), default='float32'
  )
  parser.add_argument('--device', default='cpu')
  parser.add_argument('--compile', action='store_true')
  sizes = parser.parse_args()
  if sizes.threads:
    torch.set_num_threads(sizes.threads)
  if sizes.device != 'cpu':
    # TF32, as XLA takes it by default.
    torch.set_float32_matmul_precision('high')
  torch.manual_seed(0)
  model = Model(sizes).to(sizes.device)
  optimizer = torch.optim.AdamW(
    model.parameters(), 1e-3, weight_decay=1e-4, fused=True
  )

  def loss_of(items):
    views = [make_view(items, sizes.items + 1) for _ in range(2)]
    is_short = sizes.dtype == 'bfloat16'
    kind = torch.device(sizes.device).type
    with torch.autocast(kind, torch.bfloat16, enabled=is_short):
      z = model(torch.cat(views))
    return barlow_twins_loss(*z.chunk(2))

  forward = torch.compile(loss_of) if sizes.compile else loss_of

  def timed(items):
    start = time.perf_counter()
    optimizer.zero_grad()
    loss = forward(items)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    if sizes.device != 'cpu':
      torch.cuda.synchronize()
    return time.perf_counter() - start, float(loss.detach())

  batches = list(make_batches(sizes))
  first_seconds, first_loss = timed(batches[0][0])
  seconds, tokens = [], []
  for step in range(sizes.warmup + sizes.steps):
    items, real = batches[step % len(batches)]
    took, loss = timed(items)
    if step >= sizes.warmup:
      seconds.append(took)
      tokens.append(real)
  median = statistics.median(seconds)
  if sizes.device == 'cpu':
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  else:
    memory = torch.cuda.max_memory_allocated()
  line = {
    'name': 'pretrain_step',
    'torch': torch.__version__,
    'compiled': sizes.compile,
    'packed': False,
    **{
      name: getattr(sizes, name)
      for name in (
        *('dim', 'layers', 'heads', 'items', 'dtype', 'device', 'projector'),
        *('dropout', 'batch', 'length', 'lengths'),
      )
    },
    'median_seconds': round(median, 5),
    'sequences_per_second': round(sizes.batch / median, 1),
    'real_tokens_per_second': round(statistics.mean(tokens) / median, 1),
    'real_token_share': round(
      statistics.mean(tokens) / sizes.batch / sizes.length, 3
    ),
    'peak_memory_bytes': memory,
    'first_step_seconds': round(first_seconds, 2),
    'first_loss': round(first_loss, 3),
    'last_loss': round(loss, 3),
    'parameters': sum(p.numel() for p in model.parameters()),
  }
  print(json.dumps(line))


if __name__ == '__main__':
  main()
