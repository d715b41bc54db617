"""Published next-item models on MovieLens-1M: configs/reproduce.py:MODEL.

MODEL: next_item (default; SASRec with full cross-entropy), next_item_sampled
(with 3,000 negatives), next_item_gbce (gSASRec), next_item_bce (SASRec) and
masked_item (BERT4Rec). The settings are those of Klenitskiy and Vasilev (2023),
arXiv 2309.07602, and its code, antklen/sasrec-bert4rec-recsys23; the size of
next_item_gbce is that of asash/gSASRec-pytorch. All events but the last two of
each user are trained on, and the next to last selects. Windows are drawn from
the whole history, and all 3,706 items are ranked, where the code takes the
newest 201 events and leaves out the 290 items with fewer than five.

Commands: launch/run.sh --config=configs/reproduce.py:next_item
          --workdir=runs/next_item
          launch/run.sh --config=configs/downstream.py:ml1m,next_item,direct
          --config.init_from=runs/next_item --workdir=runs/next_item-direct
          launch/run.sh --config=configs/reproduce.py:barlow_twins
          --workdir=runs/twins
          launch/run.sh --config=configs/reproduce.py:next_item
          --config.init_from=runs/twins --workdir=runs/twins-next_item
Expect:   published recall@10 / ndcg@10: next_item .3152 / .1821,
          next_item_sampled .3159 / .1857, next_item_gbce .3003 / .1726,
          next_item_bce .2500 / .1341, masked_item .2843 / .1537.
"""

from ml_collections import ConfigDict

from configs import base, presets

# 6,040 users in batches of 128.
_STEPS_PER_EPOCH = 48
# Model -> what it overrides besides the settings that all share.
MODELS = {
  'next_item': {},
  'next_item_sampled': {
    'item_loss': {'num_negatives': 3_000, 'log_q_correction': False},
  },
  'next_item_gbce': {'encoder': {'dim': 256, 'num_layers': 3}},
  'next_item_bce': {},
  'masked_item': {
    'encoder': {'num_heads': 2},
    'masked_item': {'mask_ratio': 0.2, 'last_only_ratio': 0.0},
    'patience': 20,
    'total_steps': 200 * _STEPS_PER_EPOCH,
  },
  # What next_item starts from; the encoder has to be its own.
  'barlow_twins': {
    'encoder': {'causal': True, 'pooling': 'last'},
    'barlow_twins': {'next_item_weight': 1.0},
    'total_steps': 20 * _STEPS_PER_EPOCH,
    'select_by': 'loss',
    'patience': 0,
  },
}


def get_config(arg: str = 'next_item') -> ConfigDict:
  """Returns the config of a pre-training.

  Args:
    arg: 'MODEL'.
  """
  config = base.get_config()
  presets.set_dataset(config, 'ml1m')
  name = presets.pick('model', arg, MODELS)
  config.update(presets.pretrainings()[name])
  config.label = name
  config.pretrain_scope = 'leave_two_out'
  # 200 events of history and the item they are followed by.
  config.max_length = 201
  config.batch_size = 128
  # No event is cut.
  config.packing.max_cut = 0.0
  config.encoder.num_heads = 1
  config.optimizer.update(
    {
      'schedule': 'constant',
      'learning_rate': 1e-3,
      'warmup_steps': 0,
      'weight_decay': 0.0,
      'clip_norm': 0.0,
    }
  )
  config.total_steps = 100 * _STEPS_PER_EPOCH
  config.eval_every_steps = _STEPS_PER_EPOCH
  config.health_every_steps = 10 * _STEPS_PER_EPOCH
  config.log_every_steps = _STEPS_PER_EPOCH
  config.patience = 10
  config.select_by = 'ndcg@10'
  config.update(MODELS[name])
  return config
