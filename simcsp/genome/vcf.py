"""VCF and BCF: rows read as the text that they are, and written with INFO SimCSP and all else as it was."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pysam
import pysam.bcftools

from simcsp.core.errors import InputError
from simcsp.core.files import replacing, written_aside
from simcsp.genome.effects import COUNTED, Effects, Row
from simcsp.genome.journal import Journal
from simcsp.text.reading import is_whole_number, open_binary, unzipped

FIELD = "SimCSP"
LAYOUT = "ALLELE|SYMBOL|DS_AG|DS_AL|DS_DG|DS_DL|DP_AG|DP_AL|DP_DG|DP_DL"
_DECLARED = f'##INFO=<ID={FIELD},Number=.,Type=String,Description="Change of splice sites. Format: {LAYOUT}">'
_COLUMNS = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO"]
_CHECK_EVERY = 1000
_ROWS = 64  # an entry of the journal
_TEXT = {"encoding": "utf-8", "errors": "surrogateescape"}  # bytes that are no UTF-8 come out as they went in


class Variants(NamedTuple):
    """header: lines without their ends, the one of the columns last; rows: fields of each."""

    header: list[str]
    rows: Iterator[list[str]]

    @property
    def contigs(self) -> set[str]:
        found = (re.match(r"##contig=<(?:.*,)?ID=([^,>]+)", line) for line in self.header)
        return {match[1] for match in found if match}


@contextmanager
def open_variants(path: str) -> Iterator[Variants]:
    """A VCF, plain or compressed by gzip or bgzip, or a BCF; '-' is stdin.

    Raises InputError, with the line where there is one, for what is neither and for a row that cannot be read.
    """
    with ExitStack() as stack:
        if path == "-":
            raw = sys.stdin.buffer
            if _is_bcf(raw):
                spooled = stack.enter_context(tempfile.NamedTemporaryFile(suffix=".bcf"))
                shutil.copyfileobj(raw, spooled)
                spooled.flush()
                lines = _bcf_lines(spooled.name, path)
            else:
                lines = _text_lines(unzipped(raw, "--vcf -"))
        else:
            handle = stack.enter_context(open_binary(path))
            lines = _bcf_lines(path, path) if handle.peek(3)[:3] == b"BCF" else _text_lines(handle)
        numbered = enumerate(lines, start=1)
        header = _header(path, numbered)
        yield Variants(header, _rows(path, numbered, header[-1].count("\t") + 1))


def _is_bcf(raw: BinaryIO) -> bool:
    start = raw.peek(64)
    return start[:2] == b"\x1f\x8b" and zlib.decompressobj(31).decompress(start)[:3] == b"BCF"


def _text_lines(handle: BinaryIO) -> Iterator[str]:
    yield from io.TextIOWrapper(handle, **_TEXT)


def _bcf_lines(path: str, name: str) -> Iterator[str]:
    pysam.set_verbosity(0)
    try:
        with pysam.VariantFile(path) as variants:
            yield from str(variants.header).splitlines()
            yield from map(str, variants)
    except Exception as error:  # its readers raise whatever they like
        raise InputError(f"--vcf {name} cannot be read as BCF ({error}): bcftools view says what is wrong") from None


def _header(path: str, lines: Iterator[tuple[int, str]]) -> list[str]:
    header = []
    for _, line in lines:
        header.append(line.rstrip("\r\n"))
        if not line.startswith("##"):
            break
    if not header or header[-1].split("\t")[: len(_COLUMNS)] != _COLUMNS:
        raise InputError(f"--vcf {path} is not a VCF or BCF: it has no line {' '.join(_COLUMNS)}, separated by tabs")
    return header


def _rows(path: str, lines: Iterator[tuple[int, str]], columns: int) -> Iterator[list[str]]:
    for number, line in lines:
        fields = line.rstrip("\r\n").split("\t")
        if fields == [""]:
            continue
        if len(fields) != columns or not is_whole_number(fields[1]):
            raise InputError(
                f"--vcf {path}, line {number}: a row cannot be read: expected {columns} columns, as in the header, "
                f"and a number in POS, found {len(fields)}: {line.strip()[:60]!r}"
            )
        yield fields


def count_alleles(path: str) -> int:
    """Alleles of a VCF or BCF, each of which is scored. Raises InputError for a row that cannot be read."""
    with open_variants(path) as variants:
        return sum(len(_alts(fields)) for fields in variants.rows)


def annotate(
    path: str, out: Path | None, effects: Effects, skipped: Counter[str], journal: Journal | None = None
) -> Iterator[int]:
    """Write every row of a VCF with INFO SimCSP, all else as it is; yields alleles as they are done.

    out: None is stdout; .vcf.gz and .bcf are compressed. The file appears under its name when all is written.
    journal: of what was done before the command was stopped. Raises InputError for a VCF of another build or of other
    contigs, and for a row that cannot be read.
    """
    with open_variants(path) as variants:
        effects.alleles.check_contigs(path, variants.contigs)  # before any of a long file is read
        own = re.compile(rf"##INFO=<(?:.*,)?ID={FIELD}[,>]")
        header = [*(line for line in variants.header[:-1] if not own.match(line)), _DECLARED, variants.header[-1]]
        seen, declared = dict[str, None](), variants.contigs

        def undeclared() -> list[str]:
            absent = {name: effects.alleles.record_of(name) for name in seen if name not in declared}
            length = {name: f",length={record.length}" if record else "" for name, record in absent.items()}
            return [f"##contig=<ID={name}{length[name]}>" for name in absent]

        with _writer(out, header, undeclared) as write:
            for fields, entries in _annotated(variants.rows, effects, skipped, journal):
                fields[7] = _with_entries(fields[7], entries)
                write("\t".join(fields) + "\n")
                seen[fields[0]] = None
                yield len(_alts(fields))
            effects.alleles.check_contigs(path, seen)
            effects.alleles.check_build()


def _alts(fields: list[str]) -> tuple[str, ...]:
    return () if fields[4] == "." else tuple(fields[4].split(","))


def _with_entries(info: str, entries: list[str]) -> str:
    items = [item for item in info.split(";") if item not in (".", "") and item.partition("=")[0] != FIELD]
    return ";".join([*items, f"{FIELD}={','.join(entries)}"] if entries else items) or "."


def _annotated(
    rows: Iterator[list[str]], effects: Effects, skipped: Counter[str], journal: Journal | None
) -> Iterator[tuple[list[str], list[str]]]:
    """Each row with INFO's values; what stands in the journal is not computed again."""
    counts = effects.alleles.counts
    for payload in journal.entries() if journal else ():
        entry = json.loads(payload)
        skipped.update(entry["skipped"])
        counts.update({name: entry[name] for name in COUNTED})
        yield from zip(islice(rows, len(entry["info"])), entry["info"], strict=True)
    while block := list(islice(rows, _ROWS)):
        skipped_before, before = Counter(skipped), Counter(counts)
        scored = [Row(fields[0], int(fields[1]), fields[3], _alts(fields)) for fields in block]
        info = effects.entries(scored, skipped)
        if counts["seen"] // _CHECK_EVERY > before["seen"] // _CHECK_EVERY:
            effects.alleles.check_build()
        if journal:
            added = {name: counts[name] - before[name] for name in COUNTED}
            journal.add(json.dumps({"info": info, "skipped": skipped - skipped_before, **added}).encode())
        yield from zip(block, info)


@contextmanager
def _writer(
    out: Path | None, header: list[str], contig_lines: Callable[[], list[str]]
) -> Iterator[Callable[[str], None]]:
    """What writes a line: to stdout (None), as text, compressed in blocks (.gz) or as BCF (.bcf).

    contig_lines: of contigs that the header lacks, known when all is written; BCF, which is made of the text, needs
    them, a VCF does not.
    """
    text = "\n".join(header) + "\n"
    if out is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode(**_TEXT))
        yield lambda line: sys.stdout.buffer.write(line.encode(**_TEXT))
        sys.stdout.buffer.flush()
        return
    if out.suffix != ".bcf":
        with written_aside(out, _TEXT["errors"]) as handle:
            handle.write(text)
            yield handle.write
        return
    with replacing(out) as aside:
        body = aside.with_name(f"{aside.name}.body")
        with open(body, "w", newline="\n", **_TEXT) as handle:
            yield handle.write
        _write_bcf([*header[:-1], *contig_lines(), header[-1]], body, aside)


def _write_bcf(header: list[str], body: Path, out: Path) -> None:
    whole = body.with_name(f"{body.name}.vcf")
    try:
        with open(whole, "wb") as joined, open(body, "rb") as rows:
            joined.write(("\n".join(header) + "\n").encode(**_TEXT))
            shutil.copyfileobj(rows, joined)
        if not _to_bcf(whole, out):
            if not _to_bcf(whole, Path(os.devnull)):
                raise InputError(
                    f"{out.name}: BCF cannot hold a row, such as one with a tag that the header does not declare: "
                    "write .vcf.gz"
                )
            shutil.copyfile(whole, out)  # what refused the library's bytes says why
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(out))
    finally:
        for path in (body, whole):
            path.unlink(missing_ok=True)


def _to_bcf(text: Path, out: Path) -> bool:
    """Whether a VCF could be written as BCF; the library does not tell a bad row from a full disk."""
    pysam.set_verbosity(0)
    try:
        pysam.bcftools.view("--no-version", "-Ob", "-o", str(out), str(text), catch_stdout=False)
    except pysam.SamtoolsError:
        return False
    return True
