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
from typing import Any

import numpy as np

from simcsp.core.arms import OF_ANNOTATION
from simcsp.core.config import Config, FinetuneConfig, to_dict
from simcsp.core.device import build_accelerator
from simcsp.core.errors import InputError, Interrupted
from simcsp.core.run_layout import checkpoint_path
from simcsp.labels.floors import annotated_sites, fit_annotation_floor
from simcsp.labels.motifs import Motifs, load_motifs
from simcsp.labels.spliceator import Windows
from simcsp.labels.splits import Splits, load_windows
from simcsp.training.arms import Arm, resolve_arms
from simcsp.training.fold import begin_fit, end_fit, fit_fold, keep_best, pack, score_floor, score_fold, train_epoch
from simcsp.training.fold_setup import Fold, Job, Start, Study, arm_inputs, build_study, load_start, open_fold
from simcsp.training.probe import fit_probe
from simcsp.training.search import Load, Report, run_search
from simcsp.training.stopping import StopSignal, stop_if_asked
from simcsp.training.tensorboard import show_arm
from simcsp.training.workers import worker_context

CONFIG_SECTIONS = ("name", "seed", "precision", "model", "data", "evaluate", "finetune")  # what decides a fold's result


def run_folds(config: Config, stop: StopSignal) -> None:
    """Every site, seed, arm and fold that the config asks for, in one process or shared among `workers`."""
    if config.workers == 1:
        run_jobs(config, stop)
    else:
        run_workers(config, stop)


def run_jobs(config: Config, stop: StopSignal, worker: int = 0) -> None:
    """Every site, seed, arm and fold that the config asks for, one after the other."""
    arms, settings = resolve_arms(config), config.finetune
    windows, splits = load_windows(config.data, config.folder)
    study = open_study(config, windows, splits, load_motifs(config.data), stop, worker)
    tasks = [(site, seed, arm) for site in settings.sites for seed in settings.seeds for arm in arms]
    counts = {site: len(fold_numbers(config, splits, site)) * len(draws(settings)) for site in settings.sites}
    study.bar.total = sum(counts[site] for site, _, _ in tasks)
    for site, seed, arm in tasks:
        run_arm(config, study, arm, site, seed)
        if worker == 0 and config.report:  # one process writes; the report shows what the others have done
            show_arm(config.folder, arm.name)
    study.bar.close()


def open_study(
    config: Config, windows: Windows, splits: Splits, motifs: Motifs | None, stop: StopSignal, worker: int = 0
) -> Study:
    """What all fits of a config share, on its device."""
    return build_study(
        config.finetune,
        config.evaluate,
        config.model,
        config.seed,
        config.data.split_seed,
        config.folder,
        config.data.context,
        build_accelerator(config.device, config.precision),
        windows,
        splits,
        motifs,
        stop,
        worker,
    )


def fold_numbers(config: Config, splits: Splits, site: str) -> list[int]:
    """The folds to run. Raises InputError for one that does not exist."""
    count, chosen = len(splits.folds[site]), config.finetune.folds
    if max(chosen or [0]) >= count:
        raise InputError(f"finetune.folds: there is no fold {max(chosen)}; they are 0 to {count - 1}")
    return list(range(count)) if chosen is None else chosen


def draws(settings: FinetuneConfig) -> list[tuple[int | None, int]]:
    """(number of training windows, draw) of every cut of a training part; all windows are one draw."""
    counts = settings.train_windows
    return [(count, draw) for count in counts for draw in range(1 if count is None else settings.draws)]


def job_config(config: Config, job: Job) -> dict[str, Any]:
    """The resolved config of one job, which can be passed back."""
    values = to_dict(config)
    kept = {key: values[key] for key in CONFIG_SECTIONS}
    arm = next(arm for arm in config.finetune.arms if arm.partition("=")[0] == job.arm.name)
    kept["finetune"] |= {"arms": [arm], "sites": [job.site], "seeds": [job.seed], "folds": [job.fold]}
    # the fewest draws with this one among them: a later run with more of them goes on from it
    kept["finetune"] |= {"train_windows": [job.train_windows], "draws": job.draw + 1}
    del kept["finetune"]["fold_events"]  # changes no result
    return kept


def run_arm(config: Config, study: Study, arm: Arm, site: str, seed: int) -> None:
    """All folds of one arm on one task with one seed, each with every draw of its training windows."""
    inputs, cuts = arm_inputs(study, arm), draws(config.finetune)
    jobs = [Job(arm, site, seed, number, *cut) for number in fold_numbers(config, study.splits, site) for cut in cuts]
    folds = [open_fold(study, job, job_config(config, job), inputs) for job in jobs]
    waiting = [fold for fold in folds if not fold.run.finished]
    study.bar.update(len(folds) - len(waiting))
    if not waiting:
        return
    if arm.source is None:
        predict = None  # the annotation's floors are the same for all folds
        if arm.name in OF_ANNOTATION:
            sites = annotated_sites(config.data, config.seed)
            predict = fit_annotation_floor(arm.name, config.evaluate, sites, config.seed)
        for fold in waiting:
            study.stop_if_asked()
            score_floor(study, fold, predict)
        return
    start = load_start(study, arm.name, arm.source)
    if config.finetune.select_epoch == "shared":
        for cut in cuts:
            run_shared(study, [fold for fold in folds if (fold.job.train_windows, fold.job.draw) == cut], start)
        return
    for fold in waiting:
        if config.finetune.stages == ["probe"]:
            fit_probe(study, fold, start)
        else:
            best = fit_fold(study, fold, start)
            score_fold(study, fold, start, best["epoch"], best["seconds"])


def run_shared(study: Study, folds: list[Fold], start: Start) -> None:
    """Fit and score all folds with one epoch for all of them; nothing where they are finished."""
    waiting = [fold for fold in folds if not fold.run.finished]
    if waiting:
        best_epoch, seconds = fit_shared(study, folds, start)
        for fold in waiting:
            score_fold(study, fold, start, best_epoch, seconds / len(folds))


def fit_shared(study: Study, folds: list[Fold], start: Start) -> tuple[int, float]:
    """The published rule: epochs outside, folds inside, one epoch for all by their mean validation AUC.

    Returns that epoch and the seconds that this process took for all folds. Each fold's model is on disk between its
    epochs. A fold whose state is ahead has been through this epoch before the run was stopped; its best weights are
    promoted only while every fold still holds that very epoch.
    """
    began, settings = time.perf_counter(), study.settings
    finished = [fold for fold in folds if fold.run.finished]
    if finished:  # stopped between the summaries: the epoch has been picked
        for fold in folds:
            if not checkpoint_path(fold.run.path).is_dir():
                raise InputError(
                    f"{fold.run.path}: select_epoch shared needs all folds fitted together; use another --name"
                )
        return finished[0].run.summary["best_epoch"], 0.0
    best, best_epoch = -1.0, 0
    for epoch in range(1, settings.max_epochs + 1):
        if epoch - best_epoch > settings.patience:
            break
        for fold in folds:
            fit = begin_fit(study, fold, start)
            if fit.epoch < epoch:
                train_epoch(study, fold, fit)
                fold.run.save_state(pack(study, fit))
            end_fit(study, fold)
        done = [{row["step"]: row["val/auc"] for row in fold.run.metrics()} for fold in folds]
        mean = float(np.mean([values[epoch] for values in done]))
        if mean > best:
            best, best_epoch = mean, epoch
            if all(max(values) == epoch for values in done):
                for fold in folds:
                    keep_best(fold, begin_fit(study, fold, start))
                    end_fit(study, fold)
    return best_epoch, time.perf_counter() - began


def search_settings(config: Config, stop: StopSignal, load: Load) -> str:
    """Search over finetune.* by mean validation AUC of the first arm on the first task; no test window is scored."""
    arm = resolve_arms(config)[0]
    if arm.source is None:
        raise InputError(f"finetune.arms: a search needs an encoder, {arm.name} is a floor")
    if config.finetune.stages == ["probe"]:
        raise InputError("finetune.stages ([probe]): a search is over settings of training, and a probe has none")
    site, seed = config.finetune.sites[0], config.finetune.seeds[0]
    windows, splits = load_windows(config.data, config.folder)  # of the run: the same for every trial

    def objective(trial: Config, report: Report) -> float:
        study = open_study(trial, windows, splits, None, stop)
        start, inputs, aucs = load_start(study, arm.name, arm.source), arm_inputs(study, arm), []
        for number in fold_numbers(trial, study.splits, site):
            job = Job(arm, site, seed, number, *draws(trial.finetune)[0])
            aucs.append(fit_fold(study, open_fold(study, job, job_config(trial, job), inputs), start)["auc"])
            report(len(aucs), float(np.mean(aucs)))
        study.bar.close()
        return float(np.mean(aucs))

    return run_search(config, "val/auc", ("finetune",), objective, stop, load)


# -- several processes -------------------------------------------------------------------------------------------------


def run_workers(config: Config, stop: StopSignal) -> None:
    """Share the folds among processes: on a CPU, small fits use the cores better side by side.

    Each gets every `workers`-th fold and an equal part of the cores. Raises the first error of any of them.
    """
    settings = config.finetune
    if settings.select_epoch == "shared":
        raise InputError("workers: finetune.select_epoch shared picks one epoch for all folds, which takes one worker")
    resolve_arms(config)  # its errors once, not once a worker
    _, splits = load_windows(config.data, config.folder)
    folds, count = fold_numbers(config, splits, settings.sites[0]), config.processes
    parts = [dataclasses.replace(settings, folds=folds[i::count]) for i in range(count)]
    with ProcessPoolExecutor(count, worker_context(count), _begin_worker) as pool:
        configs = [dataclasses.replace(config, workers=1, finetune=part) for part in parts]
        running = [pool.submit(_work, part, i) for i, part in enumerate(configs)]
        done, waiting = set(), running
        while waiting and not stop.asked and not any(share.exception() for share in done):
            done, waiting = wait(running, timeout=0.2, return_when=FIRST_EXCEPTION)
        if waiting:  # stopped, or one has failed: stop the rest
            for process in multiprocessing.active_children():
                process.terminate()
    stop_if_asked(stop, f"in {config.folder}/finetune, finished folds and epochs are kept")
    errors = [share.exception() for share in running if share.exception() is not None]
    errors.sort(key=lambda error: isinstance(error, (Interrupted, BrokenProcessPool)))  # those follow from another
    if errors and isinstance(errors[0], BrokenProcessPool):
        sys.exit(f"{sys.argv[0]}: a worker was killed: is there enough memory? The same command goes on from there")
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
    """End this worker at once when its parent is killed: who goes on in the run folder must not find it there."""
    multiprocessing.parent_process().join()
    os._exit(1)
