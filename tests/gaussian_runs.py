"""Runs that took no training: flows that are normal densities with a known mean and covariance, in model files."""

import torch

from iresnet_fast.data import TableSchema
from iresnet_fast.models import FlowConfig, IResNetFlow
from iresnet_fast.training import checkpoint


def gaussian_flow(data, context=None, **changes):
    """A flow whose density is the normal one with the mean and the covariance of data [N, d]."""
    values = {"blocks": (1,), "hidden": (4,), "actnorm": False, "prior": "standard", **changes}
    config = FlowConfig((data.shape[1],), zero_init=True, preprocess="whiten", **values)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        flow = IResNetFlow(config)
    flow.fit_preprocessing(data, context)
    return flow.eval()


def normal_of(data):
    """The mean [d] and the covariance [d, d] of data, as `gaussian_flow` has them."""
    values = data.double()
    return values.mean(0), torch.cov(values.T, correction=0)


def conditional_of(mean, covariance, row, missing):
    """Mean and covariance of the missing entries of a row [d], given the others, by the formula of textbooks."""
    there = ~missing
    weights = covariance[missing][:, there] @ torch.linalg.inv(covariance[there][:, there])
    centre = mean[missing] + weights @ (row[there].double() - mean[there])
    return centre, covariance[missing][:, missing] - weights @ covariance[there][:, missing]


def save_run(folder, flow, schema=None, scores=None, shape=None, **data):
    """Write a model as the file of a run; `schema` of its table, `scores` of its training rows."""
    described = {
        "name": "digits",
        "event_shape": list(flow.config.event_shape if shape is None else shape),
        "n_levels": None,
        "n_classes": None,
        "n_train": 100,
        "context": [column.name for column in schema.context] if isinstance(schema, TableSchema) else None,
        "table": None if schema is None else schema.to_dict(),
        **data,
    }
    metadata = {
        "model": type(flow).__name__,
        "model_config": flow.config.to_dict(),
        "train_config": {},
        "data": described,
        "step": 0,
        "minutes": 0.0,
        "seed": 0,
        "backend": "kernels",
    }
    tensors = {f"model.{name}": value for name, value in flow.state_dict().items()}
    if scores is not None:
        tensors["scores.log_prob"] = scores
    checkpoint.write(folder / checkpoint.MODEL_FILE, tensors, metadata)
    return folder
