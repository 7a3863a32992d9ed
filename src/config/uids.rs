//! A range of Unix user ids that nobody else has.

use std::fmt;

use serde::Deserialize;

/// `first-last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct UidRange {
    first: u32,
    last: u32,
}

/// Below it useradd(8), adduser(8) and systemd give out ids by themselves.
const LOWEST: u32 = 65_536;
/// Programs that hold ids as signed numbers still agree.
const HIGHEST: u32 = i32::MAX as u32;
/// More than one machine runs at once; each is looked up at the start.
const MOST: u32 = 1024;

impl UidRange {
    /// # Errors
    /// Not two numbers, the wrong way round, more than 1024 of them, or below 65536.
    pub fn parse(text: &str) -> Result<Self, String> {
        let number = |part: &str| part.trim().parse::<u32>().ok();
        let range = text.split_once('-').and_then(|(a, b)| Some((number(a)?, number(b)?)));
        let Some((first, last)) = range.filter(|(first, last)| first <= last) else {
            return Err(format!("{text:?} is not a range of user ids such as \"70000-70063\""));
        };
        if first < LOWEST || last > HIGHEST {
            return Err(format!(
                "the user ids {text} must lie between {LOWEST} and {HIGHEST}: lower ones belong to the system's own users"
            ));
        }
        if last - first >= MOST {
            return Err(format!("{text} is more than {MOST} user ids"));
        }
        Ok(Self { first, last })
    }

    pub fn all(self) -> std::ops::RangeInclusive<u32> {
        self.first..=self.last
    }

    pub fn contains(self, uid: u32) -> bool {
        self.all().contains(&uid)
    }

    pub fn count(self) -> u32 {
        self.last - self.first + 1
    }

    pub fn first(self) -> u32 {
        self.first
    }

    /// Do `count` ids from `first` on hold one of these?
    pub fn meets(self, first: u32, count: u32) -> bool {
        count > 0 && first <= self.last && first.saturating_add(count - 1) >= self.first
    }

    /// Do `count` ids from `first` on hold all of these?
    pub fn lies_in(self, first: u32, count: u32) -> bool {
        count > 0 && first <= self.first && first.saturating_add(count - 1) >= self.last
    }
}

impl TryFrom<String> for UidRange {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl fmt::Display for UidRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_uids() {
        let range = UidRange::parse("70000-70063").unwrap();
        assert_eq!((range.count(), range.to_string().as_str()), (64, "70000-70063"));
        assert!(range.contains(70_063) && !range.contains(70_064) && !range.contains(69_999));
        assert!(range.meets(65_000, 5_001) && !range.meets(65_000, 5_000) && !range.meets(70_064, 9));
        assert!(range.lies_in(0, u32::MAX) && range.lies_in(70_000, 64) && !range.lies_in(70_000, 63));
        assert!(!range.lies_in(0, 0) && !range.meets(70_000, 0));
        for bad in ["", "70000", "70001-70000", "a-b", "1000-1063", "70000-80000", "65535-65600", "-1-5"] {
            assert!(UidRange::parse(bad).is_err(), "{bad}");
        }
        assert!(
            UidRange::parse("70000 - 70000").is_ok() && UidRange::parse("2147483648-2147483649").is_err()
        );
    }
}
