"""The walls that a sandbox may have on this machine, and a program behind one of them."""

from __future__ import annotations

import shutil
import textwrap

from posttrain.scoring.sandbox import judge
from posttrain.scoring.sandbox.launch import Limits, Sandbox

WALLS = ["namespaces", "landlock", *(["bubblewrap"] if shutil.which("bwrap") else [])]


def printed(sandbox: Sandbox, code: str, limits: Limits | None = None, seconds: float = 10.0) -> judge.Printed:
    return judge.run_program(sandbox, textwrap.dedent(code), "", limits or Limits(), seconds)
