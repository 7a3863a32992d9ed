//! Parquet: row groups and columns are read apart from each other.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field as ArrowField, Schema};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection, RowSelector,
};

use super::ahead::Ahead;
use super::drive::Batch;
use super::{Form, Location, canonical, guarded, refuse_bomb};
use crate::error::{Error, Result};
use crate::schema::{Field, Kind};

const ROWS: usize = 8192;
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
/// counting small integers.
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
            let text = matches!(field.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
            let small = groups.iter().all(|g| {
                let chunk = g.column(i);
                chunk.dictionary_page_offset().is_some()
                    && chunk.uncompressed_size() < 5 * g.num_rows().max(1)
            });
            if text && small {
                changed = true;
                let dictionary = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
                field.as_ref().clone().with_data_type(dictionary)
            } else {
                field.as_ref().clone()
            }
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
    let input = Ahead::new(location, metadata, row_group, &roots);
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(input, metadata.clone());
    let mask = ProjectionMask::roots(builder.parquet_schema(), roots.iter().copied());
    let reader = builder
        .with_row_groups(vec![row_group])
        .with_projection(mask)
        .with_batch_size(ROWS)
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
        let arrays = wanted
            .iter()
            .zip(&place)
            .map(|(column, at)| canonical(name, batch.column(*at), &fields[*column]))
            .collect::<Result<_>>()?;
        feed(Batch { arrays, rows: batch.num_rows(), invalid: vec![0; wanted.len()] })?;
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
                    let array = canonical(&location.name, array, &fields[*column])?;
                    if let Some(values) = crate::profile::as_floats(&array) {
                        out[*column].extend(values.into_iter().flatten().filter(|v| v.is_finite()));
                    }
                }
            }
        }
        Ok(())
    })
}
