"""Gaussian data, of which everything is known: the exact denoiser, the exact flow, the density (families.md 0.3).

With it in the place of a network, what a sampler does is checked without Monte-Carlo error.
"""

import dataclasses
import functools

import numpy as np

from ltx_jax.diffusion.families.process import Array, namespace, per_sample, target


@dataclasses.dataclass(frozen=True, eq=False)
class Gaussian:
    """Data N(mean, covariance) of D features; mean (D,) and covariance (D, D) float64 of the host."""

    mean: np.ndarray
    covariance: np.ndarray

    @functools.cached_property
    def _eigen(self) -> tuple[np.ndarray, np.ndarray]:
        return np.linalg.eigh(np.asarray(self.covariance, np.float64))

    @property
    def eigenvalues(self) -> np.ndarray:
        """Variances (D,) along the principal directions."""
        return self._eigen[0]

    @property
    def basis(self) -> np.ndarray:
        """The principal directions, columns of (D, D)."""
        return self._eigen[1]

    def along(self, values: Array, x: Array) -> Array:
        """x (..., D) with its principal directions scaled by `values` (D,) or (B, D)."""
        return ((x @ self.basis) * values) @ self.basis.T

    def variances(self, a: Array, s: Array) -> Array:
        """Of x = a x0 + s e along the principal directions: (D,), or (B, D) for (B,) levels."""
        a, s = (v[:, None] if getattr(v, "ndim", 0) == 1 else v for v in (a, s))
        return a**2 * self.eigenvalues + s**2

    def x0(self, x: Array, a: Array, s: Array) -> Array:
        """E[x0 | x] of x (B, D)."""
        pulled = self.along(self.eigenvalues / self.variances(a, s), x - per_sample(a, x) * self.mean)
        return self.mean + per_sample(a, x) * pulled

    def epsilon(self, x: Array, a: Array, s: Array) -> Array:
        """E[e | x] of x (B, D)."""
        return -per_sample(s, x) * self.score(x, a, s)

    def score(self, x: Array, a: Array, s: Array) -> Array:
        """The gradient of the log density of x (B, D) at this level."""
        return -self.along(1 / self.variances(a, s), x - per_sample(a, x) * self.mean)

    def predict(self, kind: str, x: Array, a: Array, s: Array) -> Array:
        """The exact output of a network of this prediction at x (B, D)."""
        if kind == "score":
            return self.score(x, a, s)
        return target(kind, self.x0(x, a, s), self.epsilon(x, a, s), a, s)

    def transport(self, x: Array, a: Array, s: Array, a_to: Array, s_to: Array) -> Array:
        """Where the probability flow takes x (B, D) from level (a, s) to (a_to, s_to)."""
        ratio = (self.variances(a_to, s_to) / self.variances(a, s)) ** 0.5
        return per_sample(a_to, x) * self.mean + self.along(ratio, x - per_sample(a, x) * self.mean)

    def log_density(self, x: Array, a: Array = 1.0, s: Array = 0.0) -> Array:
        """Log density (B,) of x (B, D) at a level, in nats; of the data by default."""
        variances, xp = self.variances(a, s), namespace(x)
        y = (x - per_sample(a, x) * self.mean) @ self.basis
        return -0.5 * (y**2 / variances + xp.log(2 * np.pi * variances)).sum(axis=-1)
