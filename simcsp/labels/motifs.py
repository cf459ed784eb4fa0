"""Labelled GT / AG sites of a genome: read SpliceBERT's motif BED, cut the windows, and make sure that the FASTA is the
genome build that the BED means.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simcsp.core.config import Config, DataConfig
from simcsp.core.errors import InputError
from simcsp.core.files import replacing
from simcsp.labels.spliceator import Windows
from simcsp.labels.splits import read_windows, selection_windows
from simcsp.text.alphabet import encode, reverse_complement
from simcsp.text.annotation import other_spelling
from simcsp.text.reading import is_whole_number, table_rows
from simcsp.text.sites import MOTIFS, motif_half, motif_label
from simcsp.text.store import TokenStore, open_store, padded

AGREEMENT = 0.95  # share of sites whose bases must be those of their label
NMI_CLUSTERS = 10  # of the k-means whose NMI stands beside that of Leiden
LEAST_SITES = 20  # of a strand, for its share to be judged by itself
_CAUSES = (  # read on the other strand, how far along the forward strand, what it means where the bases are right there
    (True, 0, "the strand column says the opposite strand"),
    (False, -1, "the starts are one too large (1-based, where BED counts from 0)"),
    (False, 1, "the starts are one too small"),
    (True, -1, "the strand column says the opposite strand and the starts are one too large"),
    (True, 1, "the strand column says the opposite strand and the starts are one too small"),
)


@dataclass(frozen=True)
class Motifs:
    """ids: uint8 [n, window], the two motif bases at the centre, transcript strand; labels: [n] such as 'GT(donor)'."""

    ids: np.ndarray
    labels: np.ndarray

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.ids.tobytes() + "\n".join(self.labels).encode()).hexdigest()


@dataclass(frozen=True)
class Site:
    """One row of the BED: 0-based half-open [start, end) of the two motif bases, and where it was read."""

    chrom: str
    start: int
    end: int
    strand: str
    label: str
    where: str


def read_bed(path: str | Path) -> list[Site]:
    """Sites of a motif BED, plain or gzipped: chrom, start, end, name, name2, strand; label = last `|` part of name."""
    sites = []
    for where, line in table_rows(path):
        fields = line.rstrip("\r\n").split("\t")
        if len(fields) < 6 or not all(map(is_whole_number, fields[1:3])) or fields[5] not in ("+", "-"):
            raise InputError(f"{where}: expected tab-separated chrom, start, end, name, name2, strand")
        site = Site(fields[0], int(fields[1]), int(fields[2]), fields[5], fields[3].rsplit("|", 1)[-1], where)
        if site.end - site.start != 2:
            hint = ": its start is 1-based, BED counts from 0" if site.end - site.start == 1 else ""
            raise InputError(f"{where}: a motif site spans two bases, this one {site.end - site.start}{hint}")
        if not site.label.startswith(("GT(", "AG(", "donor(", "acceptor(")):
            raise InputError(f"{where}: label {site.label!r} is none of GT(...), AG(...), donor(...), acceptor(...)")
        sites.append(site)
    if not sites:
        raise InputError(f"{path} holds no site: the file is empty or cut short")
    return sites


def cut_motifs(sites: list[Site], store: TokenStore, window: int, bed: str | Path) -> Motifs:
    """Windows about the sites on their own strand; beyond the ends of a record they are N, as published.

    left = (start + end) // 2 - window // 2; `window` is even. Raises InputError for a site outside its record, and
    where fewer than 95 % of the sites, of all or of one strand, show the bases of their label.
    """
    labels = np.array([site.label for site in sites])
    for half in ("GT", "AG"):
        if half.lower() not in motif_half(labels):
            raise InputError(f"{bed} has no {half} site: NMI is the mean of a GT half and an AG half")
    around = np.stack([_window(site, store, window + 2) for site in sites])
    minus = np.array([site.strand == "-" for site in sites])
    _check_build(around[:, window // 2 - 1 : window // 2 + 3], labels, minus, store, bed)
    return Motifs(np.ascontiguousarray(around[:, 1:-1]), labels)


def _window(site: Site, store: TokenStore, window: int) -> np.ndarray:
    record = store.by_name.get(site.chrom)
    if record is None:
        twin = other_spelling(site.chrom, store.by_name)
        hint = f": it is {twin!r} there, give both files the same names" if twin else ""
        raise InputError(f"{site.where}: no record {site.chrom!r} in {', '.join(store.manifest['sources'])}{hint}")
    if site.end > record.length:
        raise InputError(
            f"{site.where}: the site ends at {site.end}, beyond record {site.chrom} of {record.length} nt in "
            f"{', '.join(store.manifest['sources'])}: the BED is of another genome build"
        )
    left = (site.start + site.end) // 2 - window // 2
    ids = padded(store, record, left, left + window)
    return reverse_complement(ids) if site.strand == "-" else ids


def _check_build(four: np.ndarray, labels: np.ndarray, minus: np.ndarray, store: TokenStore, bed: str | Path) -> None:
    """four: uint8 [n, 4], the motif and a base on either side, transcript strand."""
    wanted = np.array([encode(half.upper()) for half in motif_half(labels)])

    def agrees(other_strand: bool = False, moved: int = 0) -> np.ndarray:
        """[n]: the label's bases are there, read on the other strand and `moved` nt along the forward strand."""
        left = 1 + np.where(minus, -moved, moved)
        pairs = np.take_along_axis(four, left[:, None] + np.arange(2), axis=1)
        return ((reverse_complement(pairs) if other_strand else pairs) == wanted).all(axis=1)

    right = agrees()
    strands = {name: rows for name, rows in (("+", ~minus), ("-", minus)) if rows.sum() >= LEAST_SITES}
    failing = [name for name, rows in strands.items() if right[rows].mean() < AGREEMENT]
    if right.mean() >= AGREEMENT and not failing:
        return
    # What all sites have in common is looked for in all; where one strand is fine, in the other.
    one_strand = len(failing) == 1 and len(strands) == 2
    suspects = strands[failing[0]] if one_strand else np.full(len(right), True)
    causes = (cause for *read, cause in _CAUSES if agrees(*read)[suspects].mean() >= AGREEMENT)
    cause = next(causes, "another genome build, or another piece of the genome")
    where = f"on the {failing[0]} strand, " if one_strand else ""
    shares = ", ".join(f"{right[rows].mean():.1%} on the {name} strand" for name, rows in strands.items())
    raise InputError(
        f"only {right.mean():.1%} of the sites in {bed} show the GT / AG of their label in "
        f"{', '.join(store.manifest['sources'])} (at least {AGREEMENT:.0%} must"
        f"{', on either strand; here ' + shares if shares else ''}): {where}{cause}"
    )


# -- windows cut once, so that later runs need no genome ---------------------------------------------------------------


def save_motifs(motifs: Motifs, path: Path, sources: dict[str, str]) -> None:
    """Write windows and labels to an .npz; sources: name and hash of the BED and the FASTA they were cut from."""
    with replacing(path) as aside, open(aside, "wb") as file:
        np.savez_compressed(file, ids=motifs.ids, labels=motifs.labels, sources=np.array(json.dumps(sources)))


def read_cut(path: str | Path, window: int) -> Motifs:
    """Windows that `save_motifs` wrote, cropped about the site to `window` nt. Raises InputError where they are too
    short, were cut one base off by an earlier version's switch, or the file is none of these."""
    try:
        with np.load(path, allow_pickle=False) as file:
            ids, labels = file["ids"], file["labels"]
            shifted = bool(file.get("legacy_strand_offset", False))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: cut it with python data/motifs.py cut") from None
    except (OSError, ValueError, KeyError, EOFError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error):
        raise InputError(f"{path} holds no windows of python data/motifs.py cut, or is damaged: cut it again") from None
    if ids.shape[1] < window:
        raise InputError(
            f"{path} holds windows of {ids.shape[1]} nt, and data.motif_window is {window}: "
            f"lower it, or cut again with --window {window}"
        )
    if shifted:
        raise InputError(f"{path} was cut with --legacy-strand-offset, one base off on the minus strand: cut it again")
    left = (ids.shape[1] - window) // 2
    return Motifs(np.ascontiguousarray(ids[:, left : left + window]), labels)


def load_motifs(data: DataConfig) -> Motifs | None:
    """The motif sites of a run, or None where the config names no BED.

    Raises InputError where a half has sites of one label only: a single cluster would agree with them perfectly.
    """
    if data.motif_bed is None:
        return None
    if data.motif_bed.endswith(".npz"):
        sites = read_cut(data.motif_bed, data.motif_window)
    else:
        store = open_store([data.motif_fasta], data.cache)
        sites = cut_motifs(read_bed(data.motif_bed), store, data.motif_window, data.motif_bed)
    _require_two_labels(sites, f"data.motif_bed ({data.motif_bed})", "")
    return sites


def spliceator_sites(windows: Windows, length: int) -> Motifs:
    """Spliceator windows as motif sites, labelled by site type and label: GT(donor), GT(non-donor), AG(acceptor), ...

    The two motif bases are moved to the centre of `length` nt, as in windows of a motif BED: GT follows a donor's
    boundary, AG precedes an acceptor's. Windows that show another pair there (exon and intron negatives, rare sites)
    are left out, for it would tell their label.
    """
    room = windows.ids.shape[1]
    length = min(length, (room - 2) // 2 * 2)
    donor = windows.sites == "donor"
    left = (room - length) // 2 + np.where(donor, 1, -1)
    ids = np.take_along_axis(windows.ids, left[:, None] + np.arange(length), axis=1)
    pairs = np.where(donor[:, None], encode(MOTIFS["donor"]), encode(MOTIFS["acceptor"]))
    kept = (ids[:, length // 2 - 1 : length // 2 + 1] == pairs).all(axis=1)
    labels = np.array([motif_label(site, label == 1) for site, label in zip(windows.sites, windows.labels)])
    return Motifs(np.ascontiguousarray(ids[kept]), labels[kept])


def sites_of_run(config: Config) -> Motifs | None:
    """The sites whose NMI a run measures, as evaluate.nmi_sites names them; None where there is no file of them."""
    if config.evaluate.nmi_sites == "motifs":
        return load_motifs(config.data)
    return load_nmi_sites(config)[0] if config.data.spliceator is not None else None


def load_nmi_sites(config: Config) -> tuple[Motifs, str]:
    """The sites that evaluate.nmi_sites names, and a phrase that says what they are.

    Raises InputError where data.motif_bed is not set, or a half has sites of one label only.
    """
    if config.evaluate.nmi_sites == "spliceator":
        chosen = selection_windows(*read_windows(config.data, config.folder))
        sites = spliceator_sites(chosen, config.data.context)
        _require_two_labels(sites, "evaluate.nmi_sites (spliceator)", ", raise data.selection_share")
        phrase = f"{len(sites.labels)} of {len(chosen)} selection windows, those with GT or AG at the site"
    else:
        sites = load_motifs(config.data)
        if sites is None:
            raise InputError(
                "data.motif_bed is not set: NMI needs a BED of labelled GT / AG sites, and its FASTA, "
                "or --evaluate.nmi_sites spliceator"
            )
        phrase = f"{len(sites.labels)} motif sites"
    if len(sites.labels) < NMI_CLUSTERS:
        raise InputError(f"{phrase}: NMI beside {NMI_CLUSTERS} clusters of k-means takes at least as many")
    return sites, phrase


def _require_two_labels(sites: Motifs, field: str, remedy: str) -> None:
    halves = motif_half(sites.labels)
    for half in ("gt", "ag"):
        names = np.unique(sites.labels[halves == half])
        if len(names) < 2:
            raise InputError(
                f"{field}: the {half.upper()} half has sites of {len(names)} label(s), {', '.join(names) or 'none'}: "
                f"NMI compares at least two{remedy}"
            )
