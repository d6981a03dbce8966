"""Frames of several jobs that belong together: of like noise, however many steps their jobs have."""

from __future__ import annotations

import math

import pytest

from farm.pages.alignment import nearest, placed, stations
from farm.pages.gather import Frame


def test_every_level_of_any_job_is_a_station_once() -> None:
    assert stations([[14.6, 3.0, 0.5], [14.600001, 7.0, 0.5]]) == [14.600001, 7.0, 3.0, 0.5]
    assert stations([[], [2.0], []]) == [2.0]
    assert stations([[], []]) == []


def test_a_job_of_few_steps_keeps_its_frame_until_the_next_is_nearer() -> None:
    many, few = [16.0, 8.0, 4.0, 2.0, 1.0], [16.0, 1.0]
    assert nearest(many, many) == [0, 1, 2, 3, 4]
    assert nearest(few, many) == [0, 0, 0, 1, 1], "4 is as near to 16 as to 1, by ratio, and takes the first"
    assert nearest([3.9, 1.0], many) == [0, 0, 0, 0, 1], "a job that starts later shows its first frame till then"


@pytest.mark.parametrize("levels", [[1e-99, 1e100], [5.0], [1.0, 10.0, 2.0]])
def test_levels_of_any_size_and_order_have_their_nearest(levels: list[float]) -> None:
    assert nearest(levels, levels) == list(range(len(levels)))


def test_frames_of_no_known_noise_have_no_place() -> None:
    frames = [Frame(step, b"") for step in range(6)]
    sigmas = {0: 14.0, 1: None, 2: math.nan, 3: 0.0, 4: -1.0}
    assert placed(frames, sigmas) == [(frames[0], 14.0)]
