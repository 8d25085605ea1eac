"""Steps that a GPU shall not wait for must not read numbers on the host."""

from torch.utils._python_dispatch import TorchDispatchMode


class NoReads(TorchDispatchMode):
    """Fails where a number is read on the host: on a GPU that waits, and cannot be captured."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func._schema.name != "aten::_local_scalar_dense", "a number is read on the host"
        return func(*args, **(kwargs or {}))
