//! JSON lines: one object a line, each with its training step.

use super::files::{File, ROOM, Reader};
use super::found::Found;
use super::json;
use super::tail::{Read, Tail};

#[derive(Default)]
pub struct JsonLines {
    tail: Tail,
    lines: i64,
}

impl Reader for JsonLines {
    fn read(&mut self, file: &mut File<'_>, found: &mut Found) {
        let step_of = |line: &[u8]| match json::parse(line) {
            Ok(serde_json::Value::Object(object)) => json::step_of(&object),
            _ => None,
        };
        let (tail, lines) = (&mut self.tail, &mut self.lines);
        let (path, now, before, last) = (file.path, file.now, file.before, file.last);
        tail.read(path, now, before, last, &step_of, &mut |read| {
            match read {
                Read::Restart => *lines = 0,
                Read::Skipped => file.say("a line of over 256 KiB was skipped"),
                Read::Line(line) => {
                    *lines += 1;
                    match json::parse(line) {
                        Ok(serde_json::Value::Object(object)) => {
                            let step = json::step_of(&object).unwrap_or(*lines - 1);
                            for (metric, value) in json::numbers(&object) {
                                found.point(&metric, value, Some(step));
                            }
                        }
                        Ok(_) => file.say(format!("line {lines} is no JSON object")),
                        Err(error) => file.say(format!("line {lines} is no JSON: {error}")),
                    }
                }
            }
            found.points.len() <= ROOM
        });
    }
}
