//! TensorBoard's event files: a stream of records (the TFRecord framing), each an `Event` message.
//!
//! A record is its length (u64, little endian), the masked CRC-32C of that, the data, and the masked CRC-32C of the data; the
//! mask is `rotate_right(crc, 15) + 0xa282ead8`. The messages are those of TensorFlow's `event.proto`, `summary.proto` and
//! `tensor.proto`, as far as scalars and hyperparameters need them.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt as _;

use prost::Message as _;

use super::super::paths::open_plain;
use super::files::{File, ROOM, Reader};
use super::found::{Found, Lane};

/// Larger records hold images or graphs: they are passed over without being read.
const MAX_RECORD: u64 = 1 << 20;
const HEAD: u64 = 12;

#[derive(Clone, PartialEq, prost::Message)]
struct Event {
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<SummaryValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SummaryValue {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
    #[prost(message, optional, tag = "8")]
    tensor: Option<Tensor>,
    #[prost(message, optional, tag = "9")]
    metadata: Option<Metadata>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Metadata {
    #[prost(message, optional, tag = "1")]
    plugin_data: Option<PluginData>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PluginData {
    #[prost(string, tag = "1")]
    plugin_name: String,
    #[prost(bytes = "vec", tag = "2")]
    content: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
#[expect(clippy::struct_field_names, reason = "the names of the protocol")]
struct Tensor {
    #[prost(int32, tag = "1")]
    dtype: i32,
    #[prost(bytes = "vec", tag = "4")]
    tensor_content: Vec<u8>,
    #[prost(float, repeated, tag = "5")]
    float_val: Vec<f32>,
    #[prost(double, repeated, tag = "6")]
    double_val: Vec<f64>,
    #[prost(int32, repeated, tag = "7")]
    int_val: Vec<i32>,
    #[prost(int64, repeated, tag = "10")]
    int64_val: Vec<i64>,
}

/// The content of the `hparams` plugin.
#[derive(Clone, PartialEq, prost::Message)]
struct HparamsData {
    #[prost(message, optional, tag = "3")]
    session_start_info: Option<SessionStart>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SessionStart {
    #[prost(message, repeated, tag = "1")]
    hparams: Vec<HparamEntry>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HparamEntry {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<HparamValue>,
}

/// `google.protobuf.Value`.
#[derive(Clone, PartialEq, prost::Message)]
struct HparamValue {
    #[prost(double, optional, tag = "2")]
    number: Option<f64>,
    #[prost(string, optional, tag = "3")]
    string: Option<String>,
    #[prost(bool, optional, tag = "4")]
    bool: Option<bool>,
}

impl Tensor {
    /// The one number of a scalar. Types by TensorFlow's `types.proto`: 1 float, 2 double, 3 int32, 9 int64.
    fn scalar(&self) -> Option<f64> {
        let bytes = &self.tensor_content;
        match self.dtype {
            1 => match (self.float_val.as_slice(), bytes.as_slice()) {
                ([one], []) => Some(f64::from(*one)),
                ([], raw) => Some(f64::from(f32::from_le_bytes(raw.try_into().ok()?))),
                _ => None,
            },
            2 => match (self.double_val.as_slice(), bytes.as_slice()) {
                ([one], []) => Some(*one),
                ([], raw) => Some(f64::from_le_bytes(raw.try_into().ok()?)),
                _ => None,
            },
            3 => match (self.int_val.as_slice(), bytes.as_slice()) {
                ([one], []) => Some(f64::from(*one)),
                ([], raw) => Some(f64::from(i32::from_le_bytes(raw.try_into().ok()?))),
                _ => None,
            },
            9 => match (self.int64_val.as_slice(), bytes.as_slice()) {
                ([one], []) => Some(*one as f64),
                ([], raw) => Some(i64::from_le_bytes(raw.try_into().ok()?) as f64),
                _ => None,
            },
            _ => None,
        }
    }
}

/// One event file, read as it grows.
#[derive(Default)]
pub struct Events {
    offset: u64,
    inode: u64,
    broken: bool,
    /// Plugin of each tag: later values of a tag may leave it out.
    plugins: BTreeMap<String, String>,
}

/// What lies at an offset.
enum Record {
    Whole(Vec<u8>, u64),
    Large(u64),
    /// The end of the file comes first.
    Torn,
    Corrupt,
}

fn record(file: &std::fs::File, at: u64, len: u64) -> std::io::Result<Record> {
    if len - at < HEAD {
        return Ok(Record::Torn);
    }
    let mut head = [0; HEAD as usize];
    file.read_exact_at(&mut head, at)?;
    let (size, check) = head.split_at(8);
    if masked(size).to_le_bytes() != check {
        return Ok(Record::Corrupt);
    }
    let size = u64::from_le_bytes(size.try_into().unwrap_or_default());
    let Some(end) = at.checked_add(HEAD + 4).and_then(|n| n.checked_add(size)) else {
        return Ok(Record::Corrupt);
    };
    if end > len {
        return Ok(Record::Torn);
    }
    if size > MAX_RECORD {
        return Ok(Record::Large(end));
    }
    let mut data = vec![0; size as usize + 4];
    file.read_exact_at(&mut data, at + HEAD)?;
    let (data, check) = data.split_at(size as usize);
    if masked(data).to_le_bytes() != check {
        return Ok(Record::Corrupt);
    }
    Ok(Record::Whole(data.to_vec(), end))
}

impl Reader for Events {
    fn read(&mut self, file: &mut File<'_>, found: &mut Found) {
        if file.now.len < self.offset || (self.offset > 0 && file.now.inode != self.inode) {
            *self = Self::default();
        }
        self.inode = file.now.inode;
        if self.broken {
            return;
        }
        let Ok(opened) = open_plain(file.path) else { return };
        let lane = lane(file.dir());
        while file.last || found.points.len() <= ROOM {
            match record(&opened, self.offset, file.now.len) {
                Ok(Record::Whole(data, next)) => {
                    self.offset = next;
                    match Event::decode(data.as_slice()) {
                        Ok(event) => self.event(event, &lane, found),
                        Err(_) => file.say("a record that is no event was skipped"),
                    }
                }
                Ok(Record::Large(next)) => self.offset = next,
                Ok(Record::Corrupt) => {
                    // Behind a record of unknown length nothing can be found.
                    self.broken = true;
                    return file.say(format!(
                        "not read further than byte {}, where its checksum fails",
                        self.offset
                    ));
                }
                Ok(Record::Torn) | Err(_) => {
                    let left = file.now.len.saturating_sub(self.offset);
                    if file.last && left > 0 {
                        file.say(format!("its last record is torn: {left} bytes were left out"));
                    }
                    return;
                }
            }
        }
    }
}

impl Events {
    fn event(&mut self, event: Event, lane: &(Lane, String), found: &mut Found) {
        for value in event.summary.into_iter().flat_map(|s| s.value) {
            if let Some(data) = value.metadata.and_then(|m| m.plugin_data) {
                if data.plugin_name == "hparams" {
                    hparams(&data.content, found);
                }
                if self.plugins.len() < 10_000 {
                    self.plugins.insert(value.tag.clone(), data.plugin_name);
                }
            }
            let scalars = self.plugins.get(&value.tag).is_none_or(|p| p == "scalars");
            let number = match (value.simple_value, value.tensor) {
                (Some(simple), _) => Some(f64::from(simple)),
                (None, Some(tensor)) if scalars => tensor.scalar(),
                _ => None,
            };
            if let Some(number) = number {
                let (lane, before) = lane;
                found.point_in(lane, &format!("{before}{}", value.tag), number, Some(event.step));
            }
        }
    }
}

fn hparams(content: &[u8], found: &mut Found) {
    let Ok(data) = HparamsData::decode(content) else { return };
    for entry in data.session_start_info.into_iter().flat_map(|s| s.hparams) {
        let Some(value) = entry.value else { continue };
        let text = match (value.number, value.string, value.bool) {
            (Some(number), _, _) => number.to_string(),
            (_, Some(text), _) => text,
            (_, _, Some(truth)) => truth.to_string(),
            _ => continue,
        };
        found.param(&entry.key, &text);
    }
}

/// TensorBoard calls a directory a run. Keras writes the same names into `train` and `validation`, so such a directory's name
/// stands before them; else names stay as they are, unless a second directory uses them too.
fn lane(dir: &str) -> (Lane, String) {
    let own = dir.rsplit('/').next().unwrap_or(dir);
    let split = ["train", "validation", "val", "valid", "eval", "test"].contains(&own);
    let before = if split { format!("{own}/") } else { String::new() };
    (Lane { kind: "tensorboard", place: dir.to_owned(), label: own.to_owned() }, before)
}

/// The masked CRC-32C of TFRecord.
fn masked(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli, reflected polynomial 0x82f63b78), as in RFC 3720, appendix B.4.
fn crc32c(data: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut at = 0;
        while at < 256 {
            let mut crc = at as u32;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
                bit += 1;
            }
            table[at] = crc;
            at += 1;
        }
        table
    };
    !data.iter().fold(!0, |crc, byte| TABLE[((crc ^ u32::from(*byte)) & 0xff) as usize] ^ (crc >> 8))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A record as TensorFlow frames it.
    fn framed(data: &[u8]) -> Vec<u8> {
        let size = (data.len() as u64).to_le_bytes();
        [&size[..], &masked(&size).to_le_bytes(), data, &masked(data).to_le_bytes()].concat()
    }

    /// The record of one scalar, in the form of TensorFlow 1 or 2.
    pub fn scalar(tag: &str, value: f32, step: i64, tf2: bool) -> Vec<u8> {
        let plugin_data = Some(PluginData { plugin_name: "scalars".into(), content: Vec::new() });
        let value = SummaryValue {
            tag: tag.into(),
            simple_value: (!tf2).then_some(value),
            tensor: tf2.then(|| Tensor { dtype: 1, float_val: vec![value], ..Tensor::default() }),
            metadata: tf2.then_some(Metadata { plugin_data }),
        };
        framed(&Event { step, summary: Some(Summary { value: vec![value] }) }.encode_to_vec())
    }

    /// The examples of RFC 3720, appendix B.4.
    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(&(0..32).collect::<Vec<u8>>()), 0x46dd_794e);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn tensors_of_one_number_are_scalars() {
        let raw = |dtype, tensor_content: &[u8]| Tensor {
            dtype,
            tensor_content: tensor_content.to_vec(),
            ..Tensor::default()
        };
        assert_eq!(raw(1, &0.5_f32.to_le_bytes()).scalar(), Some(0.5));
        assert_eq!(raw(2, &0.1_f64.to_le_bytes()).scalar(), Some(0.1));
        assert_eq!(raw(9, &7_i64.to_le_bytes()).scalar(), Some(7.0));
        assert_eq!(raw(3, &7_i32.to_le_bytes()).scalar(), Some(7.0));
        assert_eq!(raw(1, &[0; 8]).scalar(), None, "two numbers");
        assert_eq!(raw(7, b"text").scalar(), None, "a string");
        assert_eq!(Tensor { dtype: 1, float_val: vec![1.0, 2.0], ..Tensor::default() }.scalar(), None);
    }
}
