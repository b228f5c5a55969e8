"""`--mode=web`: opens a page that recognises signs, with a network in it, in the browser of this machine."""

import os
import sys
import webbrowser

from modes.flags import (
    CHECKPOINT,
    HANDS,
    RAW,
    WEIGHTS,
    Command,
    Flag,
    Mode,
    refuse_config,
    refuse_run_and_weights,
)
from modes.programs import PRECISION, check_precision, write_page
from resnet.errors import UserError

PORT = Flag("port", "The port of the server on 127.0.0.1; with 0 the system chooses one.", "8000")
LARGEST_PORT = 65_535


def check(command: Command) -> None:
    """Checks that there is one network, and a port."""
    refuse_config(command)
    refuse_run_and_weights(command)
    check_precision(command)
    port = command["port"]
    if not port.isascii() or not port.isdigit() or int(port) > LARGEST_PORT:
        raise UserError(f"--port={port}: expected a whole number from 0 to {LARGEST_PORT:,}")


def run(command: Command) -> int:
    """Serves the page until it is interrupted."""
    from resnet.files import temporary_folder
    from web.server import make_server

    classifier, _ = command.load_classifier()
    with temporary_folder() as folder:
        write_page(command, classifier, folder)
        with make_server(folder, int(command["port"])) as server:
            address = f"http://{server.server_address[0]}:{server.server_port}"
            print(f"{address} shows {command.weights_file or command.run_folder}; Ctrl-C ends it", flush=True)
            if sys.platform != "linux" or os.environ.keys() & {"DISPLAY", "WAYLAND_DISPLAY"}:
                webbrowser.open(address)  # Without a screen it might start a browser for terminals.
            server.serve_forever()
    return 0


MODE = Mode(
    help="Open a page that recognises signs before the camera, in the browser.",
    usage=("--mode=web", "--mode=web --workdir=runs/photos"),
    flags=(WEIGHTS, PRECISION, CHECKPOINT, RAW, PORT),
    check=check,
    run=run,
    default_weights=HANDS,
)
