"""Recorded cases of the classic families (spec families.md), in float64 on the host as they were recorded."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ltx_jax.conformance.case import Case
from ltx_jax.diffusion import guidance
from ltx_jax.diffusion.families import consistency, ddim, ddpm, dmd, edm, flow, process, score_samplers, sde
from ltx_jax.diffusion.families.gaussian import Gaussian

Outputs = dict[str, Any]

# Recorded names of predictions that are not ours.
PREDICTIONS = {"epsilon": "epsilon", "sample": "x0", "v": "v", "score": "score", "velocity": "velocity"}


def _inputs(case: Case, *names: str) -> list[np.ndarray]:
    return [case.inputs[name].astype(np.float64) for name in names]


def _data(case: Case, mean: str = "mu") -> Gaussian:
    return Gaussian(*_inputs(case, mean, "S"))


# --- one notation ---------------------------------------------------------------------------------------------------


def _convert(case: Case) -> Outputs:
    x, a, s = _inputs(case, "x_t", "a", "s")
    pairs = {}
    for recorded, kind in PREDICTIONS.items():
        if f"pred_{recorded}" in case.inputs:
            pairs[kind] = process.x0_epsilon(kind, x, *_inputs(case, f"pred_{recorded}"), a, s)
    return {name: _farthest([p[i] for p in pairs.values()], case.outputs[name]) for i, name in enumerate(_PAIR)}


_PAIR = ("x0", "epsilon")


def _farthest(candidates: list[np.ndarray], recorded: np.ndarray) -> np.ndarray:
    """Of several values that should all be the recorded one, the worst at each place."""
    stacked = np.stack(candidates)
    worst = np.argmax(np.nan_to_num(abs(stacked - recorded), nan=np.inf), axis=0)
    return np.take_along_axis(stacked, worst[None], axis=0)[0]


def _loss_weights(case: Case) -> Outputs:
    (snr,) = _inputs(case, "snr")
    outputs = {}
    for recorded, kind in PREDICTIONS.items():
        for name in (recorded, kind):
            outputs[f"min_snr_{name}"] = process.min_snr_weight(kind, snr, case.config["gamma"])
            outputs[f"simple_{name}_as_x0"] = outputs[f"{name}_as_x0"] = process.x0_weight(kind, snr)
    return outputs


def _cfg(case: Case) -> Outputs:
    (x,) = _inputs(case, "x")
    a, s, scale = (case.config[k] for k in ("a", "s", "scale"))
    conditional, unconditional = _data(case, "mu_cond"), _data(case, "mu_uncond")
    outputs: Outputs = {}
    for recorded, kind in PREDICTIONS.items():
        guided = guidance.cfg(conditional.predict(kind, x, a, s), unconditional.predict(kind, x, a, s), scale)
        outputs[f"guided_{recorded}"] = guided
        outputs.setdefault("x0_of_guided", []).append(process.x0_epsilon(kind, x, guided, a, s)[0])
    return outputs | {"x0_of_guided": _farthest(outputs["x0_of_guided"], case.outputs["x0_of_guided"])}


# --- chains ---------------------------------------------------------------------------------------------------------


def _chain(case: Case) -> ddpm.Schedule:
    c = case.config
    options = {ours: c[name] for name, ours in (("beta_start", "start"), ("beta_end", "end"), ("s", "s")) if name in c}
    return ddpm.schedule(c["schedule"], c["num_steps"], **options)


def _schedule(case: Case) -> Outputs:
    return _tables(_chain(case))


def _zero_snr(case: Case) -> Outputs:
    return _tables(ddpm.zero_terminal_snr(_chain(case)))


def _tables(chain: ddpm.Schedule) -> Outputs:
    return {
        "betas": chain.betas,
        "alphas_cumprod": chain.signal,
        "posterior_variance": chain.posterior_variance,
        "posterior_mean_coef_x0": chain.posterior_x0,
        "posterior_mean_coef_xt": chain.posterior_xt,
        "log_snr": chain.log_snr,
    }


def _ddpm_step(case: Case) -> Outputs:
    chain, t = _chain(case), case.inputs["t"]
    x, output, noise = _inputs(case, "x_t", "pred", "noise")
    outputs = {}
    for recorded, kind in PREDICTIONS.items():
        x0, _ = process.x0_epsilon(kind, x, output, *chain.level(t))
        outputs[f"{recorded}_mean"] = ddpm.posterior_mean(chain, t, x, x0)
        outputs[f"{recorded}_clipped_mean"] = ddpm.posterior_mean(chain, t, x, x0, clip=1.0)
        for kind_of_variance in ddpm.VARIANCES:
            spread = ddpm.variance(chain, t, kind_of_variance)
            outputs[f"{recorded}_{kind_of_variance}"] = ddpm.step(chain, t, x, x0, noise, spread)
    return outputs


def _learned_variance(case: Case) -> Outputs:
    return {"log_variance": ddpm.learned_log_variance(_chain(case), case.inputs["t"], *_inputs(case, "v"))}


def _ddim_timesteps(case: Case) -> Outputs:
    c = case.config
    return {name: ddim.timesteps(name, c["num_train"], c["num_steps"]) for name in ddim.SPACINGS}


def _ddim_step(case: Case) -> Outputs:
    chain, t, to = _chain(case), case.inputs["t"], case.inputs["s"]
    x, output, noise = _inputs(case, "x_t", "pred", "noise")
    pair = process.x0_epsilon("epsilon", x, output, *chain.level(t))

    def moved(eta: float) -> np.ndarray:
        added = ddim.added_noise(*chain.level(t), *chain.level(to), eta)
        return ddim.step(*pair, *chain.level(to), noise, added)

    return {name: moved(float(name.removeprefix("eta_"))) for name in case.outputs}


def _gaussian_chain(case: Case) -> Outputs:
    chain, data = _chain(case), _data(case)
    x_t, noises = _inputs(case, "x_T", "noise")
    last = len(chain.betas) - 1

    def run(step: Callable[[int, np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
        x = x_t
        for t in range(last, -1, -1):
            x = step(t, x, data.x0(x, *chain.level(t)))
        return x

    def analytic(t: int, x: np.ndarray, x0: np.ndarray) -> np.ndarray:
        """With the exact variance of the reverse step along every principal direction."""
        a, s = chain.level(t)
        exact = data.eigenvalues * s**2 / data.variances(a, s)
        spread = chain.posterior_variance[t] + chain.posterior_x0[t] ** 2 * exact
        return ddpm.step(chain, t, x, x0, data.along(spread**0.5, noises[t]), np.float64(1))

    def fixed(kind: str) -> np.ndarray:
        return run(lambda t, x, x0: ddpm.step(chain, t, x, x0, noises[t], ddpm.variance(chain, t, kind)))

    def implicit(t: int, x: np.ndarray, x0: np.ndarray) -> np.ndarray:
        return ddim.step(x0, data.epsilon(x, *chain.level(t)), *chain.level(t - 1))

    return {
        "ancestral_analytic": run(analytic),
        "ancestral_fixed_large": fixed("fixed_large"),
        "ancestral_fixed_small": fixed("fixed_small"),
        "ddim": run(implicit),
        "exact_flow": data.transport(x_t, *chain.level(last), 1.0, 0.0),
    }


# --- stochastic differential equations ------------------------------------------------------------------------------


def _sde(case: Case, name: str) -> sde.SDE:
    own = ("sigma_min", "sigma_max") if name == "ve" else ("beta_min", "beta_max")
    return sde.SDES[name](*(case.config[k] for k in own))


def _kernels(case: Case) -> Outputs:
    (t,) = _inputs(case, "t")
    outputs = {}
    for name in sde.SDES:
        equation = _sde(case, name)
        outputs[f"{name}_mean"], outputs[f"{name}_std"] = equation.kernel(t)
        outputs[f"{name}_drift_coef"], outputs[f"{name}_diffusion"] = equation.drift(t), equation.diffusion(t)
    return outputs


def _predictor_corrector(case: Case) -> Outputs:
    c, data = case.config, _data(case)
    equation = _sde(case, c["sde"])
    x, *noises = _inputs(case, "x_T", "noise_predictor", "noise_corrector")
    track, mean = score_samplers.predictor_corrector(
        equation, lambda x, t: data.score(x, *equation.kernel(t)), x, *noises,
        predictor=c.get("predictor", "reverse_diffusion" if c["sde"] == "ve" else "euler_maruyama"),
        snr=c["snr"], end=c["t_end"],
    )  # fmt: skip
    return {"x": np.stack(track), "x_mean": mean}


def _likelihood(case: Case) -> Outputs:
    c, data = case.config, _data(case)
    equation, start = _sde(case, c["sde"]), c["t_start"]
    x0, probe = _inputs(case, "x0", "probe")
    score = lambda x, t: data.score(x, *equation.kernel(t))
    with jax.enable_x64(True):
        solve = lambda x, probe: score_samplers.log_likelihood(equation, score, x, c["steps"], start, probe)
        exact, end = solve(jnp.asarray(x0), None)
        estimate, _ = solve(jnp.asarray(x0), jnp.asarray(probe))
        results = [np.asarray(v) for v in (exact, estimate, end)]
    names = ("log_likelihood_exact_divergence", "log_likelihood_hutchinson", "x_T")
    outputs = dict(zip(names, results, strict=True))
    return outputs | {"log_p_marginal": data.log_density(x0, *equation.kernel(np.float64(start)))}


# --- EDM and flow matching ------------------------------------------------------------------------------------------


def _edm_scaling(case: Case) -> Outputs:
    sigma, std = _inputs(case, "sigma")[0], case.config["sigma_data"]
    names = ("c_skip", "c_out", "c_in", "c_noise")
    return dict(zip(names, edm.scaling(sigma, std), strict=True)) | {"loss_weight": edm.loss_weight(sigma, std)}


def _edm_grid(case: Case, steps: int) -> np.ndarray:
    return edm.sigmas(steps, *(case.config[k] for k in ("sigma_min", "sigma_max", "rho")))


def _edm_sigmas(case: Case) -> Outputs:
    return {name: _edm_grid(case, int(name.removeprefix("n_"))) for name in case.outputs}


def _edm_heun(case: Case) -> Outputs:
    c, data = case.config, _data(case)
    x, noise = _inputs(case, "x_T", "noise")
    grid, denoise = _edm_grid(case, c["num_steps"]), lambda x, sigma: data.x0(x, 1.0, sigma)
    churn = edm.sample(
        denoise, x, grid, noise, churn=c["s_churn"], churn_min=c["s_tmin"], churn_max=c["s_tmax"],
        noise_scale=c["s_noise"],
    )  # fmt: skip
    return {"deterministic": np.stack(edm.sample(denoise, x, grid)), "churn": np.stack(churn)}


def _flow_samplers(case: Case) -> Outputs:
    data, (x, sigmas) = _data(case), _inputs(case, "x_T", "sigmas")
    outputs = {name: flow.sample(name, _velocity(data), x, sigmas) for name in flow.SOLVERS}
    return outputs | {"exact": data.transport(x, 1 - sigmas[0], sigmas[0], 1 - sigmas[-1], sigmas[-1])}


def _velocity(data: Gaussian) -> flow.Velocity:
    return lambda x, sigma: data.predict("velocity", x, 1 - sigma, sigma)


def _flow_shift(case: Case) -> Outputs:
    return {"shifted": flow.shift(*_inputs(case, "sigma"), case.config["shift"])}


def _order(case: Case) -> Outputs:
    (eigenvalues,) = _inputs(case, "eigenvalues")
    data = Gaussian(np.zeros_like(eigenvalues), np.diag(eigenvalues))
    velocity, denoise = _velocity(data), lambda x, sigma: data.x0(x, 1.0, sigma)

    def ratios(steps: int) -> Outputs:
        """Standard deviations made of exact ones at the start, over those of the data, by method."""
        line, grid = np.linspace(1, 0, steps + 1), _edm_grid(Case("", case.config["edm"], {}, {}, {}, 0, 0), steps)
        angles = np.linspace(0.99, 0, steps + 1) * np.pi / 2
        start = lambda a, s: np.diag((a**2 * eigenvalues + s**2) ** 0.5)  # a sample for every direction
        made = {f"flow_{name}": flow.sample(name, velocity, start(0.0, 1.0), line) for name in flow.SOLVERS}
        made["edm_heun"] = edm.sample(denoise, start(1.0, grid[0]), grid)[-1]
        x = start(np.cos(angles[0]), np.sin(angles[0]))
        for angle, below in itertools.pairwise(angles):
            level = np.cos(angle), np.sin(angle)
            x = ddim.step(data.x0(x, *level), data.epsilon(x, *level), np.cos(below), np.sin(below))
        return {name: abs(np.diag(v)) / eigenvalues**0.5 for name, v in (made | {"ddim_cosine": x}).items()}

    rows = [ratios(int(steps)) for steps in case.inputs["num_steps"]]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


# --- few steps ------------------------------------------------------------------------------------------------------


def _boundary(case: Case) -> Outputs:
    c = case.config
    skip, out = consistency.boundary_scaling(*_inputs(case, "t"), c["sigma_data"], c["epsilon"])
    return {"c_skip": skip, "c_out": out}


def _curriculum(case: Case) -> Outputs:
    total, steps = case.config["total_steps"], [int(k) for k in case.inputs["step"]]
    ct, ict = ([case.config[name][k] for k in ("s0", "s1")] for name in ("ct", "ict"))
    decay = case.config["ct"]["mu0"]
    return {
        "ct_num_levels": np.array([consistency.levels_at(k, total, *ct) for k in steps]),
        "ct_ema": np.array([consistency.ema_at(k, total, *ct, decay) for k in steps]),
        "ict_num_levels": np.array([consistency.doubling_levels_at(k, total, *ict) for k in steps]),
    }


def _ict(case: Case) -> Outputs:
    c = case.config
    levels = edm.levels(c["num_levels"], c["sigma_min"], c["sigma_max"], c["rho"])
    return {
        "levels": levels,
        "level_probability": consistency.pair_probabilities(levels, c["p_mean"], c["p_std"]),
        "level_weight": consistency.pair_weights(levels),
        "pseudo_huber": consistency.pseudo_huber(*_inputs(case, "x", "y"), c["huber_c"]),
    }


def _consistency_gaussian(case: Case) -> Outputs:
    c, data = case.config, _data(case)
    x_t, x0, noise = _inputs(case, "x_T", "x0", "noise")
    least, most, pair = c["epsilon"], c["sigma_max"], (c["t_from"], c["t_to"])
    f = lambda x, t: data.transport(x, 1.0, t, 1.0, least)
    noisy, below = consistency.distillation_pair(lambda x, t: data.x0(x, 1.0, t), x0, noise[0], *pair)
    return {
        "one_step": f(x_t, most),
        "three_step": consistency.multistep(f, x_t, most, np.array(c["taus"]), noise[: len(c["taus"])], least),
        "teacher_heun": below,
        "student": f(noisy, pair[0]),
        "target": f(below, pair[1]),
    }


def _dmd(case: Case) -> Outputs:
    a, s = case.config["a"], case.config["s"]
    real, matrix = _data(case), _inputs(case, "generator_matrix")[0]
    mean, z, noise = _inputs(case, "generator_mean", "z", "noise")
    fake, x = Gaussian(mean, matrix @ matrix.T), mean + z @ matrix.T
    noisy = process.add_noise(x, noise, a, s)
    direction = dmd.gradient(x, fake.x0(noisy, a, s), real.x0(noisy, a, s))
    return {"x": x, "gradient": direction, "loss": dmd.loss(x, direction)}


KINDS: dict[str, Callable[[Case], Outputs]] = {
    "families.convert": _convert,
    "families.loss_weights": _loss_weights,
    "families.cfg": _cfg,
    "families.ddpm.schedule": _schedule,
    "families.ddpm.zero_terminal_snr": _zero_snr,
    "families.ddpm.step": _ddpm_step,
    "families.ddpm.learned_variance": _learned_variance,
    "families.ddim.timesteps": _ddim_timesteps,
    "families.ddim.step": _ddim_step,
    "families.gaussian.ddpm": _gaussian_chain,
    "families.gaussian.order": _order,
    "families.sde.kernels": _kernels,
    "families.sde.pc": _predictor_corrector,
    "families.sde.likelihood": _likelihood,
    "families.edm.precond": _edm_scaling,
    "families.edm.sigmas": _edm_sigmas,
    "families.edm.heun": _edm_heun,
    "families.flow.samplers": _flow_samplers,
    "families.flow.shift": _flow_shift,
    "families.consistency.precond": _boundary,
    "families.consistency.curriculum": _curriculum,
    "families.consistency.ict": _ict,
    "families.consistency.gaussian": _consistency_gaussian,
    "families.dmd": _dmd,
}
