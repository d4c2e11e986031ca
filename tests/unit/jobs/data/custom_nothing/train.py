"""Count the rows, and leave nothing behind that could be served."""

import os
from pathlib import Path

rows = (Path(os.environ["SM_CHANNEL_TRAINING"]) / "penguins.csv").read_text().count("\n") - 1
print(f"{rows} rows")
