//! Columns and their kinds: the small set of types that profiles and rules speak of.

use arrow::datatypes::DataType;
use serde::{Deserialize, Serialize};

/// What the values of a column are, whatever width or encoding a file gives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Bool,
    Int,
    Float,
    Text,
    /// Dates and timestamps; profiled as microseconds since 1970, UTC.
    Time,
    /// Lists, structs, bytes: counted and hashed, not measured.
    Other,
}

impl Kind {
    /// The kind of an Arrow type.
    pub fn of(data_type: &DataType) -> Self {
        use DataType as T;
        match data_type {
            T::Boolean => Self::Bool,
            T::Int8 | T::Int16 | T::Int32 | T::Int64 | T::UInt8 | T::UInt16 | T::UInt32 => Self::Int,
            // Values above 2^63 exist; profiled as floats, which keep their size.
            T::UInt64
            | T::Float16
            | T::Float32
            | T::Float64
            | T::Decimal32(..)
            | T::Decimal64(..)
            | T::Decimal128(..)
            | T::Decimal256(..) => Self::Float,
            T::Utf8 | T::LargeUtf8 | T::Utf8View => Self::Text,
            T::Date32 | T::Date64 | T::Timestamp(..) => Self::Time,
            T::Dictionary(_, value) => match Self::of(value) {
                Self::Text => Self::Text,
                other => other,
            },
            _ => Self::Other,
        }
    }

    /// The kind of a type as rules name it: a kind, or a type of Arrow.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        Some(match name.as_str() {
            "bool" | "boolean" => Self::Bool,
            "integer" => Self::Int,
            "number" => Self::Float,
            "text" | "string" | "str" | "category" => Self::Text,
            "time" | "datetime" => Self::Time,
            n if n.starts_with("int") || n.starts_with("uint") => Self::Int,
            n if n.starts_with("float") || n.starts_with("decimal") => Self::Float,
            n if n.starts_with("utf8") || n.starts_with("largeutf8") => Self::Text,
            n if n.starts_with("date") || n.starts_with("timestamp") => Self::Time,
            _ => return None,
        })
    }

    /// The Arrow type in which readers hand over a column of this kind. Text stays a dictionary where it came as one.
    pub(crate) fn canonical(self, physical: &DataType) -> DataType {
        match self {
            Self::Bool => DataType::Boolean,
            Self::Int | Self::Time => DataType::Int64,
            // What a double does not hold stays as it is: rules ask the cells themselves.
            Self::Float => match physical {
                DataType::Dictionary(_, value) => self.canonical(value),
                DataType::UInt64
                | DataType::Decimal32(..)
                | DataType::Decimal64(..)
                | DataType::Decimal128(..)
                | DataType::Decimal256(..) => physical.clone(),
                _ => DataType::Float64,
            },
            Self::Text => match physical {
                DataType::Dictionary(..) => {
                    DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
                }
                _ => DataType::Utf8,
            },
            Self::Other if *physical == DataType::BinaryView => DataType::Binary,
            Self::Other => physical.clone(),
        }
    }

    pub fn is_numeric(self) -> bool {
        matches!(self, Self::Int | Self::Float | Self::Time)
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Float => "float",
            Self::Text => "text",
            Self::Time => "time",
            Self::Other => "other",
        })
    }
}

/// One column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Field {
    pub name: String,
    pub kind: Kind,
    /// The type as the file names it, e.g. `Int32`, `Timestamp(Microsecond, None)`, `csv`.
    pub physical: String,
}

impl Field {
    /// Whether the file is text, so that what a column is was found from its cells.
    pub(crate) fn is_text(&self) -> bool {
        matches!(self.physical.as_str(), "csv" | "json")
    }
}
