//! Sums of floats without rounding, so that a profile does not depend on how its rows were split or ordered.
//!
//! The accumulator is a fixed-point number wide enough for every finite double (Neal, "Fast exact summation using
//! small and large superaccumulators", 2015): chunks of 32 bits held in 64, carried on every 1,024 additions.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// 2,098 bits of doubles and 64 bits of headroom, in chunks of 32.
const CHUNKS: usize = 68;
/// Exponents of finite doubles, the weight of a mantissa's last bit: 2^(exponent - 1074).
const EXPONENTS: usize = 2047;
/// Exponents of doubles whose square, and whose square's last bit, are far inside of the range of doubles.
const SQUARES: std::ops::RangeInclusive<usize> = 558..=1502;
/// Squares that are summed without rounding.
pub(super) const SQUARED: std::ops::Range<f64> = 1e-280..1e290;
/// Values that are added together: less than what could overflow a sum of squared mantissas (2^106 each).
const TOGETHER: usize = 1 << 16;
/// Values below which the table by exponents does not pay.
const FEW: usize = 256;
/// The weight of chunk 0 is 2^-1074.
const LOWEST: i32 = -1074;

/// An exact sum of finite doubles.
#[derive(Clone)]
pub struct ExactSum {
    chunks: Box<[i64; CHUNKS]>,
    pending: u32,
}

impl Default for ExactSum {
    fn default() -> Self {
        Self { chunks: Box::new([0; CHUNKS]), pending: 0 }
    }
}

impl PartialEq for ExactSum {
    fn eq(&self, other: &Self) -> bool {
        self.canonical() == other.canonical()
    }
}

impl std::fmt::Debug for ExactSum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ExactSum({})", self.value())
    }
}

impl ExactSum {
    /// Adds a finite value; the caller keeps NaN and infinities out.
    #[inline]
    pub fn add(&mut self, x: f64) {
        let (mantissa, exponent, sign) = taken_apart(x);
        let (chunk, low) = (exponent >> 5, exponent & 31);
        let below = ((mantissa << low) & 0xffff_ffff) as i64;
        let above = (mantissa >> (32 - low)) as i64;
        self.chunks[chunk] += (below ^ sign) - sign;
        self.chunks[chunk + 1] += (above ^ sign) - sign;
        self.added();
    }

    /// Adds x² without rounding, as a product and its error term. Values whose square leaves the range of doubles, or
    /// whose error term would, add the nearest double that is finite.
    #[inline]
    pub fn add_square(&mut self, x: f64) {
        let product = x * x;
        if !SQUARED.contains(&product) {
            if product != 0.0 {
                self.add(product.min(f64::MAX));
            }
            return;
        }
        // Dekker's product: x in two halves of 26 bits.
        let split = 134_217_729.0 * x;
        let high = split - (split - x);
        let low = x - high;
        let error = ((high * high - product) + 2.0 * high * low) + low * low;
        self.add(product);
        if error != 0.0 {
            self.add(error);
        }
    }

    /// Adds values to `sum` and their squares to `squares`, as [`add`](Self::add) and
    /// [`add_square`](Self::add_square) would, faster: mantissas of one exponent are integers of one unit, so they
    /// are summed as integers, and each exponent's sum is added once.
    pub fn add_all(values: &[f64], sum: &mut Self, squares: &mut Self) {
        if values.len() < FEW {
            for x in values {
                sum.add(*x);
                squares.add_square(*x);
            }
            return;
        }
        let mut table = vec![(0_i128, 0_u128); EXPONENTS + 1];
        for values in values.chunks(TOGETHER) {
            let mut outside = false;
            for x in values {
                let (mantissa, exponent, sign) = taken_apart(*x);
                let (sums, squared) = &mut table[exponent & EXPONENTS];
                *sums += i128::from((mantissa as i64 ^ sign) - sign);
                *squared += u128::from(mantissa) * u128::from(mantissa);
                outside |= !SQUARES.contains(&exponent);
            }
            for (exponent, (sums, squared)) in table.iter_mut().enumerate() {
                if *squared == 0 {
                    continue;
                }
                sum.add_integer(*sums < 0, sums.unsigned_abs(), exponent);
                if SQUARES.contains(&exponent) {
                    squares.add_integer(false, *squared, 2 * exponent - LOWEST.unsigned_abs() as usize);
                }
                (*sums, *squared) = (0, 0);
            }
            if outside {
                for x in values.iter().filter(|x| !SQUARES.contains(&taken_apart(**x).1)) {
                    squares.add_square(*x);
                }
            }
        }
    }

    /// Adds `size` · 2^(exponent - 1074). The result must be below 2^1070.
    pub(super) fn add_integer(&mut self, negative: bool, size: u128, exponent: usize) {
        let (chunk, low) = (exponent >> 5, exponent & 31);
        let sign = -i64::from(negative);
        for place in 0..4 {
            let digit = u64::from((size >> (32 * place)) as u32) << low;
            if digit != 0 {
                let (below, above) = ((digit & 0xffff_ffff) as i64, (digit >> 32) as i64);
                self.chunks[chunk + place] += (below ^ sign) - sign;
                self.chunks[chunk + place + 1] += (above ^ sign) - sign;
            }
        }
        self.added();
    }

    #[inline]
    fn added(&mut self) {
        self.pending += 1;
        if self.pending >= 512 {
            self.carry();
        }
    }

    pub fn merge(&mut self, other: &Self) {
        self.carry();
        let mut other = other.clone();
        other.carry();
        for (a, b) in self.chunks.iter_mut().zip(other.chunks.iter()) {
            *a += b;
        }
        self.carry();
    }

    fn carry(&mut self) {
        let mut over = 0;
        for chunk in self.chunks.iter_mut().take(CHUNKS - 1) {
            let value = *chunk + over;
            over = value >> 32;
            *chunk = value & 0xffff_ffff;
        }
        self.chunks[CHUNKS - 1] += over;
        self.pending = 0;
    }

    /// (negative, 32-bit digits from the lowest).
    fn canonical(&self) -> (bool, [u32; CHUNKS]) {
        let mut copy = self.clone();
        copy.carry();
        let negative = copy.chunks[CHUNKS - 1] < 0;
        if negative {
            for chunk in copy.chunks.iter_mut() {
                *chunk = -*chunk;
            }
            copy.carry();
        }
        (negative, std::array::from_fn(|i| copy.chunks[i] as u32))
    }

    /// The sum as up to three doubles of falling size: the first is the sum rounded towards zero to about 64 bits.
    fn parts(&self) -> [f64; 3] {
        let (negative, digits) = self.canonical();
        let sign = if negative { -1.0 } else { 1.0 };
        let mut out = [0.0; 3];
        let Some(top) = digits.iter().rposition(|d| *d != 0) else { return out };
        for (i, part) in out.iter_mut().enumerate() {
            // Two digits of 32 bits at a time; 53 bits of a double cannot hold 64, so the rest goes on.
            let Some(at) = top.checked_sub(i) else { break };
            *part = sign * scaled(f64::from(digits[at]), 32 * at as i32 + LOWEST);
        }
        // What lies below the three digits, as one rounded value.
        if top >= 3 {
            let below: f64 = (0..top - 2)
                .rev()
                .take(3)
                .map(|at| scaled(f64::from(digits[at]), 32 * at as i32 + LOWEST))
                .sum();
            out[2] += sign * below;
        }
        out
    }

    /// The sum, rounded (within one unit in the last place).
    pub fn value(&self) -> f64 {
        let [a, b, c] = self.parts();
        a + (b + c)
    }

    /// n · `self` - `sum`², of sums of n numbers' squares and of the numbers: exact, rounded once. NaN if it is negative,
    /// which no numbers give.
    pub(super) fn spread(&self, sum: &Self, n: u64) -> f64 {
        /// Digits of 32 bits of the weight 2^-2148 and up.
        const DIGITS: usize = 2 * CHUNKS + 4;
        let add = |to: &mut [u32; DIGITS], at: usize, value: u64| {
            let (mut at, mut carry) = (at, value);
            while carry > 0 && at < DIGITS {
                let sum = u64::from(to[at]) + (carry & 0xffff_ffff);
                to[at] = sum as u32;
                carry = (carry >> 32) + (sum >> 32);
                at += 1;
            }
        };
        let ((negative, squares), (_, sums)) = (self.canonical(), sum.canonical());
        let (mut left, mut right) = ([0; DIGITS], [0; DIGITS]);
        // 1074 bits are 33 digits and 18 bits.
        let (skip, bits) = (LOWEST.unsigned_abs() as usize / 32, LOWEST.unsigned_abs() % 32);
        for (i, q) in squares.iter().enumerate().filter(|(_, q)| **q != 0) {
            let product = (u128::from(*q) * u128::from(n)) << bits;
            add(&mut left, i + skip, (product as u64) & 0xffff_ffff);
            add(&mut left, i + skip + 1, (product >> 32) as u64 & 0xffff_ffff);
            add(&mut left, i + skip + 2, (product >> 64) as u64);
        }
        for (i, a) in sums.iter().enumerate().filter(|(_, a)| **a != 0) {
            for (j, b) in sums.iter().enumerate().filter(|(_, b)| **b != 0) {
                add(&mut right, i + j, u64::from(*a) * u64::from(*b));
            }
        }
        if negative || left.iter().rev().lt(right.iter().rev()) {
            return f64::NAN;
        }
        let mut borrow = 0;
        for (l, r) in left.iter_mut().zip(right) {
            let (less, a) = l.overflowing_sub(r);
            let (less, b) = less.overflowing_sub(borrow);
            (*l, borrow) = (less, u32::from(a || b));
        }
        let Some(top) = left.iter().rposition(|d| *d != 0) else { return 0.0 };
        // 97 bits or more, what lies below as one that keeps a tie from being one.
        let first = top.saturating_sub(3);
        let head = left[first..=top].iter().rev().fold(0_u128, |head, d| head << 32 | u128::from(*d));
        let rest = left[..first].iter().any(|d| *d != 0);
        scaled((head | u128::from(rest)) as f64, 32 * first as i32 + 2 * LOWEST)
    }

    /// The sum as an unevaluated pair, about 106 bits: what is needed to subtract nearly equal sums.
    pub(super) fn pair(&self) -> (f64, f64) {
        let [a, b, c] = self.parts();
        let high = a + (b + c);
        if !high.is_finite() {
            return (high, 0.0);
        }
        (high, ((a - high) + b) + c)
    }
}

/// (m, e, s) of a finite x of size m · 2^(e - 1074); s is all ones if it is negative, so that `(m ^ s) - s` has its sign.
#[inline]
fn taken_apart(x: f64) -> (u64, usize, i64) {
    let bits = x.to_bits();
    let exponent = (bits >> 52) & 0x7ff;
    // Subnormals share the exponent of the smallest normal and lack its leading one.
    let normal = u64::from(exponent != 0);
    let mantissa = (bits & ((1 << 52) - 1)) | (normal << 52);
    (mantissa, (exponent - normal) as usize, (bits as i64) >> 63)
}

/// x · 2^e in three steps, so that no factor leaves the range of doubles.
fn scaled(x: f64, e: i32) -> f64 {
    let third = e / 3;
    x * 2.0_f64.powi(third) * 2.0_f64.powi(third) * 2.0_f64.powi(e - 2 * third)
}

impl Serialize for ExactSum {
    /// `[sign, [[place, digit], …]]`, only digits that are not zero.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (negative, digits) = self.canonical();
        let places: Vec<(u32, u32)> =
            digits.iter().enumerate().filter(|(_, d)| **d != 0).map(|(i, d)| (i as u32, *d)).collect();
        (negative, places).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ExactSum {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (negative, places) = <(bool, Vec<(u32, u32)>)>::deserialize(deserializer)?;
        let mut out = Self::default();
        for (place, digit) in places {
            let slot = out
                .chunks
                .get_mut(place as usize)
                .ok_or_else(|| D::Error::custom("a sum has no such digit"))?;
            *slot = if negative { -i64::from(digit) } else { i64::from(digit) };
        }
        Ok(out)
    }
}
