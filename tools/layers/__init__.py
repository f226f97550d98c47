"""Makes what `sam build` has built small and quick to start.

Every cold start unpacks or maps the layers and compiles what they lack as bytecode: two seconds of processor
time, each time, because a function cannot write to its layers. This leaves out what no function ever loads,
and compiles the rest once. `make build` and `make up` both do it, so that what runs here is what is deployed.
"""

import compileall
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import Final

# The folder in which Lambda puts the content of layers, and that of a function.
LAYER_FOLDER: Final = "/opt"
FUNCTION_FOLDER: Final = "/var/task"

# Patterns below a layer's `python` folder.
NEVER_LOADED: Final = (
    "boto3/data",  # resources, of which the functions use none
    "boto3/examples",
    "zstandard/_cffi*",  # the second of two backends; CPython takes the first
    "zstandard/backend_cffi.py",
    "pydantic/v1",
    # The functions use only the logger and the metrics of Powertools.
    "aws_lambda_powertools/event_handler",
    "aws_lambda_powertools/utilities/data_classes",
    "aws_lambda_powertools/utilities/idempotency",
    "aws_lambda_powertools/utilities/parser",
    "**/tests",
    "bin",
)
# botocore has a folder for each of its services; the functions use those for which they make a client.
_CLIENT_OF: Final = re.compile(r'client\(\s*"([a-z0-9-]+)"')


class LayerError(Exception):
    """Says that a build cannot be made lean; the text says why in one sentence."""


def make_lean(build: Path) -> None:
    """Removes what is never loaded from a build's layers, and compiles all that is left."""
    layers = sorted(each.parent for each in build.glob("*Layer/python"))
    used = services(build)
    for layer in layers:
        _prune(layer / "python", used)
    for folder in sorted(each for each in build.iterdir() if each.is_dir()):
        _compile(folder, LAYER_FOLDER if folder in layers else FUNCTION_FOLDER)


def services(build: Path) -> set[str]:
    """Returns the AWS services, by botocore's names, for which the code makes clients."""
    ours = [*build.glob("*Function/**/*.py"), *build.glob("*Layer/python/sluice/**/*.py")]
    return {name for source in ours for name in _CLIENT_OF.findall(source.read_text())}


def _prune(packages: Path, used: set[str]) -> None:
    for path in [*_never_loaded(packages), *_unused_services(packages, used)]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _never_loaded(packages: Path) -> Iterator[Path]:
    for pattern in NEVER_LOADED:
        yield from list(packages.glob(pattern))


def _unused_services(packages: Path, used: set[str]) -> list[Path]:
    described = {each.name: each for each in (packages / "botocore" / "data").glob("*/")}
    if described and (unknown := used - described.keys()):
        raise LayerError(f"botocore knows no service {', '.join(sorted(unknown))}, of which a client is made")
    return [folder for name, folder in described.items() if name not in used]


def _compile(folder: Path, deployed: str) -> None:
    # Unchecked: the files get other dates on their way to Lambda, and nobody edits them there.
    if not compileall.compile_dir(
        folder,
        maxlevels=sys.getrecursionlimit(),
        ddir=deployed,
        quiet=1,
        workers=0,
        invalidation_mode=PycInvalidationMode.UNCHECKED_HASH,
    ):
        raise LayerError(f"a file in {folder} does not compile: see above")
