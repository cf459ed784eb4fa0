"""Which stretches of a genome are searched: regions in words, of a BED, or whole genes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from simcsp.core.errors import InputError
from simcsp.text.annotation import gene_bodies, other_spelling, read_annotation, symbols
from simcsp.text.reading import is_whole_number, table_rows
from simcsp.text.store import TokenStore

Span = tuple[int, int, int]
"""Record (its number in the store), first and last position, counted from 1."""


def find_spans(
    regions: Sequence[str], store: TokenStore, bed: Path | None = None, genes: Mapping[str, list[Span]] | None = None
) -> list[Span]:
    """What is to be searched, in the store's order, each position once.

    regions: 'chr1', 'chr1:1,000-2,000' (counted from 1, both ends included), or a name among `genes` (of `gene_spans`).
    Without regions and BED: the genes, or where there are none, all of it. Raises InputError for a record that the
    FASTA lacks, numbers that are no stretch of it, and where nothing is left.
    """
    wanted = [span for word in regions for span in _parse_region(word, store, genes or {})]
    if bed is not None:
        wanted += _bed_spans(bed, store)
    if not regions and bed is None:
        if genes is None:
            return [(number, 1, record.length) for number, record in enumerate(store.records)]
        wanted = [span for spans in genes.values() for span in spans]
    spans: list[Span] = []
    for number, first, last in sorted(wanted):
        if spans and spans[-1][0] == number and first <= spans[-1][2] + 1:
            spans[-1] = (number, spans[-1][1], max(last, spans[-1][2]))
        else:
            spans.append((number, first, last))
    return spans


def gene_spans(path: Path, store: TokenStore) -> dict[str, list[Span]]:
    """{symbol, or ID of a gene without one: its bodies} of a GTF or GFF3."""
    transcripts = read_annotation(path, store.lengths)
    symbol_of, spans = symbols(transcripts), {}
    for body in gene_bodies(transcripts):
        symbol = symbol_of[body.chrom, body.strand, body.gene]
        spans.setdefault(symbol, []).append((store.numbers[body.chrom], body.start + 1, body.end))
    return spans


def spans_after(spans: Sequence[Span], passed: int) -> list[Span]:
    """The spans without their first `passed` positions."""
    left = []
    for number, first, last in spans:
        done = min(passed, last - first + 1)
        passed -= done
        if first + done <= last:
            left.append((number, first + done, last))
    return left


def _parse_region(word: str, store: TokenStore, genes: Mapping[str, list[Span]]) -> list[Span]:
    if word in genes:
        return genes[word]
    name, colon, stretch = (word, "", "") if word in store.by_name else word.rpartition(":")
    name = name if colon else word
    if name not in store.by_name:
        gene = f"; nor is it one of the {len(genes):,} genes of --annotation" if genes else ""
        raise InputError(f"--region {word}: {_no_record(name, store)}{gene}")
    number, length = store.numbers[name], store.lengths[name]
    if not colon:
        return [(number, 1, length)]
    start, dash, end = stretch.replace(",", "").partition("-")
    end = end if dash else start
    if not (is_whole_number(start) and is_whole_number(end)) or not 1 <= int(start) <= int(end):
        raise InputError(f"--region {word}: expected NAME:START-END, counted from 1, both ends included")
    if int(start) > length:
        raise InputError(f"--region {word}: {name} has {length} nt only")
    return [(number, int(start), min(int(end), length))]


def _no_record(name: str, store: TokenStore) -> str:
    twin = other_spelling(name, store.by_name)
    hint = f"it is {twin!r} there" if twin else f"its first record is {store.records[0].name!r}"
    return f"no record {name!r} in {', '.join(store.manifest['sources'])}: {hint}"


def _bed_spans(path: Path, store: TokenStore) -> Iterator[Span]:
    """Rows of a BED: record, start (from 0), end; more columns or not. A row beyond its record is an error."""
    empty = True
    for where, line in table_rows(path):
        fields, empty = line.split(), False
        if len(fields) < 3 or not all(map(is_whole_number, fields[1:3])) or int(fields[1]) >= int(fields[2]):
            raise InputError(f"{where}: expected a BED's record, start (from 0), end, found {line.strip()[:60]!r}")
        name, start, end = fields[0], int(fields[1]), int(fields[2])
        if name not in store.by_name:
            raise InputError(f"{where}: {_no_record(name, store)}")
        if end > store.lengths[name]:
            raise InputError(
                f"{where}: {name} has {store.lengths[name]} nt only: the FASTA is a piece or another build"
            )
        yield store.numbers[name], start + 1, end
    if empty:
        raise InputError(f"{path} holds no row: the file is empty or of another kind")
