"""Every schedule falls from 1 to 0, at every length and token count."""

import numpy as np
import pytest

from ltx_jax.diffusion import schedules
from ltx_jax.diffusion.families.network import PROCESSES
from ltx_jax.errors import UserError

LENGTHS = [1, 2, 3, 4, 8, 30, 50]


def assert_falls(sigmas, first=1.0):
    assert sigmas.dtype == np.float32
    assert np.isclose(sigmas[0], first, atol=1e-6)
    assert sigmas[-1] == 0
    assert np.all(np.diff(sigmas) < 0)


@pytest.mark.parametrize("steps", LENGTHS)
@pytest.mark.parametrize("tokens", [None, 1, 80, 4096, 16384, 514080, 10**8])
def test_ltx2_falls_and_ends_at_the_terminal(steps, tokens):
    sigmas = schedules.ltx2(steps, tokens)
    assert len(sigmas) == steps + 1
    assert_falls(sigmas)
    if steps > 1:
        assert np.isclose(sigmas[-2], 0.1)


@pytest.mark.parametrize("steps", LENGTHS)
def test_ltx2_without_stretch_falls(steps):
    assert_falls(schedules.ltx2(steps, stretch=False))


@pytest.mark.parametrize("steps", LENGTHS)
def test_linear_quadratic_falls(steps):
    assert_falls(schedules.linear_quadratic(steps))


@pytest.mark.parametrize("steps", LENGTHS)
def test_beta_falls(steps):
    assert_falls(schedules.beta(steps))


def test_beta_drops_repeated_indices():
    sigmas = schedules.beta(30, table_length=20)
    assert len(sigmas) < 31
    assert_falls(sigmas)


@pytest.mark.parametrize("name", schedules.DISTILLED)
def test_distilled_lists_fall(name):
    sigmas = schedules.distilled(name)
    assert_falls(sigmas, first=sigmas[0])


@pytest.mark.parametrize(("alpha", "beta"), [(0.6, 0.6), (0.8, 0.5), (2.0, 3.0), (30.0, 20.0)])
def test_inverse_beta_inverts(alpha, beta):
    u = np.linspace(0, 1, 33)
    x = schedules.inverse_beta(u, alpha, beta)
    assert x[0] == 0 and x[-1] == 1
    np.testing.assert_allclose(schedules.incomplete_beta(x, alpha, beta), u, atol=1e-12)


def test_incomplete_beta_of_the_arcsine_law():
    x = np.linspace(0.01, 0.99, 21)
    np.testing.assert_allclose(schedules.incomplete_beta(x, 0.5, 0.5), 2 / np.pi * np.arcsin(np.sqrt(x)), rtol=1e-12)


def test_mistakes_are_sentences():
    for wrong in (
        lambda: schedules.ltx2(0),
        lambda: schedules.ltx2(4, terminal=1.0),
        lambda: schedules.linear_quadratic(4, linear_steps=4),
        lambda: schedules.distilled("stage_3"),
    ):
        with pytest.raises(UserError):
            wrong()


def test_named_schedules_fall_and_unknown_ones_are_said():
    for name in schedules.SCHEDULES:
        first = PROCESSES[name].most if name in PROCESSES else 1.0  # a family begins where its training ended
        assert_falls(schedules.schedule(name, 8, 80), first)
    with pytest.raises(UserError, match="ltx2, linear_quadratic, beta"):
        schedules.schedule("karras", 8)
