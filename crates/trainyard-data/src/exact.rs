//! Numbers as the file holds them: integers and decimals compare as integers of a scale, not as the nearest doubles,
//! of which two different ones may share one beyond 2^53.

use std::cmp::Ordering;

use arrow::array::{Array, AsArray, BooleanArray, Float64Array, Int64Array, UInt64Array};
use arrow::datatypes::{DataType, Decimal32Type, Decimal64Type, Decimal128Type, Decimal256Type};

use crate::profile::hash;
use crate::rules::Scalar;

/// Integers up to which every one is a double.
pub(crate) const DOUBLES: f64 = 9_007_199_254_740_992.0;

/// The first power of two beyond 128 bits with a sign.
const END: f64 = 170_141_183_460_469_231_731_687_303_715_884_105_728.0;

/// A number of a column.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value {
    Float(f64),
    Whole(Whole),
}

/// `units` · 10^-`scale`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Whole {
    pub units: i128,
    pub scale: i8,
}

impl Value {
    /// `None` beside a NaN. A double beside a decimal with a fraction counts as that: it is rounded itself.
    pub fn compare(self, other: Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Float(a), Self::Float(b)) => a.partial_cmp(&b),
            (Self::Whole(a), Self::Whole(b)) => Some(a.compare(b)),
            (Self::Whole(a), Self::Float(b)) => a.beside(b),
            (Self::Float(a), Self::Whole(b)) => b.beside(a).map(Ordering::reverse),
        }
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Float(x) => write!(f, "{x}"),
            Self::Whole(x) => write!(f, "{x}"),
        }
    }
}

impl std::fmt::Display for Whole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Ok(places @ 1..) = usize::try_from(self.scale) else {
            let zeros = if self.units == 0 { 0 } else { usize::from(self.scale.unsigned_abs()) };
            return write!(f, "{}{}", self.units, "0".repeat(zeros));
        };
        let digits = format!("{:0>width$}", self.units.unsigned_abs(), width = places + 1);
        let (whole, part) = digits.split_at(digits.len() - places);
        write!(f, "{}{whole}.{part}", if self.units < 0 { "-" } else { "" })
    }
}

impl Whole {
    fn compare(self, other: Self) -> Ordering {
        if self.scale > other.scale {
            return other.compare(self).reverse();
        }
        match times_ten(self.units, i32::from(other.scale) - i32::from(self.scale)) {
            Some(units) => units.cmp(&other.units),
            // Larger than all that 128 bits hold.
            None => self.units.cmp(&0),
        }
    }

    fn beside(self, x: f64) -> Option<Ordering> {
        if self.scale != 0 {
            return (self.units as f64 / 10.0_f64.powi(i32::from(self.scale))).partial_cmp(&x);
        }
        if x.is_nan() {
            None
        } else if x >= END {
            Some(Ordering::Less)
        } else if x < -END {
            Some(Ordering::Greater)
        } else {
            let (whole, part) = (x.trunc() as i128, x.fract());
            Some(self.units.cmp(&whole).then(0.0_f64.total_cmp(&(part + 0.0))))
        }
    }

    /// Appends bytes that equal numbers share, and no others: of doubles too, where fifteen digits are all there are.
    pub fn key(mut self, key: &mut Vec<u8>) {
        while self.scale > 0 && self.units % 10 == 0 {
            self.units /= 10;
            self.scale -= 1;
        }
        if self.scale < 0
            && let Some(units) = times_ten(self.units, -i32::from(self.scale))
        {
            self = Self { units, scale: 0 };
        }
        match (i64::try_from(self.units), self.scale) {
            (Ok(units), 0) => {
                key.push(2);
                key.extend_from_slice(&units.to_le_bytes());
            }
            // Both are doubles, so the quotient is the nearest one; no two such decimals share it.
            (Ok(units), 1..=22) if units.unsigned_abs() < 1_000_000_000_000_000 => {
                key.push(3);
                let x = units as f64 / 10.0_f64.powi(i32::from(self.scale));
                key.extend_from_slice(&hash::float_bits(x).to_le_bytes());
            }
            _ => {
                key.extend_from_slice(&[5, self.scale.cast_unsigned()]);
                key.extend_from_slice(&self.units.to_le_bytes());
            }
        }
    }
}

/// The same for a double: a whole one is that integer.
pub(crate) fn key_of_double(x: f64, key: &mut Vec<u8>) {
    if x.fract() == 0.0 && x.abs() < END {
        Whole { units: x as i128, scale: 0 }.key(key);
    } else {
        key.push(3);
        key.extend_from_slice(&hash::float_bits(x).to_le_bytes());
    }
}

fn times_ten(units: i128, places: i32) -> Option<i128> {
    if units == 0 {
        return Some(0);
    }
    10_i128.checked_pow(u32::try_from(places).ok()?)?.checked_mul(units)
}

/// Where a bound lies among the numbers of a scale: the last that is not above it, and whether it is that number.
/// What is out of the range of 128 bits is at its end. `None`: it is no number.
pub(crate) fn floor(bound: &Scalar, scale: i8) -> Option<(i128, bool)> {
    let text = match bound {
        Scalar::Bool(x) => return Some((i128::from(*x), true)),
        Scalar::Int(x) if scale == 0 => return Some((i128::from(*x), true)),
        Scalar::Int(x) => x.to_string(),
        Scalar::Unsigned(x) => x.to_string(),
        // The shortest digits that are this double: what people wrote.
        Scalar::Float(x) if x.is_finite() => format!("{x:e}"),
        Scalar::Float(x) if x.is_nan() => return None,
        Scalar::Float(x) => return Some((if *x > 0.0 { i128::MAX } else { i128::MIN }, false)),
        Scalar::Text(_) => return None,
    };
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let units: i128 = format!("{whole}{part}").parse().ok()?;
    let places = exponent.parse::<i32>().ok()? - i32::try_from(part.len()).ok()? + i32::from(scale);
    if places >= 0 {
        let end = if units < 0 { i128::MIN } else { i128::MAX };
        return Some(times_ten(units, places).map_or((end, false), |u| (u, true)));
    }
    let Some(divisor) = 10_i128.checked_pow(places.unsigned_abs()) else {
        return Some((if units < 0 { -1 } else { 0 }, units == 0));
    };
    Some((units.div_euclid(divisor), units.rem_euclid(divisor) == 0))
}

/// The scale of the exact numbers of a type; `None` for doubles and for what is no number.
pub(crate) fn scale(cells: &DataType) -> Option<i8> {
    match cells {
        DataType::Int64 | DataType::UInt64 | DataType::Boolean => Some(0),
        DataType::Decimal32(_, scale)
        | DataType::Decimal64(_, scale)
        | DataType::Decimal128(_, scale)
        | DataType::Decimal256(_, scale) => Some(*scale),
        _ => None,
    }
}

/// Calls `each` with the row and the units of every cell that is not null; false if these are no exact numbers.
/// Units that 128 bits do not hold are `None`.
pub(crate) fn wholes(array: &dyn Array, mut each: impl FnMut(usize, Option<i128>)) -> bool {
    macro_rules! all {
        ($values:expr, $read:expr) => {
            for (row, x) in $values.iter().enumerate() {
                if let Some(x) = x {
                    each(row, $read(x));
                }
            }
        };
    }
    if let Some(a) = array.as_any().downcast_ref::<Int64Array>() {
        all!(a, |x| Some(i128::from(x)));
    } else if let Some(a) = array.as_any().downcast_ref::<UInt64Array>() {
        all!(a, |x| Some(i128::from(x)));
    } else if let Some(a) = array.as_any().downcast_ref::<BooleanArray>() {
        all!(a, |x| Some(i128::from(x)));
    } else if let Some(a) = array.as_primitive_opt::<Decimal128Type>() {
        all!(a, Some);
    } else if let Some(a) = array.as_primitive_opt::<Decimal64Type>() {
        all!(a, |x| Some(i128::from(x)));
    } else if let Some(a) = array.as_primitive_opt::<Decimal32Type>() {
        all!(a, |x| Some(i128::from(x)));
    } else if let Some(a) = array.as_primitive_opt::<Decimal256Type>() {
        all!(a, |x: arrow::datatypes::i256| x.to_i128());
    } else {
        return false;
    }
    true
}

/// The numbers of a batch: `None` where null, NaN where 128 bits do not hold one.
pub(crate) fn numbers(array: &dyn Array) -> Vec<Option<Value>> {
    if let Some(a) = array.as_any().downcast_ref::<Float64Array>() {
        return a.iter().map(|x| x.map(Value::Float)).collect();
    }
    let scale = scale(array.data_type()).unwrap_or(0);
    let mut out = vec![None; array.len()];
    wholes(array, |row, units| {
        out[row] = Some(units.map_or(Value::Float(f64::NAN), |units| Value::Whole(Whole { units, scale })));
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_placed_among_decimals() {
        for (bound, scale, want) in [
            (Scalar::Int(5), 2, (500, true)),
            (Scalar::Float(0.1), 2, (10, true)),
            (Scalar::Float(0.125), 2, (12, false)),
            (Scalar::Float(-0.125), 2, (-13, false)),
            (Scalar::Float(2.5), 0, (2, false)),
            (Scalar::Float(-2.5), 0, (-3, false)),
            (Scalar::Float(1e300), 0, (i128::MAX, false)),
            (Scalar::Float(-1e-300), 4, (-1, false)),
            (Scalar::Float(1.5e10), 0, (15_000_000_000, true)),
            (Scalar::Int(1234), -2, (12, false)),
            (Scalar::Unsigned(u64::MAX), 0, (18_446_744_073_709_551_615, true)),
        ] {
            assert_eq!(floor(&bound, scale), Some(want), "{bound} {scale}");
        }
    }

    #[test]
    fn numbers_compare_by_what_they_are() {
        let whole = |units, scale| Value::Whole(Whole { units, scale });
        let far = 9_007_199_254_740_993;
        for (a, b, want) in [
            (whole(far, 0), whole(far - 1, 0), Ordering::Greater),
            (whole(far, 0), Value::Float(far as f64), Ordering::Greater),
            (whole(2, 0), Value::Float(2.5), Ordering::Less),
            (whole(-2, 0), Value::Float(-2.5), Ordering::Greater),
            (whole(-2, 0), Value::Float(-0.0), Ordering::Less),
            (whole(0, 0), Value::Float(-0.0), Ordering::Equal),
            (whole(150, 2), whole(15, 1), Ordering::Equal),
            (whole(i128::MAX, 0), whole(1, 30), Ordering::Greater),
            (whole(5, 0), Value::Float(f64::INFINITY), Ordering::Less),
        ] {
            assert_eq!(a.compare(b), Some(want), "{a} {b}");
            assert_eq!(b.compare(a), Some(want.reverse()), "{a} {b}");
        }
        assert_eq!(whole(1, 0).compare(Value::Float(f64::NAN)), None);
        assert_eq!(
            [whole(-5, 3), whole(1234, 2), whole(7, -2)].map(|w| w.to_string()),
            ["-0.005", "12.34", "700"]
        );
    }
}
