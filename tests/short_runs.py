"""Runs of two steps, and what is said of their files."""

import pytest
from training_examples import make_config, make_data, make_model

from iresnet_fast import training
from iresnet_fast.training import checkpoint


def run(folder, kind="plane", resume=False, **changes):
    data = make_data("plane" if kind == "plane" else "images")
    config = make_config(**{"max_steps": 2, "checkpoint_steps": 1, **changes})
    return training.fit(make_model(kind), data, config, folder, resume, show_progress=False)


def newest(folder):
    return checkpoint.paths(folder)[0]


def sentence_of(call, *arguments, **options):
    with pytest.raises(training.CheckpointError) as caught:
        call(*arguments, **options)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < 1000
    assert sentence.endswith(".")
    return sentence
