"""What data/fetch.py can fetch: sources, and what of their archives goes where under data/."""

from __future__ import annotations

import gzip
import os
import posixpath
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from data.convert import genes_from_npz, introns_from_iic
from data.regions import JUNCTIONS, TEXTS, make_regions
from data.variants import make_conservation, make_mfass, make_peers, make_vexseq
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

# A commit names one version of a file for ever, so its hash is kept here.
RAW = "https://raw.githubusercontent.com"
SPLICEBERT_CODE = f"{RAW}/chenkenbio/SpliceBERT"
MFASS = f"{RAW}/KosuriLab/MFASS/9a8e4f27106be52aeb11acad27f95f5cded663a8/processed_data/snv"
VEXSEQ = f"{RAW}/scottiadamson/Vex-seq/36d9c4a6e5e74def46b3cada69d3166f08c54bd5"
VEXSEQ_SEQUENCES = "1eec399464a1ed35ec745033df8164d6f9011f328b8cee0b5a1074777bd87d2f"
VEXSEQ_VALUES = "2f4269237c252f852deb3956e43f38a2a3a138a9508c15ece352eb37c19ae326"
CONSENSUS = f"{RAW}/brhanufen/spliceconsensus/cdb411fd5fc30dd811284f7c59ce1b5acf4e9c82"
ATTENTION = {
    "gencode.v41lift37.MANE.intron.for_attention": "0cb3a81b7ab20fa9dc8ff1c4f5634d854de5817d412ca42363c53c81e03fb1f2",
    "hg19.acceptor_pair.1000_per_group": "33e635c6f59e3d317069850f7db442a6bb0517596d568fa00f8300300eef09c4",
    "hg19.donor_pair.1000_per_group": "a5585a8695f539b8f70f8a9a9590479702f2bcdfaa499c7f4dc2bbd893499801",
    "hg19.exonic_pair.1000_per_group": "f56effe2d1b9ca64216e03e5bd8dca4f20dec4f7c9614a21bd0b698d131202ea",
    "hg19.intronic_pair.1000_per_group": "7a7d0861945240bade7803f36128bd67e19f69cf81cd5356e7bae87d9211fee7",
    "hg19.random_pair.1000_per_group": "4177557542763b97332d4673f9ae44ead7f7cf90c24ef4b85a56a12e9e7fbdd5",
    "hg19.unpair.1000_per_group": "c01faf7aa5cbc8d8c082e4afdd803753529da978691d2326de70cd13d292efbc",
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
    """Where it is; `pip:FILE` for a file of a package, which pip downloads (`requirement`)."""
    checksums: str | None = None
    """URL of the publisher's list of MD5 sums: Zenodo's record, or lines of `sum name`."""
    to: str | None = None
    """Where it ends up under data/; None: it is an archive, to be unpacked."""
    md5: str | None = None
    """What other projects have noted from that list; stands in only where the list cannot be reached."""
    sha256: str | None = None
    """For files whose address names one version for ever, so that no list is needed."""
    git: str | None = None
    """What the tree of the commit calls the file, where its sha256 is not recorded: git's own sha1."""
    requirement: str | None = None
    """What pip calls the package and its version."""

    @property
    def name(self) -> str:
        return posixpath.basename(urlsplit(self.url).path)


SWELLS, LEAST_ROOM = 50, 100_000_000  # times its size, and bytes, that an archive may unpack to


INTRONIC = Source(
    "pip:intronic-3.0.0-py3-none-any.whl",
    sha256="0b4bd600f96103c5c821f429e201f2b3086b23698d7b1b0e853b833be5b27a0d",
    requirement="intronic==3.0.0",
)
FRAME_CHECKS = Source(
    "pip:frame_alignment_checks-0.0.74.tar.gz",
    sha256="834bfcd769082e3904fcc7e5a507b5764bb700486a5cb0b23baaf269e747774a",
    requirement="frame-alignment-checks==0.0.74",
)
CISPLICEAI = Source(
    "pip:cispliceai-1.2.2-py3-none-any.whl",
    sha256="def1db5358848a19533fd387e0620fc0df79784b9e6e1cba1a045ad6678e1da7",
    requirement="cispliceai==1.2.2",
)
CHR19 = {
    "Homo_sapiens.Chr19.Ensembl_91.fa.gz": "chr19.fa.gz",
    "Homo_sapiens.Chr19.Ensembl_91.gff3.gz": "chr19.gff3.gz",
}
INTRONS = {
    "u2_reference_human.introns.iic.gz": "human",
    "u2_reference_multispecies.introns.iic.gz": "multispecies",
}
GENES = ("relevant_validation_genes.npz", "relevant_validation_genes_transcript_coords.json")


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

    build: Callable[[Path, Path], None] | None = None
    """Make the last of `places`, a file or folder, from the files of the set, once all are there. Given: data/, and
    where to write it."""

    def key(self, source: Source) -> str:
        """What the lock calls a file of this set; an archive may serve several sets."""
        return f"{source.name} ({self.places[0]})" if source.requirement else source.name


def single(
    what: str, size: str, licence: str, *sources: Source, made: str | None = None, build: Callable | None = None
) -> DataSet:
    """Files that stay as they are; and `made`, which `build` makes of them."""
    places = [source.to for source in sources] + ([made] if made else [])
    return DataSet(what, size, licence, sources, tuple(places), build=build)


def into(folder: str, url: str, sha256: str | None = None, git: str | None = None) -> Source:
    """A file of a commit, under data/folder by its own name."""
    return Source(url, to=f"{folder}/{posixpath.basename(url)}", sha256=sha256, git=git)


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


def is_chr19(member: PurePosixPath) -> bool:
    return member.name in CHR19


def arrange_chr19(found: Path, out: Path) -> list[str]:
    for name, to in CHR19.items():
        take(need(found, name), out / to)
    return []


def is_intron_table(member: PurePosixPath) -> bool:
    return member.name in INTRONS


def arrange_introns(found: Path, out: Path) -> list[str]:
    (out / "introns").mkdir(parents=True)
    for name, to in INTRONS.items():
        introns_from_iic(need(found, name), out / "introns" / to)
    return []


def is_gene_table(member: PurePosixPath) -> bool:
    return member.name in GENES


def arrange_genes(found: Path, out: Path) -> list[str]:
    (out / "genes").mkdir(parents=True)
    genes_from_npz(*(need(found, name) for name in GENES), out / "genes")
    return []


def is_region_file(member: PurePosixPath) -> bool:
    return member.name in (TEXTS, JUNCTIONS)


def arrange_regions(found: Path, out: Path) -> list[str]:
    """Of either archive, what it has: make_regions reads both."""
    files = [path for name in (TEXTS, JUNCTIONS) if (path := find(found, name))]
    if not files:
        raise InputError(f"holds neither {TEXTS} nor {JUNCTIONS}: this is another archive")
    for path in files:
        take(path, out / "regions-source" / path.name)
    return []


def need(folder: Path, name: str) -> Path:
    """A member that the set cannot do without."""
    path = find(folder, name)
    if path is None:
        raise InputError(f"holds no {name}: this is another archive")
    return path


def unpack(archive: Path, to: Path, is_wanted: Callable[[PurePosixPath], bool]) -> None:
    """Unpack the wanted members. One member that could reach outside `to`, wanted or not, and nothing more is done."""
    if archive.suffix == ".whl":
        unpack_wheel(archive, to, is_wanted)
        return
    if not hasattr(tarfile, "data_filter"):
        raise InputError("can be unpacked safely from Python 3.11.4 on, and this one is older: use a newer Python")
    room = room_of(archive)
    try:
        with tarfile.open(archive, "r:*") as tar:
            for member in tar:
                room = check_room(member.size, room)
                tarfile.data_filter(member, str(to))  # refuses links and paths that lead outside, and devices
                path = PurePosixPath(member.name)
                if not member.isdir() and is_wanted(path) and not path.name.startswith("._"):  # macOS's own
                    tar.extract(member, to, filter="data")
    except tarfile.FilterError as error:
        raise InputError(f"member {error.tarinfo.name!r} is a device or leads outside: do not trust it") from None
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"is damaged, cut short or no tar archive ({error}): remove it and fetch it again") from None


def room_of(archive: Path) -> int:
    """Bytes that an archive may unpack to: sequence shrinks to a quarter, tables of it to a tenth."""
    return SWELLS * archive.stat().st_size + LEAST_ROOM


def check_room(size: int, room: int) -> int:
    """What is left of the room after a member."""
    if size > room:
        raise InputError(f"unpacks to more than {SWELLS} times its size: do not trust it")
    return room - size


def unpack_wheel(archive: Path, to: Path, is_wanted: Callable[[PurePosixPath], bool]) -> None:
    """The wanted members of a wheel, which is a zip file, by their last names alone."""
    room = room_of(archive)
    try:
        with zipfile.ZipFile(archive) as members:
            for member in members.infolist():
                if is_wanted(path := PurePosixPath(member.filename)):
                    room = check_room(member.file_size, room)
                    with members.open(member) as source, open(to / path.name, "wb") as target:
                        shutil.copyfileobj(source, target)
    except (zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise InputError(f"is damaged, cut short or no zip archive ({error}): remove it and fetch it again") from None


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
    "chr19": DataSet(
        "all of GRCh38 chr19, Ensembl 91 annotation",
        "56 MB",
        "facts; package GPL-3",
        (INTRONIC,),
        tuple(CHR19.values()),
        is_chr19,
        arrange_chr19,
    ),
    "introns": DataSet(
        "human introns, and those of 90 species",
        "56 MB, as chr19",
        "facts; package GPL-3",
        (INTRONIC,),
        ("introns",),
        is_intron_table,
        arrange_introns,
    ),
    "genes": DataSet(
        "610 whole genes of chr1 and chr3, sites labelled",
        "45 MB",
        "facts; package: not stated",
        (FRAME_CHECKS,),
        ("genes",),
        is_gene_table,
        arrange_genes,
    ),
    "regions": DataSet(
        "3,183 regions of genes of all chromosomes, sites",
        "62 MB, 45 of them as genes",
        "facts; CC BY 4.0, not stated",
        (CISPLICEAI, FRAME_CHECKS),
        (f"regions-source/{JUNCTIONS}", f"regions-source/{TEXTS}", "regions"),
        is_region_file,
        arrange_regions,
        make_regions,
    ),
    "attention": single(
        "SpliceBERT's pairs of sites for attention (hg19)",
        "1.8 MB",
        "BSD-3-Clause",
        *(
            Source(
                f"{SPLICEBERT_CODE}/6957f123b8c521eb5d309e1ffbd868a53e246da9/examples/03-attention/{name}.bedpe.gz",
                to=f"attention/{name}.bedpe.gz",
                sha256=sha256,
            )
            for name, sha256 in ATTENTION.items()
        ),
    ),
    "branchpoints": single(
        "SpliceBERT's branch points, Mercer 2015 (hg19)",
        "2.4 MB",
        "BSD-3-Clause",
        Source(
            f"{SPLICEBERT_CODE}/8545260072a1f3db096997cbe3dcb345515120aa/examples/data/mercer_dataset.hg19.bed.gz",
            to="branchpoints/mercer_dataset.hg19.bed.gz",
            sha256="de0bfd6f6d6bf7e9e48da417ffe6a28ec97ddb8d7c82a17f92c9a06f04747d63",
        ),
    ),
    "mfass": single(
        "MFASS, measured effects of SNVs on exon inclusion",
        "not recorded",
        "not stated",
        into("variants", f"{MFASS}/snv_data_clean.txt", git="2ed0db9635f64d8d3c3c3a5d4e84f98e2eaefefc"),
        made="variants/mfass.tsv.gz",
        build=make_mfass,
    ),
    "conservation": single(
        "phastCons100 of every base of MFASS' exons",
        "not recorded",
        "not stated",
        into("conservation", f"{MFASS}/snv_nat_cons_scores_all.bed", git="5f94db1fab6c608f54909760ce0664f8fbd41a69"),
        made="conservation/mfass.phastcons.tsv.gz",
        build=make_conservation,
    ),
    "mfass-peers": single(
        "scores of seven others on MFASS' variants",
        "9.3 MB",
        "MIT; MFASS' not stated",
        *(
            into("variants/peers", f"{CONSENSUS}/{path}", sha256)
            for path, sha256 in {
                "results/scores_spliceai.csv": "2e923e60c7611486ebcd95797c3e436807535d9463be4685dcc8e44b13239776",
                "results/scores_pangolin.csv": "c76ce4fbe4c5c979c4e1534068e72354223f0d5c62d3f7e91e1f4fccd16341fa",
                "results/scores_splicetx.csv": "d482551808825d2de59952d006a8524f97efec451db01201544ef3a08e6d3a8f",
                "results/scores_mmsplice.csv": "b05b07be7db19a39a040963885f5053ad164b851cebad377113747f0a227dec0",
                "data/mfass_labels.csv": "ce6e3b584ae8fe07d52f1f2611689c6d68ed531c4d2b5b073af94851c146cd7c",
            }.items()
        ),
        *(
            into("variants/peers", f"{MFASS}/{name}", sha256)
            for name, sha256 in {
                "snp_position_cons_scores.bed": "247e87943cf508a24888cd9a18c5b65456ac456810e46d40b72e292a06a5f55a",
                "snp_position_phyloP_scores.bed": "de6552816f494e18222aa1febfb72b61ce17015039e6af421c38b51139368377",
            }.items()
        ),
        made="variants/mfass.peers.tsv.gz",
        build=make_peers,
    ),
    "vexseq": single(
        "Vex-seq, the same in HepG2 and K562",
        "3.8 MB",
        "MIT",
        into("variants/vexseq", f"{VEXSEQ}/preprocess_data/68_97_final_sequences_fixed.tsv", VEXSEQ_SEQUENCES),
        into("variants/vexseq", f"{VEXSEQ}/processed_files/delta_PSI_values.tsv", VEXSEQ_VALUES),
        made="variants/vexseq.tsv.gz",
        build=make_vexseq,
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
