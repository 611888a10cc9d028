"""On Gaussian data everything is known: each sampler makes its mean and covariance, at the order of its method.

With the exact denoiser samplers are affine, so that mean and covariance are propagated without Monte-Carlo error: the
samples are a mean and unit steps from it along every axis (spec families.md 0.3 and 10).
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ltx_jax.diffusion import guidance
from ltx_jax.diffusion.families import consistency, ddim, ddpm, dmd, edm, flow, process, score_samplers, sde
from ltx_jax.diffusion.families.gaussian import Gaussian
from ltx_jax.errors import UserError

MEAN = np.array([-0.25, 0.8, -0.4])
ROOT = np.array([[0.5, 0.1, -0.2], [0.0, 0.9, 0.3], [0.0, 0.0, 0.2]])
DATA = Gaussian(MEAN, ROOT @ ROOT.T)


@dataclasses.dataclass
class Moments:
    """An affine map of standard normal draws, fed to samplers as points: x(z) = x(0) + sum z_i (x(e_i) - x(0))."""

    mean: np.ndarray
    covariance: np.ndarray


def start(mean, covariance):
    """Points (D + 1, D) of N(mean, covariance): the mean, and a deviation from it along every direction."""
    values, basis = np.linalg.eigh(covariance)
    return np.vstack([mean, mean + (basis * values**0.5).T])


def marginal(a, s):
    return start(a * MEAN, a**2 * DATA.covariance + s**2 * np.eye(3))


def moments(points):
    deviations = points[1:] - points[0]
    return Moments(points[0], deviations.T @ deviations)


def covariance_error(points):
    return np.abs(moments(points).covariance - DATA.covariance).max()


def assert_order(errors, order):
    """Each halving of the step divides the error by at least 2^order, nearly."""
    rates = np.log2(np.array(errors[:-1]) / errors[1:])
    assert np.all(rates > order - 0.15), rates


# --- one notation ---------------------------------------------------------------------------------------------------


def test_every_prediction_stands_for_the_same_pair():
    rng = np.random.default_rng(0)
    x0, e = rng.normal(size=(2, 4, 3, 2))
    a, s = np.array([0.99, 0.7, 0.4, 0.1]), np.array([0.05, 0.6, 0.6, 0.99])
    x = process.add_noise(x0, e, a, s)
    for kind in process.PREDICTIONS:
        output = process.target(kind, x0, e, a, s)
        np.testing.assert_allclose(process.x0_epsilon(kind, x, output, a, s), (x0, e), rtol=1e-9, atol=1e-12)


def test_an_unweighted_loss_weighs_the_error_of_x0():
    a, s, error = np.cos(0.7), np.sin(0.7), 0.1
    for kind in ("epsilon", "x0", "v"):
        x0, e = 0.3, -1.2
        wrong = x0 + error
        made = process.target(kind, wrong, (a * x0 + s * e - a * wrong) / s, a, s)
        loss = (made - process.target(kind, x0, e, a, s)) ** 2
        np.testing.assert_allclose(loss, process.x0_weight(kind, a**2 / s**2) * error**2)
    sigma = 0.3
    np.testing.assert_allclose(process.x0_weight("velocity", ((1 - sigma) / sigma) ** 2), 1 / sigma**2)


def test_an_unknown_prediction_is_refused():
    with pytest.raises(UserError, match="cannot predict 'noise'"):
        process.x0_epsilon("noise", np.ones(1), np.ones(1), 1.0, 1.0)


def test_guidance_is_the_same_in_every_prediction():
    x, a, s = marginal(0.4, 0.6), 0.4, 0.6
    other = Gaussian(MEAN + 1, DATA.covariance)
    beyond = Gaussian(MEAN - 2.5, DATA.covariance)  # guidance by 3.5 from `other` towards DATA goes past it
    for kind in process.PREDICTIONS:
        guided = guidance.cfg(DATA.predict(kind, x, a, s), other.predict(kind, x, a, s), 3.5)
        np.testing.assert_allclose(guided, beyond.predict(kind, x, a, s), atol=1e-12)


# --- chains ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ddpm.SCHEDULES)
def test_a_chain_ends_nearer_to_noise_and_its_posterior_keeps_the_signal(name):
    chain = ddpm.schedule(name, 1000)
    assert np.all(np.diff(chain.signal) < 0) and chain.signal[-1] < 5e-3
    kept = chain.posterior_x0 + chain.posterior_xt * np.sqrt(chain.signal)
    np.testing.assert_allclose(kept, np.sqrt(chain.before), rtol=1e-9)
    stretched = ddpm.zero_terminal_snr(chain)
    assert stretched.signal[-1] == 0 and stretched.betas[-1] == 1
    np.testing.assert_allclose(stretched.signal[0], chain.signal[0])


def ancestral(chain, variance_of):
    """The covariance that the chain makes, its last step left out, beside that of the exact marginal there."""
    points = marginal(*chain.level(len(chain.betas) - 1))
    covariance = moments(points).covariance
    for t in range(len(chain.betas) - 1, 0, -1):
        still = np.float64(0)
        points = ddpm.step(chain, t, points, DATA.x0(points, *chain.level(t)), 0 * points, still)
        moved = moments(points)
        points = start(moved.mean, moved.covariance + variance_of(t))
        covariance = moments(points).covariance
    return points, covariance


def test_the_exact_variance_of_the_reverse_step_keeps_every_marginal():
    chain = ddpm.schedule("cosine", 12)

    def exact(t):
        a, s = chain.level(t)
        spread = DATA.eigenvalues * s**2 / DATA.variances(a, s)
        along = chain.posterior_variance[t] + chain.posterior_x0[t] ** 2 * spread
        return DATA.basis @ np.diag(along) @ DATA.basis.T

    points, covariance = ancestral(chain, exact)
    a, s = chain.level(0)
    np.testing.assert_allclose(points[0], a * MEAN, atol=1e-12)
    np.testing.assert_allclose(covariance, a**2 * DATA.covariance + s**2 * np.eye(3), atol=1e-12)


@pytest.mark.parametrize("kind", ddpm.VARIANCES)
def test_ancestral_steps_reproduce_the_data_at_order_one(kind):
    errors = []
    for steps in (128, 256, 512):
        scale = 1000 / steps
        chain = ddpm.schedule("linear", steps, start=1e-4 * scale, end=0.02 * scale)
        points, covariance = ancestral(chain, lambda t, chain=chain: np.eye(3) * ddpm.variance(chain, t, kind))
        a, s = chain.level(0)
        np.testing.assert_allclose(points[0], a * MEAN, atol=1e-9)
        errors.append(np.abs(covariance - a**2 * DATA.covariance - s**2 * np.eye(3)).max())
    assert_order(errors, 1)


def test_learned_variances_reach_from_the_posterior_s_to_beta():
    chain, t = ddpm.schedule("cosine", 50), np.array([0, 1, 30])
    low, high = (np.exp(ddpm.learned_log_variance(chain, t, np.full((3, 2), raw))) for raw in (-1.0, 1.0))
    np.testing.assert_allclose(high, np.repeat(chain.betas[t][:, None], 2, 1))
    np.testing.assert_allclose(low[1:], np.repeat(chain.posterior_variance[t[1:]][:, None], 2, 1))
    np.testing.assert_allclose(low[0], chain.posterior_variance[1])


def test_the_bound_of_the_prior_vanishes_where_no_signal_is_left():
    chain = ddpm.zero_terminal_snr(ddpm.schedule("linear", 100))
    np.testing.assert_allclose(ddpm.prior_divergence(chain, np.ones((2, 5))), 0, atol=1e-12)
    weak = ddpm.schedule("linear", 10)
    assert np.all(ddpm.prior_divergence(weak, np.ones((2, 5))) > 0.1)


def test_fixed_variances_weigh_the_bound():
    chain = ddpm.schedule("linear", 100)
    ratio = ddpm.vlb_weight(chain, 7, "fixed_small") / ddpm.vlb_weight(chain, 7, "fixed_large")
    np.testing.assert_allclose(ratio, chain.betas[7] / chain.posterior_variance[7])


def implicit(steps, eta=0.0):
    """DDIM on equal steps of the angle, from an exact marginal."""
    angles = np.linspace(0.99, 0.0, steps + 1) * np.pi / 2
    points = marginal(np.cos(angles[0]), np.sin(angles[0]))
    for angle, below in itertools.pairwise(angles):
        level, to = (np.cos(angle), np.sin(angle)), (np.cos(below), np.sin(below))
        added = ddim.added_noise(*level, *to, eta)
        points = ddim.step(DATA.x0(points, *level), DATA.epsilon(points, *level), *to, 0 * points, added)
        points = start(points[0], moments(points).covariance + added**2 * np.eye(3))
    return points


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_reproduces_the_data_at_order_one(eta):
    made = [implicit(steps, eta) for steps in (32, 64, 128)]
    np.testing.assert_allclose(made[-1][0], MEAN, atol=1e-9)
    assert_order([covariance_error(points) for points in made], 1)


def test_ddim_with_eta_one_is_the_ancestral_step():
    chain, rng = ddpm.schedule("scaled_linear", 40), np.random.default_rng(0)
    x, x0, noise = rng.normal(size=(3, 5, 4))
    for t in (39, 20, 1):
        level, to = chain.level(t), chain.level(t - 1)
        _, e = process.x0_epsilon("x0", x, x0, *level)
        implied = ddim.step(x0, e, *to, noise, ddim.added_noise(*level, *to, 1.0))
        np.testing.assert_allclose(implied, ddpm.step(chain, t, x, x0, noise, ddpm.variance(chain, t)), atol=1e-12)


def test_inversion_leads_back():
    chain = ddpm.schedule("cosine", 400)
    x = begun = marginal(1.0, 0.0)
    for t in range(-1, 398):  # index 399 has next to no signal left
        e = DATA.epsilon(x, *chain.level(t)) if t >= 0 else 0 * x
        x0 = DATA.x0(x, *chain.level(t))
        x = ddim.step(x0, e, *chain.level(t + 1))
    np.testing.assert_allclose(x, DATA.transport(begun, 1.0, 0.0, *chain.level(398)), atol=0.02)


def test_spacings_descend_and_end_at_data():
    for spacing in ddim.SPACINGS:
        for steps in (1, 7, 30, 1000):
            visited, to = ddim.timesteps(spacing, 1000, steps), ddim.targets(spacing, 1000, steps)
            assert len(visited) == steps and np.all(np.diff(visited) < 0)
            assert np.all(to < visited) and to[-1] == -1
            assert visited[-1] >= 0 and visited[0] <= 999
    with pytest.raises(UserError, match="cannot be sampled in 11"):
        ddim.timesteps("trailing", 10, 11)


# --- stochastic differential equations ------------------------------------------------------------------------------

EQUATIONS = [sde.VP(), sde.SubVP(), sde.VE(sigma_max=20.0)]


@pytest.mark.parametrize("equation", EQUATIONS, ids=["vp", "subvp", "ve"])
def test_the_kernel_follows_the_equation(equation):
    """d(a)/dt = f a and d(s^2)/dt = 2 f s^2 + g^2, by differences."""
    t, h = np.array([0.1, 0.4, 0.9]), 1e-5
    (a1, s1), (a2, s2), (a, s) = equation.kernel(t - h), equation.kernel(t + h), equation.kernel(t)
    f, g = equation.drift(t), equation.diffusion(t)
    np.testing.assert_allclose((a2 - a1) / (2 * h), f * a, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose((s2**2 - s1**2) / (2 * h), 2 * f * s**2 + g**2, rtol=1e-5)


def score_of(equation):
    return lambda x, t: DATA.score(x, *equation.kernel(t))


def stochastic(equation, predictor, steps):
    """The covariance that a predictor makes of the exact marginal at 1, its noise added to the moments."""
    points = marginal(*equation.kernel(np.float64(1)))
    grid = score_samplers.times(equation, steps, 1e-3)
    for t, below in zip(grid, [*grid[1:], None], strict=True):
        moved, _ = predictor(equation, score_of(equation), points, t, below, steps, 0 * points)
        unit = predictor(equation, score_of(equation), points[:1], t, below, steps, np.ones((1, 3)))
        spread = (unit[0] - unit[1]) ** 2
        points = start(moved[0], moments(moved).covariance + np.diag(spread[0]) * (below is not None))
    return points


@pytest.mark.parametrize("name", list(score_samplers.PREDICTORS))
@pytest.mark.parametrize("equation", EQUATIONS, ids=["vp", "subvp", "ve"])
def test_predictors_reproduce_the_data_at_order_one(equation, name):
    predictor = score_samplers.PREDICTORS[name]
    if isinstance(equation, sde.SubVP) and name == "ancestral":
        with pytest.raises(UserError, match="no ancestral predictor"):
            stochastic(equation, predictor, 4)
        return
    errors, means = [], []
    for steps in (125, 250, 500):
        points = stochastic(equation, predictor, steps)
        errors.append(covariance_error(points))
        means.append(np.abs(points[0] - MEAN).max())
    assert_order(errors, 0.9)
    assert errors[-1] < 0.02 and means[-1] < 0.02


def test_the_corrector_keeps_the_marginal_up_to_its_step():
    equation, t, snr = sde.VP(), np.float64(0.3), 0.05
    a, s = equation.kernel(t)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20000, 3)) @ np.linalg.cholesky(a**2 * DATA.covariance + s**2 * np.eye(3)).T + a * MEAN
    for _ in range(20):
        x, _ = score_samplers.langevin(equation, score_of(equation), x, t, rng.normal(size=x.shape), snr)
    np.testing.assert_allclose(x.mean(0), a * MEAN, atol=0.03)
    np.testing.assert_allclose(np.cov(x.T), a**2 * DATA.covariance + s**2 * np.eye(3), atol=0.04)


@pytest.mark.parametrize("equation", EQUATIONS[:2], ids=["vp", "subvp"])
def test_the_probability_flow_reproduces_the_data_at_order_four(equation):
    a, s = equation.kernel(np.float64(1))
    begun = marginal(a, s)
    exact = DATA.transport(begun, a, s, *equation.kernel(np.float64(0.05)))
    made = [score_samplers.flow_sample(equation, score_of(equation), begun, steps, 0.05) for steps in (64, 128, 256)]
    assert_order([np.abs(points - exact).max() for points in made], 3.85)


@pytest.mark.parametrize("equation", EQUATIONS, ids=["vp", "subvp", "ve"])
def test_likelihoods_are_those_of_the_marginal(equation):
    x, start_at = np.random.default_rng(0).normal(size=(4, 3)), 0.01
    with jax.enable_x64(True):
        found, end = score_samplers.log_likelihood(equation, score_of(equation), jnp.asarray(x), 400, start_at)
        found, end = np.asarray(found), np.asarray(end)
    exact = DATA.log_density(x, *equation.kernel(np.float64(start_at)))
    last = equation.kernel(np.float64(1))
    prior = Gaussian(np.zeros(3), equation.prior_std**2 * np.eye(3)).log_density(end)
    np.testing.assert_allclose(found, exact + prior - DATA.log_density(end, *last), atol=1e-5)


def test_hutchinson_is_exact_for_isotropic_data():
    equation, data = sde.VP(), Gaussian(MEAN, 0.3 * np.eye(3))
    score, x = lambda x, t: data.score(x, *equation.kernel(t)), jnp.asarray(np.ones((2, 3)), jnp.float32)
    probe = jnp.asarray([[1.0, -1, 1], [-1, -1, 1]])
    exact, _ = score_samplers.log_likelihood(equation, score, x, 50, 0.01)
    estimate, _ = score_samplers.log_likelihood(equation, score, x, 50, 0.01, probe)
    np.testing.assert_allclose(exact, estimate, rtol=1e-4)
    np.testing.assert_allclose(sde.bits_per_dim(np.log(2.0) * -6, 3, eight_bits=True), 9)


# --- EDM, flow matching ---------------------------------------------------------------------------------------------


def test_heun_on_edm_s_levels_reproduces_the_data_at_order_two():
    errors = []
    for steps in (32, 64, 128):
        grid = edm.sigmas(steps)
        points = edm.sample(lambda x, sigma: DATA.x0(x, 1.0, sigma), marginal(1.0, grid[0]), grid)[-1]
        np.testing.assert_allclose(points[0], MEAN, atol=1e-9)
        errors.append(covariance_error(points))
    assert_order(errors, 1.9)


def test_the_raw_network_of_edm_has_unit_scale():
    sigma, rng = np.array([0.01, 0.5, 20.0]), np.random.default_rng(0)
    x0, e = 0.5 * rng.normal(size=(3, 20000)), rng.normal(size=(3, 20000))
    skip, out, scale, _ = (process.per_sample(c, x0) for c in edm.scaling(sigma))
    x = process.add_noise(x0, e, 1.0, sigma)
    np.testing.assert_allclose(np.std(scale * x, axis=1), 1, atol=0.02)
    np.testing.assert_allclose(np.std((x0 - skip * x) / out, axis=1), 1, atol=0.02)
    np.testing.assert_allclose(edm.loss_weight(sigma), 1 / process.per_sample(edm.scaling(sigma)[1], sigma) ** 2)
    denoise = edm.denoiser(lambda x, level: (x0 - skip * x / scale) / out)
    np.testing.assert_allclose(denoise(x, sigma), x0, atol=1e-9)


def test_churn_needs_noise():
    with pytest.raises(UserError, match="Churn needs noise"):
        edm.sample(lambda x, sigma: x, np.ones((1, 1)), edm.sigmas(3), churn=1.0)


@pytest.mark.parametrize("solver, order", [("euler", 1), ("heun", 2), ("midpoint", 2)])
def test_solvers_of_the_flow_reproduce_the_data_at_their_order(solver, order):
    errors = []
    for steps in (32, 64, 128):
        sigmas = flow.shift(np.linspace(1, 0, steps + 1), 3.0)
        velocity = lambda x, sigma: DATA.predict("velocity", x, 1 - sigma, sigma)
        points = flow.sample(solver, velocity, marginal(0.0, 1.0), sigmas)
        np.testing.assert_allclose(points[0], MEAN, atol=1e-9)
        errors.append(covariance_error(points))
    assert_order(errors, order)


def test_noise_along_the_flow_leaves_the_marginals():
    errors = []
    velocity = lambda x, sigma: DATA.predict("velocity", x, 1 - sigma, sigma)
    for steps in (200, 400, 800):
        points, grid = marginal(0.0, 1.0), np.linspace(1, 0.1, steps + 1)
        for sigma, below in itertools.pairwise(grid):
            moved = flow.stochastic_step(velocity, points, sigma, below, 0.7, 0 * points)
            points = start(moved[0], moments(moved).covariance + 0.7**2 * (sigma - below) * np.eye(3))
        exact = 0.9**2 * DATA.covariance + 0.1**2 * np.eye(3)
        np.testing.assert_allclose(points[0], 0.9 * MEAN, atol=0.01)
        errors.append(np.abs(moments(points).covariance - exact).max())
    assert_order(errors, 0.9)


def test_levels_of_equal_snr_hold_the_same_posterior():
    a, s = 0.6, 0.8
    sigma, scale = flow.flow_level(a, s)
    x = marginal(a, s)
    np.testing.assert_allclose(DATA.x0(x / scale, 1 - sigma, sigma), DATA.x0(x, a, s), atol=1e-12)


# --- few steps ------------------------------------------------------------------------------------------------------


def exact_consistency(x, t):
    return DATA.transport(x, 1.0, t, 1.0, consistency.LEAST)


def test_consistency_in_one_step_makes_the_data():
    points = exact_consistency(marginal(1.0, 80.0), 80.0)
    np.testing.assert_allclose(points[0], MEAN, atol=1e-12)
    exact = DATA.covariance + consistency.LEAST**2 * np.eye(3)
    np.testing.assert_allclose(moments(points).covariance, exact, atol=1e-12)


def test_multistep_consistency_makes_the_data():
    rng, count = np.random.default_rng(0), 100000
    draw = lambda: rng.normal(size=(count, 3))
    x = draw() @ np.linalg.cholesky(DATA.covariance).T + MEAN + 80 * draw()
    made = consistency.multistep(exact_consistency, x, 80.0, np.array([2.0, 0.3]), np.stack([draw(), draw()]))
    np.testing.assert_allclose(made.mean(0), MEAN, atol=0.02)
    np.testing.assert_allclose(np.cov(made.T), DATA.covariance, atol=0.02)


def test_the_exact_consistency_function_is_left_by_the_teacher_at_order_three():
    rng = np.random.default_rng(0)
    x0, z = rng.normal(size=(2, 8, 3))
    errors = []
    for h in (0.4, 0.2, 0.1):
        x, below = consistency.distillation_pair(lambda x, t: DATA.x0(x, 1.0, t), x0, z, 1.0, 1.0 - h)
        errors.append(np.abs(exact_consistency(x, 1.0) - exact_consistency(below, 1.0 - h)).max())
    assert_order(errors, 2.7)


def test_consistency_functions_keep_their_boundary():
    x = np.random.default_rng(0).normal(size=(2, 3))
    f = consistency.function(lambda x, level: x + 5)
    np.testing.assert_allclose(f(x, np.full(2, consistency.LEAST)), x)
    assert np.abs(f(x, np.full(2, 1.0)) - x).min() > 0.1
    by_flow = consistency.flow_function(lambda x, sigma: x + 5)
    np.testing.assert_allclose(by_flow(x, np.zeros(2)), x)


def test_flow_consistency_noises_again_along_the_straight_path():
    f = consistency.flow_function(lambda x, sigma: DATA.predict("velocity", x, 1 - sigma, sigma))
    noise = np.zeros((1, 4, 3))
    once = f(marginal(0.0, 1.0), 1.0)
    made = consistency.flow_multistep(f, marginal(0.0, 1.0), np.array([1.0, 0.5]), noise)
    np.testing.assert_allclose(made, f(0.5 * once, 0.5))


def test_curricula_grow_to_their_last():
    assert consistency.levels_at(0, 100) == 2 and consistency.levels_at(100, 100) == 151
    counts = [consistency.doubling_levels_at(k, 800) for k in range(800)]
    assert counts[0] == 11 and counts[-1] == 1281 and counts == sorted(counts)
    levels = edm.levels(20)
    np.testing.assert_allclose(consistency.pair_probabilities(levels).sum(), 1)
    np.testing.assert_allclose(consistency.pair_weights(levels), 1 / (levels[1:] - levels[:-1]))


def test_the_huber_distance_is_square_near_zero_and_linear_far_away():
    zero, c = np.zeros((1, 100)), consistency.huber_constant(100)
    near, far = (consistency.pseudo_huber(np.full((1, 100), v), zero, c)[0] for v in (1e-6, 1.0))
    np.testing.assert_allclose(near, 100 * 1e-12 / (2 * c), rtol=1e-3)
    np.testing.assert_allclose(far, 10 - c, rtol=1e-3)


def test_distribution_matching_points_at_the_data():
    """The gradient vanishes exactly where the generator's distribution is the data's, and else has its sign."""
    rng = np.random.default_rng(0)
    x, e = rng.normal(size=(2, 5000, 3))
    noisy = process.add_noise(x, e, 0.7, 0.5)
    same = dmd.gradient(x, DATA.x0(noisy, 0.7, 0.5), DATA.x0(noisy, 0.7, 0.5))
    assert np.all(same == 0)
    shifted = Gaussian(MEAN + np.array([1.0, -1.0, 0.5]), DATA.covariance)
    made = dmd.gradient(x, shifted.x0(noisy, 0.7, 0.5), DATA.x0(noisy, 0.7, 0.5)).mean(0)
    pulled = DATA.x0(np.zeros((1, 3)), 0.7, 0.5) - shifted.x0(np.zeros((1, 3)), 0.7, 0.5)
    assert np.all(np.sign(made) == -np.sign(pulled[0]))


def test_the_loss_of_distribution_matching_has_the_given_gradient():
    x, direction = jnp.ones((2, 3)), jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_allclose(jax.grad(dmd.loss)(x, direction), direction / 6)


# --- JAX ------------------------------------------------------------------------------------------------------------


def test_the_functions_may_be_traced():
    chain, x = ddpm.schedule("cosine", 10), np.ones((2, 3), np.float32)
    t = np.array([0, 9])

    def one(t, x):
        x0, _ = process.x0_epsilon("v", x, 0.1 * x, *chain.level(t))
        moved = ddpm.step(chain, t, x, x0, x, ddpm.variance(chain, t))
        added = ddim.added_noise(*chain.level(t), *chain.level(t - 1), 1.0)
        times = (t + 1) / 10
        levels = [equation.kernel(times) for equation in EQUATIONS]
        return moved, ddim.step(x0, x, *chain.level(t - 1), x, added), levels

    for traced, plain in zip(jax.tree.leaves(jax.jit(one)(t, x)), jax.tree.leaves(one(t, x)), strict=True):
        np.testing.assert_allclose(traced, plain, rtol=2e-5, atol=1e-6)
