"""The cluster that has started a host, and a single machine. `tests/test_hosts.py` has the rest."""

import pytest

from configs import default
from devices import hosts
from resnet.errors import UserError

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
}
STEP = SLURM | {"SLURM_STEP_NUM_TASKS": "4"}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
}


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hides the cluster, if there is one, that has started the tests."""
    for name in {name for names in hosts.CLUSTERS for name in names} | STEP.keys() | OPEN_MPI.keys():
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("variables", "size"),
    [
        ({}, 1),
        (STEP, 4),
        (SLURM, 1),  # the script of a job, outside of srun
        (STEP | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "4"}, 1),
        (OPEN_MPI, 2),
        (OPEN_MPI | {"OMPI_COMM_WORLD_SIZE": "1"}, 1),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, 1),  # a pod that is no part of an indexed job
    ],
)
def test_processes_that_a_cluster_has_started(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], size: int
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert hosts._cluster_size() == size


def test_a_cluster_that_cannot_be_read_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (STEP | {"SLURM_NTASKS": "four"}).items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(UserError, match="cluster: JAX cannot read its environment"),
        hosts.together(default.get_config().hosts),
    ):
        pass


def test_a_single_machine_agrees_with_itself() -> None:
    settings = default.get_config().hosts
    settings.update({"coordinator": "localhost:1", "number": 1, "index": 0})
    with hosts.together(settings):
        assert (hosts.index(), hosts.count(), hosts.is_writer()) == (0, 1, True)
        assert hosts.broadcast([1]) == [1]
        assert hosts.largest(3) == 3
        hosts.agree("settings", {"seed": 1})
