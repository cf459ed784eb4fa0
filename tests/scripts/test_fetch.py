"""data/fetch.py against a real HTTP server on loopback that serves small stand-ins with the true names."""

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from conftest import ROOT, refusal
from mirror import RECORD, Server

from data import fetch, sources
from utils.script import run_script

GENOME = gzip.compress(b">chr1\n" + b"ACGTACGTTA" * 30_000, compresslevel=0)  # 300 kB: several blocks on the wire
HG19 = "/hgdownload.soe.ucsc.edu/goldenPath/hg19/bigZips/hg19.fa.gz"
HG19_LIST = HG19.replace("hg19.fa.gz", "md5sum.txt")
MODELS = "/zenodo.org/records/7995778/files/models.tar.gz"
DATA = "/zenodo.org/records/7995778/files/data.tar.gz"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as server:
        server.put(HG19, GENOME)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.released.set()
        server.shutdown()


@pytest.fixture
def data(tmp_path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def get(call, server, data):
    """get('hg19') runs the script against the server, in this process."""

    def run(*argv: object) -> None:
        data.mkdir(exist_ok=True)
        run_script(lambda: call(fetch, *argv, "--data", data, "--mirror", server.url, "--timeout", 5))

    return run


@pytest.fixture
def refused(call, capsys, server, data):
    """refused('hg19') is the one line of a run that ends with status 2."""

    def run(*argv: object) -> str:
        data.mkdir(exist_ok=True)
        return refusal(call, capsys, fetch, "--data", data, "--mirror", server.url, "--timeout", 5, *argv)

    return run


def archive(files: dict[str, bytes], *members: tarfile.TarInfo) -> bytes:
    """A tar.gz for the script to unpack; where it would refuse to, the test is skipped."""
    if not hasattr(tarfile, "data_filter"):
        pytest.skip("this Python's tarfile cannot filter members: it is older than 3.11.4")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in members:
            tar.addfile(member)
    return out.getvalue()


def models(prefix: str = "models", names: tuple[str, ...] = sources.MODELS) -> dict[str, bytes]:
    contents = {"config.json": b"{}", "pytorch_model.bin": b"PK weights", "vocab.txt": b"[PAD]\n"}
    return {f"{prefix}/{name}/{file}": name.encode() + content for name in names for file, content in contents.items()}


def windows(folder: str = "data/spliceator", benchmarks: str = "Benchmarks") -> dict[str, bytes]:
    names = [*sources.TRAINING, *(name.replace("Benchmarks", benchmarks) for name in sources.BENCHMARKS)]
    return {f"{folder}/{name}": name.encode() for name in names}


BEDS = {f"data/{name}": gzip.compress(name.encode()) for name in sources.BEDS}


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lock_of(data: Path) -> dict:
    return json.loads((data / "fetch.lock.json").read_text())


def leftovers(data: Path) -> set[str]:
    """What lies under data/ apart from parts that wait for the next run."""
    return {name for name in files_of(data) if ".part" not in name}


# --- whole, cut off, resumed --------------------------------------------------------------------------------------


def test_a_genome_arrives_checked_and_noted(get, server, data, capsys):
    get("hg19")
    assert (data / "hg19.fa.gz").read_bytes() == GENOME
    assert leftovers(data) == {"hg19.fa.gz", "fetch.lock.json"}
    entry = lock_of(data)["hg19.fa.gz"]
    assert entry["sha256"] == hashlib.sha256(GENOME).hexdigest() and entry["size"] == len(GENOME)
    assert entry["url"] == "https:/" + HG19 and entry["checked"] == server.url + HG19_LIST
    assert f"hg19: hg19.fa.gz under {data}, checked against {server.url}" in capsys.readouterr().out


def test_the_second_call_makes_no_request(get, server, data, capsys):
    server.put(MODELS, archive(models()))
    get("hg19", "splicebert")
    before, asked = files_of(data), len(server.requests)
    capsys.readouterr()
    get("hg19", "splicebert")
    assert len(server.requests) == asked and files_of(data) == before
    assert capsys.readouterr().out.count("already here") == 2


def test_a_broken_connection_is_taken_up_in_the_same_run(get, server, data):
    server.cut[HG19] = [100_000]
    get("hg19")
    first, second = server.asked(HG19)
    assert first is None and second == "bytes=100000-"
    assert server.sent[HG19] == len(GENOME)  # no byte twice
    assert (data / "hg19.fa.gz").read_bytes() == GENOME


def cut_off(refused, server, data, monkeypatch):
    """A run that ends with 100,000 bytes of hg19; returns the part that waits for the next."""
    monkeypatch.setattr(fetch, "TRIES", 1)
    server.cut[HG19] = [100_000]
    line = refused("hg19")
    assert HG19 in line and "; 100000 bytes are here" in line and "resume" in line
    assert leftovers(data) == set()
    (part,) = (data / "downloads").glob("hg19.fa.gz.*.part")
    assert part.stat().st_size == 100_000
    return part


def test_a_part_of_another_file_is_not_built_upon(get, refused, server, data, monkeypatch):
    part = cut_off(refused, server, data, monkeypatch)
    new = gzip.compress(b">chr1\n" + b"TTTTTTTTTT" * 30_000, compresslevel=0)
    server.put(HG19, new)  # the publisher lists another sum
    get("hg19")
    assert server.asked(HG19) == [None, None] and not part.exists()
    assert (data / "hg19.fa.gz").read_bytes() == new


@pytest.mark.parametrize("whole", [True, False])
def test_of_a_part_that_is_no_beginning_the_checksum_decides(get, refused, server, data, monkeypatch, whole):
    part = cut_off(refused, server, data, monkeypatch)
    part.write_bytes(GENOME if whole else GENOME[:-1] + b"!")  # the run ended before it was put in place
    if not whole:
        assert "does not have the checksum" in refused("hg19") and not part.exists()
    get("hg19")
    assert (data / "hg19.fa.gz").read_bytes() == GENOME
    assert server.asked(HG19) == [None, f"bytes={len(GENOME)}-", *([] if whole else [None])]


def test_a_server_without_ranges_sends_the_whole_again(get, server, data):
    server.has_ranges = False
    server.cut[HG19] = [100_000]
    get("hg19")
    assert server.asked(HG19) == [None, "bytes=100000-"]
    assert server.sent[HG19] == len(GENOME) + 100_000
    assert (data / "hg19.fa.gz").read_bytes() == GENOME


def test_a_gzip_file_is_not_unzipped_on_the_way(get, server, data):
    server.headers["Content-Encoding"] = "x-gzip"  # as some servers call every .gz
    server.files[HG19_LIST] = hashlib.md5(GENOME).hexdigest().encode() + b"  hg19.fa.gz\n"
    server.files[HG19_LIST] = gzip.compress(server.files[HG19_LIST])  # of the list it is true
    get("hg19")
    assert (data / "hg19.fa.gz").read_bytes() == GENOME


# --- what must not get in -----------------------------------------------------------------------------------------


def puts(content):
    return lambda server: server.put(HG19, content)


def redirects(target):
    return lambda server: server.redirects.update({HG19: target})


MD5, FAILED = hashlib.md5(GENOME).hexdigest(), r" cannot be downloaded \("
# What the server does -> what is said of the file's address.
SPOILT = {
    "other bytes": (lambda server: server.files.update({HG19: GENOME[:-1] + b"!"}), f"{MD5} .* was removed"),
    "HTML": (puts(b"<!DOCTYPE html><html>Log in</html>"), "HTML page"),
    "LFS": (puts(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"), "Git LFS pointer"),
    "nothing": (puts(b""), "empty"),
    "text": (puts(b">chr1\nACGT\n"), "not a gzip file"),
    "no file": (lambda server: server.files.pop(HG19), f"{FAILED}404 Client Error: Not Found.*downloads/hg19.fa.gz"),
    "a file of this machine": (redirects("file:///etc/hostname"), FAILED),
    "another protocol": (redirects("ftp://127.0.0.1/x"), FAILED),
    "a circle": (redirects(HG19), FAILED),
}


@pytest.mark.parametrize("spoil, said", SPOILT.values(), ids=SPOILT)
def test_what_is_not_the_file_is_named_and_leaves_nothing(refused, server, data, spoil, said):
    spoil(server)
    assert re.search(f"{server.url}{HG19}.*{said}", refused("hg19"))
    assert files_of(data) == {}


def test_an_answer_without_an_end_is_given_up(refused, server, data, monkeypatch):
    server.put(HG19, b"\x1f\x8b" + bytes(1_000_000))
    server.has_lengths = False
    monkeypatch.setattr(fetch, "MOST_UNANNOUNCED", 200_000)
    assert "hg19.fa.gz" in refused("hg19")
    assert all(path.startswith("downloads/hg19.fa.gz.") and path.endswith(".part") for path in files_of(data))


def test_an_archive_that_swells_is_refused(refused, server, data, monkeypatch):
    monkeypatch.setattr(sources, "LEAST_ROOM", 0)
    server.put(MODELS, archive({"models/SpliceBERT.510nt/pytorch_model.bin": bytes(10_000_000)}))
    line = refused("splicebert")
    assert "models.tar.gz: unpacks to more than 50 times its size: do not trust it" in line
    assert leftovers(data) == {"downloads/models.tar.gz"}


def test_a_server_that_hangs_half_way(get, refused, server, data, monkeypatch):
    monkeypatch.setattr(fetch, "TRIES", 1)
    server.cut[HG19] = [100_000]
    server.stall.add(HG19)
    line = refused("hg19", "--timeout", "0.3")
    assert "timed out" in line and f"; {fetch.BLOCK} bytes are here" in line
    server.stall.clear()
    get("hg19")
    assert server.asked(HG19) == [None, f"bytes={fetch.BLOCK}-"]
    assert leftovers(data) == {"hg19.fa.gz", "fetch.lock.json"}


def test_no_network(call, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as closed:
        mirror = closed.url
    for name, file in (("hg19", "hg19.fa.gz"), ("gencode-hg38", "gencode.v45.annotation.gtf.gz")):
        line = refusal(call, capsys, fetch, name, "--data", tmp_path, "--mirror", mirror)
        assert "cannot be downloaded" in line and "onnection refused" in line and " object at " not in line
        assert f"get https://{'ftp.ebi.ac.uk' if 'gtf' in file else 'hgdownload.soe.ucsc.edu'}/" in line
        assert f"put it at {tmp_path / 'downloads' / file}" in line
    assert files_of(tmp_path) == {}


def test_a_list_without_the_file_stops_a_download_that_has_no_kept_sum(refused, server, data):
    server.put(DATA, archive(windows() | BEDS))
    server.files[RECORD] = b"<html>busy</html>"
    line = refused("spliceator")
    assert RECORD in line and "lists no MD5 sum of data.tar.gz" in line
    assert server.asked(DATA) == [] and files_of(data) == {}


def test_another_file_than_last_time_is_refused(get, refused, server, data):
    get("hg19")
    (data / "hg19.fa.gz").unlink()
    new = gzip.compress(b">chr1\nTTTT\n")
    server.put(HG19, new)
    line = refused("hg19")
    assert "delete the entry 'hg19.fa.gz'" in line and "fetch.lock.json" in line
    assert leftovers(data) == {"fetch.lock.json"}
    (data / "fetch.lock.json").write_text("{}")
    get("hg19")
    assert (data / "hg19.fa.gz").read_bytes() == new


def test_a_full_disk_is_one_line(refused, server, data, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetch.os, "replace", full)
    assert "No space left on device" in refused("hg19")
    assert leftovers(data) == set()


# --- by hand ------------------------------------------------------------------------------------------------------


def put_by_hand(data: Path, name: str, content: bytes) -> Path:
    path = data / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("place", ["downloads/hg19.fa.gz", "hg19.fa.gz"])
def test_a_file_put_there_by_hand_is_checked_and_used(get, server, data, place):
    put_by_hand(data, place, GENOME)
    get("hg19")
    assert server.asked(HG19) == [] and len(server.asked(HG19_LIST)) == 1
    assert lock_of(data)["hg19.fa.gz"]["checked"].endswith("md5sum.txt")
    assert leftovers(data) == {"hg19.fa.gz", "fetch.lock.json"}


def test_a_wrong_file_put_there_by_hand_is_refused_and_stays(refused, server, data):
    path = put_by_hand(data, "downloads/hg19.fa.gz", GENOME[:-1])
    line = refused("hg19")
    assert hashlib.md5(GENOME).hexdigest() in line and "downloads/hg19.fa.gz" in line
    assert path.is_file() and not (data / "hg19.fa.gz").exists()


def test_without_a_list_a_file_put_there_by_hand_is_taken_with_a_remark(get, server, data, capsys):
    put_by_hand(data, "downloads/data.tar.gz", archive(windows() | BEDS))
    get("spliceator")
    assert "unchecked" in capsys.readouterr().out
    assert lock_of(data)["data.tar.gz"]["checked"] == "nothing"
    assert (data / "spliceator" / sources.TRAINING[0]).is_file()


def test_without_a_list_the_kept_sum_stands_in(refused, server, data):
    del server.files[HG19_LIST]
    put_by_hand(data, "downloads/hg19.fa.gz", GENOME)
    assert "but data/sources.py says 806c0239" in refused("hg19")


def test_an_archive_that_is_in_the_lock_unpacks_again_without_network(get, server, data):
    server.put(MODELS, archive(models()))
    get("splicebert")
    shutil.rmtree(data / "models/SpliceBERT.510nt")
    asked = len(server.requests)
    get("splicebert")
    assert len(server.requests) == asked
    assert (data / "models/SpliceBERT.510nt/pytorch_model.bin").is_file()


# --- archives -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["models", "./SpliceBERT/models", "."])
def test_models_are_found_wherever_they_lie(get, server, data, prefix):
    server.put(MODELS, archive(models(prefix) | {"models/._SpliceBERT.510nt": b"mac", "models/README.md": b"x"}))
    get("splicebert")
    expected = {f"models/{name}/{file}" for name in sources.MODELS for file in ("config.json", "pytorch_model.bin")}
    expected |= {f"models/{name}/vocab.txt" for name in sources.MODELS}
    assert leftovers(data) == expected | {"downloads/models.tar.gz", "fetch.lock.json"}
    for name in sources.MODELS:
        assert (data / "models" / name / "pytorch_model.bin").read_bytes() == name.encode() + b"PK weights"


def test_models_that_are_not_in_the_archive_are_named(get, refused, server, data, capsys):
    server.put(MODELS, archive(models(names=sources.MODELS[:2])))
    get("splicebert")
    assert "not in models.tar.gz: SpliceBERT.1024nt" in capsys.readouterr().out


def test_a_python_that_cannot_filter_members_unpacks_nothing(refused, server, data, monkeypatch):
    server.put(MODELS, gzip.compress(b"an archive that is not opened"))
    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    assert "from Python 3.11.4 on" in refused("splicebert")
    assert not (data / "models").exists()


def test_another_archive_is_refused(refused, server, data):
    server.put(MODELS, archive({"models/other/config.json": b"{}"}))
    server.put(DATA, archive(BEDS))
    assert "holds none of SpliceBERT.510nt" in refused("splicebert")
    assert "holds no Training_data" in refused("spliceator")
    assert leftovers(data) == {"downloads/models.tar.gz", "downloads/data.tar.gz"}


@pytest.mark.parametrize("layout", ["as in the scripts", "as in the readme", "an archive in the archive", "at the top"])
def test_spliceator_is_found_wherever_it_lies(get, server, data, capsys, layout):
    files = {
        "as in the scripts": windows() | BEDS,
        "as in the readme": windows("04-splicesite-prediction/data/spliceator", "Benchmark") | BEDS,
        "an archive in the archive": {"data/spliceator.tgz": archive(windows("spliceator"))} | BEDS,
        "at the top": windows(".") | {Path(name).name: content for name, content in BEDS.items()},
    }[layout]
    server.put(DATA, archive(files | {"data/large.h5": b"not wanted"}))
    get("spliceator")
    expected = {f"spliceator/{name}": name.encode() for name in sources.TRAINING}
    got = files_of(data)
    assert {name: got.get(name) for name in expected} == expected
    assert {f"spliceator/{name}" for name in sources.BENCHMARKS} <= set(got)
    assert {name: got.get(name) for name in sources.BEDS} == {Path(k).name: v for k, v in BEDS.items()}
    assert len(got) == 4 + 16 + 2 + 2
    assert "not in" not in capsys.readouterr().out
    asked = len(server.requests)
    get("spliceator")
    assert len(server.requests) == asked


def link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


HOSTILE = {
    "outside": tarfile.TarInfo("../outside"),
    "symlink": link("models/SpliceBERT.510nt/link", "../../../outside", tarfile.SYMTYPE),
    "device": link("models/SpliceBERT.510nt/device", "", tarfile.CHRTYPE),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_archive_is_refused_whole(refused, server, data, kind):
    member = HOSTILE[kind]
    server.put(MODELS, archive(models(), member))
    line = refused("splicebert")
    assert repr(member.name) in line and "models.tar.gz" in line and "do not trust it" in line
    assert leftovers(data) == {"downloads/models.tar.gz"}
    assert {path.name for path in data.parent.iterdir()} == {"data"}


def test_a_link_within_the_archive_becomes_the_file(get, server, data):
    files = models()
    del files["models/SpliceBERT.510nt/vocab.txt"]
    members = [
        link("models/SpliceBERT.510nt/vocab.txt", "../SpliceBERT.1024nt/vocab.txt", tarfile.SYMTYPE),
        link("models/SpliceBERT.510nt/hard.txt", "models/SpliceBERT.1024nt/vocab.txt", tarfile.LNKTYPE),
    ]
    server.put(MODELS, archive(files, *members))
    get("splicebert")
    for name in ("vocab.txt", "hard.txt"):
        path = data / "models/SpliceBERT.510nt" / name
        assert not path.is_symlink() and path.read_bytes() == b"SpliceBERT.1024nt[PAD]\n"


def test_an_archive_cut_short_is_refused(refused, server, data):
    server.put(MODELS, archive(models() | {"models/SpliceBERT.510nt/big": os.urandom(50_000)})[:-20_000])
    assert "damaged, cut short" in refused("splicebert")
    assert leftovers(data) == {"downloads/models.tar.gz"}


def test_a_folder_that_is_there_and_differs_is_left_alone(refused, server, data):
    mine = data / "models/SpliceBERT.1024nt/config.json"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    server.put(MODELS, archive(models()))
    line = refused("splicebert")
    assert "SpliceBERT.1024nt" in line and "move it away" in line
    assert mine.read_text() == "mine" and not (data / "models/SpliceBERT.510nt").exists()  # all or none


def test_a_killed_installation_is_completed(get, server, data):
    server.put(MODELS, archive(models()))
    for name, content in models(names=sources.MODELS[:1]).items():  # the first rename had been done
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_bytes(content)
    (data / ".unpack-splicebert/found").mkdir(parents=True)
    get("splicebert")
    assert {f"models/{name}/config.json" for name in sources.MODELS} <= leftovers(data)
    assert not (data / ".unpack-splicebert").exists()


# --- commands -----------------------------------------------------------------------------------------------------


def test_list_says_what_is_here(get, server, data, capsys):
    server.put(MODELS, archive(models()))
    get("hg19", "splicebert")
    (data / "hg38.fa.gz").write_bytes(b"mine")
    (data / "models/SpliceBERT.510nt/vocab.txt").unlink()
    capsys.readouterr()
    get("list")
    header, *rows = capsys.readouterr().out.splitlines()
    here = {row.split()[0]: row[header.index("here?") :] for row in rows if row[header.index("here?") :]}
    assert here["hg19"] == "yes" and here["hg38"] == "by hand" and here["splicebert"] == "changed"
    assert here["gencode-hg38"] == "no"
    assert set(sources.DATA_SETS) <= set(here)
    get("list", "hg38")
    told = capsys.readouterr().out
    assert f"{server.url}/hgdownload.soe.ucsc.edu/goldenPath/hg38/bigZips/hg38.fa.gz" in told
    assert "downloads/hg38.fa.gz" in told


def test_what_is_to_be_downloaded_is_added_up_before_it_is(get, server, data, capsys):
    options = fetch.Options(data, None, 5)
    fetch.announce(["hg19", "hg38", "chr19", "introns", "mfass"], options)  # chr19 and introns come in one archive
    assert capsys.readouterr().out == "to download: 1.99 GB, mfass (size not recorded)\n"
    get("hg19")
    assert capsys.readouterr().out.startswith("to download: 0.95 GB\n")
    get("hg19")
    assert "to download" not in capsys.readouterr().out


def test_multi_species_goes_on_with_the_genomes_that_are_missing(get, refused, server, data):
    for build in sources.SPECIES:
        server.put(HG19.replace("hg19", build), gzip.compress(build.encode()))
    last = HG19.replace("hg19", list(sources.SPECIES)[-1])
    content = server.files.pop(last)
    assert "404" in refused("multi-species")
    server.files[last] = content
    get("multi-species")
    assert {f"species/{build}.fa.gz" for build in sources.SPECIES} <= leftovers(data)
    assert all(len(server.asked(HG19.replace("hg19", build))) == 1 for build in list(sources.SPECIES)[:-1])


def test_every_data_set_is_whole():
    keys = [data_set.key(source) for data_set in sources.DATA_SETS.values() for source in data_set.sources]
    assert len(keys) == len(set(keys))
    for data_set in sources.DATA_SETS.values():
        for source in data_set.sources:
            assert source.to or data_set.arrange
            assert urlsplit(source.url).scheme == ("pip" if source.requirement else "https")
            assert source.sha256 or (not source.requirement and (source.checksums or source.git))


def test_a_file_of_a_commit_is_checked_by_gits_own_hash(get, refused, server, data, monkeypatch):
    """The hash is what `printf 'hello\\n' | git hash-object --stdin` prints."""
    url = "https://raw.example.org/one/two/greeting.txt"
    source = sources.into("greetings", url, git="ce013625030ba8dba906f756967f9e9ca394464a")
    monkeypatch.setitem(sources.DATA_SETS, "greeting", sources.single("a greeting", "6 B", "none", source))
    path = url.removeprefix("https:/")
    server.put(path, b"hello!\n")
    assert "was removed" in refused("greeting") and leftovers(data) == set()
    server.put(path, b"hello\n")
    get("greeting")
    assert (data / "greetings/greeting.txt").read_bytes() == b"hello\n"
    assert lock_of(data)["greeting.txt"]["checked"] == "data/sources.py"
    (data / "fetch.lock.json").unlink()
    (data / "greetings/greeting.txt").write_bytes(b"hallo\n")
    assert "git" in refused("greeting")


def test_unknown_names(refused):
    assert "unknown data set 'hg83': did you mean hg38?" in refused("hg83")
    assert "name it as model.source" in refused("multimolecule/splicebert")
    assert "only spliceator, chr19, introns, genes can be checked" in refused("check", "hg19")


def test_check_hands_the_folder_over(get, data, capsys, monkeypatch):
    monkeypatch.setattr("data.summary.check_training", lambda folder: f"report on {folder}")
    get("check", "spliceator")
    get("check", "spliceator", "--folder", "elsewhere")
    assert capsys.readouterr().out == f"report on {data / 'spliceator'}\nreport on elsewhere\n"


def test_a_damaged_lock(refused, data):
    data.mkdir()
    (data / "fetch.lock.json").write_text("{")
    assert "fetch.lock.json: damaged" in refused("hg19")


def test_find_md5():
    md5 = "d41d8cd98f00b204e9800998ecf8427e"
    assert fetch.find_md5(f"{md5.upper()} *a.gz\r\n{'0' * 32}  b.gz\n", "a.gz") == md5
    assert fetch.find_md5(f"{md5}  ./GRCh37_mapping/a.gz\n", "a.gz") == md5
    assert fetch.find_md5(f"{md5}  xa.gz\n", "a.gz") is None
    assert fetch.find_md5(json.dumps({"files": [{"key": "a.gz", "checksum": "sha1:00"}]}), "a.gz") is None


def test_help_from_another_folder(tmp_path):
    command = [sys.executable, ROOT / "data/fetch.py"]
    told = subprocess.run([*command, "-h"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert told.returncode == 0 and "gencode-hg38" in "".join(told.stdout.split())  # which wraps at hyphens
    assert subprocess.run([*command, "hg19", "--timeout", "0"], cwd=tmp_path, capture_output=True).returncode == 2


def test_what_a_kill_left_of_the_lock_goes_though_all_is_here(get, server, data):
    get("hg19")
    left = data / "fetch.lock.json.abc.tmp"
    left.mkdir()
    (left / ".lock").touch()
    get("hg19")
    assert not left.exists()
