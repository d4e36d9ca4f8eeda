"""`import facewright` is quick and leaves the heavy libraries alone until a model is needed."""

from __future__ import annotations

import subprocess
import sys

PROBE = """
import time
start = time.process_time()
import facewright
spent = time.process_time() - start
import sys
print(spent, *sorted(m for m in ("torch", "cv2", "scipy", "PIL", "av", "skimage") if m in sys.modules))
"""


def probe() -> tuple[float, list[str]]:
    out = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True).stdout.split()
    return float(out[0]), out[1:]


def test_import_is_quick_and_light() -> None:
    """Processor time, so that a busy machine does not matter; the best of five, as the first run fills the caches."""
    best = 9.0
    for _ in range(5):
        seconds, heavy = probe()
        assert heavy == []
        best = min(best, seconds)
        if best < 0.3:
            break
    assert best < 0.3


def test_listing_models_needs_no_torch() -> None:
    code = "import sys, facewright as fw; assert fw.models(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_the_package_runs_as_a_module() -> None:
    run = subprocess.run([sys.executable, "-m", "facewright", "models"], capture_output=True, text=True)
    assert run.returncode == 0
    assert "frgp" in run.stdout
