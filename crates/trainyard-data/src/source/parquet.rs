//! Parquet: row groups and columns are read apart from each other.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field as ArrowField, Schema};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection, RowSelector,
};

use super::ahead::Ahead;
use super::canonical::{canonical, hand_over};
use super::drive::Batch;
use super::{Form, Location, guarded, refuse_bomb};
use crate::error::{Error, Result};
use crate::schema::{Field, Kind};

/// Rows of a batch,
const ROWS: u64 = 8192;
/// less where so many hold more than this, unpacked.
const BATCH: u64 = 64 << 20;
/// Rows that writers put in a page at least, however long they are.
const PAGE_ROWS: u64 = 1024;
/// Bytes that a page may have anyway.
const PAGE: u64 = 8 << 20;
/// What unpacks to more than this many times its size may be a single page.
const USUAL_RATIO: u64 = 50;
/// A column chunk that says it is larger than this, unpacked, is refused.
const LARGEST_CHUNK: u64 = 8 << 30;

fn failed(name: &str, error: &parquet::errors::ParquetError) -> Error {
    Error::data(name, format!("is not readable as Parquet: {error}"))
}

pub fn open(location: &Location) -> Result<(Form, Vec<Field>)> {
    let name = &location.name;
    if location.size == 0 {
        return Err(Error::data(name, "is empty"));
    }
    guarded(name, "its footer", || {
        let metadata =
            ArrowReaderMetadata::load(location, ArrowReaderOptions::new()).map_err(|e| failed(name, &e))?;
        refuse_bombs(name, &metadata)?;
        let fields: Vec<Field> = metadata
            .schema()
            .fields()
            .iter()
            .map(|f| Field {
                name: f.name().clone(),
                kind: Kind::of(f.data_type()),
                physical: f.data_type().to_string(),
            })
            .collect();
        let metadata = with_dictionaries(&metadata).unwrap_or(metadata);
        let columns = (0..fields.len()).collect();
        Ok((Form::Parquet { metadata, columns }, fields))
    })
}

fn refuse_bombs(name: &str, metadata: &ArrowReaderMetadata) -> Result<()> {
    let bytes = |size: i64| u64::try_from(size).unwrap_or(0);
    for group in metadata.metadata().row_groups() {
        if group.num_rows() < 0 {
            return Err(Error::data(name, "has a row group of less than no rows"));
        }
        for chunk in group.columns() {
            let what = format!("column {:?}", chunk.column_path().string());
            let [packed, unpacked] = [chunk.compressed_size(), chunk.uncompressed_size()].map(bytes);
            refuse_bomb(name, &what, packed, unpacked, LARGEST_CHUNK, "row groups")?;
        }
    }
    Ok(())
}

/// The same file, read so that text columns with an effective dictionary stay dictionaries: counting them is then
/// counting small integers. Others with a dictionary are read as views of it: a long entry is held once, however often
/// it occurs.
fn with_dictionaries(metadata: &ArrowReaderMetadata) -> Option<ArrowReaderMetadata> {
    let groups = metadata.metadata().row_groups();
    let schema = metadata.schema();
    // Nested columns have several leaves; positions agree only without them.
    if groups.is_empty() || groups[0].columns().len() != schema.fields().len() {
        return None;
    }
    let mut changed = false;
    let fields: Vec<ArrowField> = schema
        .fields()
        .iter()
        .enumerate()
        .map(|(i, field)| {
            let shared = groups.iter().any(|g| g.column(i).dictionary_page_offset().is_some());
            let small = groups.iter().all(|g| {
                let chunk = g.column(i);
                chunk.dictionary_page_offset().is_some()
                    && chunk.uncompressed_size() < 5 * g.num_rows().max(1)
            });
            let read_as = match field.data_type() {
                DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View if small => {
                    DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
                }
                DataType::Utf8 if shared => DataType::Utf8View,
                DataType::Binary if shared => DataType::BinaryView,
                _ => return field.as_ref().clone(),
            };
            changed = true;
            field.as_ref().clone().with_data_type(read_as)
        })
        .collect();
    if !changed {
        return None;
    }
    let schema = Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone()));
    ArrowReaderMetadata::try_new(
        Arc::clone(metadata.metadata()),
        ArrowReaderOptions::new().with_schema(schema),
    )
    .ok()
}

/// What the chunks of some columns in a row group hold.
pub struct Chunks {
    packed: u64,
    unpacked: u64,
    /// Bytes of a row, unpacked.
    row: u64,
}

impl Chunks {
    pub fn of(metadata: &ArrowReaderMetadata, row_group: usize, columns: &[usize], wanted: &[usize]) -> Self {
        let roots: Vec<usize> = wanted.iter().map(|c| columns[*c]).collect();
        let group = metadata.metadata().row_group(row_group);
        let schema = group.schema_descr();
        let (mut packed, mut unpacked) = (0, 0);
        for (leaf, chunk) in group.columns().iter().enumerate() {
            if roots.contains(&schema.get_column_root_idx(leaf)) {
                packed += u64::try_from(chunk.compressed_size()).unwrap_or(0);
                unpacked += u64::try_from(chunk.uncompressed_size()).unwrap_or(0);
            }
        }
        Self { packed, unpacked, row: unpacked / (group.num_rows() as u64).max(1) }
    }

    /// Bytes that reading them takes at a time: a page and a batch.
    pub fn needs(&self) -> u64 {
        let one_page = self.unpacked / self.packed.max(1) > USUAL_RATIO;
        let page = if one_page { self.unpacked } else { PAGE.max(PAGE_ROWS * self.row) };
        self.unpacked.min(page + BATCH)
    }
}

/// Reads the `wanted` columns of the table from one row group; its rows.
pub fn read(
    location: &Location,
    metadata: &ArrowReaderMetadata,
    row_group: usize,
    columns: &[usize],
    wanted: &[usize],
    fields: &[Field],
    feed: &mut dyn FnMut(Batch) -> Result<()>,
) -> Result<u64> {
    let name = &location.name;
    let rows = metadata.metadata().row_group(row_group).num_rows() as u64;
    let roots: Vec<usize> = wanted.iter().map(|c| columns[*c]).collect();
    let Chunks { packed, row, .. } = Chunks::of(metadata, row_group, columns, wanted);
    let input = Ahead::new(location, metadata, row_group, &roots);
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(input, metadata.clone());
    let mask = ProjectionMask::roots(builder.parquet_schema(), roots.iter().copied());
    let reader = builder
        .with_row_groups(vec![row_group])
        .with_projection(mask)
        .with_batch_size((BATCH / row.max(1)).clamp(1, ROWS) as usize)
        .build()
        .map_err(|e| failed(name, &e))?;
    // The projection keeps the file's order.
    let mut sorted = roots.clone();
    sorted.sort_unstable();
    let place: Vec<usize> = roots.iter().map(|r| sorted.binary_search(r).unwrap_or(0)).collect();
    let mut seen = 0_u64;
    for batch in reader {
        let batch = batch.map_err(|e| {
            let names: Vec<&str> = wanted.iter().take(5).map(|c| fields[*c].name.as_str()).collect();
            Error::data(name, format!("is not readable as Parquet: column {}: {e}", names.join(", ")))
        })?;
        seen += batch.num_rows() as u64;
        let columns: Vec<_> =
            wanted.iter().zip(&place).map(|(column, at)| (batch.column(*at), &fields[*column])).collect();
        hand_over(name, packed, &columns, batch.num_rows(), feed)?;
    }
    if seen != rows && !wanted.is_empty() {
        return Err(Error::data(name, format!("a row group holds {seen} rows and claims {rows}")));
    }
    Ok(rows)
}

/// Numbers of short stretches all over the file: `files` share the effort.
pub fn sample(
    location: &Location,
    metadata: &ArrowReaderMetadata,
    columns: &[usize],
    fields: &[Field],
    files: usize,
    out: &mut [Vec<f64>],
) -> Result<()> {
    let numeric: Vec<usize> = (0..fields.len()).filter(|c| fields[*c].kind.is_numeric()).collect();
    let groups = metadata.metadata().num_row_groups();
    if numeric.is_empty() || groups == 0 {
        return Ok(());
    }
    let stretches = (16 / files).max(1);
    let per_group = stretches.div_ceil(groups);
    let step = groups.div_ceil(stretches).max(1);
    guarded(&location.name, "its content", || {
        for row_group in (0..groups).step_by(step) {
            let rows = metadata.metadata().row_group(row_group).num_rows() as usize;
            let length = 4096;
            let mut selectors = Vec::new();
            if rows <= length * per_group {
                selectors.push(RowSelector::select(rows));
            } else {
                let stride = rows / per_group;
                for _ in 0..per_group {
                    selectors.push(RowSelector::skip((stride - length) / 2));
                    selectors.push(RowSelector::select(length));
                    selectors.push(RowSelector::skip(stride - length - (stride - length) / 2));
                }
            }
            let roots: Vec<usize> = numeric.iter().map(|c| columns[*c]).collect();
            let input = Ahead::new(location, metadata, row_group, &roots);
            let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(input, metadata.clone());
            let mask = ProjectionMask::roots(builder.parquet_schema(), roots.iter().copied());
            let reader = builder
                .with_row_groups(vec![row_group])
                .with_projection(mask)
                .with_row_selection(RowSelection::from(selectors))
                .build()
                .map_err(|e| failed(&location.name, &e))?;
            let mut order: Vec<usize> = numeric.clone();
            order.sort_by_key(|c| columns[*c]);
            for batch in reader {
                let batch = batch
                    .map_err(|e| Error::data(&location.name, format!("is not readable as Parquet: {e}")))?;
                for (array, column) in batch.columns().iter().zip(&order) {
                    let (array, _) = canonical(&location.name, array, &fields[*column])?;
                    if let Some(values) = crate::profile::as_floats(&array) {
                        out[*column].extend(values.into_iter().flatten().filter(|v| v.is_finite()));
                    }
                }
            }
        }
        Ok(())
    })
}
