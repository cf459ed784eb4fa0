"""Tables of measured variants and of conservation, made of their publishers' files, on the transcript strand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from simcsp.core.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

_COMPLEMENT = str.maketrans("ACGT", "TGCA")
PEERS = {
    "spliceai": "scores_spliceai.csv",
    "pangolin": "scores_pangolin.csv",
    "splicetransformer": "scores_splicetx.csv",
    "mmsplice": "scores_mmsplice.csv",
}
CONSERVATION = {"phastcons100": "snp_position_cons_scores.bed", "phylop100": "snp_position_phyloP_scores.bed"}


def make_peers(folder: Path, out: Path) -> None:
    """variants/mfass.peers.tsv.gz: seven scores of each variant of MFASS."""
    import pandas as pd  # takes a second, and fetch.py seldom needs it

    raw = folder / "variants/peers"
    table = _read(raw / "mfass_labels.csv", ["id", "spanr"]).set_index("id")[["spanr"]]
    for name, file in PEERS.items():
        table[name] = _read(raw / file, ["id", "score"]).set_index("id")["score"]
    for name, file in CONSERVATION.items():  # bigWigAverageOverBed: name, size, covered, sum, mean of all, mean
        scores = pd.read_csv(raw / file, sep="\t", header=None, skip_blank_lines=True)
        if scores.shape[1] != 6:
            raise InputError(f"{raw / file}: {scores.shape[1]} columns, not 6: another file")
        table[name] = scores.drop_duplicates(0).set_index(0)[5]
    _write(table[[*PEERS, "spanr", *CONSERVATION]].reset_index(), out)


def make_vexseq(folder: Path, out: Path) -> None:
    """variants/vexseq.tsv.gz: SNVs of Vex-seq with their sequence and change of inclusion (%) in two cell lines."""
    raw = folder / "variants/vexseq"
    columns = ["chromosome", "position", "reference", "alternative", "Upstream Int Adj", "Down Int Adj"]
    columns += ["Exon up", "Exon down", "strand", "Sequence"]
    table = _read(raw / "68_97_final_sequences_fixed.tsv", columns)[columns]
    table.columns = "chrom pos_hg19 ref alt first last exon_first exon_last strand mut".split()
    table = table[table["ref"].isin(list("ACGT")) & table["alt"].isin(list("ACGT"))].drop_duplicates()
    key = [table[column].astype(str) for column in ("chrom", "pos_hg19", "ref", "alt")]
    table.insert(0, "variant", key[0].str.cat(key[1:], sep="_"))
    minus = table["strand"] == "-"
    for name, column in {"offset0": "pos_hg19", "exon_start0": "exon_first", "exon_end0": "exon_last"}.items():
        table[name] = (table[column] - table["first"]).where(~minus, table["last"] - table[column])
    starts, ends = table["exon_start0"].copy(), table["exon_end0"].copy()
    table["exon_start0"], table["exon_end0"] = starts.where(~minus, ends), ends.where(~minus, starts) + 1
    table["wt"] = [
        mut[:at] + (ref.translate(_COMPLEMENT) if strand == "-" else ref) + mut[at + 1 :]
        for mut, at, ref, strand in zip(table["mut"], table["offset0"], table["ref"], table["strand"])
    ]
    measured = _read(raw / "delta_PSI_values.tsv", ["variant", "delta_psi_H", "delta_psi_K"])
    measured = measured.rename(columns={"delta_psi_H": "dpsi_HepG2", "delta_psi_K": "dpsi_K562"})
    table = table.merge(measured[["variant", "dpsi_HepG2", "dpsi_K562"]], on="variant")
    _check_alleles(table, "mut", "alt", raw)
    kept = "variant chrom pos_hg19 strand ref alt offset0 exon_start0 exon_end0 dpsi_HepG2 dpsi_K562 wt mut".split()
    _write(table[kept], out)


def make_mfass(folder: Path, out: Path) -> None:
    """variants/mfass.tsv.gz: the SNVs of MFASS with natural and mutant sequence, change of inclusion and call."""
    import pandas as pd

    path = folder / "variants/snv_data_clean.txt"
    columns = ["id", "ensembl_id", "category", "chr", "snp_position", "strand", "ref_allele", "alt_allele"]
    columns += ["rel_position", "intron1_len", "exon_len", "intron2_len", "v2_dpsi", "strong_lof", "natural_seq"]
    raw = _read(path, columns)
    raw = raw[(raw["category"] == "mutant") & raw["rel_position"].notna()]
    minus = raw["strand"].astype(str).str.startswith("-")
    start = raw["intron2_len"].where(minus, raw["intron1_len"]).astype(int)
    table = pd.DataFrame({
        "id": raw["id"], "exon": raw["ensembl_id"], "chrom": raw["chr"], "pos_hg19": raw["snp_position"].astype(int),
        "strand": minus.map({True: "-", False: "+"}), "ref": raw["ref_allele"], "alt": raw["alt_allele"],
        "offset0": raw["rel_position"].astype(int) - 1, "exon_start0": start,
        "exon_end0": start + raw["exon_len"].astype(int), "v2_dpsi": raw["v2_dpsi"],
        "sdv": raw["strong_lof"].map({"TRUE": 1, "FALSE": 0, True: 1, False: 0}), "wt": raw["natural_seq"],
    })  # fmt: skip
    _check_alleles(table, "wt", "ref", path)
    _write(table, out)


def make_conservation(folder: Path, out: Path) -> None:
    """conservation/mfass.phastcons.tsv.gz: phastCons100 of each base of MFASS' natural exons, in the order of the
    transcript; a base without alignment has 0."""
    import pandas as pd

    path = folder / "conservation/snv_nat_cons_scores_all.bed"
    # bigWigAverageOverBed: name (EXON_posN, N from 1 on the transcript strand), size, covered, sum, mean of all, mean
    scores = pd.read_csv(path, sep="\t", header=None, skip_blank_lines=True)
    names = scores[0].astype(str).str.extract(r"^(.+)_pos(\d+)$")
    if scores.shape[1] != 6 or names.isna().any(axis=None):
        raise InputError(
            f"{path}: not six columns of bases named EXON_posN: another file, remove it and fetch it again"
        )
    rows = pd.DataFrame({"exon": names[0], "place": names[1].astype(int), "score": scores[4].map("{:.3f}".format)})
    rows["score"] = rows["score"].str.rstrip("0").str.rstrip(".")
    rows = rows.drop_duplicates(["exon", "place"]).sort_values(["exon", "place"])
    table = rows.groupby("exon")["score"].agg(",".join).rename("phastcons100").reset_index()
    _write(table, out)


def _check_alleles(table: pd.DataFrame, sequence: str, allele: str, where: Path) -> None:
    """Refuse a table whose allele is not the base at offset0 of its sequence, on the transcript strand."""
    rows = zip(table[sequence], table["offset0"], table[allele], table["strand"])
    fits = [bases[at : at + 1] == (base.translate(_COMPLEMENT) if s == "-" else base) for bases, at, base, s in rows]
    if not all(fits):
        raise InputError(
            f"{where}: the allele ({allele}) of {len(fits) - sum(fits)} of {len(fits)} variants is not in its "
            "sequence: these are other columns than those of the recorded commit"
        )


def _read(path: Path, columns: list[str]) -> pd.DataFrame:
    import pandas as pd

    table = pd.read_csv(path, sep="," if path.suffix == ".csv" else "\t", low_memory=False)
    if missing := [column for column in columns if column not in table]:
        raise InputError(f"{path} has no column {missing[0]!r}: another file, remove it and fetch it again")
    return table


def _write(table: pd.DataFrame, path: Path) -> None:
    table.to_csv(path, sep="\t", index=False, float_format="%.5g", compression={"method": "gzip", "mtime": 0})
