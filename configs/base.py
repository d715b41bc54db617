"""Every field of every config, once, with its comment; other files override.

Not a job by itself: see quickstart.py, pretrain.py, downstream.py, study.py,
tune.py.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  """Returns the defaults."""
  config = ConfigDict()

  # What to run: 'pretrain', 'study', 'tune', or a downstream task: 'next_item',
  # 'next_category', 'favorite_category', 'user_attribute'.
  config.task = 'pretrain'
  # Seed of initialisation, order, views and label subsets.
  config.seed = 0

  # A field that the chosen dataset does not read may not be changed.
  config.dataset = ConfigDict()
  # 'synthetic', 'ml1m', 'ml20m', 'yelp', or 'logs', the user's own.
  config.dataset.name = 'synthetic'
  # Folder of the raw files, for logs the file; '' downloads MovieLens.
  config.dataset.path = ''
  # Folder of prepared arrays, read without TensorFlow; '' uses raw files.
  config.dataset.prepared = ''
  # TFDS cache, where records are made; '' is ~/tensorflow_datasets.
  config.dataset.data_dir = ''
  # MovieLens: whether the counts must be those of the official archive.
  config.dataset.expect_official = True
  # Yelp, logs: smallest number of events of users and items; 0 keeps all.
  config.dataset.k_core = 0

  config.dataset.yelp = ConfigDict()
  # Categories on more than this share of the businesses are dropped.
  config.dataset.yelp.generic_share = 0.1
  # How many of the others are kept, the most frequent first.
  config.dataset.yelp.num_categories = 50

  # Logs: the names of the columns; '' where there is none.
  config.dataset.columns = ConfigDict()
  config.dataset.columns.user = 'user'
  config.dataset.columns.item = 'item'
  config.dataset.columns.timestamp = 'timestamp'
  config.dataset.columns.category = ''
  config.dataset.columns.title = ''
  config.dataset.columns.rating = ''
  # 's', 'ms', 'us' or 'ns' since 1970, or 'iso' for dates such as 2019-12-31.
  config.dataset.timestamp_unit = 's'
  # Between several categories in one field; '' where an item has one.
  config.dataset.category_separator = ''
  # File with the columns item, category and title; '' where the log has them.
  config.dataset.item_table = ''
  # Events rated lower are left out; 0 keeps all.
  config.dataset.min_rating = 0.0
  # Of CSV files.
  config.dataset.encoding = 'utf-8'
  config.dataset.delimiter = ','
  # Rows that cannot be read: 'refuse', or 'drop' and count them.
  config.dataset.bad_rows = 'refuse'
  # Events repeating a user, item and timestamp: 'keep' or 'drop'; counted.
  config.dataset.duplicates = 'keep'

  # The synthetic world; see bt4rec/datasets/synthetic.py.
  config.dataset.synthetic = ConfigDict()
  config.dataset.synthetic.num_users = 2_000
  config.dataset.synthetic.num_items = 400
  config.dataset.synthetic.num_categories = 10
  config.dataset.synthetic.min_events = 20
  config.dataset.synthetic.max_events = 60
  # Standard deviation of a user's interests, in logits.
  config.dataset.synthetic.interest_std = 2.0
  # Share of an interest's deviation from its mean renewed at each event.
  config.dataset.synthetic.drift = 0.05
  config.dataset.synthetic.seed = 0

  # Events pre-training may see: 'shared' hides the held-out events of every
  # task, 'leave_two_out' all but the last two (next item only).
  config.pretrain_scope = 'shared'
  # Whether pre-training sees the training users of the user split only.
  config.inductive = False
  # Seed of the 80/10/10 split of users; not varied between repeats.
  config.split_seed = 0

  # Events of a window at most; the newest in evaluation.
  config.max_length = 50
  # 'tf.data', or 'device': events lie on the device, no TensorFlow.
  config.feed = 'tf.data'
  # Global batch size.
  config.batch_size = 128
  # Number of updates.
  config.total_steps = 1_000
  # Updates that the device makes in one go, without the host; a divisor of
  # total_steps and of all periods. The result is the same.
  config.steps_per_call = 1
  # Pre-training: parts that a batch goes through the encoder's blocks in, one
  # after the other, so that the activations of one alone need memory. Loss and
  # gradient are the whole batch's; each part is computed twice for that.
  config.num_micro_batches = 1
  # Type of the matrix products: 'float32' or 'bfloat16'.
  config.compute_dtype = 'float32'
  # How the step is compiled: 'jit' over a sharded batch, or 'pmap'.
  config.parallelism = 'jit'
  # Pre-training: devices that share one item table, each with as many of its
  # rows and of their moments; 1 is a whole table on each.
  config.model_parallelism = 1

  # Pre-training: several windows in a row, so that little padding is computed
  # on. Embeddings do not depend on it; dropout masks do.
  config.packing = ConfigDict()
  config.packing.enabled = True
  # Largest share of the events cut so that a batch fits, on average.
  config.packing.max_cut = 0.03
  # Parts of a batch with rows of their own, a multiple of the devices times
  # num_micro_batches; 0 is that.
  config.packing.num_groups = 0

  config.encoder = ConfigDict()
  # 'transformer', or 'bag_of_items' (uses `dim` and `features` alone).
  config.encoder.name = 'transformer'
  # Width of item and user embeddings.
  config.encoder.dim = 64
  config.encoder.num_layers = 2
  config.encoder.num_heads = 2
  # 'layer_norm' or 'rms_norm', before each part of a block.
  config.encoder.norm = 'layer_norm'
  # 'gelu', or gated: 'swiglu' or 'geglu', with as many weights.
  config.encoder.mlp = 'gelu'
  # Width of a block's MLP, in multiples of `dim`; a gated one has two thirds.
  config.encoder.mlp_ratio = 4
  # Of an item: 'learned', by recency; or of two, in their attention: 'rotary',
  # or 'relative' (a bias for each bucket of distances).
  config.encoder.positions = 'learned'
  # Who computes the attention: 'xla', or 'cudnn', fused: on an NVIDIA GPU, in
  # bfloat16, not with relative positions.
  config.encoder.attention = 'xla'
  config.encoder.dropout = 0.1
  # What is known of an event besides its item, embedded and added to it:
  # 'category', 'time_gap' (since the event before).
  config.encoder.features = ()
  # Whether an item attends only to earlier ones.
  config.encoder.causal = False
  # 'mean', 'last' or 'class_token'.
  config.encoder.pooling = 'mean'

  # A name of the README's table of objectives, or a weighted sum of them:
  # 'barlow_twins+0.5*next_item'.
  config.objective = 'barlow_twins'

  config.barlow_twins = ConfigDict()
  # Weight of the off-diagonal term (lambda in the paper).
  config.barlow_twins.lambd = 0.05
  # Output width of each projector layer.
  config.barlow_twins.projector = (256, 256, 256)
  # Whether projections are scaled to one length before they are standardised.
  config.barlow_twins.equal_length = False
  # What is divided by the projector's width: 'none', the 'off_diagonal' term,
  # or 'both' terms.
  config.barlow_twins.scaling = 'none'
  # Weight of the past in a moving average of the correlation; 0 is no average.
  config.barlow_twins.correlation_momentum = 0.0
  # Weight of the loss of mixed samples, times lambda; 0 is none.
  config.barlow_twins.mixed_weight = 0.0
  # Weight of a second term, between a context and its next item; 0 is none.
  config.barlow_twins.next_item_weight = 0.0
  # Its smallest context, as a share of the longest one in the window.
  config.barlow_twins.min_context = 0.5
  # Contexts of a window, with an item each; several take a causal encoder.
  config.barlow_twins.contexts = 1
  # Items after a context whose mean is what it is correlated with.
  config.barlow_twins.horizon = 1
  # Sines of learned frequencies, shared by contexts and items, that stand in
  # place of that term's projectors; 0 is none.
  config.barlow_twins.fourier_features = 0

  config.info_nce = ConfigDict()
  # Divides the cosines of views.
  config.info_nce.temperature = 0.1
  # Output width of each projector layer; () compares embeddings.
  config.info_nce.projector = (256, 256)

  config.vicreg = ConfigDict()
  # Weights of the three terms (lambda, mu and nu in the paper).
  config.vicreg.invariance_weight = 25.0
  config.vicreg.variance_weight = 25.0
  config.vicreg.covariance_weight = 1.0
  # Output width of each layer of the expander.
  config.vicreg.projector = (256, 256, 256)

  # The views of the objectives that compare two.
  config.augment = ConfigDict()
  # What the two views start from: 'none' is the window for both,
  # 'disjoint_halves' or 'past_future' of it, or 'two_windows', one in the
  # older half of a user's events and one in the newer half.
  config.augment.split = 'none'
  # Augmentations in the order of application; () leaves dropout alone.
  config.augment.order = ('segment_mask', 'mask', 'permute')
  # Whether a view takes one of them, drawn anew, and not all.
  config.augment.draw_one = False
  # Share of a window each one changes or removes; 0 turns it off.
  config.augment.ratios = ConfigDict()
  config.augment.ratios.mask = 0.2
  config.augment.ratios.segment_mask = 0.2
  config.augment.ratios.permute = 0.2
  config.augment.ratios.crop = 0.4
  # Largest share removed by a slice of random length.
  config.augment.ratios.slice = 0.8
  # By items that occur with the window's; inserting drops the oldest.
  config.augment.ratios.substitute = 0.3
  config.augment.ratios.insert = 0.3
  # How many of the most correlated items each one may be replaced by.
  config.augment.num_correlated = 5

  config.dual_encoder = ConfigDict()
  # Without it the cosines are the logits, as published.
  config.dual_encoder.learned_temperature = True
  # Whether logits are corrected for the items' popularity (logQ).
  config.dual_encoder.log_q_correction = True
  # Whether another row's identical item is no negative.
  config.dual_encoder.mask_accidental_hits = True
  # Smallest context, as a share of the longest one in the window.
  config.dual_encoder.min_context = 0.5
  # Contexts of a window, with an item each; several take a causal encoder.
  config.dual_encoder.contexts = 1

  # What next_item and masked_item compare a predicted item with.
  config.item_loss = ConfigDict()
  # 'full' (softmax over all items), 'sampled' (over a sample), 'bce' (SASRec's
  # own, with one negative) or 'gbce' (gSASRec's).
  config.item_loss.name = 'full'
  # Negatives of a position, uniform outside of its window; not of 'full'.
  config.item_loss.num_negatives = 256
  # Who shares negatives: 'position' (nobody), 'sequence' or 'batch' (cheap).
  config.item_loss.negatives_per = 'position'
  # Whether 'sampled' is corrected to estimate the softmax over all (logQ).
  config.item_loss.log_q_correction = True
  # Of 'gbce' (t in the paper): 0 is 'bce', 1 fully calibrated.
  config.item_loss.calibration = 0.75

  config.masked_item = ConfigDict()
  # Share of the items of a window that is masked.
  config.masked_item.mask_ratio = 0.2
  # Share of the windows in which the last item alone is masked.
  config.masked_item.last_only_ratio = 0.1

  config.optimizer = ConfigDict()
  # Linear warm-up, then 'cosine' to 0 or 'constant'.
  config.optimizer.schedule = 'cosine'
  # Peak of the schedule.
  config.optimizer.learning_rate = 3e-3
  config.optimizer.warmup_steps = 100
  # Learning rate of the item table, in multiples of the one of the rest.
  config.optimizer.item_table_rate = 1.0
  config.optimizer.weight_decay = 1e-4
  # Parameters whose path holds one of these words are not decayed.
  config.optimizer.decay_exclude = ('norm', 'bias', 'embedding', 'temperature')
  config.optimizer.b1 = 0.9
  config.optimizer.b2 = 0.999
  # Largest global norm of the gradient; 0 is no clipping.
  config.optimizer.clip_norm = 1.0
  # A loss or gradient that is not finite: 'stop', or 'skip' the update.
  config.optimizer.on_non_finite = 'stop'
  # Steps in a row that may be skipped; at the next one the training stops.
  config.optimizer.max_skipped_steps = 10

  # Periods, in steps.
  config.log_every_steps = 50
  config.health_every_steps = 200
  # Validation, with a checkpoint.
  config.eval_every_steps = 200
  # Further checkpoints; 0 is none.
  config.checkpoint_every_steps = 0
  # Latest checkpoints kept; the best by validation is kept besides.
  config.keep_checkpoints = 1
  # Steps whose checkpoints are made and kept besides, for init_step.
  config.keep_steps = ()
  # Validations without improvement after which training stops; 0 is never.
  config.patience = 0
  # What the best step is chosen by, on validation: 'loss', or one of the other
  # numbers written as validation_*, such as 'ndcg@10' of next items.
  config.select_by = 'loss'

  # Whether to write TensorBoard events.
  config.tensorboard = True

  # Labels of users, apart from the log.
  config.user_attribute = ConfigDict()
  # CSV or Parquet file with a row a user, or users.dat of MovieLens-1M; '' is
  # the one in dataset.path.
  config.user_attribute.path = ''
  # Columns of the user's id and of the label; of users.dat the label is
  # 'gender', 'age' or 'occupation'.
  config.user_attribute.user = 'user'
  config.user_attribute.label = ''

  # Downstream: whether the test split is looked at, after all selection.
  # Without it there are validation metrics alone, and tables show those.
  config.evaluate_test = True
  # Downstream: 'probe' (frozen encoder), 'finetune', 'scratch', 'direct' (what
  # the pre-training itself predicts as next_item, no labels), or the untrained
  # 'majority' (popularity for next_item) and 'oracle' (synthetic).
  config.protocol = 'probe'
  # A fine-tuning starts from the head of a linear probe, fitted with these, and
  # with what else is said of the fine-tuning's optimizer and select_by.
  config.head = ConfigDict()
  # 0 starts from a head of zeros.
  config.head.total_steps = 1_000
  config.head.batch_size = 512
  config.head.eval_every_steps = 50
  # As of the field of this name.
  config.head.patience = 4
  config.head.learning_rate = 3e-3
  config.head.warmup_steps = 200
  # Workdir of the pre-training; '' is a random encoder (probe). A
  # pre-training with another goes on with its encoder, under an objective and
  # an optimizer of its own.
  config.init_from = ''
  # Step of the checkpoint of init_from; -1 is the best by validation.
  config.init_step = -1
  # Share of the labelled users whose labels are used, in (0, 1].
  config.label_fraction = 1.0
  # The same for validation; 0 is label_fraction, few labels being few
  # everywhere.
  config.validation_fraction = 0.0
  # Most (user, position) examples of a frozen probe of next_item and
  # next_category, and for the head of a fine-tuning; 0 is all.
  config.max_probe_examples = 20_000
  # Numbers of events the test inputs are cut to, the newest, to measure users
  # of whom little is known, such as (1, 2, 3, 5, 10, 20); () is none.
  config.cold_start = ()
  # What the row of the results table is called; '' is what the pre-training's
  # label says, or else its objective.
  config.label = ''
  # What tells runs of one row apart, such as 'batch_size=32': a study names
  # the values of its axes so.
  config.variant = ''
  # Whether items already seen are left out of the ranking of next_item.
  config.exclude_seen = True
  return config
