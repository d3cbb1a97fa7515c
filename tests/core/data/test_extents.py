import os
import pickle
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def opened(path, mode: str = "r") -> Any:
    return h5py.File(path, mode)


def extents(path, name="blob") -> Extents:
    with opened(path) as file:
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


@given(
    growths=st.lists(
        st.tuples(st.integers(0, 700), st.integers(0, 200), st.booleans()),
        max_size=12,
    ),
    seed=st.integers(0, 2**32 - 1),
)
def test_what_is_written_by_place_is_read_through_hdf5(tmp_path_factory, growths, seed):
    """The data set grows by any number of bytes, while another one takes places in between."""
    path, generator, expected = tmp_path_factory.mktemp("grow") / "a.h5", np.random.default_rng(seed), b""
    early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    with opened(path, "w") as file:
        data = file.create_dataset(
            "blob", (0,), np.uint8, maxshape=(None,), chunks=(64,), fill_time="never", dcpl=early
        )
        other = file.create_dataset("other", (0,), np.uint8, maxshape=(None,), chunks=(16,))
        places = Extents(data)
        for more, between, flushed in growths:
            new = generator.bytes(more)
            data.resize((len(expected) + more,))
            places.grow(data)
            places.write(file.id.get_vfd_handle(), len(expected), new)
            expected += new
            other.resize((len(other) + between,))
            other[len(other) - between :] = 7
            if flushed:
                file.flush()
        assert places == Extents(data)
    with opened(path) as file:
        assert file["blob"][()].tobytes() == expected
        assert (file["other"][()] == 7).all()
    assert places.read(path, 0, len(expected)) == expected


def test_places_differ_after_another_growth(scattered):
    before = extents(scattered)
    assert before == extents(scattered)
    with opened(scattered, "a") as file:
        file["blob"].resize((1001,))
        file["blob"][1000] = 1
    assert before != extents(scattered)
