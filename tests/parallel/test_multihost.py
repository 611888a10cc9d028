"""The cluster is found from the environment alone; mistakes are told in a sentence."""

import jax
import numpy as np
import pytest

from ltx_jax.errors import UserError
from ltx_jax.parallel.mesh import MeshConfig, make_mesh
from ltx_jax.parallel.multihost import Cluster, batch_share, find_cluster, local_mesh, to_host

SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n[1-4]", "SLURM_NTASKS": "4", "SLURM_PROCID": "2"}
OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}


@pytest.mark.parametrize(
    "environment, expected",
    [
        ({}, None),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}, None),  # a batch script itself, not a step of srun
        (SLURM | {"SLURM_NTASKS": "1"}, None),
        (SLURM, Cluster("slurm")),
        (OPEN_MPI | {"OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:3"}, Cluster("ompi")),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1"}, Cluster()),
        ({"TPU_WORKER_HOSTNAMES": "a"}, None),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),
        (
            {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "4", "JOB_COMPLETION_INDEX": "3"},
            Cluster(None, "a:1", 4, 3),
        ),
        (OPEN_MPI | {"JAX_COORDINATOR_ADDRESS": "a:1"}, Cluster(None, "a:1", 2, 1)),
        (SLURM | {"JAX_COORDINATOR_ADDRESS": "a:1"}, Cluster(None, "a:1", 4, 2)),
    ],
)
def test_clusters_are_known_by_their_environment(environment, expected):
    assert find_cluster(environment) == expected


def test_arguments_come_first():
    assert find_cluster(SLURM, "host:99", 2, 0) == Cluster(None, "host:99", 2, 0)


@pytest.mark.parametrize(
    "environment, arguments, message",
    [
        ({}, ("host:99", 0, -1), "missing: --processes, --process_id"),
        ({}, ("", 2, 0), "missing: --coordinator"),
        ({}, ("host", 2, 0), "HOST:PORT"),
        ({}, ("host:99", 2, 2), r"0\.\.1"),
        (OPEN_MPI, ("", 0, -1), "JAX_COORDINATOR_ADDRESS"),
    ],
)
def test_what_does_not_belong_together_is_refused(environment, arguments, message):
    with pytest.raises(UserError, match=message):
        find_cluster(environment, *arguments)


def test_one_process_has_everything():
    mesh = make_mesh(MeshConfig(2, 2, 2, 1), jax.devices()[:8])
    assert batch_share(mesh, 8) == (0, 1) and local_mesh(mesh) is mesh
    assert isinstance(to_host({"x": jax.numpy.ones(3)})["x"], np.ndarray)
