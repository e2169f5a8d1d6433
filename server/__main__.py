"""``python -m tsengine_server`` is the command ``tsengine``."""

import sys

from .cli import main

sys.exit(main())
