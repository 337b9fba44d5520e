//! Logarithm and exponential. Rust's own are libm's, a library that every VM's
//! process would load (`docs/performance.md`), and these need not be exact to the
//! last bit.

use std::f64::consts::LN_2;

/// The natural logarithm of a number above 0; of another one that of the smallest.
pub fn ln(x: f64) -> f64 {
    let x = x.max(f64::MIN_POSITIVE);
    let bits = x.to_bits();
    let exponent = ((bits >> 52) & 0x7ff) as i32 - 1023;
    let mantissa = f64::from_bits((bits & ((1 << 52) - 1)) | (1023 << 52));
    // ln m = 2 artanh((m - 1) / (m + 1)), here of at most 1/3.
    let z = (mantissa - 1.0) / (mantissa + 1.0);
    let (mut power, mut sum) = (z, 0.0);
    for odd in (1..40).step_by(2) {
        sum += power / f64::from(odd);
        power *= z * z;
    }
    2.0 * sum + f64::from(exponent) * LN_2
}

/// `e` to the `x`.
pub fn exp(x: f64) -> f64 {
    const HALVINGS: i32 = 12;
    let small = x.clamp(-740.0, 700.0) / f64::from(1 << HALVINGS);
    let (mut term, mut sum) = (1.0, 1.0);
    for n in 1..10 {
        term *= small / f64::from(n);
        sum += term;
    }
    (0..HALVINGS).fold(sum, |value, _| value * value)
}

/// How likely a standard normal variable is `z` or more away from 0, for `z` of 0
/// and above: Abramowitz and Stegun, 26.2.17, good to 1.5e-7.
pub fn normal_two_tails(z: f64) -> f64 {
    const PER_ROOT_TAU: f64 = 0.398_942_280_401_432_7;
    let t = 1.0 / (1.0 + 0.231_641_9 * z);
    let series = [
        1.330_274_429,
        -1.821_255_978,
        1.781_477_937,
        -0.356_563_782,
        0.319_381_53,
    ];
    let sum = series.iter().fold(0.0, |sum, c| (sum + c) * t);
    (2.0 * PER_ROOT_TAU * exp(-z * z / 2.0) * sum).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_agree_with_the_library() {
        for x in [1e-300, 3e-9, 0.5, 1.0, 1.5, 2.0, 1e3, 7.7e15, 1e300] {
            assert!(
                (ln(x) - x.ln()).abs() <= 1e-12 * x.ln().abs().max(1.0),
                "{x}"
            );
        }
        for x in [-700.0, -30.0, -1.0, -1e-9, 0.0, 0.3, 2.0, 50.0] {
            assert!((exp(x) / f64::exp(x) - 1.0).abs() < 1e-9, "{x}");
        }
        assert!(exp(-1e9) < 1e-300 && ln(0.0) < -700.0);
    }

    #[test]
    fn tails_are_those_of_the_tables() {
        for (z, p) in [
            (0.0, 1.0),
            (1.0, 0.317_31),
            (1.959_96, 0.05),
            (3.290_5, 0.001),
        ] {
            assert!((normal_two_tails(z) - p).abs() < 1e-5, "{z}");
        }
    }
}
