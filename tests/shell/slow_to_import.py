"""A module that says that it is being imported, and takes until a file says that it may go on. Asserts nothing."""

import os
import time
from pathlib import Path

_folder = Path(os.environ["SLOW_TO_IMPORT_FOLDER"])
(_folder / f"importing-{os.getpid()}").touch()
while not (_folder / "go").exists():
    time.sleep(0.01)
