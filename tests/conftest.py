"""What several test files share: a tiny synthetic data set, a config for it, and ways to run a script."""

import os

# One thread, here and in every subprocess: sums of floats depend on how they are split. Before torch is imported.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import contextlib
import fcntl
import gc
import io
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import yaml
from hypothesis import settings

# The same examples each time, however slow the machine is, and no folder of examples left behind.
settings.register_profile("simcsp", deadline=None, derandomize=True, database=None)
settings.load_profile("simcsp")


_modules = 0  # imported when the collector was last told to leave what there is alone


def pytest_runtest_setup(item: pytest.Item) -> None:
    """accelerate collects garbage after every fit: not among the million objects of the imported libraries, please.

    Commands import them when they are asked for, so it may be news before any test.
    """
    global _modules
    if len(sys.modules) > _modules:
        gc.collect()
        gc.freeze()
        _modules = len(sys.modules)


ROOT = Path(__file__).resolve().parent.parent
POSITIVE = "spliceator/Training_data/Positive/GS/POS_{}_600.csv"
NEGATIVE = "spliceator/Training_data/Negative/GS/GS_1/NEG_600_{}.csv"
PAIRS = str.maketrans("ACGTN", "TGCAN")


def random_bases(rng: np.random.Generator, length: int) -> str:
    return "".join(rng.choice(list("ACGT"), length))


def other_strand(bases: str) -> str:
    return bases[::-1].translate(PAIRS)


def stack(texts) -> np.ndarray:
    """Ids uint8 [n, length] of strings of one length."""
    from simcsp.text.alphabet import encode

    return np.stack([encode(text) for text in texts])


def write_fasta(path: Path, records: dict[str, str], width: int = 60) -> Path:
    lines = []
    for name, bases in records.items():
        lines += [f">{name}", *(bases[i : i + width] for i in range(0, len(bases), width))]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def put(bases: str, at: int, motif: str) -> str:
    return bases[:at] + motif + bases[at + len(motif) :]


# -- the tiny data set -------------------------------------------------------------------------------------------------

LENGTH, PER_CLASS, FOLDS = 120, 100, 4


def write_windows(folder: Path, rng: np.random.Generator, per_class: int = PER_CLASS) -> None:
    """Spliceator's four training files: sites carry a consensus at the centre, a third of the others a bare GT / AG.

    Every tenth negative is its forerunner moved by 10 nt, so that there are near-duplicates.
    """
    centre = LENGTH // 2
    for site, consensus, at, motif in (
        ("donor", "CAGGTAAGT", centre - 3, "GT"),
        ("acceptor", "TTCTTTCTTTTCAGG", centre - 14, "AG"),
    ):
        rows = [f"tiny_{i}_SYNTHETIC;{put(random_bases(rng, LENGTH), at, consensus)};True\n" for i in range(per_class)]
        path = folder / POSITIVE.format(site)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(rows))
        rows, before = ["ID_uniprot;Position;Sequence;Type\n"], ""
        for i in range(per_class):
            bases = before[10:] + random_bases(rng, 10) if i % 10 == 9 else random_bases(rng, LENGTH)
            if i % 3 == 0:
                bases = put(bases, centre if motif == "GT" else centre - 2, motif)
            rows.append(f"tiny_{i}_SYNTHETIC;0;{bases};{'FP' if i % 3 == 0 else 'Exon'}\n")
            before = bases
        path = folder / NEGATIVE.format(site)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(rows))


def write_genome(folder: Path, rng: np.random.Generator) -> None:
    """genome.fa of three records, and motifs.bed of ten sites a label on the third, both strands."""
    records = {f"tiny{i}": random_bases(rng, 3000) for i in (1, 2, 3)}
    records["tiny1"] = put(records["tiny1"].lower(), 500, "N" * 100)
    lines = []
    for i in range(40):
        label = ("GT(donor)", "GT(non-donor)", "AG(acceptor)", "AG(non-acceptor)")[i % 4]
        # a real site has a few bases more in common, so that there is something to cluster
        bases = {"GT(donor)": "GTAAGT", "AG(acceptor)": "TTTTCAG"}.get(label, label[:2])
        offset = bases.index(label[:2]) if label[0] == "G" else bases.rindex("AG")
        at, strand = 70 * i + 60, "+-"[i // 4 % 2]
        start = at + offset if strand == "+" else at + len(bases) - offset - 2
        records["tiny3"] = put(records["tiny3"], at, bases if strand == "+" else other_strand(bases))
        lines.append(f"tiny3\t{start}\t{start + 2}\ttiny|{label}\t.\t{strand}\n")
    write_fasta(folder / "genome.fa", records)
    (folder / "motifs.bed").write_text("".join(lines))


def write_species(folder: Path, name: str, seed: int, introns: int = 15) -> None:
    """NAME.fa of one record a strand, and NAME.gtf: introns of 60 nt from GTAAGT to TTTCAG, every 200 nt."""
    rng, records, rows = np.random.default_rng(seed), {}, []
    for record, strand in (("chr1", "+"), ("chr2", "-")):
        bases = random_bases(rng, 200 * introns + 300)
        length = len(bases)
        for i in range(introns):
            start, end = 200 * i + 150, 200 * i + 210
            bases = put(put(bases, start, "GTAAGT"), end - 6, "TTTCAG")
            for first, last in ((start - 50, start), (end, end + 50)):
                if strand == "-":
                    first, last = length - last, length - first
                ids = f'gene_id "{record}{i}"; transcript_id "{record}{i}t";'
                rows.append(f"{record}\tx\texon\t{first + 1}\t{last}\t.\t{strand}\t.\t{ids}\n")
        records[record] = bases if strand == "+" else other_strand(bases)
    write_fasta(folder / f"{name}.fa", records)
    (folder / f"{name}.gtf").write_text("".join(rows))


def write_data(folder: Path, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    write_windows(folder, rng)
    write_genome(folder, rng)
    return folder


def make_windows(sequences, labels=None, sites=None):
    """Windows from strings; without labels and sites, the four strata take turns."""
    from simcsp.labels.spliceator import Windows

    n = len(sequences)
    labels = np.arange(n) % 2 if labels is None else np.array(labels)
    sites = np.array(["donor", "acceptor"])[np.arange(n) // 2 % 2] if sites is None else np.array(sites)
    names = np.array([f"{site}_{i:05d}" for i, site in enumerate(sites)])
    return Windows(stack(sequences), labels, sites, names, np.array(["x"] * n))


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    """Folder with spliceator/, genome.fa and motifs.bed. Read it, copy it (see `own_data`), never change it."""
    return write_data(tmp_path_factory.mktemp("tiny_data"))


@pytest.fixture
def own_data(tiny_data, tmp_path) -> Path:
    """A copy of the tiny data that a test may damage."""
    return Path(shutil.copytree(tiny_data, tmp_path / "data"))


SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
SMALL |= {"max_position_embeddings": 64}


def fresh(seed: int = 0, **changes: object):
    """(model, pooling, remarks) of an encoder of fresh weights. changes: of the section model, from SMALL."""
    import torch

    from simcsp.core.config import ModelConfig
    from simcsp.model.checkpoint import load_backbone

    torch.manual_seed(seed)
    return load_backbone(ModelConfig(**SMALL | changes))


def tiny_config(folder: Path, data: Path, changes: dict[str, object] | None = None) -> Path:
    """Write folder/tiny.yaml: MLM, then SimCSE, then a few arms, run folder folder/runs/tiny; no motif sites.

    changes: {'pretrain.steps': 0, ...}.
    """
    files = {"fasta": [str(data / "genome.fa")], "spliceator": str(data / "spliceator"), "cache": str(folder / "cache")}
    windows = {"window": 40, "context": 20, "motif_window": 40, "num_folds": FOLDS, "selection_share": 0.1}
    training = {"batch_size": 8, "lr": 1e-3, "warmup_steps": 1, "eval_steps": 3, "logging_steps": 2}
    arms = ["pwm", "kmer", "fresh", "baseline", "best_sccs"]
    values = {
        "name": "tiny",
        "runs": str(folder / "runs"),
        "device": "cpu",
        "precision": "fp32",
        "model": SMALL | {"pooling": "mean"},
        "data": files | windows | {"records": ["tiny1", "tiny2"]},
        "mlm": training | {"steps": 4},
        "pretrain": training | {"steps": 8},
        "finetune": {"arms": arms, "lr": 3e-3, "batch_size": 4, "max_epochs": 3, "patience": 2},
        "evaluate": {"kmer": 2, "pwm_flank": 10},
    }
    for key, value in (changes or {}).items():
        section, _, field = key.rpartition(".")
        (values.setdefault(section, {}) if section else values)[field] = value
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def motif_settings(data: Path) -> dict[str, object]:
    """Changes for `tiny_config` that switch NMI on."""
    return {"data.motif_bed": str(data / "motifs.bed"), "data.motif_fasta": str(data / "genome.fa")}


# -- running a script --------------------------------------------------------------------------------------------------


def skip_figures(patch: pytest.MonkeyPatch) -> None:
    """Reports and validations without figures, which take seconds each and are looked at by tests of their own.

    Only of modules that some test has imported: a script that refuses its input must not import them."""
    for name, function, drawn in (
        ("simcsp.report.write", "draw", []),
        ("simcsp.report.bases", "draw", {}),
        ("simcsp.training.tensorboard", "draw_points", None),
    ):
        if name in sys.modules:
            patch.setattr(sys.modules[name], function, lambda *words, drawn=drawn: drawn)


@pytest.fixture
def no_figures(monkeypatch) -> None:
    skip_figures(monkeypatch)


@pytest.fixture
def figures() -> None:
    """What `call` runs draws its figures."""


@pytest.fixture
def call(monkeypatch, request):
    """call(pretrain, config, '--flag', 'value') runs a script's main in this process, undoing its signal handlers.

    It draws no figures of training and reports, unless the test asks for `figures`."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(module: ModuleType, *argv: object) -> None:
        draws = module.__name__ in ("pretrain", "finetune") or argv[:1] == ("report",)
        if draws and "figures" not in request.fixturenames:
            skip_figures(monkeypatch)
        monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *map(str, argv)])
        module.main()

    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


def reseal(folder: Path) -> None:
    """Seal a finished stage or fit again, whose files a test has replaced."""
    from simcsp.core.files import read_json
    from simcsp.core.provenance import SEAL, seal, sealed_files

    summary = read_json(folder / "summary.json")
    seal(folder, {key: value for key, value in summary.items() if key != SEAL}, sealed_files(folder))


def refusal(call, capsys, module: ModuleType, *argv: object) -> str:
    """The line on stderr of a script that refuses its input: status 2 and one line, or the test fails."""
    from utils.script import run_script

    capsys.readouterr()
    with pytest.raises(SystemExit) as exit:
        run_script(lambda: call(module, *argv))
    line = capsys.readouterr().err
    assert exit.value.code == 2
    assert line.count("\n") == 1 and line.endswith("\n"), line
    return line


def start_script(name: str, *argv: object, cwd: Path) -> subprocess.CompletedProcess:
    """Run a script as its user would, from a folder of its own."""
    command = [sys.executable, str(ROOT / name), *map(str, argv)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def run_here(module: ModuleType, *argv: object) -> SimpleNamespace:
    """stdout and stderr of a script whose main runs in this process; its signal handlers are undone."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{module.__name__}.py", *map(str, argv)])
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
            module.main()
    for number, handler in before.items():
        signal.signal(number, handler)
    return SimpleNamespace(stdout=out.getvalue(), stderr=err.getvalue())


@pytest.fixture(scope="session")
def finished(tiny_data, tmp_path_factory) -> SimpleNamespace:
    """A finished tiny experiment, trained once for all workers of pytest-xdist. Never change it."""
    import finetune
    import pretrain

    shared = "PYTEST_XDIST_WORKER" in os.environ
    folder = tmp_path_factory.getbasetemp().parent / "finished" if shared else tmp_path_factory.mktemp("finished")
    folder.mkdir(exist_ok=True)
    said = folder / "said.json"
    with open(folder / "lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the second worker waits here
        if not said.exists():
            config = tiny_config(folder, tiny_data)
            with pytest.MonkeyPatch.context() as patch:
                skip_figures(patch)
                pretrained = run_here(pretrain, config)
            gc.freeze()  # what has been imported by now: accelerate collects after each of the dozen fits to come
            scripts = {"pretrain": vars(pretrained), "finetune": vars(run_here(finetune, config))}
            said.write_text(json.dumps(scripts), encoding="utf-8")
    scripts = {script: SimpleNamespace(**streams) for script, streams in json.loads(said.read_text()).items()}
    return SimpleNamespace(config=folder / "tiny.yaml", run=folder / "runs/tiny", **scripts)


@pytest.fixture
def own_run(finished, tmp_path) -> Path:
    """A copy of the finished run that a test may write into or damage."""
    return Path(shutil.copytree(finished.run, tmp_path / "runs/tiny"))


@pytest.fixture
def no_report(monkeypatch) -> None:
    """finetune.py without its report, which takes seconds and is not what the test is about."""
    from simcsp.report import write

    monkeypatch.setattr(write, "write_report", lambda config: "")


def summary_of(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def no_summary(folder: Path) -> bool:
    """Nothing under `folder` looks finished."""
    return not list(folder.rglob("summary.json"))


class Crash(Exception):
    """Stands for a kill."""


def crash(*args: object, **kwargs: object) -> None:
    raise Crash


@pytest.fixture(scope="session")
def start(tmp_path_factory) -> Path:
    """A checkpoint to fine-tune. Never change it."""
    from simcsp.model.checkpoint import save_checkpoint

    folder = tmp_path_factory.mktemp("start")
    save_checkpoint(fresh(7, initializer_range=0.2)[0], folder, "mean")
    return folder


# -- comparing runs ----------------------------------------------------------------------------------------------------


def metrics_without_clock(stage: Path) -> list[dict[str, float]]:
    from simcsp.core.run_folder import CLOCK_FIELDS, read_metrics

    return [{key: value for key, value in row.items() if key not in CLOCK_FIELDS} for row in read_metrics(stage)]


def weights(stage: Path) -> dict[str, bytes]:
    """{checkpoint/file: bytes} of every weight file of a stage; safetensors holds no names or dates of the run."""
    files = sorted(stage.rglob("checkpoints/**/*.safetensors"))
    return {path.relative_to(stage).as_posix(): path.read_bytes() for path in files}


def assert_same_run(stage: Path, other: Path) -> None:
    """Losses, metrics, weights of every checkpoint, predictions and summary are equal bit for bit, the clock apart."""
    assert metrics_without_clock(stage) == metrics_without_clock(other)
    assert weights(stage) == weights(other) != {}
    # sha256 and checksum are of files with clocks too, identity of the config, which has the run's name
    apart = ("seconds", "sha256", "identity", "checksum")
    one, two = (summary_of(folder) for folder in (stage, other))
    assert {key: one[key] for key in one if key not in apart} == {key: two[key] for key in two if key not in apart}
    predictions = [folder / "predictions.csv" for folder in (stage, other)]
    if predictions[0].exists():
        assert predictions[0].read_bytes() == predictions[1].read_bytes()
