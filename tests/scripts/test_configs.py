"""Every configuration that is shipped: its header, its row in configs/README.md, and that it runs at toy size."""

import functools
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import FOLDS, ROOT, motif_settings, put, write_fasta

import finetune
import pretrain
from simcsp.core.errors import InputError
from simcsp.training.arms import resolve_arms
from utils.arguments import load_config, merge, read_files

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
HEADER = ("Command:", "Hardware:", "Time:", "Expected:")

GENE = 'tiny{0}\ttoy\texon\t{1}\t{2}\t.\t+\t.\tgene_id "g{0}.{3}"; transcript_id "t{0}.{3}";\n'


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_says_what_it_is_for_how_it_is_run_and_what_to_expect(path):
    header = re.match(r"(#.*\n)+", path.read_text())[0]
    assert len(header.split(HEADER[0])[0].split()) > 15, "the purpose comes first"
    for word in HEADER:
        assert re.search(rf"^# {word}\s+\S", header, re.M), word
    assert f"configs/{path.name}" in header
    assert f"| `{path.name}` |" in (ROOT / "configs/README.md").read_text()


def documented_changes() -> list[str]:
    """The options of the table of configs/README.md that changes one thing at a time."""
    table = (ROOT / "configs/README.md").read_text().split("### One change at a time")[1].split("\n## ")[0]
    return [words for row in re.findall(r"^\|.*", table, re.M) for words in re.findall(r"`(--[^`]+)`", row)]


def test_the_documented_changes_of_one_thing_are_options_that_go_together(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert len(documented_changes()) > 10
    before = load_config(["configs/chr19.yaml"])
    for words in documented_changes():
        assert load_config(["configs/chr19.yaml", *shlex.split(words)]) != before, words


def test_a_record_that_is_a_number_is_told_to_be_quoted(tmp_path):
    (tmp_path / "x.yaml").write_text("data:\n  records: [9]\n")
    with pytest.raises(InputError, match="data.records.*quote it, '9'"):
        load_config([str(tmp_path / "x.yaml"), "--pretrain.steps", "0"])


def values_of(path: Path) -> dict:
    """What a config sets, its bases included."""
    return functools.reduce(merge, (values for _, values in read_files(path)))


def toy(path: Path, folder: Path, data: Path) -> Path:
    """The config with the tiny data, a tiny fresh encoder and a few steps; everything else as shipped."""
    values = values_of(path)
    corpus = values.get("data", {}).get("corpus", "fasta")
    genome = data / "genome.fa"
    if corpus == "genome":  # 6 kb chunks of human chromosomes
        bases = "".join(line for line in genome.read_text().splitlines() if line[0] != ">")
        genome = folder / "chromosomes.fa"
        genome.write_text("".join(f">chr{name}\n{bases}\n" for name in (1, 2)))
    values |= {"name": path.stem, "runs": str(folder / "runs"), "device": "cpu", "precision": "fp32", "workers": 1}
    shape = ("pooling", "pooling_layer", "drop_layers")
    own = {key: value for key, value in values.get("model", {}).items() if key in shape}
    values["model"] = {"pooling": "mean"} | own
    values.setdefault("data", {})
    values["model"] |= {"max_position_embeddings": 64}
    values["model"] |= {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    values["data"] |= {"window": 40, "context": 20, "motif_window": 20, "num_folds": FOLDS}
    values["data"]["cache"] = str(folder / "cache")
    values["data"] |= {"spliceator": str(data / "spliceator"), "fasta": [str(genome)]}
    values["data"].pop("records", None)  # of the files left out
    values["data"].pop("negatives", None)
    if "motif_bed" in values["data"]:
        values["data"] |= {key.split(".")[1]: value for key, value in motif_settings(data).items()}
    if "annotation" in values["data"] or "bases" in values:
        records = dict(re.findall(r">(\w+)\n([^>]*)", (data / "genome.fa").read_text()))
        records = {name: lines.replace("\n", "") for name, lines in records.items()}
        genes, starts = "", range(20, 2700, 500)  # of genes of two exons of 41 nt, with GT and AG on their introns
        for record, at in ((record, at) for record in (1, 2, 3) for at in starts):
            genes += "".join(GENE.format(record, exon, exon + 40, at // 500) for exon in (at, at + 300))
            records[f"tiny{record}"] = put(put(records[f"tiny{record}"], at + 40, "GT"), at + 297, "AG")
        values["data"]["fasta"] = [str(write_fasta(folder / "annotated.fa", records))]
        (folder / "genes.gtf").write_text(genes)
        values["data"] |= {"annotation": [str(folder / "genes.gtf")], "hide": "nothing", "scorer": "annotation"}
        values["data"].pop("transcripts", None)
    if "bases" in values:
        values["bases"] |= {"fasta": values["data"]["fasta"], "annotation": values["data"]["annotation"]}
        values["bases"] |= {"parts": [["tiny1"], ["tiny2"]], "ignore": [], "tile": 20, "tiles": 3, "dilations": [1]}
        values["bases"].pop("source", None)  # a finished model, whose sizes are given
        values["bases"] |= {"edge": 2} if "edge" in values["bases"] else {}
        values["bases"] |= {"steps": 2, "stretches": 4, "ccds": [], "grafts": [], "doubtful": []}
        values["data"] |= {"annotation": [], "scorer": "pwm"}
    for stage in ("mlm", "pretrain"):
        if values.get(stage, {"steps": stage == "pretrain"}).get("steps", 12656):
            values[stage] = values.get(stage, {}) | {"steps": 3, "batch_size": 8, "warmup_steps": 1, "eval_steps": 2}
            values[stage] |= {
                key: small for key, small in (("min_window", 20), ("max_shift", 2)) if key in values[stage]
            }
            if "seeds" in values[stage]:
                values[stage]["seeds"] = values[stage]["seeds"][:2]
    if "finetune" in values:
        values["finetune"] |= {"max_epochs": 1, "batch_size": 16, "warmup_steps": 0}
        if values["finetune"].get("select_epoch") == "shared":  # by the mean of all folds
            values["finetune"]["sites"] = values["finetune"]["sites"][:1]
        else:
            values["finetune"]["folds"] = [0]
        if "train_windows" in values["finetune"]:
            values["finetune"] |= {"train_windows": [16, None], "draws": 2}
        values["finetune"] |= {"supcon_batch_size": 16, "head_epochs": 1}
        if "arms" in values["finetune"]:  # the checkpoints of other runs are not there
            arms = [arm.partition("=") for arm in values["finetune"]["arms"]]
            small = ROOT / "models/simcsp-tiny"
            values["finetune"]["arms"] = [f"{name}={small}" if folder else name for name, _, folder in arms]
    if "search" in values:
        values["search"] |= {"trials": 2, "startup_trials": 1}
        values["search"]["space"]["pretrain.batch_size"] = {"choices": [8, 12]}
        values["search"]["space"]["pretrain.warmup_steps"] = {"low": 0, "high": 2}
    shutil.rmtree(folder / "runs", ignore_errors=True)
    target = folder / f"{path.stem}.yaml"
    target.write_text(yaml.safe_dump(values, sort_keys=False))
    return target


FIRST = ("chr19", "search", "simcsp", "tiny", "splicebert")
"""Each unlike the others; variants that extend one of them run in the slow suite."""


@pytest.mark.parametrize(
    "path", [pytest.param(path, marks=() if path.stem in FIRST else pytest.mark.slow, id=path.stem) for path in CONFIGS]
)
def test_a_config_runs_at_toy_size(path, tiny_data, tmp_path, call):
    config = toy(path, tmp_path, tiny_data)
    settings = load_config([str(config)])
    if settings.pretrain.steps or settings.mlm.steps:
        call(pretrain, config)
    if settings.search.trials:
        assert (tmp_path / "runs" / path.stem / "search/best.yaml").is_file()
    elif settings.finetune.task == "bases":
        call(finetune, config)
        fits = (tmp_path / "runs" / path.stem).glob("finetune/*/bases/**/seed0/fold00/summary.json")
        arms = {fit.relative_to(tmp_path).parts[3] for fit in fits}
        assert arms == set(settings.finetune.arms)
    elif "finetune" in values_of(path):
        arms = settings.finetune.arms
        if settings.finetune.select_epoch == "shared":  # takes all folds: one encoder stands for the others,
            resolve_arms(settings)  # which are there
            arms = ["pwm", "baseline"]
        call(finetune, config, "--finetune.arms", f"[{','.join(arms)}]")
        assert (tmp_path / "runs" / path.stem / "report/summary.csv").is_file()
    else:
        assert list((tmp_path / "runs" / path.stem).glob("*/checkpoints/last"))


@pytest.mark.slow
@pytest.mark.parametrize("words", documented_changes())
def test_a_documented_change_runs_to_its_end_at_toy_size(words, tiny_data, tmp_path, call):
    config = toy(ROOT / "configs/chr19.yaml", tmp_path, tiny_data)
    others = [tmp_path / "others.fa", tmp_path / "others.gtf"]
    for other, own in zip(others, (tmp_path / "annotated.fa", tmp_path / "genes.gtf")):
        other.write_text(own.read_text().replace("tiny", "other"))
    small = {
        "--finetune.train_windows": "[16, null]",
        "--finetune.draws": "2",
        "--finetune.head_epochs": "1",
        "--data.fasta": f"[{tmp_path / 'annotated.fa'}, {others[0]}]",
        "--data.annotation": f"[{tmp_path / 'genes.gtf'}, {others[1]}]",
    }
    names = shlex.split(words)[::2]
    options = [word for name, value in zip(names, shlex.split(words)[1::2]) for word in (name, small.get(name, value))]
    call(pretrain, config, *options)
    call(finetune, config, *options)
    assert (tmp_path / "runs/chr19/report/summary.csv").is_file()
