"""Every field of a run, with its default. The other files in this folder change a few."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the fields of a run. `configs/rules.py` says which values are allowed."""
    config = ConfigDict()

    config.seed = 0  # draws the initial weights, the order of the data and the augmentation
    config.seeds = ()  # several seeds in one run, such as (0, 1, 2); empty: config.seed alone
    config.seeds_together = "auto"  # train them as one program: yes, no or auto (yes on accelerators)
    config.num_epochs = 40  # passes over the training images; may grow when a run is resumed
    config.batch_size = 32  # images in a step, over all devices
    config.steps_per_call = 11  # steps in a jitted call; a run can log, save and stop between calls
    config.compute_dtype = "auto"  # float32, bfloat16 or auto (bfloat16 on accelerators, float32 on a CPU)
    config.compilation_cache = True  # keep compiled programs in the user's cache folder

    config.init_from = ""  # weights to start from, which set the model: a file, a workdir, hf://owner/name
    config.init_head = "auto"  # their head: keep, replace or auto (keep it if the number of classes matches)

    config.data = data = ConfigDict()
    data.name = "signs"  # signs, rendered or folder (images of your own)
    data.dir = ""  # folder, archive or table (.csv) of the images; for SIGNS empty: $SIGNS_DIR or data/signs
    data.seed = 0  # draws the rendered images
    data.variety = 1.0  # how much rendered images vary: 0 only easy ones, 1 up to very hard ones
    data.train_size = 1080  # number of rendered images for training
    data.test_size = 120  # number of rendered images for testing
    data.rendered_size = 0  # number of rendered hands to train on in addition to the images of the data set
    data.rendered_share = 0.0  # their share of a batch, after the first augment.ramp of the training
    data.rendered_share_at_start = 0.0  # their share of a batch at the first step
    data.image_size = 64  # pixels along a side; images of another size are resized
    data.store_size = 0  # pixels along a side of training images before they are cropped; 0: image_size
    data.placement = "auto"  # where training images lie: device, stream (loaded ahead of each step) or auto
    data.loader_processes = 0  # processes that decode streamed images; 0: threads of this process
    data.unreadable = "skip"  # images of a folder that cannot be read: skip or refuse
    data.sampling = "shuffle"  # every image once an epoch (shuffle), or every class equally often (balanced)
    data.test_fraction = 0.0  # share of a folder's images that is held out for testing, if it has no split
    data.val_fraction = 0.0  # share of the training images that is held out for validation
    data.folds = 0  # number of folds for cross-validation; 0: none
    data.fold = 0  # index of the fold that is held out
    data.folds_of = "train"  # of SIGNS: its training images (train), or its test images too (all)
    data.split_seed = 0  # draws the test and validation images, or the folds
    data.mean = (0.5, 0.5, 0.5)  # subtracted from pixels in [0, 1]: red, green, blue
    data.std = (0.25, 0.25, 0.25)  # divides the pixels after that
    data.standardize = "none"  # image or channel: use the mean and deviation of each image or channel instead
    data.channel_order = "rgb"  # order of the channels that the network takes: rgb or bgr
    data.fit = "crop"  # how a picture becomes a square: crop, pad (with grey) or stretch
    data.crop = 1.0  # side of the centre square that is cut from the scaled picture, as a share of it

    config.augment = augment = ConfigDict()  # 0 switches off any of these
    augment.flip = 0.5  # probability of a horizontal flip
    augment.rotation = 15.0  # largest rotation in degrees, either way
    augment.scale = 0.15  # largest relative change of size, either way
    augment.translation = 0.1  # largest shift as a share of the side, either way
    augment.appearance = 1.0  # share of images that background, veil, colours, levels, noise, cutout change
    augment.ramp = 0.0  # share of the training during which augment.appearance grows from 0
    augment.perspective = 0.0  # largest relative change of size across half of the image, either way
    augment.background = 0.0  # probability that a random texture replaces the background of the hand
    augment.veil = 0.0  # largest share of a random texture that is mixed into the whole image
    augment.saturation = 0.0  # largest relative change of the saturation, either way
    augment.brightness = 0.15  # largest amount that is added to pixels in [0, 1], either way
    augment.contrast = 0.2  # largest relative change of the contrast, either way
    augment.channel_gain = 0.1  # largest relative change of each channel, either way
    augment.levels = 0.0  # largest change of the black and white levels, and of the log of the gamma
    augment.noise = 0.0  # largest uniform noise as a share of the range, either way
    augment.cutout = 0.0  # side of a grey square as a share of the side of the image
    augment.pad = 0  # pixels of zeros around the image, of which a random crop then is taken
    augment.resized_crop = 0.0  # smallest share of the area that a random resized crop keeps (ImageNet: 0.08)
    augment.early_size = 0  # pixels along a side of smaller images that training starts with, at less cost
    augment.early_share = 0.0  # share of the training that sees them
    augment.policy = "none"  # trivial (TrivialAugment), rand (RandAugment) or none
    augment.policy_operations = 2  # operations in a row, for rand
    augment.policy_magnitude = 9.0  # their magnitude, 0 to 30, for rand
    augment.erasing = 0.0  # probability that a random rectangle is erased
    augment.mixup = 0.0  # concentration of the beta distribution of mixup
    augment.cutmix = 0.0  # concentration of the beta distribution of CutMix; with mixup they take turns

    config.model = model = ConfigDict()
    model.depth = 50  # 18, 34, 50, 101, 152, 200; with three stages 16, 20, 28, 32, 40, 44, 56, 110, 164
    model.width = 64  # channels of the first stage
    model.variant = "v1.5"  # stride of bottlenecks: v1 in the first 1x1, v1.5 in the 3x3; v2: pre-activation
    model.stem = "7x7"  # 7x7 with stride 2, deep (ResNet-C: three 3x3) or 3x3 with stride 1 (small images)
    model.stem_width = 0  # channels of the stem; 0: model.width
    model.max_pool = "padded"  # after the stem: padded, zero_padded (Keras V2), unpadded or none
    model.shortcut = "projection"  # projection (1x1), zero_pad or average_pool (ResNet-D)
    model.stride_in = "first_block"  # the block of a stage that has the stride; last_block in Keras V2
    model.groups = 1  # groups of the 3x3 in bottlenecks (ResNeXt: 32)
    model.widen = 1  # factor for the inner channels of bottlenecks (Wide ResNet-50-2, ResNeXt 32x4d: 2)
    model.squeeze = 0  # reduction of squeeze-and-excitation (SE-ResNet: 16); 0: none
    model.residual = True  # False: the plain network of the same depth, without shortcuts
    model.zero_init_last = True  # start residual blocks as the identity: last scale zero, in v2 last kernel
    model.conv_bias = False  # give convolutions that no norm follows a bias (Keras V2)
    model.norm_epsilon = 1e-5  # added to the variance
    model.stochastic_depth = 0.0  # probability that training skips the last block; less for earlier ones
    model.convolution = (
        "auto"  # lax (XLA's), matmul (for CPUs), patches (for GPUs), or auto: the one that suits
    )

    config.optimizer = optimizer = ConfigDict()
    optimizer.name = "adamw"  # sgd, adam, adamw, lamb, lion or muon
    optimizer.learning_rate = 1e-3  # at the end of the warm-up
    optimizer.schedule = "cosine"  # constant, multistep, or cosine or linear (zero at the last step)
    optimizer.milestones = (0.5, 0.75)  # shares of the training after which multistep lowers the rate
    optimizer.decay_factor = 0.1  # by which multistep multiplies the rate
    optimizer.warmup_epochs = 2.0  # epochs in which the learning rate grows from zero
    optimizer.momentum = 0.9  # for sgd and muon
    optimizer.nesterov = True  # Nesterov's momentum, for sgd and muon
    optimizer.b1 = 0.9  # for adam, adamw, lamb, lion and what muon leaves to adam
    optimizer.b2 = 0.999  # for the same
    optimizer.epsilon = 1e-8  # for the same but lion
    optimizer.weight_decay = 0.05  # for kernels only; part of the gradient in sgd and adam, else decoupled
    optimizer.clip_norm = 0.0  # largest norm of the whole gradient; 0: no clipping
    optimizer.l2_stem_and_head = 0.0  # factor of a loss term: the squares of the stem's and head's kernels
    optimizer.accumulate = 1  # batches whose gradients are averaged for one update
    config.finetune = finetune = ConfigDict()
    finetune.frozen = 0  # first parts that do not move: 1 the stem, 2 also stage 1, ... 5 all but the head
    finetune.layer_decay = 1.0  # learning rate of a part (stem, stages, head) relative to the next part
    finetune.freeze_norm = False  # norms use their running statistics and do not change

    config.loss = loss = ConfigDict()
    loss.name = "softmax"  # or sigmoid (each class by itself); predictions are the softmax of both
    loss.class_weights = "none"  # balanced: weigh classes by the inverse of their number of images

    config.label_smoothing = 0.1  # share of the target that is spread evenly over the classes
    config.test_time_flip = False  # predict by the mean of the logits of an image and its mirror image
    config.temperature = 1.0  # divides the logits of predictions: below 1 more certain, above 1 less
    config.ema_decay = 0.99  # decay of the moving average of the weights; 0: no average

    config.checkpoint = checkpoint = ConfigDict()
    checkpoint.every_epochs = 5.0  # epochs between saves; 0: not by epochs. A new best is always saved
    checkpoint.share = 0.05  # of the time, the most that saving by epochs may take; 0: any
    checkpoint.every_minutes = 10.0  # most minutes between saves; 0: not by minutes
    checkpoint.keep = 2  # number of newest checkpoints to keep, at least 2; the best one is kept too

    config.gpu = gpu = ConfigDict()
    gpu.memory_fraction = 0.75  # share of the GPU's memory that JAX may use
    gpu.preallocate = True  # reserve that memory at the start
    gpu.visible_devices = ""  # indices of the GPUs to use, such as 0,1; empty: all
    gpu.deterministic = False  # give the same bits on every run, which is slower
    gpu.matmul_precision = "default"  # default, high or highest

    config.hosts = hosts = ConfigDict()  # several machines; left empty: one, or the cluster that started it
    hosts.coordinator = ""  # HOST:PORT of the first one, where the others find each other
    hosts.number = 0  # how many there are
    hosts.index = -1  # which of them this one is, from 0
    hosts.timeout = 60  # seconds to wait for the others at the start, and for signs of life later

    return config
