"""What the program does with memory that is let go."""

import subprocess
import sys

CODE = """
import resource, sys
import numpy as np
if sys.argv[1] == "keep":
    from llem_integrator.allocator import keep_freed
    keep_freed()
np.ones(500_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    np.ones(500_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_an_array_that_is_let_go_is_used_again() -> None:
    """Fifty arrays of 4 MB, one after the other, touch no new memory."""
    done = subprocess.run([sys.executable, "-c", CODE, "keep"], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100
