//! Where data comes from: files, globs, directories, `.dvc` files and object storage, read as Arrow record batches.
//!
//! A [`Source`] is a list of files of one schema. [`Source::drive`] reads it once, in units that all cores share:
//! row group × column group of Parquet, blocks of records of the other formats. Batches arrive in the canonical types
//! of [`Kind`]. Bytes are never trusted: whatever they hold, the answer is batches or an [`Error`].

mod ahead;
mod blocks;
mod budget;
mod builders;
mod canonical;
mod delimited;
mod drive;
mod ipc;
mod jsonl;
mod location;
mod parquet;
mod quotes;
mod time;

#[cfg(test)]
mod tests;

pub(crate) use drive::{Batch, Visitor};
pub use drive::{Defects, Report};
pub use location::{Listing, Location, listing, read_small};
pub(crate) use time::parse as parse_time;
pub use time::show as show_time;

/// Microseconds since 1970 of a date or time of ISO 8601; `None` if it is none.
pub fn time_of(text: &str) -> Option<i64> {
    time::parse(text.trim().as_bytes())
}

use std::collections::BTreeMap;
use std::sync::Arc;

use ::parquet::arrow::arrow_reader::ArrowReaderMetadata;

use crate::error::{Error, Result};
use crate::schema::{Field, Kind};

/// The format of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Parquet,
    Csv,
    JsonLines,
    /// Arrow IPC, file form ("Feather 2").
    ArrowFile,
    /// Arrow IPC, stream form.
    ArrowStream,
}

/// How to read.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Instead of by the file's name and first bytes.
    pub format: Option<Format>,
    /// Of CSV; found from the first lines if not given.
    pub delimiter: Option<u8>,
    /// 0: as many as there are cores.
    pub threads: usize,
    /// Kinds of columns as they are declared (see [`crate::Rules::kinds`]): cells of text formats are read as these
    /// where nearly all can be. Other formats have types of their own.
    pub kinds: BTreeMap<String, Kind>,
}

impl Options {
    pub fn threads(&self) -> usize {
        if self.threads > 0 {
            return self.threads;
        }
        std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
    }
}

/// A table.
pub struct Source {
    /// As the caller named it.
    pub name: String,
    pub fields: Vec<Field>,
    files: Vec<File>,
    threads: usize,
    /// As they are declared.
    kinds: BTreeMap<String, Kind>,
    budget: budget::Budget,
}

struct File {
    location: Location,
    form: Form,
}

enum Form {
    Parquet { metadata: ArrowReaderMetadata, columns: Vec<usize> },
    Csv(delimited::Dialect),
    JsonLines,
    ArrowFile { columns: Vec<usize>, file: Arc<ipc::File> },
    ArrowStream { columns: Vec<usize> },
}

impl Source {
    /// Opens what `spec` names: a path, a glob, a directory, a `.dvc` file, or an `s3://`, `gs://`, `az://` address
    /// (there, an address that ends in `/` means all below it). Files are taken in the order of their names.
    pub fn open(spec: &str, options: &Options) -> Result<Self> {
        let locations = location::resolve(spec)?;
        let mut files = Vec::new();
        let mut fields: Option<Vec<Field>> = None;
        let formats: Vec<Format> = locations
            .iter()
            .map(|l| options.format.map_or_else(|| format_of(l), Ok))
            .collect::<Result<_>>()?;
        for (location, format) in locations.into_iter().zip(formats) {
            let (form, found) = match format {
                Format::Parquet => parquet::open(&location)?,
                Format::Csv => delimited::open(&location, options, fields.as_deref())?,
                Format::JsonLines => jsonl::open(&location, options, fields.as_deref())?,
                Format::ArrowFile | Format::ArrowStream => ipc::open(&location, format == Format::ArrowFile)?,
            };
            refuse_twins(&location.name, &found)?;
            let Some(first) = &fields else {
                fields = Some(found);
                files.push(File { location, form });
                continue;
            };
            let columns = same_columns(&location.name, first, &found)?;
            files.push(File { location, form: form.with_columns(columns) });
        }
        let fields = fields.ok_or_else(|| Error::usage(format!("{spec}: names no file")))?;
        Ok(Self {
            name: spec.to_owned(),
            fields,
            files,
            threads: options.threads(),
            kinds: options.kinds.clone(),
            budget: budget::Budget::default(),
        })
    }

    pub fn index(&self, column: &str) -> Option<usize> {
        self.fields.iter().position(|f| f.name == column)
    }

    /// Bytes of all files.
    pub fn size(&self) -> u64 {
        self.files.iter().map(|f| f.location.size).sum()
    }

    /// What identifies the listing: names, sizes and versions of the files, not their bytes. Another digest means that
    /// something was added, removed or written.
    pub fn listing_digest(&self) -> String {
        let mut text = String::new();
        for file in &self.files {
            let l = &file.location;
            text.extend([&l.name, "\0", &l.size.to_string(), "\0", &l.version, "\n"]);
        }
        hex::encode(twox_hash::XxHash3_128::oneshot(text.as_bytes()).to_be_bytes())
    }

    /// A sample of the numbers of each numeric column (others stay empty), from the whole length of each file:
    /// for edges of histograms, never for results.
    pub fn sample(&self) -> Result<Vec<Vec<f64>>> {
        let mut out = vec![Vec::new(); self.fields.len()];
        for file in &self.files {
            match &file.form {
                Form::Parquet { metadata, columns } => {
                    parquet::sample(
                        &file.location,
                        metadata,
                        columns,
                        &self.fields,
                        self.files.len(),
                        &mut out,
                    )?;
                }
                Form::Csv(dialect) => delimited::sample(&file.location, dialect, &self.fields, &mut out)?,
                Form::JsonLines => jsonl::sample(&file.location, &self.fields, &mut out)?,
                Form::ArrowFile { columns, file: parts } => {
                    ipc::sample(&file.location, Some(parts), columns, &self.fields, &mut out)?;
                }
                Form::ArrowStream { columns } => {
                    ipc::sample(&file.location, None, columns, &self.fields, &mut out)?;
                }
            }
        }
        Ok(out)
    }
}

impl Form {
    fn with_columns(self, order: Vec<usize>) -> Self {
        match self {
            Self::Parquet { metadata, columns } => {
                Self::Parquet { metadata, columns: order.iter().map(|i| columns[*i]).collect() }
            }
            Self::ArrowFile { columns, file } => {
                Self::ArrowFile { columns: order.iter().map(|i| columns[*i]).collect(), file }
            }
            Self::ArrowStream { columns } => {
                Self::ArrowStream { columns: order.iter().map(|i| columns[*i]).collect() }
            }
            Self::Csv(dialect) => Self::Csv(dialect.with_columns(order)),
            Self::JsonLines => Self::JsonLines,
        }
    }
}

/// Where each of `fields` stands in another file of the same table.
fn same_columns(name: &str, fields: &[Field], found: &[Field]) -> Result<Vec<usize>> {
    if let Some(extra) = found.iter().find(|f| fields.iter().all(|g| g.name != f.name)) {
        return Err(Error::data(name, format!("has a column {:?} that the first file lacks", extra.name)));
    }
    fields
        .iter()
        .map(|f| {
            let at = found.iter().position(|g| g.name == f.name).ok_or_else(|| {
                Error::data(name, format!("lacks the column {:?} of the first file", f.name))
            })?;
            if found[at].kind != f.kind {
                return Err(Error::data(
                    name,
                    format!(
                        "has {} in the column {:?}, the first file has {}",
                        found[at].kind, f.name, f.kind
                    ),
                ));
            }
            Ok(at)
        })
        .collect()
}

fn refuse_twins(name: &str, fields: &[Field]) -> Result<()> {
    let mut seen = std::collections::HashSet::new();
    match fields.iter().find(|f| !seen.insert(f.name.as_str())) {
        Some(twin) => Err(Error::data(name, format!("has two columns named {:?}; rename one", twin.name))),
        None => Ok(()),
    }
}

fn format_of(location: &Location) -> Result<Format> {
    let name = location.name.to_ascii_lowercase();
    let by_name = [
        (".parquet", Format::Parquet),
        (".pq", Format::Parquet),
        (".csv", Format::Csv),
        (".tsv", Format::Csv),
        (".jsonl", Format::JsonLines),
        (".ndjson", Format::JsonLines),
        (".arrow", Format::ArrowFile),
        (".feather", Format::ArrowFile),
        (".arrows", Format::ArrowStream),
    ];
    if let Some((_, format)) = by_name.iter().find(|(end, _)| name.ends_with(end)) {
        return Ok(*format);
    }
    let head = location.read_up_to(0, 8)?;
    if head.starts_with(b"PAR1") {
        return Ok(Format::Parquet);
    }
    if head.starts_with(b"ARROW1") {
        return Ok(Format::ArrowFile);
    }
    Err(Error::usage(format!(
        "{}: cannot tell the format from the name; rename it to .parquet, .csv, .tsv, .jsonl or .arrow, or say --format",
        location.name
    )))
}

thread_local! {
    /// How many `guarded` are at work on this thread.
    static GUARDED: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

/// Runs what may panic inside of a format's library on broken bytes, and makes an error of it, which is all that is
/// said of it: a panic of the libraries is not printed, one of this crate is.
fn guarded<T>(name: &str, what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    static QUIET: std::sync::Once = std::sync::Once::new();
    QUIET.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let ours = panic.location().is_some_and(|at| at.file().contains("trainyard-data"));
            if ours || GUARDED.get() == 0 {
                usual(panic);
            }
        }));
    });
    GUARDED.set(GUARDED.get() + 1);
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    GUARDED.set(GUARDED.get() - 1);
    done.unwrap_or_else(|_| Err(Error::data(name, format!("is broken: {what} does not hold together"))))
}

/// What unpacks to more than this many times its size, beyond 256 MiB, is refused.
const LARGEST_RATIO: u64 = 1000;

/// Refuses what unpacks to more than `most` bytes, or to many times its size; `parts` are what should be smaller.
fn refuse_bomb(name: &str, what: &str, packed: u64, unpacked: u64, most: u64, parts: &str) -> Result<()> {
    if unpacked > most || (unpacked > 256 << 20 && unpacked / packed.max(1) > LARGEST_RATIO) {
        return Err(Error::data(
            name,
            format!(
                "{what} unpacks {packed} bytes to {unpacked}: refused as a decompression bomb; write smaller {parts}"
            ),
        ));
    }
    Ok(())
}
