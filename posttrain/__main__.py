"""`python -m posttrain`."""

from __future__ import annotations

import sys

from posttrain.cli import main

sys.exit(main())
