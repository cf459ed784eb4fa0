"""relate, report: what several runs say together."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from tqdm import tqdm

from commands.flags import FlagParser
from commands.sources import config_of, enclosing_run, names_config
from simcsp.core.config import Config, FinetuneConfig
from simcsp.core.device import build_accelerator
from simcsp.core.errors import InputError
from simcsp.core.run_layout import BASES, CONFIG, RELATE, begun_fits, finished_fits, fit_key
from simcsp.labels.motifs import load_motifs
from simcsp.labels.splits import load_windows, selection_windows
from simcsp.metrics import proxy_correlation
from simcsp.report.bases import collect_bases, write_bases_report
from simcsp.report.collect import label_runs, merge
from simcsp.report.proxy_correlation import write_relation
from simcsp.report.write import write_report
from simcsp.training.finetuning import run_folds
from simcsp.training.stopping import StopSignal, stop_if_asked
from utils.arguments import load_config


def show_relate(runs: list[Path], words: list[str]) -> None:
    """Proxies of every kept pre-training checkpoint, fine-tuning from each, and how the two go together.

    Each run's part is kept in RUN/relate, so that the same command goes on where it was stopped, and a run that is
    related alone and then beside others is fine-tuned once. The outcome is written to the first run's.
    """
    checkpoints = proxy_correlation.find_checkpoints(runs)
    configs = {run: relate_config(run, words) for run in runs}
    proxy_correlation.require_same_data(configs)
    for run in runs:
        proxy_correlation.share_splits(run)
    stop, first = StopSignal(), configs[runs[0]]
    chosen, motifs = selection_windows(*load_windows(first.data, first.folder)), load_motifs(first.data)
    accelerator = build_accelerator(first.device, first.precision)
    proxies = []
    for checkpoint in tqdm(checkpoints, desc="proxies", unit="checkpoint", disable=not sys.stderr.isatty()):
        stop_if_asked(stop, f"in {checkpoint.run}/relate, what has been measured is kept")
        scores = proxy_correlation.measure_proxies(checkpoint, chosen, motifs, configs[checkpoint.run], accelerator)
        proxies.append(proxy_correlation.proxy_columns(scores, first.evaluate.nmi_layer))
        shown = "  ".join(
            f"{label} {proxies[-1][proxy]:.4f}" for proxy, label in proxy_correlation.SHOWN_PROXIES.items()
        )
        tqdm.write(f"{checkpoint.run} {checkpoint.arm}  {shown}")
    for run in dict.fromkeys(checkpoint.run for checkpoint in checkpoints):
        arms = [f"{checkpoint.arm}={checkpoint.folder}" for checkpoint in checkpoints if checkpoint.run == run]
        config = dataclasses.replace(configs[run], finetune=dataclasses.replace(configs[run].finetune, arms=arms))
        run_folds(config, stop)
        proxy_correlation.drop_weights(run)
    print(write_relation(proxy_correlation.relate_table(checkpoints, proxies, configs), first, runs[0]), flush=True)


def relate_config(run: Path, words: list[str]) -> Config:
    """The config under which a run's checkpoints are measured and fine-tuned, with RUN/relate as its run folder.

    Its seed is the default and not that of pre-training, which differs between runs. Where it comes from a fold of the
    run, which is one job, sites, folds and seeds are the defaults: both, all, 0.
    """
    given, of_fold = {word.partition("=")[0] for word in words}, not names_config(words)
    if of_fold:
        fold = next((fit / CONFIG for fit in begun_fits(run)), None)
        if fold is None:
            raise InputError(
                f"{run} has no fine-tuned fold to take the settings from: add the experiment's config, for example "
                f"`relate {run} configs/demo.yaml`"
            )
        words = [str(fold), *words]
    config = load_config(words)
    changes = {} if "--seed" in given else {"seed": Config().seed}
    if of_fold:
        job = {field: getattr(FinetuneConfig(), field) for field in ("sites", "folds", "seeds")}
        kept = {field: value for field, value in job.items() if f"--finetune.{field}" not in given}
        changes["finetune"] = dataclasses.replace(config.finetune, **kept)
    config = dataclasses.replace(config, runs=str(run), name=RELATE, **changes)
    if len(config.finetune.sites) > 1:
        sites = ", ".join(config.finetune.sites)
        raise InputError(f"finetune.sites ([{sites}]): relate takes one, for example --finetune.sites [both]")
    return config


def show_report(runs: list[Path], words: list[str]) -> None:
    """Write the comparison of arms again from what is finished, of one run or of several together."""
    if words and not words[0].startswith("-") and not Path(words[0]).exists():
        raise InputError(f"{words[0]} does not exist: report takes run folders, such as runs/demo")
    parser = FlagParser("report", "The comparison of the arms of one run, or of several of the same windows and folds.")
    parser.add_argument("--out", type=Path)
    pair = ("ARM", "REFERENCE")
    parser.add_argument("--compare", nargs=2, action="append", default=[], metavar=pair, help="one more; repeatable")
    asked, words = parser.read(words)
    configs = [_run_config(run, words) for run in runs]
    of_windows, of_bases = _by_task(configs)
    of_each = _pairs_of_each(asked.compare, of_windows, of_bases)
    if of_windows:
        print(write_report(*of_windows, out=asked.out, described=of_each[0]), flush=True)
    if of_bases:
        out = asked.out / BASES if asked.out is not None and of_windows else asked.out
        print(write_bases_report(*of_bases, out=out, described=of_each[1]), flush=True)


def _pairs_of_each(
    pairs: list[list[str]], of_windows: list[Config], of_bases: list[Config]
) -> tuple[list[list[str]], list[list[str]]]:
    """Pairs of arms for the table of windows and for that of every base: where there are both, those with both arms
    there. Raises InputError for a pair that neither has."""
    if not (pairs and of_windows and of_bases):
        return pairs, pairs
    tables = (merge(label_runs(of_windows)), collect_bases(label_runs(of_bases)))
    arms = [{*table.scores["arm"], *(f"{run}:{arm}" for run, arm in table.names)} for table in tables]
    if nowhere := next((pair for pair in pairs if not any(set(pair) <= known for known in arms)), None):
        known = ", ".join(sorted(set.union(*arms)))
        raise InputError(f"--compare {' '.join(nowhere)}: not both in a table of these runs, whose arms are {known}")
    return tuple([pair for pair in pairs if set(pair) <= known] for known in arms)


def _by_task(configs: list[Config]) -> tuple[list[Config], list[Config]]:
    """Those with finished fits of windows, or with none at all, and those with fits of every base; some are in both."""
    sites = [{fit_key(fit).site for fit in finished_fits(config.folder)} for config in configs]
    of_windows = [config for config, fitted in zip(configs, sites) if fitted != {BASES}]
    return of_windows, [config for config, fitted in zip(configs, sites) if BASES in fitted]


def _run_config(run: Path, words: list[str]) -> Config:
    """The config of a run folder. Raises InputError for a folder within one."""
    config = config_of(run, words)
    if enclosing_run(run) is None or run.resolve() != config.folder.resolve():
        raise InputError(f"report takes run folders; {run} lies inside {config.folder}")
    return config
