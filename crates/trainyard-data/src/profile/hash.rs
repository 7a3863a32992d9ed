//! The hashes that profiles are made of. They are written to files, so they never change: a new one is a new version
//! of the profile.

use twox_hash::XxHash3_64;

/// A strong mix of 64 bits (the finaliser of MurmurHash3, twice keyed).
#[inline]
pub fn number(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// xxh3, 64 bits.
#[inline]
pub fn bytes(x: &[u8]) -> u64 {
    XxHash3_64::oneshot(x)
}

/// The bits that stand for a float: one zero, one NaN.
#[inline]
pub fn float_bits(x: f64) -> u64 {
    if x == 0.0 {
        0
    } else if x.is_nan() {
        f64::NAN.to_bits()
    } else {
        x.to_bits()
    }
}
