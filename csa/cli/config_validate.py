"""Check the config files and `CSA_CONF_*` variables. Exits 0 when all is well and 6 at the first fault."""

from __future__ import annotations

import os

from csa.cli.output import print_json, warn
from csa.cli.selecting import open_client
from csa.model.config import combine_layers
from csa.runner.toolbox import check_config
from csa.store.configfile import config_layers

TYPE_CHECKING = False  # see csa/structs.py
if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print an object")


def execute(arguments: argparse.Namespace) -> int:
    layers = config_layers(open_client().setting.config_directory, os.environ)
    config = combine_layers(layers)
    check_config(config)
    warn(config.warnings)
    sources = [layer.origin for layer in layers]
    if arguments.json:
        print_json({"valid": True, "sources": sources})
    else:
        print("valid: " + (", ".join(sources) if sources else "no config files; the defaults hold"))
    return 0
