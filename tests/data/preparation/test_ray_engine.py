"""A real local Ray with two workers makes the same shards as this process does."""

import pytest
from fakes import MODEL, RULES, FakeEncoder, write_clips

from ltx_jax.data.preparation.engines import LocalEngine
from ltx_jax.data.preparation.prepare import prepare
from ltx_jax.data.preparation.ray_engine import RayEngine, import_ray


@pytest.fixture(scope="module")
def ray():
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    module = import_ray()
    from pathlib import Path

    paths = {"env_vars": {"PYTHONPATH": str(Path(__file__).parents[1]), "JAX_PLATFORMS": "cpu"}}
    module.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=paths)
    yield module
    module.shutdown()


def test_two_workers_and_two_actors_make_the_same_shards(ray, tmp_path):
    (tmp_path / "in").mkdir()
    write_clips(tmp_path / "in")
    run = lambda name, engine: prepare(
        str(tmp_path / "in"), tmp_path / name, RULES, engine, MODEL, batch=2, shard_clips=2, progress=False
    )
    cluster = run("cluster", RayEngine(ray, FakeEncoder, workers=2, actors=2))
    assert cluster == run("local", LocalEngine(FakeEncoder(), 0)) and cluster["clips"] == 7
    for path in (tmp_path / "local").glob("*.arrayrecord"):
        assert path.read_bytes() == (tmp_path / "cluster" / path.name).read_bytes()
