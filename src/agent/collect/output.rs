//! `$TRAINYARD_OUTPUT`: lines `name=value`, and `name<<END … END` for values of several lines, as on GitHub Actions.

use std::path::PathBuf;

use super::super::paths::read_plain;
use super::Collector;
use super::found::Found;
use crate::model::metric::MetricSource;

const MAX_OUTPUTS: usize = 200;

pub struct OutputFile(pub PathBuf);

/// Names that would change how the programs of a later step behave, were they set there (a known way to attack runners).
const REFUSED: &[&str] =
    &["PATH", "HOME", "IFS", "ENV", "BASH_ENV", "SHELLOPTS", "PS4", "NODE_OPTIONS", "PERL5OPT"];
const REFUSED_PREFIXES: &[&str] = &["LD_", "GIT_", "DYLD_", "PYTHON", "TRAINYARD_", "BASH_FUNC_"];

impl Collector for OutputFile {
    fn poll(&mut self, found: &mut Found, last: bool) {
        if !last {
            return;
        }
        let bytes = match read_plain(&self.0, 1 << 20) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => return found.note(format!("$TRAINYARD_OUTPUT: passed over, {error}")),
        };
        let before = found.counts().0;
        let text = String::from_utf8_lossy(&bytes);
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if line.trim().is_empty() {
                continue;
            }
            let here = line.split_once("<<").filter(|(name, _)| !name.contains('='));
            let (name, value) = if let Some((name, end)) = here {
                let value: Vec<&str> = lines.by_ref().take_while(|l| *l != end).collect();
                (name, value.join("\n"))
            } else if let Some((name, value)) = line.split_once('=') {
                (name, value.to_owned())
            } else {
                found.note("$TRAINYARD_OUTPUT: a line without `=` was passed over".into());
                continue;
            };
            take(name.trim(), value.trim(), found);
        }
        let points = (found.counts().0 - before) as i64;
        if points > 0 {
            found.source(MetricSource {
                kind: "outputs".into(),
                place: "$TRAINYARD_OUTPUT".into(),
                used: true,
                points,
                ..MetricSource::default()
            });
        }
    }
}

fn take(name: &str, value: &str, found: &mut Found) {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./@".contains(c);
    if name.is_empty() || name.len() > 200 || !name.chars().all(plain) {
        return found.note(format!("$TRAINYARD_OUTPUT: a name was refused: {:?}", super::cut(name, 60)));
    }
    let upper = name.to_ascii_uppercase();
    if REFUSED.contains(&upper.as_str()) || REFUSED_PREFIXES.iter().any(|p| upper.starts_with(p)) {
        return found.note(format!(
            "$TRAINYARD_OUTPUT: {name} was refused, since it would steer programs of later steps"
        ));
    }
    if found.outputs.len() >= MAX_OUTPUTS {
        return found
            .note(format!("$TRAINYARD_OUTPUT: more than {MAX_OUTPUTS} outputs, the rest was passed over"));
    }
    let number = value.parse::<f64>().ok().or_else(|| crate::model::metric::from_nonfinite_word(value));
    if let Some(number) = number {
        found.point(name, number, None);
    }
    let (name, value) = (found.mask(name), found.mask(super::cut(value, 64 * 1024)));
    found.outputs.insert(name, value);
}
