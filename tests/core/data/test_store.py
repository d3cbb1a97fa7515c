import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import h5py
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polylens.config import schemas
from polylens.data.images import image_size
from polylens.data.shards import ShardReader, ShardWriter
from polylens.data.store import Document, DocumentStore, DocumentWriter, open_documents
from polylens.errors import InputError


def contents(folder: Path) -> list[Document]:
    store = DocumentStore([folder])
    return [store.read(id) for id in store.ids()]


def fill(folder: Path, names, **options) -> None:
    with DocumentWriter(folder, **options) as writer:
        for name in names:
            writer.write(Document(name, name.encode() * 10))


def manifest(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


ids = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
documents = st.builds(Document, ids, st.none() | st.binary(min_size=1, max_size=200), st.text(max_size=20))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(documents.filter(lambda d: d.image or d.text), unique_by=lambda d: d.id), st.integers(1, 5))
def test_what_is_written_is_read(tmp_path_factory, given_documents, per_shard):
    folder = tmp_path_factory.mktemp("store")
    with DocumentWriter(folder, documents_per_shard=per_shard) as writer:
        for document in given_documents:
            writer.write(document)
    if given_documents:
        assert contents(folder) == given_documents
        assert len(manifest(folder)) == -(-len(given_documents) // per_shard)
    else:
        assert list(folder.glob("*.h5*")) == []


def test_the_manifest_names_every_shard(store):
    lines = manifest(store)
    assert [(line["shard"], line["documents"]) for line in lines] == [
        ("documents-00000.h5", 4),
        ("documents-00001.h5", 4),
        ("documents-00002.h5", 2),
    ]
    for line in lines:
        schemas.check("document_manifest", line, "manifest.jsonl")
        assert (store / line["shard"]).stat().st_size == line["bytes"] < 200_000


def test_shards_have_the_documented_layout(store):
    with h5py.File(store / "documents-00000.h5", libver="earliest") as file:
        assert {name: file[name].dtype.str for name in ("blob", "end", "text_bytes", "crc32")} == {
            "blob": "|u1",
            "end": "<u8",
            "text_bytes": "<u4",
            "crc32": "<u4",
        }
        assert file["blob"].chunks == (65536,)
        assert file["blob"].compression is None
        assert file["id"][0] == b"a.pdf#1"
    # Superblock 0: a newer one could not be opened again after a kill.
    assert (store / "documents-00000.h5").read_bytes()[8] == 0


def test_any_number_of_folders_and_shards_reads_as_one(tmp_path):
    fill(tmp_path / "a", ["1", "2", "3"], documents_per_shard=2)
    fill(tmp_path / "b", ["4"])
    store = DocumentStore([tmp_path / "a", tmp_path / "b" / "documents-00000.h5"])
    assert (len(store), list(store.ids()), "4" in store, "5" in store) == (4, ["1", "2", "3", "4"], True, False)
    assert store.read("4").image == b"4" * 10


def test_two_writers_share_a_folder_under_different_names(tmp_path):
    with DocumentWriter(tmp_path, "one") as one, DocumentWriter(tmp_path, "two") as two:
        one.write(Document("a", b"a"))
        two.write(Document("b", b"b"))
        with pytest.raises(InputError, match="another process is writing"):
            DocumentWriter(tmp_path, "one")
    assert sorted(DocumentStore([tmp_path]).ids()) == ["a", "b"]


def test_an_id_that_is_stored_twice_is_an_error(tmp_path):
    fill(tmp_path / "a", ["x", "y"])
    fill(tmp_path / "b", ["y"])
    with pytest.raises(InputError, match=r"'y' is stored twice: in .*a/documents-00000.h5 and in .*b/documents"):
        DocumentStore([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(InputError, match="'y' is already in"):
        fill(tmp_path / "a", ["y"])
    assert list(DocumentStore([tmp_path / "a"]).ids()) == ["x", "y"]


@pytest.mark.parametrize(
    "document", [Document("", b"x"), Document("a\0", b"x"), Document("\ud800", b"x"), Document("a")]
)
def test_documents_that_cannot_be_stored(tmp_path, document):
    with DocumentWriter(tmp_path) as writer, pytest.raises(InputError):
        writer.write(document)


def test_a_missing_id_names_the_store_and_the_nearest_id(store):
    with pytest.raises(InputError, match=r"no document 'a.pdf#11' in .*store, which has 10 documents .*'a.pdf#1'"):
        DocumentStore([store]).read("a.pdf#11")


def test_a_damaged_document_is_named_and_the_others_still_read(store):
    path = store / "documents-00000.h5"
    with h5py.File(path, "r+") as file:
        file["blob"][int(file["end"][0]) + 5] ^= 255
    documents = DocumentStore([store])
    with pytest.raises(InputError, match=r"'a.pdf#2' in .*documents-00000.h5 is damaged: its checksum"):
        documents.read("a.pdf#2")
    assert documents.read("a.pdf#1").image
    assert documents.read("a.pdf#3").image


@pytest.mark.parametrize("change", ["cut", "zeros", "index", "format", "no blob"])
def test_a_damaged_shard_is_an_input_error(store, change):
    path = store / "documents-00001.h5"
    if change == "cut":
        path.write_bytes(path.read_bytes()[:900])
    elif change == "zeros":
        path.write_bytes(bytes(5000))
    else:
        with h5py.File(path, "r+") as file:
            if change == "index":
                file["end"][1] = 10**9
            elif change == "format":
                file.attrs["polylens_format"] = 99
            else:
                del file["blob"]
    with pytest.raises(InputError, match=r"documents-00001\.h5"):
        contents(store)


def test_a_store_with_a_missing_shard_is_refused(store):
    (store / "documents-00001.h5").unlink()
    with pytest.raises(InputError, match=r"names documents-00001\.h5, which is not there"):
        DocumentStore([store])


def test_what_is_no_store(tmp_path):
    (tmp_path / "text.txt").write_text("hello")
    for path in (tmp_path, tmp_path / "none", tmp_path / "text.txt"):
        with pytest.raises(InputError, match=str(path)):
            open_documents([path])
    with pytest.raises(InputError, match="no document store was given"):
        open_documents([])


def test_the_writer_completes_a_manifest_that_a_kill_left_behind(store):
    lines = (store / "manifest.jsonl").read_text().splitlines(keepends=True)
    (store / "manifest.jsonl").write_text(lines[0] + lines[1][:20])
    assert len(DocumentStore([store.parent / "store" / "documents-00002.h5"])) == 2
    fill(store, ["new"])
    assert [line["shard"] for line in manifest(store)] == [f"documents-0000{n}.h5" for n in range(4)]
    assert len(DocumentStore([store])) == 11


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_through_handles_of_their_own(store, method):
    documents = DocumentStore([store])
    expected = [documents.read(id) for id in documents.ids()]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
        assert list(pool.map(documents.read, documents.ids())) == expected
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(documents.read, [*documents.ids()] * 8)) == expected * 8
    assert pickle.loads(pickle.dumps(documents)).read("note").text == "only text"


def test_more_shards_than_files_may_be_open(tmp_path):
    fill(tmp_path, map(str, range(80)), documents_per_shard=1)
    store = DocumentStore([tmp_path])
    assert [store.read(id).image for id in reversed(store.ids())] == [id.encode() * 10 for id in reversed(store.ids())]
    descriptors = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.exists()]
    assert sum(str(tmp_path) in target for target in descriptors) <= 64


class TestInterruptedWriter:
    def start(self, folder: Path) -> ShardWriter:
        folder.mkdir(exist_ok=True)
        return ShardWriter(folder / "documents-00000.h5", flush_bytes=1)

    def test_flushed_documents_survive(self, tmp_path):
        writer = self.start(tmp_path)
        for name in "abc":
            writer.write(Document(name, name.encode() * 100))
        writer._pending = [("lost", b"x", 0)]
        writer.abandon()
        assert not (tmp_path / "documents-00000.h5").exists()
        fill(tmp_path, ["d"])
        assert [document.id for document in contents(tmp_path)] == ["a", "b", "c", "d"]

    @pytest.mark.parametrize("torn", ["blob", "crc32", "end", "id", "longer index", "longer blob"])
    def test_a_torn_tail_is_cut_off(self, tmp_path, torn):
        writer = self.start(tmp_path)
        for name in "abc":
            writer.write(Document(name, name.encode() * 100))
        file = writer._file
        if torn == "blob":
            file["blob"][250:300] = 0
        elif torn == "longer index":
            for name in ("end", "text_bytes", "crc32"):
                file[name].resize((4,))
        elif torn == "longer blob":
            file["blob"].resize((500,))
        elif torn == "id":
            file["id"][2] = "z"
        else:
            file[torn][2] = 7
        writer.abandon()
        again = self.start(tmp_path)
        kept = ["a", "b", "c"] if torn.startswith("longer") else ["a", "b"]
        assert again.ids == kept
        again.write(Document("d", b"d"))
        again.finish()
        reader = ShardReader(again.path)
        assert reader.ids() == [*kept, "d"]
        assert [reader.read(id, n).image for n, id in enumerate(reader.ids())][-2:] == [kept[-1].encode() * 100, b"d"]

    def test_places_beyond_the_end_of_the_file_are_not_written_to(self, tmp_path):
        """HDF5 notes where a file ends after all else."""
        writer = self.start(tmp_path)
        path = tmp_path / "documents-00000.h5.tmp"
        for name in "abc":
            if name == "b":
                end = path.read_bytes()[40:48]
            writer.write(Document(name, name.encode() * 100_000))
        writer.abandon()
        with path.open("r+b") as file:
            file.seek(40)
            file.write(end)
        again = self.start(tmp_path)
        assert again.ids == ["a"]
        for name in "bcd":
            again.write(Document(name, name.encode() * 100_000))
        again.finish()
        assert [document.image for document in contents(tmp_path)] == [name.encode() * 100_000 for name in "abcd"]
        assert [path.name for path in tmp_path.iterdir()] == ["documents-00000.h5"]

    def test_a_file_that_was_never_flushed_is_begun_anew(self, tmp_path):
        (tmp_path / "documents-00000.h5.tmp").write_bytes(bytes(100))
        fill(tmp_path, ["a"])
        assert [document.id for document in contents(tmp_path)] == ["a"]

    def test_ctrl_c_keeps_what_was_written(self, tmp_path):
        def names():
            yield "a"
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fill(tmp_path, names())
        assert [document.id for document in contents(tmp_path)] == ["a"]


WRITE = """
import sys, itertools
from polylens.data.store import Document, DocumentWriter
with DocumentWriter(sys.argv[1], documents_per_shard=40) as writer:
    for number in itertools.count():
        if str(number) not in writer:
            writer.write(Document(str(number), str(number).encode() * 500))
            writer.flush()
            print(number, flush=True)
"""


@pytest.mark.parametrize("after", [3, 39, 100])
def test_kill_loses_nothing_that_was_flushed(tmp_path, after):
    with subprocess.Popen([sys.executable, "-c", WRITE, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while int(process.stdout.readline()) < after:
            pass
        process.send_signal(signal.SIGKILL)
        flushed = max([after, *(int(line) for line in process.stdout.read().splitlines() if line.isdigit())])
    with DocumentWriter(tmp_path, documents_per_shard=40) as writer:
        assert len(writer) >= flushed
    found = {document.id: document.image for document in contents(tmp_path)}
    assert found == {str(n): str(n).encode() * 500 for n in range(len(found))}


FILL_DISK = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from polylens.data.store import Document, DocumentWriter
from polylens.errors import InputError
resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, resource.RLIM_INFINITY))
try:
    with DocumentWriter(sys.argv[1]) as writer:
        for number in range(100):
            writer.write(Document(str(number), str(number % 10).encode() * 100_000))
            writer.flush()
            print(number, flush=True)
except InputError as error:
    sys.exit("InputError: " + str(error))
"""


def test_a_full_disk_ends_clean_and_the_next_run_goes_on(tmp_path):
    done = subprocess.run([sys.executable, "-c", FILL_DISK, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert (
        done.stderr == f"InputError: {tmp_path}: File too large; what was stored is kept: make room and start again\n"
    )
    flushed = len(done.stdout.splitlines())
    assert 5 < flushed < 40
    with DocumentWriter(tmp_path) as writer:
        assert len(writer) == flushed
        writer.write(Document("last", b"x"))
    for document in contents(tmp_path)[:-1]:
        assert document.image == document.id[-1].encode() * 100_000


def test_open_documents_reads_every_layout_at_once(store, original_h5, tmp_path):
    (tmp_path / "corpus.jsonl").write_text('{"_id": "t1", "title": "A title", "text": "and text"}\n')
    documents = open_documents([store, original_h5, tmp_path / "corpus.jsonl"])
    assert len(documents) == 14
    assert documents.read("t1") == Document("t1", None, "A title and text")
    assert image_size(documents.read("sub/page.pdf_1").image or b"", "x") == (8, 6)
    with pytest.raises(InputError, match="stored twice"):
        open_documents([store, store])
