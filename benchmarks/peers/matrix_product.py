"""A large matrix product in JAX or PyTorch. Its rate is the most that the machine can do."""

from benchmarks.peers import Case, Contestant

SIZE = {"cpu": 2048, "gpu": 8192}


def floating_point_operations(case: Case) -> int:
    """Returns the operations of one product, which is one step of `run`; a multiply-add counts as two."""
    return 2 * SIZE[case.device] ** 3


def make(name: str, case: Case) -> Contestant:
    """Builds `product_jax` or `product_torch`, for square matrices of the dtype of `case`."""
    return {"product_jax": _make_jax, "product_torch": _make_torch}[name](case, SIZE[case.device])


def _make_jax(case: Case, size: int) -> Contestant:
    import jax
    import jax.numpy as jnp

    matrix = jnp.full((size, size), 1 / size, case.dtype)
    product = jax.jit(jnp.matmul)

    def run(steps: int) -> None:
        for _ in range(steps):
            result = product(matrix, matrix)
        result.block_until_ready()

    return Contestant(run, 0, jax.devices()[0].device_kind)


def _make_torch(case: Case, size: int) -> Contestant:
    import torch

    from benchmarks.peers.torch_resnet import device_name, set_up, synchronize

    device = set_up(case.device)
    matrix = torch.full((size, size), 1 / size, dtype=getattr(torch, case.dtype), device=device)
    result = torch.empty_like(matrix)

    def run(steps: int) -> None:
        for _ in range(steps):
            torch.matmul(matrix, matrix, out=result)
        synchronize(device)

    return Contestant(run, 0, device_name(device))
