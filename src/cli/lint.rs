//! `trainyard lint`: says what is wrong with pipeline files, for people, editors and other CI.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::ValueEnum;
use serde_json::{Value, json};

use crate::pipeline::files::Files;
use crate::pipeline::{self, Diagnostic, Severity};

/// Check pipeline files
///
/// Exit status: 0 when all files are valid, 2 when one is not or there is none.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files to check; default: .trainyard.yaml and .trainyard/*.yaml
    files: Vec<PathBuf>,
    /// How findings are printed
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people, with the lines they are about
    Text,
    /// One object with every file and finding
    Json,
    /// SARIF 2.1.0, for code scanning
    Sarif,
    /// Annotations of GitHub Actions
    Github,
}

/// A checked file.
struct Linted {
    file: String,
    source: String,
    findings: Vec<Diagnostic>,
    /// Of a valid file: its name, and how many steps it has.
    plan: Option<(String, usize)>,
}

impl Linted {
    fn ok(&self) -> bool {
        self.plan.is_some()
    }
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let found = if args.files.is_empty() { in_tree(Path::new("."))? } else { Files::default() };
    let files = if args.files.is_empty() {
        found.read.iter().map(PathBuf::from).collect()
    } else {
        args.files.clone()
    };
    if files.is_empty() && found.not_read.is_empty() {
        let next = elsewhere()
            .map_or_else(|| "write one with `trainyard init`".into(), |there| format!("there is {there}"));
        eprintln!("trainyard: there is no {} here: {next}", pipeline::FILE);
        return Ok(ExitCode::from(2));
    }
    let mut linted = Vec::new();
    for path in &files {
        let bytes = read(path).with_context(|| format!("cannot read {}", path.display()))?;
        linted.push(lint(&path.display().to_string(), &bytes));
    }
    let mut problems: Vec<String> = same_name(&linted).into_iter().collect();
    problems.extend(found.not_read.iter().map(|(path, why)| format!("{path} is not read: {why}")));
    let text = render(args.format, &linted, &problems)?;
    super::output::print(text.as_bytes())?;
    for problem in &problems {
        eprintln!("trainyard: {problem}");
    }
    let good = linted.iter().all(Linted::ok) && problems.is_empty();
    Ok(ExitCode::from(if good { 0 } else { 2 }))
}

/// A pipeline file where people may have meant one: in the folder of many, or at the repository's root. In words.
pub fn elsewhere() -> Option<String> {
    if let Some(one) = in_tree(Path::new(".")).ok().and_then(|all| all.read.into_iter().next()) {
        return Some(format!("{one} (name it with --file)"));
    }
    let here = std::env::current_dir().ok()?;
    let root = here.ancestors().skip(1).find(|dir| dir.join(pipeline::FILE).is_file())?;
    Some(format!("one in {}, the repository's root: go there", root.display()))
}

fn in_tree(dir: &Path) -> anyhow::Result<Files> {
    pipeline::files::of_tree(dir).with_context(|| format!("cannot list {}", dir.display()))
}

/// A file up to a little above the limit: more would be refused anyway.
fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(1 << 20).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn lint(file: &str, bytes: &[u8]) -> Linted {
    let (findings, plan) = match pipeline::parse(file, bytes) {
        Ok(checked) => (checked.warnings, Some((checked.plan.name, checked.plan.steps.len()))),
        Err(findings) => (findings, None),
    };
    Linted { file: file.to_owned(), source: String::from_utf8_lossy(bytes).into_owned(), findings, plan }
}

/// Two pipelines of one name would write the same commit status.
fn same_name(linted: &[Linted]) -> Option<String> {
    for (i, a) in linted.iter().enumerate() {
        for b in &linted[i + 1..] {
            if let (Some((x, _)), Some((y, _))) = (&a.plan, &b.plan)
                && x == y
            {
                return Some(format!(
                    "{} and {} are both called `{x}`: give one another `name`",
                    a.file, b.file
                ));
            }
        }
    }
    None
}

fn render(format: Format, linted: &[Linted], problems: &[String]) -> anyhow::Result<String> {
    Ok(match format {
        Format::Text => text(linted),
        Format::Github => github(linted),
        Format::Json => serde_json::to_string_pretty(&json(linted, problems))? + "\n",
        Format::Sarif => serde_json::to_string_pretty(&sarif(linted))? + "\n",
    })
}

fn text(linted: &[Linted]) -> String {
    let mut out = String::new();
    for l in linted {
        for finding in &l.findings {
            out.push_str(&finding.excerpt(&l.file, &l.source));
            out.push('\n');
        }
        let count = |severity, word: &str| {
            let n = l.findings.iter().filter(|f| f.severity == severity).count();
            (n > 0).then(|| format!("{n} {word}{}", if n == 1 { "" } else { "s" }))
        };
        let counts: Vec<String> = [
            count(Severity::Error, "error"),
            count(Severity::Warning, "warning"),
            count(Severity::Note, "note"),
        ]
        .into_iter()
        .flatten()
        .collect();
        let counts = if counts.is_empty() { String::new() } else { format!(", {}", counts.join(", ")) };
        let _ = match &l.plan {
            Some((name, 1)) => writeln!(out, "{}: pipeline `{name}` is valid: 1 step{counts}", l.file),
            Some((name, steps)) => {
                writeln!(out, "{}: pipeline `{name}` is valid: {steps} steps{counts}", l.file)
            }
            None => writeln!(out, "{}: not valid{counts}", l.file),
        };
    }
    out
}

fn github(linted: &[Linted]) -> String {
    // Workflow commands: `%`, line ends, and in properties `:` and `,` are escaped.
    let data = |t: &str| t.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    let property = |t: &str| data(t).replace(':', "%3A").replace(',', "%2C");
    let mut out = String::new();
    for l in linted {
        for f in &l.findings {
            let level = if f.severity == Severity::Note { "notice" } else { f.severity.word() };
            let help = f.help.as_ref().map(|h| format!("\n{h}")).unwrap_or_default();
            let (end_line, end_column) = end(l, f);
            let _ = writeln!(
                out,
                "::{level} file={},line={},col={},endLine={end_line},endColumn={end_column},title={}::{}",
                property(&l.file),
                f.line,
                f.column,
                property(&format!("trainyard {}", f.code)),
                data(&format!("{}{help}", f.message)),
            );
        }
    }
    out
}

fn json(linted: &[Linted], problems: &[String]) -> Value {
    let files: Vec<Value> = linted
        .iter()
        .map(|l| json!({"file": l.file, "valid": l.ok(), "pipeline": l.plan.as_ref().map(|p| &p.0), "findings": l.findings}))
        .collect();
    let valid = linted.iter().all(Linted::ok) && problems.is_empty();
    json!({"valid": valid, "files": files, "problems": problems})
}

fn sarif(linted: &[Linted]) -> Value {
    let rules: Vec<Value> = pipeline::CODES
        .iter()
        .map(|c| json!({"id": c.id, "shortDescription": {"text": c.meaning}, "help": {"text": c.remedy}}))
        .collect();
    let mut results = Vec::new();
    for l in linted {
        for f in &l.findings {
            let help = f.help.as_ref().map(|h| format!("\n{h}")).unwrap_or_default();
            let (end_line, end_column) = end(l, f);
            results.push(json!({
                "ruleId": f.code,
                "level": f.severity.word(),
                "message": {"text": format!("{}{help}", f.message)},
                "locations": [{"physicalLocation": {
                    "artifactLocation": {"uri": l.file},
                    "region": {"startLine": f.line, "startColumn": f.column, "endLine": end_line, "endColumn": end_column},
                }}],
            }));
        }
    }
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {"name": "trainyard lint", "version": env!("CARGO_PKG_VERSION"), "rules": rules}},
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

/// Line and column just behind a finding.
fn end(l: &Linted, f: &Diagnostic) -> (usize, usize) {
    let text = l.source.get(f.span.clone()).unwrap_or_default();
    match text.rsplit_once('\n') {
        Some((before, last)) => (f.line + before.matches('\n').count() + 1, last.chars().count() + 1),
        None => (f.line, f.column + text.chars().count()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BROKEN: &str = "steps:\n  - name: train\n    comands: [python train.py]\n    timeout: 10\n";

    #[test]
    fn people_see_the_line_and_carets() {
        let shown = text(&[lint(".trainyard.yaml", BROKEN.as_bytes())]);
        insta::assert_snapshot!(shown, @r"
        error[TY013]: unknown key `comands` in a step
         --> .trainyard.yaml:3:5
          |
        3 |     comands: [python train.py]
          |     ^^^^^^^
          = help: did you mean `commands`?

        error[TY018]: `timeout` must be a duration such as `10m`, found `10`
         --> .trainyard.yaml:4:14
          |
        4 |     timeout: 10
          |              ^^
          = help: it has no unit: write `10s`, `10m` or `10h`

        .trainyard.yaml: not valid, 2 errors
        ");
    }

    #[test]
    fn github_gets_annotations() {
        let shown = github(&[lint("a,b.yaml", BROKEN.as_bytes())]);
        insta::assert_snapshot!(shown, @r"
        ::error file=a%2Cb.yaml,line=3,col=5,endLine=3,endColumn=12,title=trainyard TY013::unknown key `comands` in a step%0Adid you mean `commands`?
        ::error file=a%2Cb.yaml,line=4,col=14,endLine=4,endColumn=16,title=trainyard TY018::`timeout` must be a duration such as `10m`, found `10`%0Ait has no unit: write `10s`, `10m` or `10h`
        ");
    }

    #[test]
    fn machines_get_json_and_sarif() {
        let linted = [lint("x.yaml", BROKEN.as_bytes()), lint("y.yaml", b"train: python train.py")];
        let value = json(&linted, &[]);
        assert_eq!(value["valid"], false);
        assert_eq!(value["files"][0]["findings"][0]["code"], "TY013");
        assert_eq!(value["files"][0]["findings"][0]["line"], 3);
        assert_eq!(value["files"][1]["pipeline"], "y");
        let value = sarif(&linted);
        assert_eq!(value["version"], "2.1.0");
        let region = &value["runs"][0]["results"][1]["locations"][0]["physicalLocation"]["region"];
        assert_eq!(region, &json!({"startLine": 4, "startColumn": 14, "endLine": 4, "endColumn": 16}));
    }

    #[test]
    fn two_files_of_one_name_are_told() {
        let one = lint("a.yaml", b"name: x\ntrain: a");
        let two = lint("b.yaml", b"name: x\ntrain: b");
        assert_eq!(
            same_name(&[one, two]).unwrap(),
            "a.yaml and b.yaml are both called `x`: give one another `name`"
        );
    }

    #[test]
    fn terminal_codes_in_a_file_are_not_passed_on() {
        let l = lint("x.yaml", "train: \"a\u{1b}[31m\u{202e}\"\nnope: 1\n".as_bytes());
        let shown = text(&[l]);
        assert!(!shown.contains('\u{1b}') && !shown.contains('\u{202e}'), "{shown}");
    }
}
