"""Jobs: orders that a scheduler has, until a node has them.

A scheduler is called by its commands, which its adapter makes and reads. Whatever one of them says of a failure is no
evidence that nothing has begun: that is so only if the job was held first, and was still waiting then.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType

from csa.errors import CsaError
from csa.model.config import SLURM, Engine
from csa.runner.hosts import slurm
from csa.runner.hosts.looks import GONE, PENDING, RUNNING, Look
from csa.runner.hosts.reaching import HostError
from csa.structs import Struct, replace

_ADAPTERS: Mapping[str, ModuleType] = {SLURM: slurm}
_COMMAND_S = 60.0
_HEED_S = 0.1
_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _GROWTH = 0.2, 5.0, 1.3
_TRIES = 5
_NO_COMMAND = {126, 127}
