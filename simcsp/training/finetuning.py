"""Cross-validated classifiers of splice sites: every arm on every task, seed and fold, the same folds for all."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import sys
import threading
import time
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np

from simcsp.core.arms import OF_ANNOTATION
from simcsp.core.config import Config, to_dict
from simcsp.core.device import number_format
from simcsp.core.errors import InputError, Interrupted
from simcsp.core.files import read_json
from simcsp.core.run_folder import read_metrics
from simcsp.core.run_layout import SUMMARY, checkpoint_path, is_finished
from simcsp.labels.floors import annotated_sites, fit_annotation_floor
from simcsp.labels.motifs import sites_of_run
from simcsp.labels.splits import Splits, load_windows
from simcsp.training.arms import Arm, FoldJob, resolve_arms
from simcsp.training.fold import begin_fit, end_fit, fit_fold, keep_best, pack, score_floor, score_fold, train_epoch
from simcsp.training.fold_setup import Fold, FoldSetup, Start, arm_inputs, load_start, open_fold, open_setup
from simcsp.training.probe import fit_on_annotation, fit_probe
from simcsp.training.search import Load, Report, run_search
from simcsp.training.stopping import StopSignal, stop_if_asked
from simcsp.training.tensorboard import show_arm
from simcsp.training.workers import worker_context

_POLL = 0.2  # seconds between looks at what other workers have done
CONFIG_SECTIONS = ("name", "seed", "precision", "model", "data", "evaluate", "finetune")  # what decides a fold's result


def run_folds(config: Config, stop: StopSignal) -> None:
    """Every site, seed, arm and fold that the config asks for, in one process or shared among `workers`."""
    number_format(config.device, config.precision)  # its errors before anything is read
    if config.workers == 1:
        run_jobs(config, stop)
    else:
        run_workers(config, stop)


def run_jobs(config: Config, stop: StopSignal, worker: int = 0) -> None:
    """Every site, seed, arm and fold that the config asks for, one after the other."""
    arms, settings = resolve_arms(config), config.finetune
    windows, splits = load_windows(config.data, config.folder)
    setup = open_setup(config, windows, splits, sites_of_run(config), stop, worker)
    tasks = [(site, seed, arm) for site in settings.sites for seed in settings.seeds for arm in arms]
    counts = {site: len(fold_numbers(config, splits, site)) * len(settings.cuts) for site in settings.sites}
    setup.bar.total = sum(counts[site] for site, _, _ in tasks)
    for site, seed, arm in tasks:
        run_arm(setup, arm, site, seed)
        if worker == 0 and config.report:  # one process writes; the report shows what the others have done
            show_arm(config.folder, arm.name)
    setup.bar.close()


def fold_numbers(config: Config, splits: Splits, site: str) -> list[int]:
    """The folds to run. Raises InputError for one that does not exist."""
    count, chosen = len(splits.folds[site]), config.finetune.folds
    if max(chosen or [0]) >= count:
        raise InputError(f"finetune.folds: there is no fold {max(chosen)}; they are 0 to {count - 1}")
    return list(range(count)) if chosen is None else chosen


def job_config(config: Config, job: FoldJob) -> dict[str, Any]:
    """The resolved config of one job, which can be passed back."""
    values = to_dict(config)
    kept = {key: values[key] for key in CONFIG_SECTIONS}
    arm = next(arm for arm in config.finetune.arms if arm.partition("=")[0] == job.arm.name)
    kept["finetune"] |= {"arms": [arm], "sites": [job.site], "seeds": [job.seed], "folds": [job.fold]}
    # the fewest draws with this one among them: a later run with more of them resumes it
    kept["finetune"] |= {"train_windows": [job.train_windows], "draws": job.draw + 1}
    del kept["finetune"]["fold_events"]  # changes no result
    return kept


def run_arm(setup: FoldSetup, arm: Arm, site: str, seed: int) -> None:
    """All folds of one arm on one task with one seed, each with every draw of its training windows."""
    config = setup.config
    inputs = arm_inputs(config, arm, setup.windows, setup.motifs)
    cuts = setup.settings.cuts
    numbers = fold_numbers(config, setup.splits, site)
    jobs = [FoldJob(arm, site, seed, number, count, draw) for number in numbers for count, draw in cuts]
    folds = [open_fold(setup, job, job_config(config, job), inputs) for job in jobs]
    waiting = [fold for fold in folds if not fold.run.finished]
    setup.bar.update(len(folds) - len(waiting))
    if not waiting:
        return
    if arm.source is None:
        run_floor(setup, arm, waiting)
        return
    start = load_start(setup, arm.name, arm.source)
    if setup.settings.probe_on == "annotation":
        run_annotation_probe(setup, waiting, start)
    elif setup.settings.select_epoch == "shared":
        for cut in cuts:
            own = [fold for fold in folds if (fold.job.train_windows, fold.job.draw) == cut]
            everyone = range(len(setup.splits.folds[site]))  # other workers' folds as well
            paths = [dataclasses.replace(own[0].job, fold=number).key.folder(config.folder) for number in everyone]
            run_shared(setup, own, paths, start)
    else:
        for fold in waiting:
            run_fold(setup, fold, start)


def run_fold(setup: FoldSetup, fold: Fold, start: Start) -> None:
    if setup.settings.stages == ["probe"]:
        fit_probe(setup, fold, start)
    else:
        best = fit_fold(setup, fold, start)
        score_fold(setup, fold, start, best["epoch"], best["seconds"])


def run_annotation_probe(setup: FoldSetup, waiting: list[Fold], start: Start) -> None:
    """Score folds by a probe fitted on the text's annotated sites, without any label."""
    predict, annotated = None, annotated_sites(setup.config.data, setup.config.seed)
    for fold in waiting:
        if predict is None or start.fresh:  # fresh weights are those of the fold
            predict = fit_on_annotation(setup, fold.job, start, annotated)
        score_floor(setup, fold, predict)


def run_floor(setup: FoldSetup, arm: Arm, waiting: list[Fold]) -> None:
    predict = None
    if arm.name in OF_ANNOTATION:  # the same for all folds
        config = setup.config
        sites = annotated_sites(config.data, config.seed)
        predict = fit_annotation_floor(arm.name, config.evaluate, sites, config.seed)
    for fold in waiting:
        setup.stop_if_asked()
        score_floor(setup, fold, predict)


def run_shared(setup: FoldSetup, folds: list[Fold], paths: list[Path], start: Start) -> None:
    """Fit and score this worker's folds with one epoch for those of all workers; nothing where they are finished.

    paths: of the folders of all of them."""
    waiting = [fold for fold in folds if not fold.run.finished]
    if waiting:
        best_epoch, seconds = fit_shared(setup, folds, paths, start)
        for fold in waiting:
            score_fold(setup, fold, start, best_epoch, seconds / len(folds))


def fit_shared(setup: FoldSetup, folds: list[Fold], paths: list[Path], start: Start) -> tuple[int, float]:
    """The published rule: epochs outside, folds inside, one epoch for all by their mean validation AUC.

    Returns that epoch and the seconds that this process took for its folds. Each fold's model is on disk between its
    epochs, and its AUC, where workers wait for each other's. A fold whose state is ahead has been through this epoch,
    and kept its weights if they were the best, before the run was stopped.
    """
    began = time.perf_counter()
    best = -1.0
    best_epoch = 0
    if (picked := _picked_epoch(paths)) is not None:
        _keep_epoch(setup, [fold for fold in folds if not fold.run.finished], picked, start)
        return picked, 0.0
    for epoch in range(1, setup.settings.max_epochs + 1):
        if epoch - best_epoch > setup.settings.patience:
            break
        for fold in folds:
            fit = begin_fit(setup, fold, start)
            if fit.epoch < epoch:
                train_epoch(setup, fold, fit)
                fold.run.save_state(pack(setup, fit))
            end_fit(setup, fold)
        mean = float(np.mean([_auc_at(setup, path, epoch) for path in paths]))
        if mean > best:
            best, best_epoch = mean, epoch
            _keep_epoch(setup, folds, epoch, start)
    return best_epoch, time.perf_counter() - began


def _keep_epoch(setup: FoldSetup, folds: list[Fold], epoch: int, start: Start) -> None:
    """Save the weights of the folds that are at this epoch as the best; those beyond it have been here before."""
    for fold in folds:
        if fold.run.metrics()[-1]["step"] == epoch:
            keep_best(fold, begin_fit(setup, fold, start))
            end_fit(setup, fold)


def _auc_at(setup: FoldSetup, path: Path, epoch: int) -> float:
    while True:
        for row in read_metrics(path):
            if row["step"] == epoch:
                return row["val/auc"]
        setup.stop_if_asked()
        time.sleep(_POLL)


def _picked_epoch(paths: list[Path]) -> int | None:
    """The shared epoch of a run that was stopped between its summaries, None while none is written."""
    finished = [path for path in paths if is_finished(path)]
    for path in paths if finished else ():
        if not checkpoint_path(path).is_dir():
            raise InputError(f"{path}: select_epoch shared needs all folds fitted together; use another --name")
    return read_json(finished[0] / SUMMARY)["best_epoch"] if finished else None


def search_settings(config: Config, stop: StopSignal, load: Load) -> str:
    """Search over finetune.* by mean validation AUC of the first arm on the first task; no test window is scored."""
    arm = resolve_arms(config)[0]
    if arm.source is None:
        raise InputError(f"finetune.arms: a search needs an encoder, {arm.name} is a floor")
    if config.finetune.stages == ["probe"]:
        raise InputError("finetune.stages ([probe]): a search is over settings of training, and a probe has none")
    site, seed = config.finetune.sites[0], config.finetune.seeds[0]
    windows, splits = load_windows(config.data, config.folder)  # of the run: the same for every trial

    inputs = arm_inputs(config, arm, windows, None)

    def objective(trial: Config, report: Report) -> float:
        setup = open_setup(trial, windows, splits, None, stop)
        start = load_start(setup, arm.name, arm.source)
        aucs = []
        for number in fold_numbers(trial, setup.splits, site):
            count, draw = trial.finetune.cuts[0]
            job = FoldJob(arm, site, seed, number, count, draw)
            aucs.append(fit_fold(setup, open_fold(setup, job, job_config(trial, job), inputs), start)["auc"])
            report(len(aucs), float(np.mean(aucs)))
        setup.bar.close()
        return float(np.mean(aucs))

    return run_search(config, "val/auc", ("finetune",), objective, stop, load, inputs)


# -- several processes -------------------------------------------------------------------------------------------------


def run_workers(config: Config, stop: StopSignal) -> None:
    """Share the folds among processes: small fits use the cores, or a GPU, better side by side.

    Each gets every `workers`-th fold, an equal part of the cores and a GPU. Raises the first error of any of them.
    """
    settings = config.finetune
    resolve_arms(config)  # its errors once, not once a worker
    _, splits = load_windows(config.data, config.folder)
    folds, count = fold_numbers(config, splits, settings.sites[0]), config.processes
    parts = [dataclasses.replace(settings, folds=folds[i::count]) for i in range(count)]
    configs = [dataclasses.replace(config, workers=1, finetune=part) for part in parts]
    with ProcessPoolExecutor(count, worker_context(count), _begin_worker) as pool:
        shares = [pool.submit(_work, part, i) for i, part in enumerate(configs)]
        done, running = set(), shares
        while running and not stop.asked and not any(share.exception() for share in done):
            done, running = wait(running, timeout=0.2, return_when=FIRST_EXCEPTION)
        if running:  # stopped, or one has failed: stop the rest
            for process in multiprocessing.active_children():
                process.terminate()
    stop_if_asked(stop, f"in {config.folder}/finetune, finished folds and epochs are kept")
    _raise_first([share.exception() for share in shares if share.exception() is not None])


def _raise_first(errors: list[BaseException]) -> None:
    """Raise an error of a worker: one that does not merely follow from another's, if any."""
    errors.sort(key=lambda error: isinstance(error, (Interrupted, BrokenProcessPool)))
    if errors and isinstance(errors[0], BrokenProcessPool):
        sys.exit(f"{sys.argv[0]}: a worker was killed (out of memory?); rerun the same command to resume")
    if errors:
        raise errors[0]


_worker_stop: StopSignal | None = None  # of this process, where it is a worker


def _begin_worker() -> None:
    global _worker_stop
    _worker_stop = StopSignal()
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _work(config: Config, number: int) -> None:
    run_jobs(config, _worker_stop, number)


def _die_with_parent() -> None:
    """End this worker at once when its parent is killed: whoever resumes in the run folder must not find it running."""
    multiprocessing.parent_process().join()
    os._exit(1)
