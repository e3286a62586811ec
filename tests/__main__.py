"""All checks: ``python -m tests``; words behind it go to pytest."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHECKS = (
    ["ruff", "check", "."],
    ["ruff", "format", "--check", "."],
    ["mypy"],
    # Most of the time goes into waiting for the clients' own intervals, so more workers than cores pay off.
    ["pytest", "-n", "4", "--dist", "loadfile", *sys.argv[1:]],
)

for check in CHECKS:
    print("+", *check, flush=True)
    if status := subprocess.run([sys.executable, "-m", *check], cwd=ROOT).returncode:
        sys.exit(status)
