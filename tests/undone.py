"""A branch on which Anderson steps of some samples have to be undone, for the tests of every kernel of the inverse."""

import torch
from problems import LIPSCHITZ, Case, make

from iresnet_fast import reference
from iresnet_fast.reference.anderson import Anderson

TOLERANCE = 1e-7
CASE = Case("undone", (3,), (4,), activations=("identity", "sin"), batch=64)


def make_undone():
    """Return the problem: a sine over several of its periods is far from affine."""
    problem = make(CASE)
    return problem._replace(x=3.0 * problem.x, weights=[10.0 * problem.weights[0], 0.1 * problem.weights[1]])


def expected(problem, monkeypatch, max_iterations=100):
    """Return what the reference does, having made sure that it undoes steps."""
    undone = []
    accept = Anderson.accept

    def watched(self, *arguments):
        undone.append(accept(self, *arguments))
        return undone[-1]

    monkeypatch.setattr(Anderson, "accept", watched)
    arguments = (*problem.branch, LIPSCHITZ, TOLERANCE, max_iterations, problem.parameters)
    results = reference.residual_inverse(problem.x, *arguments)
    assert torch.cat(undone).sum() > 3
    return results
