"""A fake NVIDIA driver: libnvidia-ml.so.1 and nvidia-smi for tests on machines without a GPU.

Real pynvml, Zeus, CodeCarbon and nvitop load the library unmodified, in as many processes as you like:
they all see the same GPUs, whose power is a closed formula of wall-clock time. So the true joules of any
window are known.

    with FakeDriver(tmp_path, gpus=2, update_period_s=0.1) as driver:
        child = subprocess.Popen([...], env={**os.environ, **driver.env})
        driver.gpus[1].set_load(high_watts=300.0)        # the counter and the exact joules stay continuous
        driver.gpus[0].lost = True                       # NVML_ERROR_GPU_IS_LOST, until set to False
        driver.exact_joules(1, start_unix_s, end_unix_s)
        driver.calls()[0].fields                         # nvmlDeviceGetFieldValues calls on GPU 0
        driver.gpus[0].call_delays_s = {"energy": 0.0024}
        driver.gpus[0].energy_stuck = "frozen"

    with gb200(tmp_path, energy_scope="module") as driver:
        driver.modules[0].cpu_watts = 200.0
        driver.module_joules(0, start_unix_s, end_unix_s)

Set the environment before the process starts (the loader reads LD_LIBRARY_PATH once), or call
`driver.load_into_this_process()` before pynvml is initialised. FakeDriver builds by itself, once; without
Python, `make -C tests/fake_nvml OUT=DIR` does.

Loads: load.py. Sensor, counter, faults and readings of a GPU: FakeGpu. Superchips: gb200, gh200 and gb10 in
superchips.py. The shared file: state.h.
"""

from .driver import DriverCalls, FakeDriver, build
from .gpu import Architecture, Calls, FakeGpu
from .load import Load, constant, default_load
from .module import FakeModule
from .process import NvmlProcess
from .superchips import gb10, gb200, gh200

__all__ = [
    "Architecture",
    "Calls",
    "DriverCalls",
    "FakeDriver",
    "FakeGpu",
    "FakeModule",
    "Load",
    "NvmlProcess",
    "build",
    "constant",
    "default_load",
    "gb10",
    "gb200",
    "gh200",
]
