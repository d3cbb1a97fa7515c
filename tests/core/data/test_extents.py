import os
import pickle

import h5py
import numpy as np
import pytest

from polylens.data.extents import Extents

VALUES = np.random.default_rng(0).integers(0, 256, 1000, dtype=np.uint8)


@pytest.fixture
def scattered(tmp_path):
    """Chunks of 64 bytes that lie apart, as another data set grew in between."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("blob", (0,), np.uint8, maxshape=(None,), chunks=(64,))
        other = file.create_dataset("other", (0,), np.uint8, maxshape=(None,), chunks=(64,))
        for start in range(0, 1000, 100):
            data.resize((start + 100,))
            data[start:] = VALUES[start : start + 100]
            other.resize((start + 64,))
            other[start:] = 7
            file.flush()
    return path


def extents(path, name="blob") -> Extents:
    with h5py.File(path, "r") as file:
        return Extents(file[name])


def test_every_range_reads_as_through_hdf5(scattered):
    found = pickle.loads(pickle.dumps(extents(scattered)))
    for start in range(0, 1000, 7):
        for stop in (start, start + 1, start + 63, start + 200, 1000):
            stop = min(stop, 1000)
            assert found.read(scattered, start, stop) == VALUES[start:stop].tobytes()


def test_a_data_set_without_values(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("blob", (0,), np.uint8, maxshape=(None,), chunks=(64,))
    assert extents(tmp_path / "a.h5").read(tmp_path / "a.h5", 0, 0) == b""


def test_a_file_that_was_cut_short(scattered):
    found = extents(scattered)
    os.truncate(scattered, scattered.stat().st_size // 2)
    with pytest.raises(OSError, match=r"the file ends at \d+, and \d+ bytes are needed"):
        found.read(scattered, 0, 1000)


def test_what_cannot_be_read_by_place_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("packed", data=VALUES, chunks=(64,), compression="gzip")
        file.create_dataset("holes", (1000,), np.uint8, chunks=(64,))[64:128] = 1
        file.create_dataset("whole", data=VALUES)
    for name in ("packed", "whole"):
        with pytest.raises(ValueError, match=f"'/{name}' is compressed, or not in chunks"):
            extents(tmp_path / "a.h5", name)
    with pytest.raises(ValueError, match="parts of '/holes' are missing"):
        extents(tmp_path / "a.h5", "holes")
