"""Classes of annotated sites, by the transcripts that have them: sites of some are much harder to find."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

from simcsp.labels.bases import LABEL
from simcsp.text.alphabet import decode, reverse_complement
from simcsp.text.annotation import SHORTEST_INTRON, Transcript, read_annotation
from simcsp.text.store import TokenStore

Site = tuple[str, int, int, int]
"""Record, minus strand (0 or 1), the exon's base (0-based), label (`LABEL`)."""
GROUPS = ("region", "place", "use", "motif")


def site_classes(path: str | Path, store: TokenStore) -> dict[str, dict[Site, str]]:
    """{group: {site: class}} of the introns of a GTF or GFF3.

    region: 'coding' where the exon's base is translated in some transcript, 'UTR' of other sites of coding transcripts,
    'non-coding'; no such group without CDS rows. place: 'first', 'internal', 'last' or 'only' intron, in most of its
    transcripts. use: 'constitutive' where all transcripts of its gene that span the base have the site, else
    'alternative'; genes of one transcript say nothing, and are left out. motif: of the intron's ends, 'GT-AG', 'GC-AG'
    or 'other', in most of its transcripts.
    """
    lengths = {record.name: record.length for record in store.records}
    transcripts = read_annotation(path, lengths)
    coding = {
        (part.chrom, part.name): (int(part.exons[0, 0]), int(part.exons[-1, 1]))
        for part in read_annotation(path, lengths, feature="CDS")
    }
    votes: dict[str, dict[Site, Counter[str]]] = {group: defaultdict(Counter) for group in GROUPS}
    of_gene: dict[tuple[str, str, str], list[Transcript]] = defaultdict(list)
    for transcript in transcripts:
        of_gene[transcript.chrom, transcript.strand, transcript.gene].append(transcript)
        for site, place, motif in _sites(transcript, store):
            votes["place"][site][place] += 1
            votes["motif"][site][motif] += 1
            if coding:
                first, end = coding.get((transcript.chrom, transcript.name), (0, 0))
                region = "coding" if first <= site[2] < end else "UTR" if end else "non-coding"
                votes["region"][site][region] += 1
    for members in of_gene.values():
        if len(members) > 1:
            _vote_use(members, store, votes["use"])
    classes = {group: {site: _winner(group, counts) for site, counts in of.items()} for group, of in votes.items()}
    return {group: of for group, of in classes.items() if of}


def _winner(group: str, counts: Counter[str]) -> str:
    if group == "region":
        return next(region for region in ("coding", "UTR", "non-coding") if counts[region])
    if group == "use":
        return "alternative" if counts["alternative"] else "constitutive"
    return counts.most_common(1)[0][0]


def _sites(transcript: Transcript, store: TokenStore) -> list[tuple[Site, str, str]]:
    minus, name = int(transcript.strand == "-"), transcript.chrom
    introns = list(zip(transcript.exons[:-1, 1].tolist(), transcript.exons[1:, 0].tolist()))
    rows = []
    for number, (start, end) in enumerate(introns[::-1] if minus else introns):
        if end - start < SHORTEST_INTRON:
            continue
        ends = [store.fetch(name, start, start + 2), store.fetch(name, end - 2, end)]
        motif = "-".join(decode(reverse_complement(part) if minus else part) for part in ends[:: -1 if minus else 1])
        is_first, is_last = number == 0, number == len(introns) - 1
        place = "only" if is_first and is_last else "first" if is_first else "last" if is_last else "internal"
        bases = (end, start - 1) if minus else (start - 1, end)
        for kind, base in zip(("donor", "acceptor"), bases):
            rows.append(((name, minus, base, LABEL[kind]), place, motif if motif in ("GT-AG", "GC-AG") else "other"))
    return rows


def _vote_use(members: list[Transcript], store: TokenStore, votes: dict[Site, Counter[str]]) -> None:
    has = [{site for site, *_ in _sites(transcript, store)} for transcript in members]
    for site in set().union(*has):
        spanning = [
            own for transcript, own in zip(members, has) if transcript.exons[0, 0] <= site[2] < transcript.exons[-1, 1]
        ]
        votes[site]["constitutive" if all(site in own for own in spanning) else "alternative"] += 1
