"""What torchrun starts for tests/test_distributed_fit.py: python fit_on_ranks.py RESULTS JOBS, JOBS a JSON list."""

import json
import os
import sys
import time
from pathlib import Path

import torch

from iresnet_fast import data, training
from iresnet_fast.models import FlowConfig, IResNetFlow
from iresnet_fast.training import distributed, trainer

STEPS = 6


def dataset():
    x = torch.randn(80, 2, generator=torch.Generator().manual_seed(5))
    return data.DataSet("points", x[:64], x[64:])


def model():
    torch.manual_seed(0)
    return IResNetFlow(FlowConfig((2,), blocks=(2,), hidden=(8, 8)))


def config(**changes):
    # Evaluations take 0.5 s, see main. By the clock of a process that only waits for the one after step 4, the next
    # would be due after step 5, where nothing else is: all must go by the same clock.
    by_clock = {"eval_steps": 4, "eval_minutes": 0.25 / 60.0}
    defaults = {"batch_size": 8, "max_steps": STEPS, "checkpoint_steps": 2, "log_steps": 3, **by_clock}
    return training.TrainConfig(**defaults | changes)


def note_writes(folder):
    """The paths in a folder that this process opens to write, renames or removes, from now on."""
    written = []

    def hook(event, arguments):
        writes = event in ("os.rename", "os.remove") or (event == "open" and arguments[1] not in (None, "r", "rb"))
        if writes and str(arguments[0]).startswith(str(folder)):
            written.append([event, str(arguments[0])])

    sys.addaudithook(hook)
    return written


def signal_at(step, number):
    """Send process 1 a signal in the middle of its n-th step: after the forward pass, before the backward one."""
    original, calls = trainer.Trainer.advance, []

    def advance(self):
        calls.append(None)
        if len(calls) == step and distributed.rank() == 1:
            self._loss.register_forward_hook(lambda *_: os.kill(os.getpid(), number))
        original(self)

    trainer.Trainer.advance = advance


def main(results, jobs):
    torch.set_num_threads(1)
    evaluate = trainer.evaluate
    trainer.evaluate = lambda *arguments, **options: time.sleep(0.5) or evaluate(*arguments, **options)
    with distributed.setup():
        written = note_writes(results)
        runs = []
        for job in jobs:
            if "signal_at" in job:
                signal_at(*job["signal_at"])
            try:
                changes = job.get("changes", {})
                run = training.fit(
                    model(), dataset(), config(**changes), Path(results, job["folder"]), job["resume"], False
                )
            except training.TrainingInterrupted as error:
                print(f"iresnet-fast: {error}", file=sys.stderr)
                return 130  # the last job
            losses = {row["step"]: row["loss"] for row in run.history}
            runs.append({"state": run.model.state_dict(), "losses": losses, "step": run.step})
            runs[-1] |= {"best": run.best.state_dict(), "best_step": run.best_step, "stopped": run.stopped}
            torch.save({"runs": runs, "written": written[:]}, Path(results, f"rank{distributed.rank()}"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], json.loads(sys.argv[2])))
