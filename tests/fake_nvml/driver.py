"""The fake driver as tests hold it: its file, its GPUs, the environment of the processes that use it."""

import ctypes
import mmap
import os
import subprocess
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from . import layout
from .gpu import Calls, FakeGpu
from .load import Load, default_load
from .module import FakeModule
from .setting import call_delays, call_names, flag, text, whole
from .timeline import Clock

_HERE = Path(__file__).parent


def build(out: Path = _HERE / "build") -> Path:
    """Compile libnvidia-ml.so.1 and nvidia-smi into `out` where the sources are newer; return `out`."""
    made = subprocess.run(
        ["make", "--silent", "-C", str(_HERE), f"OUT={out.resolve()}"],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode != 0:
        raise RuntimeError(f"the fake driver does not compile:\n{made.stdout}{made.stderr}")
    return out.resolve()


@dataclass(frozen=True, slots=True)
class DriverCalls:
    """NVML calls without a GPU, by what can be delayed or hang on its own: nvmlInit, Shutdown, GetCount."""

    init: int
    shutdown: int
    count: int


_DRIVER_CALLS = tuple(field.name for field in fields(DriverCalls))


class FakeDriver:
    """A driver whose state lies in `directory`; processes started with `env` find it there.

    Keywords beyond `gpus` are set on every GPU: the fields of Load (low_watts=100.0) and the attributes of
    FakeGpu (update_period_s=0.1, name="NVIDIA A100-SXM4-40GB").
    """

    gpu_count = whole("gpu_count")  # the GPUs that NVML counts, at most 64
    driver_version = text("driver_version")

    # Faults. `hung_calls` names fields of DriverCalls; `call_delays_s` has seconds for them.
    # A hung call ends when it is no longer named, or after 600 s with NVML_ERROR_TIMEOUT.
    hung_calls = call_names("hung", _DRIVER_CALLS)
    call_delays_s = call_delays("call_delays_s", _DRIVER_CALLS)
    replaced = flag("replaced")  # nvmlInit fails with LIB_RM_VERSION_MISMATCH, as after an upgrade
    forgets_fork = flag("forgets_fork")  # a forked child must call nvmlInit

    def __init__(
        self, directory: Path, gpus: int = 8, *, library: Path | None = None, **defaults: Any
    ) -> None:
        """Create the state file, the driver loaded and its counters well above 0."""
        self.built = library or build()
        self.state_path = directory.resolve() / "nvml.state"
        # Never truncated: a process that still maps an older driver's file would die of SIGBUS.
        self.state_path.unlink(missing_ok=True)
        with self.state_path.open("x+b") as file:
            file.truncate(ctypes.sizeof(layout.State))
            self._map = mmap.mmap(file.fileno(), 0)
        self.state = layout.State.from_buffer(self._map)
        # In the past, so that no window of a test begins before it. Unix times minus a whole second are
        # exact. From a multiple of 10 s, sensors update at multiples of their period in unix time, too.
        origin_s = int(time.time()) // 10 * 10 - 60
        self.state.origin_ns = origin_s * 10**9
        load_fields = {field.name for field in fields(Load)}
        load = {name: value for name, value in defaults.items() if name in load_fields}
        clock = Clock(origin_s)
        self._all: list[FakeGpu] = []
        self.modules = [
            FakeModule(self.state.modules[i], clock, i, self._all) for i in range(layout.MAX_MODULES)
        ]
        self._all += [
            FakeGpu(self.state.gpus[i], clock, i, replace(default_load(i), **load), self.modules)
            for i in range(layout.MAX_GPUS)
        ]
        for name in defaults.keys() - load.keys():
            if name not in vars(FakeGpu):
                raise TypeError(f"no such setting of a fake GPU: {name}")
            for gpu in self._all:
                setattr(gpu, name, defaults[name])
        self.state.driver_version, self.state.cuda_version = b"580.95.05", 13000
        self.state.version, self.state.size = layout.VERSION, ctypes.sizeof(layout.State)
        self.state.gpu_count, self.state.generation, self.state.loaded = gpus, 1, 1
        self.state.magic = layout.MAGIC  # last: no process takes a half-made file for a driver

    def __enter__(self) -> "FakeDriver":
        """The driver itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Unload the driver and release all calls that hang."""
        self.unload()
        self.hung_calls = frozenset()
        for gpu in self._all:
            gpu.hung = False

    @property
    def gpus(self) -> list[FakeGpu]:
        """The GPUs that NVML counts."""
        return self._all[: self.gpu_count]

    @property
    def init_hung(self) -> bool:
        """Whether nvmlInit hangs."""
        return "init" in self.hung_calls

    @init_hung.setter
    def init_hung(self, hung: bool) -> None:
        self.hung_calls = self.hung_calls | {"init"} if hung else self.hung_calls - {"init"}

    def unload(self) -> None:
        """As rmmod: nvmlInit answers DRIVER_NOT_LOADED, everything else UNINITIALIZED."""
        self.state.loaded = 0

    def reload(self) -> None:
        """Load the driver anew: counters restart, and what was initialised before answers GPU_IS_LOST."""
        self.unload()
        for gpu in self.gpus:
            gpu.reset_counter()
        self.state.generation += 1
        self.state.loaded = 1

    def calls(self) -> list[Calls]:
        """NVML calls so far, one entry per GPU."""
        return [gpu.calls() for gpu in self.gpus]

    def driver_calls(self) -> DriverCalls:
        """NVML calls without a GPU so far, by all processes."""
        return DriverCalls(*self.state.calls)

    def exact_joules(self, gpu: int, start_unix_s: float, end_unix_s: float) -> float:
        """True joules of GPU number `gpu` in a window."""
        return self._all[gpu].exact_joules(start_unix_s, end_unix_s)

    def exact_power_watts(self, gpu: int, unix_s: float) -> float:
        """True power of GPU number `gpu` at an instant."""
        return self._all[gpu].exact_watts(unix_s)

    def module_joules(self, module: int, start_unix_s: float, end_unix_s: float) -> float:
        """True joules of module number `module` in a window."""
        return self.modules[module].exact_joules(start_unix_s, end_unix_s)

    @property
    def env(self) -> dict[str, str]:
        """What a process needs to find the driver and nvidia-smi: `{**os.environ, **driver.env}`."""
        return self._env(self.built)

    @property
    def env_without_nvidia_smi(self) -> dict[str, str]:
        """The same, but running nvidia-smi fails as where none is installed, even if one is."""
        hiding = self.state_path.with_name("without-nvidia-smi")
        hiding.mkdir(exist_ok=True)
        (hiding / "nvidia-smi").write_text("#!/bin/sh\nexit 127\n")
        (hiding / "nvidia-smi").chmod(0o755)
        return self._env(hiding)

    def _env(self, programs: Path) -> dict[str, str]:
        libraries = [str(self.built), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
        return {
            "FAKE_NVML_STATE": str(self.state_path),
            "LD_LIBRARY_PATH": os.pathsep.join(libraries),
            "PATH": os.pathsep.join([str(programs), os.environ.get("PATH", os.defpath)]),
        }

    def load_into_this_process(self) -> None:
        """Let this process's own pynvml find this driver at its next nvmlInit after its last nvmlShutdown.

        By its soname: dlopen("libnvidia-ml.so.1") yields a library of that name that is already loaded.
        """
        os.environ["FAKE_NVML_STATE"] = str(self.state_path)
        ctypes.CDLL(str(self.built / "libnvidia-ml.so.1"))
