"""What NVML tells of GPUs while a stage runs; the library is a fake of what nvidia-ml-py offers."""

from __future__ import annotations

from types import SimpleNamespace

from ebb_jobs import gpu


class Nvml:
    """Two GPUs that take 100 J each between two looks at their counters."""

    def __init__(self, *, counts_energy: bool = True):
        self.counts_energy, self.millijoules, self.busy = counts_energy, 0, [20, 60]

    def nvmlInit(self):
        pass

    def nvmlDeviceGetCount(self):
        return 2

    def nvmlDeviceGetHandleByIndex(self, number):
        return number

    def nvmlDeviceGetName(self, handle):
        return "NVIDIA L4"

    def nvmlDeviceGetUtilizationRates(self, handle):
        return SimpleNamespace(gpu=self.busy[handle])

    def nvmlDeviceGetMemoryInfo(self, handle):
        return SimpleNamespace(used=(handle + 1) * 512 * gpu.MIB, total=24 * 1024 * gpu.MIB)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        if not self.counts_energy:
            raise RuntimeError("Not Supported")
        self.millijoules += 50_000
        return self.millijoules


def test_utilisation_memory_and_joules_are_told():
    with gpu.Watch(Nvml(), every_s=60) as watched:
        told = watched.told()
    assert told == {
        "name": "NVIDIA L4",
        "count": 2,
        "utilisation": 0.4,
        "peak_memory_mib": 1024.0,
        "memory_mib": 24576.0,
        "joules": 200.0,  # counters at 50 and 100 J before, at 150 and 200 J after
    }


def test_a_gpu_that_counts_no_energy_tells_the_rest():
    with gpu.Watch(Nvml(counts_energy=False), every_s=60) as watched:
        told = watched.told()
    assert told["joules"] is None
    assert told["utilisation"] == 0.4


def test_without_a_driver_there_is_nothing_to_tell():
    class Broken(Nvml):
        def nvmlInit(self):
            raise OSError("NVML Shared Library Not Found")

    with gpu.Watch(Broken()) as watched:
        assert watched.told() is None


def test_without_the_library_there_is_nothing_to_tell(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(gpu.importlib, "import_module", missing)
    with gpu.Watch() as watched:
        assert watched.told() is None
