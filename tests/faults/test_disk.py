"""Disks that are full, homes that cannot be written, models that are broken or vanish."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.faults.farm import FaultyFarm
from tests.timing import of_a_farm
from tests.tiny import build_tiny_model
from tests.waiting import eventually

# A disk that takes no file of over 32 KiB: every write beyond fails, as on a full one.
CRAMPED = """
import resource, runpy, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (32 * 1024, 32 * 1024))
runpy.run_module("worker", run_name="__main__")
"""
TRACED = {"trace": "video", "steps": 20, "width": 256, "height": 256}


def test_a_job_that_a_full_disk_cannot_hold_goes_to_another_worker(farm: FaultyFarm) -> None:
    long_enough_to_start_another = of_a_farm(farm.timing.model_copy(update={"disk": 30.0}))
    cramped = farm.worker("cramped", model="disk", script=CRAMPED, environment=long_enough_to_start_another)
    farm.start(cramped)
    with farm.fault("full disk", cramped, may_cost=True):
        [job] = farm.submit(model="disk", **TRACED)
        info = eventually(lambda: (i := farm.info(cramped)) and i.paused and i, "it says why", within=120)
        assert info.paused.startswith(f"the disk of {info.id} cannot hold the trace: File too large")
        roomy = farm.worker("roomy", model="disk")
        farm.start(roomy)

    [done] = farm.until_over([job])

    assert (done.state, (done.worker or "").rpartition("-")[0]) == ("done", "roomy")
    farm.retire(cramped, roomy)


def test_a_job_that_no_disk_can_hold_fails_with_the_reason_and_others_are_rendered(farm: FaultyFarm) -> None:
    at_once = of_a_farm(farm.timing.model_copy(update={"disk": 0.0}))
    cramped = farm.worker("alone", model="alone", script=CRAMPED, environment=at_once)
    farm.start(cramped)
    with farm.fault("full disk", cramped, may_cost=True):
        [job] = farm.submit(model="alone", **TRACED)
        others = farm.submit(model="alone", count=3)
        [failed] = farm.until_over([job])

    assert failed.state == "failed" and failed.error is not None
    assert failed.error.kind == "disk"
    assert "cannot hold the trace: File too large" in failed.error.message
    assert {status.state for status in farm.until_over(others)} == {"done"}
    farm.retire(cramped)


def test_a_worker_does_without_a_home_that_can_be_written(farm: FaultyFarm, tmp_path: Path) -> None:
    (tmp_path / "file").touch()  # root writes into any folder, but not below a file
    worker = farm.worker("homeless", model="homeless", environment={"FARM_HOME": str(tmp_path / "file" / "home")})
    farm.start(worker)

    over = farm.until_over(farm.submit(model="homeless", count=2, trace="frames"))

    assert {status.state for status in over} == {"done"}
    assert "what this worker keeps is lost when it ends: the farm's home" in worker.last_words
    farm.retire(worker)


def test_a_model_that_vanishes_is_still_served_from_memory(farm: FaultyFarm, tmp_path: Path) -> None:
    folder = build_tiny_model(tmp_path / "model")
    worker = farm.worker("rich", "--model", f"gone={folder}", model="stays")
    farm.start(worker)
    shutil.rmtree(folder)

    assert {status.state for status in farm.until_over(farm.submit(model="gone", count=2))} == {"done"}
    farm.retire(worker)


def test_a_worker_whose_model_is_damaged_says_so_and_serves_the_others(farm: FaultyFarm, tmp_path: Path) -> None:
    folder = build_tiny_model(tmp_path / "model")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    worker = farm.worker("damaged", "--model", f"damaged={folder}", model="whole")
    farm.start(worker)

    info = farm.info(worker)
    assert info is not None
    assert info.models == ("whole",)
    assert f"{weights} cannot be loaded: it is cut short or damaged" in info.refused["damaged"]
    assert {status.state for status in farm.until_over(farm.submit(model="whole"))} == {"done"}
    assert "Traceback" not in worker.last_words
    farm.retire(worker)
