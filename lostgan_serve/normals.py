"""Quantiles of the normal distribution, from operations that IEEE 754 rounds correctly (+ - * / sqrt), so that no
mathematics library's last digit matters and every platform gives the same bits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

# Wichura, "Algorithm AS 241: The percentage points of the normal distribution", PPND16: numerator and denominator of
# three rational approximations, highest power first.
_CENTRAL = (
    (2.5090809287301226727e3, 3.3430575583588128105e4, 6.7265770927008700853e4, 4.5921953931549871457e4,
     1.3731693765509461125e4, 1.9715909503065514427e3, 1.3314166789178437745e2, 3.3871328727963666080e0),
    (5.2264952788528545610e3, 2.8729085735721942674e4, 3.9307895800092710610e4, 2.1213794301586595867e4,
     5.3941960214247511077e3, 6.8718700749205790830e2, 4.2313330701600911252e1, 1.0),
)  # fmt: skip
_MIDDLE = (
    (7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1, 1.27045825245236838258e0,
     3.64784832476320460504e0, 5.76949722146069140550e0, 4.63033784615654529590e0, 1.42343711074968357734e0),
    (1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2, 1.48103976427480074590e-1,
     6.89767334985100004550e-1, 1.67638483018380384940e0, 2.05319162663775882187e0, 1.0),
)  # fmt: skip
_TAIL = (
    (2.01033439929228813265e-7, 2.71155556874348757815e-5, 1.24266094738807843860e-3, 2.65321895265761230930e-2,
     2.96560571828504891230e-1, 1.78482653991729133580e0, 5.46378491116411436990e0, 6.65790464350110377720e0),
    (2.04426310338993978564e-15, 1.42151175831644588870e-7, 1.84631831751005468180e-5, 7.86869131145613259100e-4,
     1.48753612908506148525e-2, 1.36929880922735805310e-1, 5.99832206555887937690e-1, 1.0),
)  # fmt: skip
_LN2 = 0.6931471805599453
_SQRT_HALF = 0.7071067811865476


def inverse_normal(p: Float64) -> Float64:
    """Quantiles of the standard normal distribution at probabilities p in (0, 1), to about 1e-15."""
    q = p - 0.5
    quantiles = _ratio(_CENTRAL, 0.180625 - q * q) * q
    outer = np.abs(q) > 0.425  # a seventh of all, and the logarithm costs the most
    quantiles[outer] = np.copysign(_outer(np.minimum(p, 1.0 - p)[outer]), q[outer])
    return quantiles


def _outer(p: Float64) -> Float64:
    """Quantiles, without their sign, at probabilities below 0.075."""
    r = np.sqrt(-_log(p))
    quantiles = _ratio(_MIDDLE, r - 1.6)
    tail = r > 5.0  # one in 10^11
    quantiles[tail] = _ratio(_TAIL, r[tail] - 5.0)
    return quantiles


def _ratio(coefficients: tuple[tuple[float, ...], tuple[float, ...]], x: Float64) -> Float64:
    numerator, denominator = (_horner(c, x) for c in coefficients)
    return numerator / denominator


def _horner(coefficients: tuple[float, ...], x: Float64) -> Float64:
    value = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value *= x
        value += coefficient
    return value


def _log(x: Float64) -> Float64:
    """Natural logarithm from IEEE operations: ln x = e ln 2 + 2 artanh((m - 1) / (m + 1)), m in [sqrt 0.5, sqrt 2)."""
    mantissa, exponent = np.frexp(x)
    low = mantissa < _SQRT_HALF
    mantissa = np.where(low, mantissa * 2.0, mantissa)
    s: Float64 = (mantissa - 1.0) / (mantissa + 1.0)
    series = _horner(tuple(1.0 / k for k in range(25, 0, -2)), s * s)
    return (exponent - low) * _LN2 + 2.0 * s * series
