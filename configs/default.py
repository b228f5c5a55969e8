"""Every field of a run, with its default. The other files of this folder change a few."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the fields of a run; `settings.check` holds the rules that values must meet."""
    config = ConfigDict()

    config.seed = 0  # of initial weights, data order and augmentation
    config.seeds = ()  # several, such as (0, 1, 2), in one run; empty: config.seed alone
    config.seeds_together = "auto"  # train them as one vmapped program: auto (not on CPU), yes or no
    config.num_epochs = 40  # passes over the training images; may grow when a run is resumed
    config.batch_size = 32  # images per step, over all devices
    config.steps_per_call = 11  # steps per jitted call: how often the run can log, save or stop
    config.compute_dtype = "auto"  # auto (bfloat16 on accelerators), float32 or bfloat16
    config.compilation_cache = True  # keep compiled programs in the user's cache folder

    config.init_from = ""  # file of weights, or workdir of a run, to start from; they set the model
    config.init_head = "auto"  # its head: keep, replace, or auto (keep if the classes are as many)

    config.data = data = ConfigDict()
    data.name = "signs"  # signs or rendered
    data.dir = ""  # folder of the files; empty: $SIGNS_DIR, else data/signs
    data.seed = 0  # of rendered images
    data.variety = 1.0  # how far they go from ordinary photographs: 0 all easy to read, 1 up to hard ones
    data.train_size = 1080  # rendered images for training
    data.test_size = 120  # rendered images for the test
    data.rendered_size = 0  # rendered hands to train on beside the images of the data set
    data.rendered_share = 0.0  # of a batch, once `augment.ramp` of the training is done
    data.rendered_share_at_start = 0.0  # of a batch, at the first step of that ramp
    data.image_size = 64  # pixels along a side
    data.val_fraction = 0.0  # share of the training images held out for validation
    data.folds = 0  # k of k-fold validation; 0: off
    data.fold = 0  # which of the k folds is held out
    data.split_seed = 0  # of the validation split or folds
    data.mean = (0.5, 0.5, 0.5)  # subtracted from pixels in [0, 1]: red, green, blue
    data.std = (0.25, 0.25, 0.25)  # divides them afterwards
    data.standardize = "none"  # image or channel: pixels by the mean and deviation of their own, not the next
    data.channel_order = "rgb"  # in which the network takes them, or bgr
    data.crop = 1.0  # side of a picture's centre square that is looked at, as a share of its shorter side

    config.augment = augment = ConfigDict()  # every strength: 0 switches it off
    augment.flip = 0.5  # probability of a horizontal flip
    augment.rotation = 15.0  # degrees, at most, either way
    augment.scale = 0.15  # relative change of size, at most, either way
    augment.translation = 0.1  # share of the image's side, at most, either way
    augment.appearance = 1.0  # share of the images that all but the geometry happens to
    augment.ramp = 0.0  # share of the training in which that share grows from nothing
    augment.perspective = 0.0  # relative change of size across half the image, at most, either way
    augment.background = 0.0  # probability that what is not hand is replaced by a random texture
    augment.veil = 0.0  # share of a random texture that is mixed over the whole, at most
    augment.saturation = 0.0  # relative change of colours' distance from grey, at most, either way
    augment.brightness = 0.15  # added to pixels in [0, 1], at most, either way
    augment.contrast = 0.2  # relative change of contrast, at most, either way
    augment.channel_gain = 0.1  # relative change of each channel, at most, either way
    augment.levels = (
        0.0  # share of the range by which black and white move, and log of the tone curve's power
    )
    augment.noise = 0.0  # evenly distributed, as a share of the range, at most, either way
    augment.cutout = 0.0  # side of a square set to grey, as a share of the image's side

    config.model = model = ConfigDict()
    model.depth = 50  # 18, 34, 50, 101, 152, 200; with three stages 16, 20, 28, 32, 40, 44, 56, 110, 164
    model.width = 64  # channels of the first stage
    model.variant = "v1.5"  # bottleneck stride: v1 in the 1x1, v1.5 in the 3x3; v2: pre-activation
    model.stem = "7x7"  # 7x7 stride 2, deep (ResNet-C: three 3x3, stride 2) or 3x3 (stride 1, small images)
    model.stem_width = 0  # channels of the stem; 0: those of the first stage
    model.max_pool = "padded"  # after the stem; zero_padded (Keras V2), unpadded or none
    model.shortcut = "projection"  # 1x1 with stride; zero_pad; average_pool (ResNet-D) before the 1x1
    model.stride_in = "first_block"  # of a stage, or last_block (Keras V2)
    model.groups = 1  # of the 3x3 in bottlenecks (ResNeXt: 32)
    model.widen = 1  # factor on the inner channels of bottlenecks (Wide ResNet-50-2, ResNeXt 32x4d: 2)
    model.squeeze = 0  # reduction of squeeze-and-excitation (SE-ResNet: 16); 0: none
    model.residual = True  # False: the plain network of the same depth
    model.zero_init_last = True  # residual blocks start as the identity: last scale zero, in v2 last kernel
    model.conv_bias = False  # biases where no norm follows a convolution (Keras V2)
    model.norm_epsilon = 1e-5  # added to the variance
    model.convolution = "auto"  # auto (matmul on CPU, lax elsewhere), lax or matmul

    config.optimizer = optimizer = ConfigDict()
    optimizer.name = "adamw"  # sgd (Nesterov momentum), adam or adamw
    optimizer.learning_rate = 1e-3  # at the end of the warm-up
    optimizer.schedule = "cosine"  # cosine (to zero at the last step) or constant
    optimizer.warmup_epochs = 2.0  # linear, from zero
    optimizer.momentum = 0.9  # of sgd
    optimizer.b1 = 0.9  # of adam and adamw
    optimizer.b2 = 0.999  # of adam and adamw
    optimizer.epsilon = 1e-8  # of adam and adamw
    optimizer.weight_decay = 0.05  # of kernels alone; decoupled in adamw, part of the gradient elsewhere
    optimizer.clip_norm = 0.0  # largest global norm of the gradient; 0: no clipping
    optimizer.l2_stem_and_head = 0.0  # loss term: this times the squares of both kernels
    config.finetune = finetune = ConfigDict()
    finetune.frozen = 0  # first parts that stay: 1 the stem, 2 stage 1 too, ... 5 (of 4 stages) all but head
    finetune.layer_decay = 1.0  # learning rate of each part (stem, stages, head) relative to the next one's
    finetune.freeze_norm = False  # norms use and keep their running statistics, scales and biases

    config.label_smoothing = 0.1  # share of the target spread evenly over the classes
    config.test_time_flip = False  # predict by the mean logits of an image and its mirror image
    config.temperature = 1.0  # divides the logits of predictions: below 1 surer ones, above 1 less sure
    config.ema_decay = 0.99  # of the moving average of weights and statistics; 0: none

    config.checkpoint = checkpoint = ConfigDict()
    checkpoint.every_epochs = 5.0  # 0: only at the end
    checkpoint.every_minutes = 10.0  # 0: by epochs alone
    checkpoint.keep = 2  # newest checkpoints to keep, at least 2, beside the best by validation

    config.gpu = gpu = ConfigDict()
    gpu.memory_fraction = 0.75  # of the GPU's memory that JAX may take
    gpu.preallocate = True  # take it at once
    gpu.visible_devices = ""  # comma-separated indices; empty: all
    gpu.deterministic = False  # the same bits on every run, more slowly
    gpu.matmul_precision = "default"  # default, high or highest

    return config
