"""predict's work: sites of a genome, variants, or plain sequences scored to a file that appears when it is whole, or to
a stream. What a file depends on is kept in a journal beside it, from which the same command resumes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from simcsp.core.errors import InputError
from simcsp.core.files import sha256_file, written_aside
from simcsp.genome.journal import Journal
from simcsp.genome.scan import Scan, Scored, scan_on
from simcsp.genome.tracks import write_bigwigs, write_scores
from simcsp.genome.truth import Truth

if TYPE_CHECKING:
    from simcsp.genome.effects import Effects

Advance = Callable[[int, bool], None]
"""Is told how many more (bases, alleles) are done, and whether a command that was stopped did them."""
Identity = Mapping[str, object]
"""{what the scores depend on: plain values}: another one is refused where a journal is resumed."""


@dataclass
class ScanResult:
    """scored: sites that the model scored; written: those of at least min_score; files: of bigWig, one a track."""

    scored: int = 0
    written: int = 0
    files: list[Path] = field(default_factory=list)


def write_scan(
    scan: Scan,
    form: str,
    out: Path | None,
    stream: TextIO | None,
    identity: Identity,
    advance: Advance,
    truth: Truth | None = None,
) -> ScanResult:
    """Score the sites of a scan and write them in a format of `tracks` to `out`, else to `stream`, else nowhere.

    identity: of model, FASTA and device. truth: is shown every scored site.
    """
    least = 0.0 if truth else scan.min_score  # of what the journal keeps
    settings = {"--region": scan.spans, "--sites": scan.every, "--site": scan.types, "--min_score or --truth": least}
    result, store = ScanResult(), scan.store
    with resumable(out, {**identity, **settings}) as journal:

        def blocks() -> Iterator[Scored]:
            for block, scored, passed in scan_on(scan, least, journal):
                result.scored += scored
                if truth is not None and len(block):
                    truth.add(block)
                advance(passed, journal is not None and journal.replaying)
                yield block.take(block.score >= scan.min_score)

        if form == "bigwig":
            result.written, result.files = write_bigwigs(out.with_suffix(""), store, blocks())
        elif out is None and stream is None:
            result.written = sum(map(len, blocks()))
        else:
            with _opened(out, stream) as handle:
                result.written = write_scores(handle, form, store, blocks(), out.parent if out else None)
    return result


def write_variants(
    vcf: Path, annotation: Path | None, out: Path | None, effects: Effects, identity: Identity, advance: Advance
) -> Counter[str]:
    """Write a VCF with INFO SimCSP to `out` (None: stdout); {why alleles were left out: how many}.

    vcf: '-' is stdin, which no command can resume. annotation: what the genes of `effects` come from.
    """
    from simcsp.genome.vcf import annotate  # pysam takes a while

    is_file, skipped = vcf.is_file(), Counter()
    settings = {"--flank": effects.flank, "--mask": effects.mask, "--strict": effects.alleles.strict}
    for name, path in (("--vcf", vcf), ("--annotation", annotation)):
        settings[name] = sha256_file(path) if path is not None and path.is_file() else None
    with resumable(out if is_file else None, {**identity, **settings}) as journal:
        for passed in annotate(str(vcf), out, effects, skipped, journal):
            advance(passed, journal is not None and journal.replaying)
    return skipped


def write_sequences(
    columns: tuple[str, ...],
    rows: Iterator[tuple[list[str], int]],
    out: Path | None,
    stream: TextIO,
    advance: Advance,
) -> int:
    """Write the rows of `sequences` under their columns to `out`, else to `stream`; returns how many."""
    written = 0
    with _opened(out, stream) as handle:
        handle.write("\t".join(columns) + "\n")
        for lines, passed in rows:
            handle.writelines(lines)
            written += len(lines)
            advance(passed, False)
    return written


@contextmanager
def resumable(out: Path | None, identity: Identity) -> Iterator[Journal | None]:
    """The journal OUT.partial, removed when the file is whole, or cannot be made of this input. None without a file."""
    if out is None:
        yield None
        return
    with Journal(out.with_name(f"{out.name}.partial"), dict(identity)) as journal:
        try:
            yield journal
        except (InputError, FloatingPointError):
            journal.remove()
            raise
        journal.remove()


def _opened(out: Path | None, stream: TextIO | None) -> AbstractContextManager[TextIO]:
    return nullcontext(stream) if out is None else written_aside(out)
