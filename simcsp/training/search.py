"""Search over the settings of a stage with optuna: TPE, median pruning, one study shared by any number of processes.

Every trial is an ordinary run folder, runs/<name>/search/trialNNNN, with its own config, TensorBoard view and exact
resume; the best settings become runs/<name>/search/best.yaml.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.study import MaxTrialsCallback
from optuna.trial import TrialState

from simcsp.core.config import Config, flatten, to_dict
from simcsp.core.errors import InputError, Interrupted
from simcsp.core.files import write_text
from simcsp.core.locks import LOCK, release_lock, take_lock
from simcsp.core.provenance import changed_inputs, changed_settings
from simcsp.core.run_layout import BEST_SETTINGS, STUDY, STUDY_DATABASE, trial_name
from simcsp.training.stopping import StopSignal, stop_if_asked

MAX_RETRY = 3  # of a trial: its settings may be what kills processes
_ORIGIN = "origin"  # user attribute of the study: the settings and inputs of its trials
_FREE = ("name", "runs", "device", "workers", "report", "only", "timeout", "data.cache", "finetune.fold_events")
_FREE += ("search.trials", "search.startup_trials")  # how settings begin that may change between trials
FOLDER = "folder"  # user attribute of a trial: the number whose run folder it resumes
Load = Callable[[list[str]], Config]
"""Reads and checks the YAML whose path it is given, as the scripts do (utils/arguments.py)."""
Report = Callable[[int, float], None]
"""(step, value): tell the study how a trial is doing; raises optuna.TrialPruned where it is below the median."""


def run_search(
    config: Config,
    metric: str,
    sections: tuple[str, ...],
    objective: Callable[[Config, Report], float],
    stop: StopSignal,
    load: Load,
    inputs: dict[str, str],
) -> str:
    """Trials until `search.trials` have ended in all processes together; returns lines for the terminal.

    metric: what is maximised, for people. sections: of the config, whose fields may be searched. objective: trains one
    trial's config and returns what to maximise. load: reads a trial's config. inputs: hashes of what trials read, which
    must stay as they are, as must all settings but the number of trials. A trial of a worker that was killed is
    started again by the next worker that looks, in the same run folder, and resumes where it was.
    """
    check_space(config, sections)
    study = open_study(config)
    check_same(study, config, sections, inputs)
    done = (TrialState.COMPLETE, TrialState.PRUNED)

    def run_trial(trial: optuna.Trial) -> float:
        number = trial.user_attrs.get(FOLDER, trial.number)
        lock = lock_of(config, trial.number)
        take_lock(lock)  # it dies with this process, however that ends
        try:
            return run_locked(trial, number)
        finally:
            release_lock(lock)

    def run_locked(trial: optuna.Trial, number: int) -> float:
        path = config.folder / f"{trial_name(number)}.yaml"
        write_text(path, with_values(config, suggest(trial, config), path.stem, str(path.parent)))
        own_config = load([str(path)])  # impossible values are refused with the field

        def report(step: int, value: float) -> None:
            trial.report(value, step)
            if trial.should_prune():
                raise optuna.TrialPruned(f"below the median at step {step}")

        try:
            value = objective(own_config, report)
        except Interrupted:
            study.enqueue_trial(trial.params, user_attrs={FOLDER: number})  # the next start resumes it
            raise
        except FloatingPointError as error:  # these settings diverge: a result, not a reason to stop the search
            raise optuna.TrialPruned(str(error)) from None
        stop_if_asked(stop, f"after trial {number} in {config.folder}/search")
        return value

    take_over(study, config)
    if len(study.get_trials(states=done)) < config.search.trials:
        enough = MaxTrialsCallback(config.search.trials, states=done)
        study.optimize(run_trial, callbacks=[enough, lambda *_: take_over(study, config)], gc_after_trial=True)
    return describe(config, metric, study)


def check_same(study: optuna.Study, config: Config, sections: tuple[str, ...], inputs: dict[str, str]) -> None:
    """Refuse another config or other inputs than those of the trials that a study has: their values are compared."""
    free = (*_FREE, *({"mlm", "pretrain", "finetune", "bases"} - set(sections)))
    flat = json.loads(json.dumps(flatten(to_dict(config))))  # as the journal has it
    searched = config.search.space
    settings = {key: value for key, value in flat.items() if key not in searched and not key.startswith(free)}
    known = study.user_attrs.get(_ORIGIN)
    if known is None:
        study.set_user_attr(_ORIGIN, {"settings": settings, "inputs": inputs})
        return
    changed = changed_settings(known["settings"], settings) + changed_inputs(known["inputs"], inputs, to_dict(config))
    if changed:
        raise InputError(
            f"{config.folder / STUDY} was started with other settings or inputs ({'; '.join(changed[:6])}): "
            "use another --name, or delete its folder to start over"
        )


def lock_of(config: Config, number: int) -> Path:
    return config.folder / f"{trial_name(number)}{LOCK}"


def take_over(study: optuna.Study, config: Config) -> None:
    """Have the trials of dead processes run again, in their run folders: those whose lock nobody holds.

    A trial without a lock file has not begun, or has ended.
    """
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        lock = lock_of(config, trial.number)
        if not lock.is_file():
            continue
        try:
            take_lock(lock)
        except InputError:  # its process lives
            continue
        try:
            folders = [other.user_attrs.get(FOLDER, other.number) for other in study.get_trials(deepcopy=False)]
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            if folders.count(folders[trial.number]) <= MAX_RETRY:
                study.enqueue_trial(trial.params, user_attrs={FOLDER: folders[trial.number]})
        finally:
            release_lock(lock)


def open_study(config: Config) -> optuna.Study:
    """The study of a config, in a journal in its run folder: a file to which every process appends, on NFS too."""
    path, before = config.folder / STUDY, config.folder / STUDY_DATABASE
    if before.is_file():
        raise InputError(f"{before} is a search of an earlier version: delete {before.parent} to start a new search")
    logging.getLogger("optuna").setLevel(logging.WARNING)
    logging.getLogger("optuna.study._optimize").setLevel(logging.ERROR)  # tracebacks of what the scripts say in a line
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # constant_liar, since 2021
    path.parent.mkdir(parents=True, exist_ok=True)
    return optuna.create_study(
        study_name=config.name,
        storage=JournalStorage(Journal(str(path))),
        direction="maximize",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(n_startup_trials=config.search.startup_trials, constant_liar=True),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=config.search.startup_trials),
    )


class Journal(JournalFileBackend):
    """optuna's journal, in which what a kill left of a last line is cut off before anything follows it."""

    def __init__(self, path: str) -> None:
        lock = JournalFileSymlinkLock(path)
        super().__init__(path, lock)
        self.path, self.lock = path, lock
        self.trim()

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.trim()
        super().append_logs(logs)

    def trim(self) -> None:
        """Cut off a last line that has no end, and say so."""
        self.lock.acquire()
        try:
            content = Path(self.path).read_bytes()
            if content and not content.endswith(b"\n"):
                os.truncate(self.path, content.rfind(b"\n") + 1)
                logging.getLogger(__name__).warning(f"warning: {self.path}: cut off a last line that a kill left half")
        finally:
            self.lock.release()


def check_space(config: Config, sections: tuple[str, ...]) -> None:
    """Refuse a search space that cannot be drawn from, naming the field."""
    known = flatten({name: to_dict(config)[name] for name in sections})
    if not config.search.space:
        raise InputError("search.space is empty: name fields with their ranges, see configs/search.yaml")
    for key, spec in config.search.space.items():
        if key not in known:
            raise InputError(f"search.space: {key!r} is not a field of {', '.join(sections)}")
        if not isinstance(spec, dict) or not ({"low", "high"} <= set(spec) or set(spec) == {"choices"}):
            raise InputError(f"search.space.{key}: expected {{low: ..., high: ..., log: true}} or {{choices: [...]}}")
        if "choices" in spec:
            if not isinstance(spec["choices"], list) or not spec["choices"]:
                raise InputError(f"search.space.{key}.choices must be a list of values")
        elif unknown := sorted(set(spec) - {"low", "high", "log", "step"}):
            raise InputError(f"search.space.{key}: unknown key {unknown[0]!r}; there are low, high, log, step")
        elif not all(isinstance(spec[end], (int, float)) for end in ("low", "high")) or spec["low"] > spec["high"]:
            raise InputError(f"search.space.{key}: low ({spec['low']}) must be a number up to high ({spec['high']})")


def suggest(trial: optuna.Trial, config: Config) -> dict[str, Any]:
    """{field: value} of a trial."""
    values: dict[str, Any] = {}
    for key, spec in config.search.space.items():
        if "choices" in spec:
            values[key] = trial.suggest_categorical(key, spec["choices"])
        else:
            whole = isinstance(spec["low"], int) and isinstance(spec["high"], int)
            draw, step = (trial.suggest_int, 1) if whole else (trial.suggest_float, None)
            values[key] = draw(key, spec["low"], spec["high"], log=spec.get("log", False), step=spec.get("step", step))
    return values


def with_values(config: Config, values: dict[str, Any], name: str, runs: str) -> str:
    """The resolved config as YAML with `values` in it, under another name, and without the search."""
    plain = to_dict(config) | {"name": name, "runs": runs}
    del plain["search"]
    for key, value in values.items():
        section, field = key.split(".")
        plain[section][field] = value
    return yaml.safe_dump(plain, sort_keys=False)


def describe(config: Config, metric: str, study: optuna.Study) -> str:
    """Write best.yaml and say what the search found."""
    states = [trial.state for trial in study.get_trials()]
    counts = ", ".join(f"{states.count(state)} {state.name.lower()}" for state in dict.fromkeys(states))
    if TrialState.COMPLETE not in states:
        return f"search {config.name}: no trial ran to its end ({counts})"
    best = study.best_trial
    path = config.folder / BEST_SETTINGS
    header = f"# The best of the search {config.name}: {metric} {best.value:.4f}, trial {best.number}\n"
    write_text(path, header + with_values(config, best.params, f"{config.name}-best", config.runs))
    lines = [f"search {config.name}: {counts}; best {metric} {best.value:.4f} in trial {best.number}"]
    for key, value in best.params.items():
        lines.append(f"  {key} {value:.4g}" if isinstance(value, float) else f"  {key} {value}")
    return "\n".join([*lines, f"config: {path}"])
