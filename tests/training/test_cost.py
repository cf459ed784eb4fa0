"""What an experiment costs, counted before it is run: by the plan of pretrain.py --dry-run and by the workflow."""

import pytest

from simcsp.core.config import Config, FinetuneConfig, PretrainConfig
from simcsp.training.cost import expected_epochs, fits_in_a_fold, windows_in_an_epoch


def test_an_arm_is_fitted_once_for_each_pretraining_seed_only_where_it_is_of_pretraining():
    settings = FinetuneConfig(sites=["donor", "acceptor"], seeds=[0, 1], train_windows=[50, None], draws=3)
    config = Config(pretrain=PretrainConfig(seeds=[1, 2, 3]), finetune=settings)
    for arm, seeds in (
        ("last", 3),
        ("control_best_nmi", 3),
        ("baseline", 1),
        ("fresh", 1),
        ("last_of_another=a/folder", 1),
    ):
        assert fits_in_a_fold(config, arm) == 2 * 2 * (3 + 1) * seeds


def test_epochs_and_windows_are_those_of_stages_and_draws():
    assert expected_epochs(FinetuneConfig(max_epochs=200, patience=10)) == 20
    assert expected_epochs(FinetuneConfig(max_epochs=4, stages=["supcon", "head", "full"], supcon_epochs=5)) == 10
    settings = FinetuneConfig(train_windows=[50, 200, None], draws=2)
    assert windows_in_an_epoch(settings, 1000) == pytest.approx((50 + 50 + 200 + 200 + 1000) / 5)
