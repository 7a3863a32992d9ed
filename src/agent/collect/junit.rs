//! JUnit's XML, as pytest, Maven and most test runners write it: how many tests passed, failed and were skipped, how long
//! they took, and what the first failures said.

use quick_xml::Reader as Xml;
use quick_xml::events::{BytesStart, Event};

use super::cut;
use super::files::{File, Reader};
use super::found::Found;

const MAX: u64 = 32 << 20;
/// Failures that are told.
const FAILURES: usize = 5;

/// Counts of one file, and of all files of an attempt.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Tests {
    pub passed: u64,
    /// Failures and errors.
    pub failed: u64,
    pub skipped: u64,
    pub seconds: f64,
}

#[derive(Default)]
pub struct Junit {
    /// What this file added to the attempt's counts.
    told: bool,
}

impl Reader for Junit {
    fn read(&mut self, file: &mut File<'_>, found: &mut Found) {
        // A report is written when the tests are over, and counted once.
        if !file.last || self.told {
            return;
        }
        let parsed = file.whole(MAX).and_then(|bytes| parse(&bytes));
        match parsed {
            Ok((tests, failures)) => {
                self.told = true;
                let all = found.tests(tests);
                found.point("tests/passed", all.passed as f64, None);
                found.point("tests/failed", all.failed as f64, None);
                found.point("tests/skipped", all.skipped as f64, None);
                found.point("tests/seconds", all.seconds, None);
                file.say(format!(
                    "{} passed, {} failed, {} skipped in {:.1} s",
                    tests.passed, tests.failed, tests.skipped, tests.seconds
                ));
                let more = failures.len().saturating_sub(FAILURES);
                for failure in failures.into_iter().take(FAILURES) {
                    file.say(failure);
                }
                if more > 0 {
                    file.say(format!("and {more} more failures"));
                }
            }
            Err(error) => file.say(error.clone()),
        }
    }
}

/// One test while its element is open.
#[derive(Default)]
struct Case {
    name: String,
    failed: Option<String>,
    skipped: bool,
    seconds: f64,
}

fn attribute(element: &BytesStart<'_>, name: &str) -> Option<String> {
    let found = element.try_get_attribute(name).ok()??;
    let text =
        found.unescape_value().unwrap_or_else(|_| String::from_utf8_lossy(&found.value).into_owned().into());
    Some(text.into_owned())
}

fn open_case(element: &BytesStart<'_>) -> Case {
    let name = attribute(element, "name").unwrap_or_default();
    let class = attribute(element, "classname").filter(|c| !c.is_empty());
    let name = class.map_or(name.clone(), |class| format!("{class}::{name}"));
    let seconds = attribute(element, "time").and_then(|t| t.replace(',', "").parse::<f64>().ok());
    Case {
        name: cut(&name, 200).to_owned(),
        seconds: seconds.filter(|s| s.is_finite() && *s >= 0.0).unwrap_or(0.0),
        ..Case::default()
    }
}

fn close_case(case: Case, tests: &mut Tests, failures: &mut Vec<String>) {
    tests.seconds += case.seconds;
    match (case.failed, case.skipped) {
        (Some(why), _) => {
            tests.failed += 1;
            let why = why.lines().find(|l| !l.trim().is_empty()).unwrap_or("").trim().to_owned();
            failures.push(format!("{}: {}", case.name, cut(&why, 200)));
        }
        (None, true) => tests.skipped += 1,
        (None, false) => tests.passed += 1,
    }
}

/// # Errors
/// A sentence: not XML, or no `<testsuite>` in it.
fn parse(bytes: &[u8]) -> Result<(Tests, Vec<String>), String> {
    let mut xml = Xml::from_reader(bytes);
    xml.config_mut().trim_text(true);
    let (mut tests, mut failures) = (Tests::default(), Vec::new());
    let (mut case, mut suites): (Option<Case>, u64) = (None, 0);
    loop {
        let event = xml.read_event().map_err(|e| format!("it is no XML: {e}"))?;
        let empty = matches!(event, Event::Empty(_));
        match event {
            Event::Start(element) | Event::Empty(element) => match element.local_name().as_ref() {
                b"testsuite" | b"testsuites" => suites += 1,
                b"testcase" => {
                    let opened = open_case(&element);
                    if empty {
                        close_case(opened, &mut tests, &mut failures);
                    } else {
                        case = Some(opened);
                    }
                }
                b"failure" | b"error" => {
                    if let Some(case) = &mut case {
                        case.failed.get_or_insert(attribute(&element, "message").unwrap_or_default());
                    }
                }
                b"skipped" => {
                    if let Some(case) = &mut case {
                        case.skipped = true;
                    }
                }
                _ => {}
            },
            Event::Text(text) => {
                // A failure without a message says what it is in its text.
                if let Some(why) = case.as_mut().and_then(|c| c.failed.as_mut()).filter(|why| why.is_empty())
                {
                    cut(&String::from_utf8_lossy(&text), 1_000).clone_into(why);
                }
            }
            Event::End(element) if element.local_name().as_ref() == b"testcase" => {
                if let Some(case) = case.take() {
                    close_case(case, &mut tests, &mut failures);
                }
            }
            Event::Eof => break,
            _ => {}
        }
    }
    if suites == 0 {
        return Err("it has no <testsuite>".into());
    }
    Ok((tests, failures))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_of_pytest() {
        let text = br#"<?xml version="1.0" encoding="utf-8"?><testsuites name="pytest tests"><testsuite name="pytest" errors="1" failures="1"
            skipped="1" tests="4" time="0.052"><testcase classname="test_a" name="test_ok" time="0.001" />
            <testcase classname="test_a" name="test_bad[1&lt;2]" time="0.010"><failure message="assert 1 == 2&#10; +  where">def test_bad():
            &gt; assert 1 == 2</failure></testcase>
            <testcase classname="test_a" name="test_no" time="0.000"><skipped type="pytest.skip" message="why">x</skipped></testcase>
            <testcase classname="test_b" name="test_err" time="0.5"><error>fixture 'x' not found</error></testcase></testsuite></testsuites>"#;
        let (tests, failures) = parse(text).unwrap();
        assert_eq!((tests.passed, tests.failed, tests.skipped), (1, 2, 1));
        assert!((tests.seconds - 0.511).abs() < 1e-9);
        assert_eq!(
            failures,
            ["test_a::test_bad[1<2]: assert 1 == 2", "test_b::test_err: fixture 'x' not found"]
        );
    }

    #[test]
    fn what_is_no_report_says_so() {
        for (text, why) in [
            ("", "no <testsuite>"),
            ("hello", "no <testsuite>"),
            ("<a><b></a>", "no XML"),
            ("<html/>", "no <testsuite>"),
        ] {
            let error = parse(text.as_bytes()).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
        // Entities are not expanded.
        let bomb = "<!DOCTYPE x [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;\">]><testsuite><testcase name=\"&b;\"/></testsuite>";
        assert_eq!(parse(bomb.as_bytes()).unwrap().0.passed, 1);
    }
}
