"""`--mode=show_batch`: draws a batch of training images as the network sees them."""

from modes.flags import Command, Mode, require_workdir

PICTURE_FILE = "show_batch.png"
IMAGES_SHOWN = 32


def run(command: Command) -> int:
    """Draws a batch, augmented as at the end of training, into `show_batch.png` of the workdir."""
    import datasets
    from configs.rules import architecture_of
    from evaluation.report.pictures import draw_grid, write_picture
    from input_pipeline import first_training_batch
    from resnet.network import check_image_size

    config = command.settings()
    if not config.init_from:  # which sets the model
        check_image_size(config.data.image_size, architecture_of(config.model))
    dataset = datasets.load(config.data)
    train_split, _ = datasets.train_val_split(dataset, config.data)
    images, labels = first_training_batch(train_split, config)
    captions = [dataset.class_names[label] for label in labels[:IMAGES_SHOWN]]
    file = command.run_folder / PICTURE_FILE
    write_picture(draw_grid(images[:IMAGES_SHOWN], captions), file)
    print(f"written: {file}")
    return 0


MODE = Mode(
    help="Draw a batch of training images, augmented, as a picture.",
    usage=("--mode=show_batch --workdir=runs/signs", "--mode=show_batch --config=FILE --workdir=FOLDER"),
    flags=(),
    check=require_workdir,
    run=run,
)
