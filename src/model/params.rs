//! Parameters of a run beside those of its baseline, as people want to read them: one line for each.

use std::collections::{BTreeMap, BTreeSet};

/// A parameter as reported: (step name, parameter, value).
pub type Reported = (String, String, String);

/// One parameter on both sides; None: not reported there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamLine {
    /// The parameter's name; with its step's base name before it when steps report different values.
    pub label: String,
    pub baseline: Option<String>,
    pub this: Option<String>,
}

impl ParamLine {
    pub fn changed(&self) -> bool {
        self.this != self.baseline
    }
}

/// The lines of all parameters, by label. Members of a matrix are one step: their values are joined when they differ.
pub fn lines(this: &[Reported], baseline: &[Reported]) -> Vec<ParamLine> {
    let (this, baseline) = (by_name(this), by_name(baseline));
    let names: BTreeSet<&str> = this.keys().chain(baseline.keys()).copied().collect();
    let mut out = Vec::new();
    for name in names {
        let sides = [this.get(name), baseline.get(name)];
        // All steps of a side agree (or it has none): the step says nothing.
        let plain = sides.iter().flatten().all(|steps| steps.values().collect::<BTreeSet<_>>().len() <= 1);
        if plain {
            let value =
                |side: Option<&BTreeMap<&str, String>>| side.and_then(|steps| steps.values().next().cloned());
            out.push(ParamLine { label: name.to_owned(), baseline: value(sides[1]), this: value(sides[0]) });
            continue;
        }
        let steps: BTreeSet<&str> = sides.iter().flatten().flat_map(|s| s.keys().copied()).collect();
        for step in steps {
            let value = |side: Option<&BTreeMap<&str, String>>| side.and_then(|s| s.get(step).cloned());
            out.push(ParamLine {
                label: format!("{step}: {name}"),
                baseline: value(sides[1]),
                this: value(sides[0]),
            });
        }
    }
    out
}

/// name → base step → value, members joined.
fn by_name(reported: &[Reported]) -> BTreeMap<&str, BTreeMap<&str, String>> {
    let mut values: BTreeMap<&str, BTreeMap<&str, BTreeSet<&str>>> = BTreeMap::new();
    for (step, name, value) in reported {
        let base = super::plan::base_name(step);
        values.entry(name).or_default().entry(base).or_default().insert(value);
    }
    let joined = |set: BTreeSet<&str>| set.into_iter().collect::<Vec<_>>().join(", ");
    values
        .into_iter()
        .map(|(name, steps)| (name, steps.into_iter().map(|(step, set)| (step, joined(set))).collect()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reported(rows: &[(&str, &str, &str)]) -> Vec<Reported> {
        rows.iter().map(|(s, n, v)| ((*s).into(), (*n).into(), (*v).into())).collect()
    }

    fn shown(this: &[(&str, &str, &str)], base: &[(&str, &str, &str)]) -> Vec<String> {
        let dash = |v: &Option<String>| v.clone().unwrap_or_else(|| "-".into());
        lines(&reported(this), &reported(base))
            .iter()
            .map(|l| {
                format!(
                    "{} {} > {}{}",
                    l.label,
                    dash(&l.baseline),
                    dash(&l.this),
                    if l.changed() { " !" } else { "" }
                )
            })
            .collect()
    }

    #[test]
    fn steps_that_agree_are_one_line_and_steps_that_differ_are_told_apart() {
        let this = [
            ("train (seed=1)", "rate", "0.2"),
            ("train (seed=2)", "rate", "0.2"),
            ("evaluate (seed=1)", "rate", "0.2"),
            ("train (seed=1)", "seed", "1"),
            ("train (seed=2)", "seed", "2"),
            ("train (seed=1)", "batch", "64"),
            ("evaluate (seed=1)", "batch", "512"),
        ];
        let base = [("train (seed=1)", "rate", "0.1"), ("train (seed=1)", "old", "x")];
        assert_eq!(
            shown(&this, &base),
            [
                "evaluate: batch - > 512 !",
                "train: batch - > 64 !",
                "old x > - !",
                "rate 0.1 > 0.2 !",
                "seed - > 1, 2 !"
            ]
        );
    }
}
