"""Print the command of README.md that stands below the line ``<!-- command: NAME -->``."""

import re
import sys
from pathlib import Path

text = (Path(__file__).resolve().parent.parent / "README.md").read_text()
found = re.search(rf"<!-- command: {re.escape(sys.argv[1])} -->\s*```bash\n(.*?)```", text, re.DOTALL)
if found is None:
    sys.exit(f"README.md has no command {sys.argv[1]!r}")
print(found[1], end="")
