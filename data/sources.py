"""What data/fetch.py can fetch: sources, and what of their archives goes where under data/."""

from __future__ import annotations

import gzip
import os
import posixpath
import shutil
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from simcsp.core.errors import InputError

ZENODO = "https://zenodo.org/records/7995778/files"
ZENODO_LIST = "https://zenodo.org/api/records/7995778"
UCSC = "https://hgdownload.soe.ucsc.edu/goldenPath"
GENCODE = "https://ftp.ebi.ac.uk/pub/databases/gencode/Gencode_human/release_45"  # of January 2024
NCBI = "https://ftp.ncbi.nlm.nih.gov/genomes/all/GCF/000/001/405/GCF_000001405.40_GRCh38.p14"

# A sample of the vertebrate tree and two invertebrates, as UCSC builds: edit it at will. It holds no human on purpose,
# so that human evaluation sites are not in the text.
SPECIES = {
    "mm39": "mouse",
    "bosTau9": "cow",
    "monDom5": "opossum",
    "galGal6": "chicken",
    "anoCar2": "anole lizard",
    "xenTro10": "frog",
    "danRer11": "zebrafish",
    "dm6": "fruit fly",
    "ce11": "worm",
}

MODELS = ("SpliceBERT.510nt", "SpliceBERT-human.510nt", "SpliceBERT.1024nt")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
BEDS = ("hg19.ss-motif.for_umap.bed.gz", "K562.SSE.hg38.for_visualization.bed.gz")
TRAINING = tuple(
    f"Training_data/{path.format(site)}"
    for site in ("donor", "acceptor")
    for path in ("Positive/GS/POS_{}_600.csv", "Negative/GS/GS_1/NEG_600_{}.csv")
)
BENCHMARKS = tuple(
    f"Benchmarks/{species}/SA_sequences_{site}_400_Final_3.{kind}.txt"
    for species in ("Danio", "Fly", "Worm", "Thaliana")
    for site in ("donor", "acceptor")
    for kind in ("positive", "negative")
)


@dataclass(frozen=True)
class Source:
    """One file of a publisher."""

    url: str
    checksums: str
    """URL of the publisher's list of MD5 sums: Zenodo's record, or lines of `sum name`."""
    to: str | None = None
    """Where it ends up under data/; None: it is an archive, to be unpacked."""
    md5: str | None = None
    """What other projects have noted from that list; stands in only where the list cannot be reached."""

    @property
    def name(self) -> str:
        return posixpath.basename(urlsplit(self.url).path)


@dataclass(frozen=True)
class DataSet:
    what: str
    size: str
    licence: str
    sources: tuple[Source, ...]
    places: tuple[str, ...]
    """Files and folders under data/ that it brings."""
    is_wanted: Callable[[PurePosixPath], bool] | None = None
    """Which members of the archive to unpack."""
    arrange: Callable[[Path, Path], list[str]] | None = None
    """Move what was unpacked (first folder) to the layout under data/ (second); returns what the archive lacks."""


def single(what: str, size: str, licence: str, *sources: Source) -> DataSet:
    return DataSet(what, size, licence, sources, tuple(source.to for source in sources))


def ucsc(build: str, to: str, md5: str | None = None) -> Source:
    folder = f"{UCSC}/{build}/bigZips"
    return Source(f"{folder}/{build}.fa.gz", f"{folder}/md5sum.txt", to, md5)


def gencode(folder: str, name: str) -> Source:
    return Source(f"{folder}/{name}", f"{folder}/MD5SUMS", name)


def find(folder: Path, trailing: str) -> Path | None:
    """The file whose path ends in `trailing`, wherever it lies; the one nearest to the top if there are several."""
    name = posixpath.basename(trailing)
    found = [path for path in folder.rglob(name) if path.is_file() and path.as_posix().endswith(f"/{trailing}")]
    return min(found, key=lambda path: (len(path.parts), path), default=None)


def take(path: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():  # within the archive (see unpack): its target may be taken elsewhere, so copy
        shutil.copyfile(path, to)
    else:
        os.replace(path, to)


def take_folder(folder: Path, to: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            take(path, to / path.relative_to(folder))


def is_model(member: PurePosixPath) -> bool:
    return any(part in MODELS for part in member.parts)


def arrange_models(found: Path, out: Path) -> list[str]:
    missing = []
    for name in MODELS:
        config = find(found, f"{name}/config.json")
        if config and any((config.parent / weights).is_file() for weights in WEIGHTS):
            take_folder(config.parent, out / "models" / name)
        else:
            missing.append(name)
    if len(missing) == len(MODELS):
        raise InputError(f"holds none of {', '.join(MODELS)} with config.json and weights: this is another archive")
    return missing


def is_spliceator(member: PurePosixPath) -> bool:
    name = member.name
    return "Training_data" in member.parts or name.startswith("SA_sequences_") or name in BEDS or is_inner(name)


def is_inner(name: str) -> bool:
    """SpliceBERT's examples/04-splicesite-prediction/readme.md unpacks a spliceator.tgz that lies among the data."""
    return name.startswith("spliceator") and name.endswith((".tgz", ".tar.gz"))


def arrange_spliceator(found: Path, out: Path) -> list[str]:
    for inner in [path for path in found.rglob("spliceator*") if is_inner(path.name)]:
        unpack(inner, inner.parent, is_spliceator)
    anchor = find(found, TRAINING[0])
    if anchor:
        take_folder(anchor.parents[2], out / "spliceator" / "Training_data")  # other negative sets than GS_1 as well
    # The published readme calls the folder Benchmark, the published scripts Benchmarks: only the species' name counts.
    files = [(name, out / "spliceator" / name) for name in BENCHMARKS] + [(name, out / name) for name in BEDS]
    for name, to in files:
        path = find(found, posixpath.relpath(name, "Benchmarks") if name.startswith("Benchmarks") else name)
        if path:
            take(path, to)
    absent = [name for name in TRAINING if not (out / "spliceator" / name).is_file()]
    if absent:
        raise InputError(f"holds no {absent[0]}: this is another archive")
    return [name for name, to in files if not to.is_file()]


def unpack(archive: Path, to: Path, is_wanted: Callable[[PurePosixPath], bool]) -> None:
    """Unpack the wanted members. One member that could reach outside `to`, wanted or not, and nothing more is done."""
    if not hasattr(tarfile, "data_filter"):
        raise InputError("can be unpacked safely from Python 3.11.4 on, and this one is older: use a newer Python")
    try:
        with tarfile.open(archive, "r:*") as tar:
            for member in tar:
                tarfile.data_filter(member, str(to))  # refuses links and paths that lead outside, and devices
                path = PurePosixPath(member.name)
                if not member.isdir() and is_wanted(path) and not path.name.startswith("._"):  # macOS's own
                    tar.extract(member, to, filter="data")
    except tarfile.FilterError as error:
        raise InputError(f"member {error.tarinfo.name!r} is a device or leads outside: do not trust it") from None
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"is damaged, cut short or no tar archive ({error}): remove it and fetch it again") from None


# Sizes and kept checksums: as noted by several public projects from the publishers' lists, none measured here.
# Licences: the record's CC BY 4.0 is second hand; UCSC's and NCBI's terms as on the pages that data/README.md names.
DATA_SETS = {
    "splicebert": DataSet(
        "weights of SpliceBERT, three models",
        "218 MB",
        "CC BY 4.0",
        (Source(f"{ZENODO}/models.tar.gz", ZENODO_LIST, md5="a51911d7d59fa6f0b07db4abaa820d84"),),
        tuple(f"models/{name}" for name in MODELS),
        is_model,
        arrange_models,
    ),
    "spliceator": DataSet(
        "Spliceator windows, benchmarks, motif sites",
        "not recorded",
        "not stated",
        (Source(f"{ZENODO}/data.tar.gz", ZENODO_LIST),),
        ("spliceator", *BEDS),
        is_spliceator,
        arrange_spliceator,
    ),
    "hg19": single(
        "human genome, build hg19",
        "949 MB",
        "any use, credit",
        ucsc("hg19", "hg19.fa.gz", "806c02398f5ac5da8ffd6da2d1d5d1a9"),
    ),
    "hg38": single(
        "human genome, build hg38",
        "984 MB",
        "any use, credit",
        ucsc("hg38", "hg38.fa.gz", "1c9dcaddfa41027f17cd8f7a82c7293b"),
    ),
    "gencode-hg19": single(
        "GENCODE 45 annotation for hg19",
        "not recorded",
        "see README",
        gencode(f"{GENCODE}/GRCh37_mapping", "gencode.v45lift37.annotation.gtf.gz"),
    ),
    "gencode-hg38": single(
        "GENCODE 45 annotation for hg38",
        "not recorded",
        "see README",
        gencode(GENCODE, "gencode.v45.annotation.gtf.gz"),
    ),
    "human-reference": single(
        "GRCh38.p14, the human pre-training text",
        "973 MB",
        "no restriction",
        Source(
            f"{NCBI}/GCF_000001405.40_GRCh38.p14_genomic.fna.gz",
            f"{NCBI}/md5checksums.txt",
            "GCF_000001405.40_GRCh38.p14_genomic.fna.gz",
            "c30471567037b2b2389d43c908c653e1",
        ),
    ),
    "multi-species": single(
        f"genomes of {len(SPECIES)} animals, no human",
        "not recorded",
        "any use, credit",
        *(ucsc(build, f"species/{build}.fa.gz") for build in SPECIES),
    ),
}
